"""When each lane will be empty: at the rate that is granted, and at the pace of the last minutes."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from math import floor
from typing import Final

from mailroom.job import Priority
from mailroom.ops import causes
from mailroom.ops.causes import MINUTE, Place
from mailroom.ops.minutes import Minute
from mailroom.ops.reading import Lane, Reading, age
from mailroom.ops.words import CAP

# Queue, priority and action.
LaneKey = tuple[str, Priority, str]
# A pace is that of so many minutes, or of those since there has been something to send.
PACE_MINUTES: Final = 10
# What ends a job, or hands its mail over: late answers and mails that are taken back do neither.
_LEFT: Final = {"sent", "rejected", "failed", "expired", "cancelled", "suppressed"}
# Why jobs that are due do not leave, as a forecast names it.
STAYS: Final = ("paused", "no worker")
# Beyond this nobody plans, and the arithmetic of moments ends.
_NEVER: Final = timedelta(days=365)


@dataclass(frozen=True, slots=True)
class Forecast:
    """When the last job of a lane that is due now will have left; None: it cannot be said, or never as things stand.

    `quota_ends`: when the 24-hour quota would be used up, if that is before the lane is empty. `about`: counts are
    estimated. `left_out`: how many of its jobs are not in it, by why: later, held, paused, no worker. `stands`: for
    minutes nothing has left at all, of any lane, so no rate that is granted says when.
    """

    at_granted: datetime | None
    at_pace: datetime | None
    quota_ends: datetime | None
    about: bool
    left_out: dict[str, int]
    stands: bool = False


@dataclass(frozen=True, slots=True)
class _Counted:
    """A lane with how many jobs of it are to leave."""

    lane: Lane
    place: Place
    leaving: int
    left_out: dict[str, int]


def forecast(
    reading: Reading, minutes: Sequence[Minute], *, rate_limit: float | None, now: datetime
) -> dict[LaneKey, Forecast]:
    """Say it of each lane that the reading has. `rate_limit`: mails a second that the settings allow, None: no word.

    Lanes leave in order: each after those of its own priority, and of more urgent ones, of all queues.
    """
    lanes = _counted(reading, now=now)
    before = {rank: _before(lanes, rank) for rank in {each.place.rank for each in lanes}}
    granted, pace = causes.granted_rate(reading, rate_limit), pace_of(reading, minutes, now=now)
    found = {}
    for each in lanes:
        jobs, about = before[each.place.rank]
        leaves = bool(each.leaving)
        found[(each.lane.queue, each.lane.priority, each.lane.action)] = Forecast(
            at_granted=_after(jobs, granted, now=now) if leaves else None,
            at_pace=_after(jobs, pace, now=now) if leaves and pace is not None else None,
            quota_ends=_quota_ends(reading, each.place, jobs, granted, pace, now=now) if leaves else None,
            about=about and leaves,
            left_out=each.left_out,
            stands=leaves and pace == 0,
        )
    return found


def pace_of(reading: Reading, minutes: Sequence[Minute], *, now: datetime) -> float | None:
    """Return how many mails a second left in the last minutes in which there was something to send; None: unknown.

    A minute without mails counts too: that is what a pause looks like.
    """
    waited = max((each.lane.oldest_seconds for each in _counted(reading, now=now) if each.leaving), default=0.0)
    whole = min(PACE_MINUTES, floor(age(reading.read_at, now).total_seconds() / 60 + waited / 60))
    if whole < 1:
        return None
    ends = max((each.at for each in minutes), default=now - MINUTE) + MINUTE
    ends = ends if now - ends < 2 * MINUTE else now.replace(second=0, microsecond=0)
    left = sum(each.mails for each in minutes if ends - whole * MINUTE <= each.at < ends and each.outcome in _LEFT)
    return left / (60 * whole)


def dues(reading: Reading) -> list[int]:
    """How many jobs are due in each lane: where it is more than was counted, what is left of the estimate of all."""
    full = [lane for lane in reading.lanes if lane.due > CAP]
    known = sum(lane.later + lane.held + (0 if lane.due > CAP else lane.due) for lane in reading.lanes)
    share = max(CAP + 1, (reading.jobs_estimate - known) // max(1, len(full)))
    return [share if lane.due > CAP else lane.due for lane in reading.lanes]


def _counted(reading: Reading, *, now: datetime) -> list[_Counted]:
    paused = {each.scope for each in reading.pauses}
    works = {each.queue for each in (*causes.alive(reading, now), *causes.sweeps(reading, now))}
    found = []
    for lane, place, due in zip(reading.lanes, causes.places(reading), dues(reading), strict=True):
        stays = "" if lane.queue in works else "no worker"
        stays = stays if paused.isdisjoint(causes.scopes(place)) else "paused"
        left_out = {"later": lane.later, "held": lane.held, stays: due if stays else 0}
        told = {why: count for why, count in left_out.items() if count}
        found.append(_Counted(lane, place, 0 if stays else due, told))
    return found


def _before(lanes: Sequence[_Counted], rank: Priority) -> tuple[int, bool]:
    """How many jobs are to leave with those of a rank or before them, and whether that is an estimate."""
    ahead = [each for each in lanes if each.leaving and each.place.rank <= rank]
    return sum(each.leaving for each in ahead), any(each.lane.due > CAP for each in ahead)


def _after(jobs: float, rate: float | None, *, now: datetime) -> datetime | None:
    """When so many will have left; at once where there is no limit, and None where it would take for ever."""
    if rate is None:
        return now
    if rate <= 0 or jobs / rate > _NEVER.total_seconds():
        return None
    return now + timedelta(seconds=jobs / rate)


def _quota_ends(
    reading: Reading, place: Place, jobs: int, granted: float | None, pace: float | None, *, now: datetime
) -> datetime | None:
    """When the quota would be used up, at the slower of both rates; None if it lasts for what is due."""
    left = causes.quota_left(reading, urgent=place.rank is Priority.URGENT, now=now)
    if left is None or left >= jobs:
        return None
    rates = [rate for rate in (granted, pace) if rate]
    return _after(max(0.0, left), min(rates, default=None), now=now)
