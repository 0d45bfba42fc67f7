"""The first sentence: whether mail leaves, what needs a person, why, and the cure."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from mailroom.job import Priority
from mailroom.ops import remedies
from mailroom.ops.forecast import STAYS, Forecast, LaneKey, dues, forecast
from mailroom.ops.minutes import Minute, quantile
from mailroom.ops.needs import Need, State, needs
from mailroom.ops.reading import Lane, Reading
from mailroom.ops.waiting import SLOW, named
from mailroom.ops.words import CAP, begins, counted, mails, number, several, span

# The share of the mails of the last minutes that left within the time that is told.
SHARE: Final = 0.95
RECENT: Final = timedelta(minutes=10)


@dataclass(frozen=True, slots=True)
class Advice:
    """The sentence, how bad it is, and what there is to do, the worst first."""

    sentence: str
    state: State
    needs: tuple[Need, ...]


def advise(
    reading: Reading | None,
    minutes: Sequence[Minute],
    *,
    now: datetime,
    rate_limit: float | None = None,
    foreign: bool = False,
) -> Advice:
    """Say it. `minutes` are those of the last ten minutes or more; `now` is by the clock of the database.

    `foreign`: there is no reading, since another release has counted.
    """
    if reading is None:
        found: tuple[Need, ...] = (_OTHER_RELEASE if foreign else _NOBODY,)
    else:
        found = needs(reading, minutes, now=now, rate_limit=rate_limit)
    state: State = found[0].state if found else "fine"
    if reading is None or state == "act":
        return Advice(_troubled(found), state, found)
    when = forecast(reading, minutes, rate_limit=rate_limit, now=now)
    is_due = any(lane.due for lane in reading.lanes)
    said = (_speed(minutes, now=now, waits=is_due), _backlog(reading, when, now=now), _rest(found))
    return Advice(begins(f"{'; '.join(said)}."), state, found)


_NOBODY: Final = Need(
    "NoReading",
    "nothing is known: nobody has counted yet",
    "a worker counts every 15 s, and each sweep in the end",
    remedies.START_WORKER,
    "act",
)
_OTHER_RELEASE: Final = Need(
    "NoReading",
    "nothing is known here: the workers are of another release",
    "they count in a way that this release cannot read",
    remedies.SAME_RELEASE,
    "act",
)


def unreached(failure: str) -> Advice:
    """Say that the database does not answer, by the class of the error with which it was asked."""
    what, why = f"the database does not answer ({failure})", "no number can be newer than what was seen last"
    found = (Need("NoDatabase", what, why, remedies.REACH_DATABASE, "act"),)
    return Advice(_troubled(found), "act", found)


def _troubled(found: Sequence[Need]) -> str:
    """The worst, and what to do about it."""
    first = found[0]
    others = sum(need.state == "act" for need in found[1:])
    more = f" ({several(others, 'other thing needs', 'other things need')} you too)" if others else ""
    return begins(f"{first.what}; {first.cure.partition('; ')[0]}{more}.")


def _rest(found: Sequence[Need]) -> str:
    if not found:
        return "nothing needs you"
    more = f", and {several(len(found) - 1, 'other thing')}" if found[1:] else ""
    return f"this can wait for the day: {found[0].what}{more}"


def _speed(minutes: Sequence[Minute], *, now: datetime, waits: bool) -> str:
    """Say within what time the most urgent mails of the last minutes left; `waits`: a mail is due."""
    lately = [each for each in minutes if now - each.at < RECENT]
    recent = [each for each in lately if each.priority is not None and any(each.waits) and each.outcome != "deferred"]
    if not recent:
        return f"no mail {'has left' if waits or lately else 'was asked for'} in the last ten minutes"
    first = min(each.priority for each in recent if each.priority is not None)
    most_urgent = [each for each in recent if each.priority is first]
    totals = [sum(counts) for counts in zip(*(each.waits for each in most_urgent), strict=True)]
    bound = quantile(totals, SHARE)
    kinds = {each.action for each in most_urgent}
    who = mails(min(kinds), first) if len(kinds) == 1 else f"{first.name.lower()} mails"
    return f"{who} leave within {'more than a day' if bound is None or bound == float('inf') else span(bound)}"


def _backlog(reading: Reading, when: dict[LaneKey, Forecast], *, now: datetime) -> str:
    """Say what waits, and until when: the lane that is done last."""
    due = [lane for lane in reading.lanes if lane.due]
    if not due:
        return _later(reading)

    def ends(lane: Lane) -> datetime | None:
        told = when[_key(lane)]
        return max((at for at in (told.at_granted, told.at_pace) if at is not None and not told.stands), default=None)

    stay = [lane for lane in due if set(STAYS) & when[_key(lane)].left_out.keys()]
    last = max((at for lane in due if (at := ends(lane)) is not None), default=None)
    soon = last is not None and last - now < timedelta(seconds=10)
    until = "" if last is None or soon or _is_slow(due) else f", gone in about {span(last - now)}"
    until += f", but for {_amount(reading, stay)}" if until and stay else ""
    if any(told.stands for told in when.values()):
        until = ", and nothing leaves at the moment"
    quota = min((at for told in when.values() if (at := told.quota_ends) is not None), default=None)
    ends_at = "" if quota is None else f", but the day's quota ends in about {span(quota - now)}"
    return f"{_amount(reading, due)} {'waits' if sum(lane.due for lane in due) == 1 else 'wait'}{until}{ends_at}"


def _key(lane: Lane) -> LaneKey:
    return lane.queue, lane.priority, lane.action


def _amount(reading: Reading, lanes: Sequence[Lane]) -> str:
    """Say how many mails are due in some lanes, about where not all of them were counted."""
    due = {_key(lane): count for lane, count in zip(reading.lanes, dues(reading), strict=True)}
    total = sum(due[_key(lane)] for lane in lanes)
    about = "about " if any(lane.due > CAP for lane in lanes) else ""
    return f"{about}{number(total)} {named(lanes, total)}"


def _later(reading: Reading) -> str:
    """Say what waits though nothing is due; what is held is told apart."""
    later = max((lane.later for lane in reading.lanes), default=0)
    total = max(later, sum(lane.later for lane in reading.lanes if later <= CAP))
    if not total:
        return "nothing waits"
    waits = "mail waits" if total == 1 else "mails wait"
    return f"nothing is due, and {counted(total)} {waits} for a later try"


def _is_slow(due: Sequence[Lane]) -> bool:
    """Whether urgent mails have not left for a while: how fast they do, nobody knows until the minute is counted."""
    return any(lane.priority is Priority.URGENT and lane.oldest_seconds > SLOW.total_seconds() for lane in due)
