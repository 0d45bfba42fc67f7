"""What became of mails, minute by minute, and how long they had waited: for charts and quantiles."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from sqlalchemy import Connection, Interval, cast, func, literal, select

from mailroom.db.views import minute_counts
from mailroom.job import Priority

# Seconds from the moment at which a job is due until it is claimed; the last bucket of `waits` is above all of them.
WAIT_BOUNDS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 900, 3600, 86400)
# How much is counted by one statement, how far back after a gap, and how long it is kept.
STEP: Final = timedelta(minutes=15)
REACH: Final = timedelta(days=1)
KEPT: Final = timedelta(days=7)


@dataclass(frozen=True, slots=True)
class Minute:
    """Mails of one kind in the minute that begins `at`. Its `outcome` may also be `late` or `taken_back`.

    `waits` counts those that were called by how long they had waited, by WAIT_BOUNDS. `priority` and `queue` are those
    of the lane they came from; None and empty where that is not on record.
    """

    at: datetime
    action: str
    priority: Priority | None
    outcome: str
    code: str
    mails: int
    waits: tuple[int, ...]
    queue: str = ""


def arguments(step: timedelta) -> dict[str, Any]:
    """Return what the database needs to know to count minutes, by the names that `reading_refresh` has for it."""
    bounds = [float(bound) for bound in WAIT_BOUNDS]
    return {"bounds": bounds, "step": step, "minutes_reach": REACH, "minutes_keep": KEPT}


def read(connection: Connection, *, since: timedelta) -> list[Minute]:
    """Return the minutes of so long until now, the oldest first. The one that goes on is not among them."""
    counted = minute_counts.c
    columns = (counted.at, counted.action, counted.priority, counted.outcome, counted.code, counted.mails)
    begins = func.date_trunc("minute", func.now() - cast(literal(since), Interval))
    rows = connection.execute(
        select(*columns, counted.waits, counted.queue)
        .where(counted.at >= begins, counted.at <= func.now())
        .order_by(counted.at, counted.queue, counted.priority, counted.action, counted.outcome, counted.code)
    )
    return [
        Minute(row.at, row.action, _priority(row.priority), *row[3:6], _waits(row.waits), row.queue) for row in rows
    ]


def quantile(waits: Sequence[int], share: float) -> float | None:
    """Return by how many seconds that share of the mails was claimed at the latest: the bound of its bucket.

    None where there are none. What is above all bounds is `inf`.
    """
    wanted, seen = share * sum(waits), 0
    for count, bound in zip(waits, (*WAIT_BOUNDS, float("inf")), strict=True):
        seen += count
        if seen and seen >= wanted:
            return float(bound)
    return None


def _priority(given: int | None) -> Priority | None:
    return None if given is None else Priority(given)


def _waits(given: Sequence[int]) -> tuple[int, ...]:
    """Take counts that are by these bounds; of others, of another release perhaps, nothing is known."""
    buckets = len(WAIT_BOUNDS) + 1
    return tuple(given) if len(given) == buckets else (0,) * buckets
