"""What is due, grouped once for all who tell of it: by the scopes that keep it from leaving, and in words."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from mailroom.job import Priority
from mailroom.ops import causes
from mailroom.ops.causes import Place
from mailroom.ops.health import MAX_WAIT
from mailroom.ops.reading import Lane, Reading
from mailroom.ops.words import counted, mails, span

# A recovery is late from a minute on, and slow from here on.
SLOW: Final = timedelta(seconds=15)


@dataclass(frozen=True, slots=True)
class Waiting:
    """The lanes in which a job is due, each with its place, the most urgent first.

    `by_scope`: the same in this order, by each scope of which a pause would keep them.
    """

    due: list[tuple[Place, Lane]]
    by_scope: dict[str, list[Lane]]


def group(reading: Reading) -> Waiting:
    """Return what is due."""
    places = zip(causes.places(reading), reading.lanes, strict=True)
    due = [(place, lane) for place, lane in places if lane.due]
    due.sort(key=lambda each: (each[0].rank, each[0].priority))
    by_scope: dict[str, list[Lane]] = {}
    for place, lane in due:
        for scope in causes.scopes(place):
            by_scope.setdefault(scope, []).append(lane)
    return Waiting(due, by_scope)


def late(reading: Reading, waiting: Waiting, *, now: datetime) -> list[Lane]:
    """Return the lanes whose oldest job is late, the worst first; without those that no worker takes, that are paused,
    or that the quota keeps.
    """
    there = {each.queue for each in causes.alive(reading, now)}
    paused = {each.scope for each in reading.pauses}
    found = []
    for place, lane in waiting.due:
        slow = lane.priority is Priority.URGENT and lane.oldest_seconds > SLOW.total_seconds()
        left = causes.quota_left(reading, urgent=place.rank is Priority.URGENT, now=now)
        is_kept = lane.queue not in there or not paused.isdisjoint(causes.scopes(place))
        if (slow or is_late(lane)) and not is_kept and (left is None or left >= 1):
            found.append((place, lane))
    found.sort(key=lambda each: (not is_bad(each[1]), each[0].rank, each[0].priority, -each[1].oldest_seconds))
    return [lane for _, lane in found]


def is_late(lane: Lane) -> bool:
    """Whether its oldest job has been due for longer than it should."""
    return lane.oldest_seconds > MAX_WAIT[lane.priority].total_seconds()


def is_bad(lane: Lane) -> bool:
    """Whether it is late, and its mails are of those that somebody waits for."""
    return is_late(lane) and lane.priority < Priority.BULK


def named(lanes: Iterable[Lane], count: int = 2) -> str:
    """Name so many mails of lanes: two kinds at most."""
    kinds = list(dict.fromkeys(mails(lane.action, lane.priority, count) for lane in lanes))
    return " and ".join(kinds) if len(kinds) < 3 else f"{kinds[0]} and other mails"


def effect(lanes: list[Lane], *, everything: bool = False, else_: str = "nothing is due yet") -> str:
    """Say what does not leave; `else_` where nothing waits."""
    if everything:
        return "no mail leaves"
    return f"{named(lanes)} do not leave" if lanes else else_


def amount(lanes: list[Lane]) -> str:
    """Say how many wait, and since when."""
    if not lanes:
        return "nothing is due now"
    kinds: dict[tuple[str, Priority], int] = {}
    for lane in lanes:
        kinds[lane.action, lane.priority] = kinds.get((lane.action, lane.priority), 0) + lane.due
    each = ", ".join(f"{counted(due)} {mails(*kind, due)}" for kind, due in [*kinds.items()][:3])
    oldest = max(lane.oldest_seconds for lane in lanes)
    return f"due: {each}{', and others' if len(kinds) > 3 else ''}; the oldest for {span(oldest)}"
