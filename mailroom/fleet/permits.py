"""The right to hand mails to SES: what a sender is given, and where it comes from."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from math import inf
from typing import Final, Protocol

# A process that emptied the bucket asks again after this long, or when there can be a permit, if that is later. Within
# HOLD, so that a process that sends alone finds nothing of the rate gone to waste.
ASK_AGAIN: Final = timedelta(seconds=0.25)


@dataclass(slots=True)
class Permit:
    """The right to hand `count` mails to SES before `until`, a monotonic moment; `calls` is for so many bulk calls.

    A call that is not made at once has to be made before it `ends`.

    `urgent`: meant for urgent mail; `only_urgent`: for nothing else, also where others would have their turn. Where
    permits are `scarce` it is worth waiting until a batch is full.

    A context: what of it was not used when it ends goes back to where it came from, `pool`.
    """

    count: int
    urgent: bool = False
    only_urgent: bool = False
    scarce: bool = False
    until: float = inf
    calls: "Permit | None" = None
    pool: "Permits | None" = None
    _kept: list[int] | None = None
    _returned: int = 0

    @property
    def ends(self) -> float:
        """The monotonic moment from which on it is void, for its mails or for its bulk calls."""
        return self.until if self.calls is None else min(self.until, self.calls.until)

    def keep(self, sizes: Sequence[int]) -> None:
        """Keep what calls for so many mails each need; the rest goes back now."""
        self._kept = list(sizes)
        held = 0 if self.calls is None else self.calls.count
        self._return(self.count - sum(sizes), held - _bulk_calls(sizes))

    def spend(self) -> None:
        """Take note that the first of the calls that it was kept for has been made."""
        if self._kept:
            self._kept.pop(0)

    def __enter__(self) -> "Permit":
        return self

    def __exit__(self, failed: type[BaseException] | None, *_: object) -> None:
        if self._kept is None:
            self._return(self.count, 0 if self.calls is None else self.calls.count, failed=failed is not None)
        elif self._kept:
            self._return(sum(self._kept), _bulk_calls(self._kept), failed=failed is not None)
        if self.pool is not None:
            self.pool.note_spent(self, self.count - self._returned)

    def _return(self, mails: int, calls: int, *, failed: bool = False) -> None:
        self._returned += mails
        if self.pool is not None:
            self.pool.take_back(self, mails, calls=calls, to_fleet=mails == self.count and not failed)


def _bulk_calls(sizes: Sequence[int]) -> int:
    return sum(size > 1 for size in sizes)


class Permits(Protocol):
    """Where a sender gets its permits from. Safe to share between threads."""

    def take(self, wanted: int, *, per_call: int | None = None, urgent_waits: Callable[[], bool]) -> Permit | None:
        """Take a permit for up to `wanted` mails, at most `per_call` of them in one call; None if there is none now.

        Where only the reserve is left, `urgent_waits` is asked whether there is mail that may use it.
        """
        ...  # pragma: no cover

    def take_again(self, permit: Permit, count: int, until: float, *, wait: Callable[[float], bool]) -> bool:
        """Take what another call for `count` mails of a batch needs, as it left by `permit`; whether it was to be had.

        Waits for it until a moment of the monotonic clock, by `wait`: for so many seconds, or until it is to give up.
        That it returns.
        """
        ...  # pragma: no cover

    def take_back(self, permit: Permit, mails: int, *, calls: int, to_fleet: bool) -> None:
        """Take back what was not used of a permit, `to_fleet` where nothing waits for it. For `Permit` alone."""
        ...  # pragma: no cover

    def note_spent(self, permit: Permit, mails: int) -> None:
        """Take note that so many of a permit have been used, for good. For `Permit` alone."""
        ...  # pragma: no cover

    def throttled(self) -> float | None:
        """Take note that SES asks to send more slowly; return the rate factor that is left if that is new."""
        ...  # pragma: no cover

    @property
    def are_scarce(self) -> bool:
        """Whether there were fewer, a moment ago, than there are where nobody is in need."""
        ...  # pragma: no cover

    def wait(self) -> timedelta:
        """How long until whoever asks may get one; of those that urgent mail may have woken, one is to ask soon."""
        ...  # pragma: no cover


class NoLimit:
    """Permits without end, for what does not go to SES. Where that knows no rate, batches wait until they are full."""

    def __init__(self, *, batches_wait: bool = False) -> None:
        self.are_scarce = batches_wait

    def take(self, wanted: int, *, per_call: int | None = None, urgent_waits: Callable[[], bool]) -> Permit | None:
        """As many as are wanted."""
        return Permit(wanted, scarce=self.are_scarce)

    def take_again(self, permit: Permit, count: int, until: float, *, wait: Callable[[float], bool]) -> bool:
        """At once."""
        return True

    def take_back(self, permit: Permit, mails: int, *, calls: int, to_fleet: bool) -> None:
        """There are more."""

    def note_spent(self, permit: Permit, mails: int) -> None:
        """Nobody counts them."""

    def throttled(self) -> float | None:
        """There is no rate to cut."""
        return None

    def wait(self) -> timedelta:
        """None at all."""
        return timedelta(0)


NO_LIMIT: Final[Permits] = NoLimit()
