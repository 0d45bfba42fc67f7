"""Calls that fail, or end without an answer: those of most mails just now, or of all mails of a kind for a while."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from mailroom.fleet import pauses
from mailroom.ops import causes, remedies
from mailroom.ops.minutes import Minute
from mailroom.ops.words import mails, number, several

JUST_NOW: Final = timedelta(minutes=3)
# So many attempts without success, and such a share of all, are no accident.
UNSENT: Final = 3
MUCH_UNSENT: Final = 0.5
# How far back it is looked for. What costs a mail its attempts has ended sooner than `FOR_LONG`: what is still tried
# then is tried for ever.
REACH: Final = timedelta(minutes=10)
FOR_LONG: Final = timedelta(minutes=4)
DEFERRED: Final = "Deferred"
UNANSWERED: Final = "Unanswered"
CODES: Final = {DEFERRED, UNANSWERED}
_FAILING: Final = {"deferred", "unconfirmed"}


@dataclass(frozen=True, slots=True)
class Unsent:
    """What does not leave though it is tried, why one knows, and the cure."""

    code: str
    what: str
    why: str
    cure: str


def find(minutes: Sequence[Minute], *, now: datetime, paused: Collection[str] = ()) -> Iterator[Unsent]:
    """Say it of most mails, or else of each kind of a queue of which none was sent while others may have been.

    `minutes` are those of `REACH` or more. `paused`: scopes that are, which is told elsewhere.
    """
    recent = [each for each in minutes if now - each.at < JUST_NOW]
    failing = [each for each in recent if each.outcome in _FAILING]
    bad = sum(each.mails for each in failing)
    tried = bad + sum(each.mails for each in recent if each.outcome == "sent")
    if bad >= UNSENT and bad >= tried * MUCH_UNSENT:
        yield _of_most(failing, bad, tried)
        return
    kinds: dict[tuple[str, str], list[Minute]] = {}
    for each in minutes:
        if now - each.at < REACH and each.outcome in {*_FAILING, "sent"}:
            kinds.setdefault((each.queue, each.action), []).append(each)
    for (queue, action), tries in kinds.items():
        scopes = {*causes.SHARED, action, pauses.queue_scope(queue)}
        if scopes.isdisjoint(paused) and _stands(tries, now=now):
            yield _of_kind(tries)


def _of_most(failing: Sequence[Minute], bad: int, tried: int) -> Unsent:
    worst = max(failing, key=lambda each: each.mails)
    ended = f"so ended {number(bad)} of {several(tried, 'attempt')} of the last minutes"
    if worst.outcome == "unconfirmed":
        return _unanswered(f"SES does not answer: {ended}", failing)
    return _deferred(f"most mails have to be tried again: {ended} ({worst.code})", failing, worst)


def _stands(tries: Sequence[Minute], *, now: datetime) -> bool:
    """Whether all failed, again and again, until now."""
    moments = {each.at for each in tries}
    last = max(moments)
    is_long = last - min(moments) >= FOR_LONG and len(moments) >= UNSENT
    return is_long and now - last < JUST_NOW and all(each.outcome in _FAILING for each in tries)


def _of_kind(tries: Sequence[Minute]) -> Unsent:
    worst = max(tries, key=lambda each: each.mails)
    attempts = several(sum(each.mails for each in tries), "attempt")
    ended = f"so ended each of {attempts} of the last ten minutes"
    if worst.outcome == "unconfirmed":
        return _unanswered(f"SES does not answer for {mails(worst.action)}: {ended}", tries)
    return _deferred(f"{mails(worst.action)} have to be tried again: {ended} ({worst.code})", tries, worst)


def _unanswered(what: str, failing: Sequence[Minute]) -> Unsent:
    return Unsent(UNANSWERED, what, _codes(failing) or "no answer came", remedies.REACH_SES)


def _deferred(what: str, failing: Sequence[Minute], worst: Minute) -> Unsent:
    return Unsent(DEFERRED, what, _codes(failing), remedies.of_deferral(worst.code))


def _codes(failing: Sequence[Minute]) -> str:
    return ", ".join(sorted({each.code for each in failing if each.code}))
