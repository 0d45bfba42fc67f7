"""What the senders of a process share; all of it is safe between threads."""

import threading
import time
from collections.abc import Callable

from sqlalchemy import Engine

from mailroom.fleet.permits import NO_LIMIT, Permits
from mailroom.mail.transport import Transport
from mailroom.queue.feed import ResendWait
from mailroom.queue.limits import Limits
from mailroom.signals import Stop
from mailroom.worker.breaker import Breaker
from mailroom.worker.call_sharing import CallSharing
from mailroom.worker.claims import Claims
from mailroom.worker.own_fault import OwnFault
from mailroom.worker.reactions import Reactions
from mailroom.worker.refusals import Refusals
from mailroom.worker.telemetry import NO_TELEMETRY, Telemetry
from mailroom.worker.vitals import Vitals


class Shared:
    """`urgent_came` is set when urgent mail comes: one sender at work leaves its other batches for it, if it can go.

    `large_claims` is held for a claim of several batches, one at a time: each walks over what others are about to take,
    and with 64 at once that was most of the work. `clock` tells monotonic seconds, for the size of claims.
    """

    def __init__(
        self,
        engine: Engine,
        transport: Transport,
        *,
        key: bytes,
        limits: Limits,
        permits: Permits = NO_LIMIT,
        clock: Callable[[], float] = time.monotonic,
        telemetry: Telemetry = NO_TELEMETRY,
        vitals: Vitals | None = None,
    ) -> None:
        """`key` signs the tokens. Who watches the process brings `telemetry` and `vitals`."""
        self.engine = engine
        self.transport = transport
        self.key = key
        self.limits = limits
        self.resend = ResendWait(limits)
        self.permits = permits
        self.clock = clock
        self.telemetry = telemetry
        self.vitals = vitals or Vitals()
        self.claims = Claims(engine, limits, permits)
        self.sharing = CallSharing()
        self.breaker = Breaker()
        self.refusals = Refusals(engine, queue=limits.queue)
        self.own_fault = OwnFault(engine, known=lambda: self.claims.lanes.actions)
        self.reactions = Reactions(
            engine,
            throttles=transport.throttles,
            breaker=self.breaker,
            permits=permits,
            refusals=self.refusals,
            own_fault=self.own_fault,
        )
        self.urgent_came = threading.Event()
        self.stopping = Stop()
        self.large_claims = threading.Lock()
