"""What the senders of a process share; all of it is safe between threads."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from mailroom.fleet.permits import NO_LIMIT, Permits
from mailroom.queue.floors import Floors
from mailroom.worker.breaker import Backoff


@dataclass(frozen=True, slots=True)
class Shared:
    """`urgent_came` is set when urgent mail comes: one sender at work leaves its other batches for it, if it can go.

    `large_claims` is held for a claim of several batches, one at a time: each walks over what others are about to take,
    and with 64 at once that was most of the work. `clock` tells monotonic seconds, for the pace.
    """

    permits: Permits = NO_LIMIT
    floors: Floors = field(default_factory=Floors)
    backoff: Backoff = field(default_factory=Backoff)
    urgent_came: threading.Event = field(default_factory=threading.Event)
    stopping: threading.Event = field(default_factory=threading.Event)
    large_claims: threading.Lock = field(default_factory=threading.Lock)
    clock: Callable[[], float] = time.monotonic
