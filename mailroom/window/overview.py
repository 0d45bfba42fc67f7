"""The first page in numbers: what waits, what leaves, who works, and what SES allows."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from mailroom.job import Priority
from mailroom.ops import causes, minutes
from mailroom.ops.forecast import STAYS, Forecast
from mailroom.ops.health import MAX_WAIT
from mailroom.ops.minutes import WAIT_BOUNDS, Minute
from mailroom.ops.needs import MUCH_OF_THE_QUOTA
from mailroom.ops.reading import Lane, Reading, SesAccount, Worker
from mailroom.ops.waiting import is_late
from mailroom.window import charts
from mailroom.window.charts import Chart
from mailroom.window.source import Seen

# Sooner than this nobody plans.
SOON: Final = timedelta(minutes=1)
# How many lanes, or workers, have a row.
MAX_ROWS: Final = 50
# And how many that went away, or came from cron: each restart of one that cannot run leaves another, for a day.
MAX_GONE: Final = 3


@dataclass(frozen=True, slots=True)
class Row:
    """A lane, how long half and 99 of 100 of its mails waited in the last ten minutes, and when it will be empty."""

    lane: Lane
    half: float | None
    most: float | None
    leaves: "Leaves"
    late: bool


@dataclass(frozen=True, slots=True)
class Leaves:
    """When a lane will be empty. `at` is at the pace of the last minutes, or at the rate granted where there is none.

    `granted`: at the rate granted, where that is another moment. `stays`: why its jobs do not leave at all.
    """

    soon: bool
    at: datetime | None
    granted: datetime | None
    quota_ends: datetime | None
    about: bool
    stays: str


@dataclass(frozen=True, slots=True)
class Rate:
    """Mails a second in the last minutes, and how many are granted: None where there is no limit to tell."""

    used: float
    granted: float | None
    slowdown: float

    @property
    def share(self) -> float | None:
        """How much of it is used."""
        return self.used / self.granted if self.granted else None


@dataclass(frozen=True, slots=True)
class Quota:
    """Mails in 24 hours, as far as SES and the permits granted since tell, and how many are allowed."""

    sent: float
    limit: float

    @property
    def share(self) -> float:
        """How much of it is used."""
        return self.sent / self.limit if self.limit else 1.0

    @property
    def scarce(self) -> bool:
        """Whether somebody should know."""
        return self.share >= MUCH_OF_THE_QUOTA


@dataclass(frozen=True, slots=True)
class Urgent:
    """How long urgent mails wait: 99 of 100 of those that were tried lately, or longer the oldest that still waits."""

    seconds: float
    waits: bool

    @property
    def late(self) -> bool:
        """Whether somebody waits too long."""
        return self.waits and self.seconds > MAX_WAIT[Priority.URGENT].total_seconds()


@dataclass(frozen=True, slots=True)
class Overview:
    """What the first page shows besides its sentence. Of the workers, those that are `lost` and the sweeps, the last
    ones seen; `other_…`: how many there are that have no row.
    """

    rows: tuple[Row, ...]
    other_lanes: int
    due: int
    held: int
    jobs: int | None
    rate: Rate
    quota: Quota | None
    mails: Chart
    waits: Chart
    urgent: "Urgent | None"
    working: int
    busy: int
    senders: int
    workers: tuple[Worker, ...]
    other_workers: int
    lost: tuple[Worker, ...]
    other_lost: int
    sweeps: tuple[Worker, ...]
    other_sweeps: int


def overview(seen: Seen, reading: Reading) -> Overview:
    """Return it."""
    urgent = [minute for minute in seen.hour if minute.priority is Priority.URGENT]
    recent = seen.ten_minutes
    lanes = _worst(reading.lanes)
    there, lost = causes.alive(reading, seen.now), causes.lost(reading, seen.now)
    sweeps = causes.sweeps(reading, seen.now)
    return Overview(
        rows=tuple(_row(lane, recent, seen) for lane in lanes),
        other_lanes=len(reading.lanes) - len(lanes),
        due=sum(lane.due for lane in reading.lanes),
        held=sum(lane.held for lane in reading.lanes),
        jobs=reading.jobs_estimate if any(lane.capped for lane in reading.lanes) else None,
        rate=_rate(seen, reading),
        quota=quota(reading.account),
        mails=charts.mails(seen.hour, until=seen.now),
        waits=charts.waits(urgent, until=seen.now, limit=MAX_WAIT[Priority.URGENT].total_seconds()),
        urgent=_urgent(reading, [minute for minute in recent if minute.priority is Priority.URGENT]),
        working=len(there),
        busy=sum(worker.busy for worker in there),
        senders=sum(worker.senders for worker in there),
        workers=tuple(there[:MAX_ROWS]),
        other_workers=len(there[MAX_ROWS:]),
        lost=tuple(lost[:MAX_GONE]),
        other_lost=len(lost[MAX_GONE:]),
        sweeps=tuple(sweeps[:MAX_GONE]),
        other_sweeps=len(sweeps[MAX_GONE:]),
    )


def quota(account: SesAccount) -> Quota | None:
    """Return what is known of the day's quota; None where nothing is, or there is none."""
    if account.max_24_hour_send is None or account.max_24_hour_send < 0:
        return None
    return Quota((account.sent_last_24_hours or 0) + account.granted_since, account.max_24_hour_send)


def _worst(lanes: Sequence[Lane]) -> list[Lane]:
    """Return so many lanes as there are rows for, in their order: those that are late, then those that are due."""
    shown = sorted(range(len(lanes)), key=lambda at: _badness(lanes[at]))[:MAX_ROWS]
    return [lanes[at] for at in sorted(shown)]


def _badness(lane: Lane) -> tuple[bool, bool, Priority, float]:
    return not is_late(lane), not lane.due, lane.priority, -lane.oldest_seconds


def _row(lane: Lane, recent: Sequence[Minute], seen: Seen) -> Row:
    told = [minute for minute in recent if (minute.priority, minute.action) == (lane.priority, lane.action)]
    leaves = _leaves(lane, seen.forecasts.get((lane.queue, lane.priority, lane.action)), now=seen.now)
    return Row(lane, _wait(told, 0.5), _wait(told, 0.99), leaves, is_late(lane))


def _leaves(lane: Lane, told: Forecast | None, *, now: datetime) -> Leaves:
    if not lane.due or told is None:
        return Leaves(False, None, None, None, False, "")
    at, granted = None if told.stands else told.at_pace or told.at_granted, told.at_granted
    soon = at is not None and at - now <= SOON and told.quota_ends is None
    if at is None or granted is None or abs(at - granted) <= max(SOON, (at - now) / 10):
        granted = None
    stays = next((why for why in STAYS if told.left_out.get(why)), "")
    return Leaves(soon, at, granted, told.quota_ends, told.about, stays)


def _urgent(reading: Reading, tried: Sequence[Minute]) -> Urgent | None:
    """Return how long they wait; None where none was asked for."""
    left = _wait(tried, 0.99)
    oldest = max(
        (lane.oldest_seconds for lane in reading.lanes if lane.priority is Priority.URGENT and lane.due), default=0.0
    )
    if oldest > (left or 0.0):
        return Urgent(oldest, waits=True)
    return None if left is None else Urgent(left, waits=False)


def _wait(told: Sequence[Minute], share: float) -> float | None:
    """Return how long that share of their mails waited at most, by the bounds that waits are counted by."""
    if not told:
        return None
    summed = [sum(counts) for counts in zip(*(minute.waits for minute in told), strict=True)]
    found = minutes.quantile(summed, share)
    return None if found is None else min(found, WAIT_BOUNDS[-1])


def _rate(seen: Seen, reading: Reading) -> Rate:
    granted = causes.granted_rate(reading, seen.rate_limit)
    return Rate(causes.used_rate(seen.hour, now=seen.now), granted, causes.slowdown(reading))
