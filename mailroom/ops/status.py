"""What there is in the queue and what became of the mails, as one value."""

from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from sqlalchemy import Connection, Interval, cast, func, literal, select

from mailroom.db.views import attempts, jobs_in_flight, open_pauses, waiting_jobs
from mailroom.job import Priority
from mailroom.ops import health
from mailroom.ops.health import Health

PERIODS: Final = {"hour": timedelta(hours=1), "day": timedelta(days=1)}


@dataclass(frozen=True, slots=True)
class Waiting:
    """Jobs of one queue, priority and action. `oldest_seconds` is how long the oldest has been due; 0 if none is."""

    queue: str
    priority: Priority
    action: str
    jobs: int
    due: int
    oldest_seconds: float


@dataclass(frozen=True, slots=True)
class InFlight:
    """Batches that are claimed and not settled; `overdue` of them have outlived their lease and will be rescued."""

    batches: int
    jobs: int
    overdue: int


@dataclass(frozen=True, slots=True)
class Paused:
    """What is paused for the whole fleet, why, and since when. `by_hand`: it ends by hand."""

    scope: str
    code: str
    reason: str
    seconds: float
    by_hand: bool


@dataclass(frozen=True, slots=True)
class Status:
    """All of it. `outcomes` counts the deliveries of each period by outcome, late ones apart as `late`.

    `warnings` has what a person should look into, by code, and `health` the figures behind it.
    """

    waiting: tuple[Waiting, ...]
    paused: tuple[Paused, ...]
    in_flight: InFlight
    outcomes: dict[str, dict[str, int]]
    warnings: dict[str, str]
    health: Health


def read(connection: Connection) -> Status:
    """Read the status. Counting reads all of `jobs`: a second for ten million."""
    found = health.read(connection)
    return Status(
        _waiting(connection),
        _paused(connection),
        _in_flight(connection),
        {name: _outcomes(connection, age) for name, age in PERIODS.items()},
        health.warnings(found),
        found,
    )


def _waiting(connection: Connection) -> tuple[Waiting, ...]:
    jobs = waiting_jobs.c
    is_due = jobs.due_at <= func.now()
    oldest = func.coalesce(func.extract("epoch", func.now() - func.min(jobs.due_at).filter(is_due)), 0)
    lane = (jobs.queue, jobs.priority, jobs.action)
    rows = connection.execute(
        select(*lane, func.count(), func.count().filter(is_due), oldest).group_by(*lane).order_by(*lane)
    )
    return tuple(
        Waiting(queue, Priority(priority), action, count, due, float(seconds))
        for queue, priority, action, count, due, seconds in rows
    )


def _paused(connection: Connection) -> tuple[Paused, ...]:
    paused = open_pauses.c
    seconds = func.extract("epoch", func.now() - paused.opened_at)
    columns = (paused.scope, paused.code, paused.reason, seconds, paused.probe_at.is_(None))
    rows = connection.execute(select(*columns).order_by(paused.opened_at))
    return tuple(Paused(scope, code, reason, float(age), held) for scope, code, reason, age, held in rows)


def _in_flight(connection: Connection) -> InFlight:
    batches, lease_until = func.count(jobs_in_flight.c.batch.distinct()), jobs_in_flight.c.lease_until
    overdue = batches.filter(lease_until < func.now())
    return InFlight(*connection.execute(select(batches, func.count(), overdue).select_from(jobs_in_flight)).one())


def _outcomes(connection: Connection, age: timedelta) -> dict[str, int]:
    since = func.now() - cast(literal(age), Interval)
    recorded = attempts.c
    rows = connection.execute(
        select(recorded.outcome, recorded.state, func.count())
        .where(recorded.at > since)
        .group_by(recorded.outcome, recorded.state)
        .order_by(recorded.outcome)
    )
    counts: dict[str, int] = {}
    for outcome, state, count in rows:
        name = state if state == "late" else outcome
        counts[name] = counts.get(name, 0) + count
    return counts
