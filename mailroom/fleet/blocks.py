"""The permits of the fleet, as a process takes them: in blocks before jobs are claimed, used soon, or returned."""

import random
import threading
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from math import ceil, inf
from typing import Final

from sqlalchemy import Engine

from mailroom.fleet import buckets
from mailroom.fleet.buckets import HOLD, Bucket, Granted
from mailroom.fleet.clock import seconds
from mailroom.fleet.permits import ASK_AGAIN, Permit

# How often a search that waits for a permit looks whether the process holds one.
LOOK_AGAIN: Final = timedelta(seconds=0.05)
# What a process asks for at most; where there is no limit, it would ask for twice as many again and again.
MAX_BLOCK: Final = 10_000
# Who is told to wait for longer asks all the same: what the account allows may change, and a slowdown end, meanwhile.
MAX_UNASKED: Final = timedelta(seconds=15)
# How long a claim may take that is made with the last permits of a block.
FOR_THE_CLAIM: Final = timedelta(seconds=0.1)

Clock = Callable[[], float]


class FleetPermits:
    """Permits that the whole fleet shares.

    `mail_rate` is what the settings allow, mails a second (None: what the account does); `bulk_rate` counts bulk calls
    (None: no limit). Where no bulk call may be made, a permit is for one mail.
    """

    def __init__(
        self, engine: Engine, *, mail_rate: float | None, bulk_rate: float | None, clock: Clock = seconds
    ) -> None:
        self._engine = engine
        self._clock = clock
        self._mails = _Block(engine, clock, Bucket.MAILS, mail_rate, urgent=False)
        self._urgent = _Block(engine, clock, Bucket.MAILS, mail_rate, urgent=True)
        self._bulk = None if bulk_rate is None else _Block(engine, clock, Bucket.BULK_CALLS, bulk_rate, urgent=True)
        self._blocks = [self._mails, self._urgent, *([self._bulk] if self._bulk is not None else [])]
        self._look_again_at = 0.0
        # Which thread is to take again before the others, and when: urgent mail may have come since the last look, or
        # waits for the reserve to fill.
        self._again: tuple[int, float] | None = None

    def take(self, wanted: int, *, per_call: int | None = None, urgent_waits: Callable[[], bool]) -> Permit | None:
        """See `Permits.take`. Raises DBAPIError."""
        per_call = per_call or wanted
        permit = self._mails.take(wanted, self._bulk, per_call) or self._take_urgent(per_call, urgent_waits)
        return permit and replace(permit, pool=self)

    def take_again(self, permit: Permit, count: int, until: float, *, wait: Callable[[float], bool]) -> bool:
        """See `Permits.take_again`. Raises DBAPIError."""
        block = self._block(permit)
        while not self._take_whole(block, count):
            if self._clock() + LOOK_AGAIN.total_seconds() > until or wait(LOOK_AGAIN.total_seconds()):
                return False
        return True

    def _take_whole(self, block: "_Block", count: int) -> bool:
        """Take all that a call for `count` mails needs, or nothing: what is not enough is left to the fleet."""
        bulk = self._bulk if count > 1 else None
        call = None if bulk is None else bulk.take(1)
        if bulk is not None and call is None:
            return False
        got = block.take(count)
        if got is not None and got.count == count:
            return True
        if bulk is not None and call is not None:
            bulk.take_back(call, 1)
        if got is not None:
            block.take_back(got, got.count)
            block.return_all(ask_at_once=False)
        return False

    def take_back(self, permit: Permit, mails: int, *, calls: int, to_fleet: bool) -> None:
        """See `Permits.take_back`. What comes back stays with the process, for its other senders, while it holds."""
        self._block(permit).take_back(permit, mails)
        if self._bulk is not None and permit.calls is not None:
            self._bulk.take_back(permit.calls, calls)
        if to_fleet:
            for block in self._blocks:
                block.return_all()

    def note_spent(self, permit: Permit, mails: int) -> None:
        """See `Permits.note_spent`."""
        self._block(permit).note_spent(permit, mails)

    def throttled(self) -> float | None:
        """See `Permits.throttled`. What the process holds is void."""
        for block in self._blocks:
            block.void()
        with self._engine.connect() as connection:
            factor = buckets.slow_down(connection)
        return None if self._mails.is_unlimited else factor

    @property
    def are_scarce(self) -> bool:
        """See `Permits.are_scarce`."""
        return self._mails.is_scarce(self._clock())

    def wait(self) -> timedelta:
        """See `Permits.wait`."""
        wait, again = self._mails.wait(), self._again
        if again is None or again[0] != threading.get_ident():
            return wait
        return min(wait, timedelta(seconds=max(0.0, again[1] - self._clock())))

    def _take_urgent(self, wanted: int, urgent_waits: Callable[[], bool]) -> Permit | None:
        """Take of the reserve for one call if urgent mail waits. Where none does, look again after a moment only.

        Who comes before that may have been woken for urgent mail: one of them is to look then.
        """
        now, me = self._clock(), threading.get_ident()
        if now < self._look_again_at:
            self._again = self._again or (me, self._look_again_at)
            return None
        self._again = None
        if not urgent_waits():
            self._look_again_at = now + ASK_AGAIN.total_seconds()
            return None
        permit = self._urgent.take(wanted, self._bulk, wanted)
        if permit is None:
            self._again = me, now + self._urgent.wait().total_seconds()
        return permit

    def _block(self, permit: Permit) -> "_Block":
        return self._urgent if permit.urgent else self._mails


class _Block:
    """What the process holds of one bucket, and how much it asks for: what it can use while it holds."""

    def __init__(self, engine: Engine, clock: Clock, bucket: Bucket, own_rate: float | None, *, urgent: bool) -> None:
        self._engine = engine
        self._clock = clock
        self._bucket = bucket
        self._own_rate = own_rate
        self._urgent = urgent
        self._lock = threading.Lock()
        self._granted: Granted | None = None
        self._left = self._out = self._returned = 0
        self._asked_at = self._hold = 0.0
        self._ask_again_at = self._scarce_until = 0.0

    def take(self, wanted: int, bulk: "_Block | None" = None, per_call: int = 1) -> Permit | None:
        """Take of what is held, or ask for more if that is used up and it is time to ask.

        Where bulk calls are limited, more than one needs some of those as well; without, one is all that is taken.
        """
        with self._lock:
            now = self._clock()
            if not self._holds(now) and now >= self._ask_again_at:
                self._ask(wanted, now)
            if self._granted is None or not self._holds(now):
                return None
            count = min(wanted, self._left)
            if per_call == 1:
                bulk = None  # each goes in a call of its own
            calls = bulk.take(ceil(count / per_call)) if count > 1 and bulk is not None else None
            if bulk is not None:
                count = min(count, 1 if calls is None else calls.count * per_call)
            self._left -= count
            self._out += count
            return Permit(count, self._urgent, self._granted.only_urgent, self.is_scarce(now), self._until, calls)

    def take_back(self, permit: Permit, unused: int) -> None:
        """Hold again what a sender did not use; of a block that is gone, nothing."""
        with self._lock:
            if permit.until == self._until:
                self._left += unused
                self._out -= unused

    def note_spent(self, permit: Permit, mails: int) -> None:
        """Take note that so many of a permit are in nobody's hands any more."""
        with self._lock:
            if permit.until == self._until:
                self._out -= mails

    def return_all(self, *, ask_at_once: bool = True) -> None:
        """Give what is held back to the fleet."""
        with self._lock:
            granted, unused, self._left = self._granted, self._left, 0
            self._returned += unused
            if unused and ask_at_once:
                self._ask_again_at = 0.0
        if granted is not None and unused:
            with self._engine.connect() as connection:
                buckets.return_unused(connection, self._bucket, granted, unused)

    def void(self) -> None:
        """Use nothing of what is held, nor what senders put back of it."""
        with self._lock:
            self._left = 0
            self._asked_at = -inf

    @property
    def is_unlimited(self) -> bool:
        """Whether the last answer said that there is no rate that could be cut."""
        return self._granted is not None and self._granted.per_second is None

    def is_scarce(self, now: float) -> bool:
        """Whether the bucket, when it was asked a moment ago, had less than it has where nobody is in need."""
        return now < self._scarce_until

    def wait(self) -> timedelta:
        """How long until it is worth asking: nothing while something is held."""
        with self._lock:
            now = self._clock()
            if self._holds(now):
                return timedelta(0)
            return timedelta(seconds=max(0.0, self._ask_again_at - now))

    @property
    def _until(self) -> float:
        """When what is held is void: counted from before it was asked for, and so never too late."""
        return self._asked_at + self._hold

    def _holds(self, now: float) -> bool:
        return self._left > 0 and now < self._until - FOR_THE_CLAIM.total_seconds()

    def _ask(self, wanted: int, now: float) -> None:
        size = min(max(wanted, self._useful(now)), MAX_BLOCK)
        with self._engine.connect() as connection:
            granted = buckets.take(
                connection,
                self._bucket,
                size,
                own_rate=self._own_rate,
                urgent=self._urgent,
                ended=self._ended(now),
            )
        self._left = granted.count
        if granted.count:
            self._out = self._returned = 0
            self._granted, self._asked_at, self._hold = granted, now, granted.hold.total_seconds()
        # Whoever got less than it asked for has emptied the bucket, and lets it fill: a block is worth a round trip.
        jitter = random.uniform(0.8, 1.2)  # noqa: S311 - keeps processes apart
        wait = timedelta(0) if granted.count == size else max(min(granted.wait, MAX_UNASKED), ASK_AGAIN * jitter)
        self._ask_again_at = now + wait.total_seconds()
        # A bucket that has never so much as is asked for, since the rate is low, is not in need for that.
        enough = min(size, buckets.at_hand(granted.per_second, urgent=self._urgent))
        self._scarce_until = self._ask_again_at if granted.count < enough else 0.0

    def _ended(self, now: float) -> int:
        """How many permits of the last block nobody holds any more, where it is held for long, and still would be."""
        if self._granted is None or self._granted.hold <= HOLD or now >= self._until:
            return 0
        return self._granted.count - self._out

    def _useful(self, now: float) -> int:
        """How many of the last block would be used while it holds, at its pace: at most twice as many as were."""
        if self._granted is None:
            return 0
        used, lasted = self._granted.count - self._left - self._returned, now - self._asked_at
        return ceil(used * min(2.0, max(1.0, self._hold / lasted if lasted > 0 else inf)))
