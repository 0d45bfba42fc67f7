"""Counting what a reading tells: each number at a cost that does not grow with the queue or the log."""

import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from itertools import groupby
from operator import attrgetter
from typing import Any, Final

from sqlalchemy import ColumnElement, Connection, Interval, case, cast, func, literal, select, text

from mailroom.db import functions
from mailroom.db.namespace import qualified
from mailroom.db.views import (
    account_limits,
    attempts,
    fleet_reading,
    jobs_in_flight,
    known_workers,
    minute_counts,
    open_pauses,
    permit_buckets,
)
from mailroom.fleet import buckets
from mailroom.job import Position, Priority
from mailroom.ops import feedback, health, reputation, suppressions
from mailroom.ops.feedback import Feedback
from mailroom.ops.reading import Bucket, Flight, Lane, Paused, Reading, SesAccount, Worker
from mailroom.queue import feed

HOUR: Final = timedelta(hours=1)
DAY: Final = timedelta(days=1)
FOR_EVER: Final = timedelta(days=10_000)
# Of each kind in a lane; one more is counted, and says that there are more.
MAX_COUNTED: Final = 10_000
MAX_WORKERS: Final = 1_000
# Two numbers are dear, and slow to change: they are counted so often, and else taken over from the reading before.
RATES_EVERY: Final = timedelta(minutes=1)
SUPPRESSED_EVERY: Final = timedelta(minutes=10)


# Statistics that a crash of the server has reset know only what came after it, until the table is vacuumed or analysed
# again; the planner goes by how full its pages were then.
_BELIEVED: Final = """
SELECT CAST(greatest(
           pg_stat_get_live_tuples(oid),
           CASE WHEN coalesce(pg_stat_get_last_vacuum_time(oid), pg_stat_get_last_autovacuum_time(oid),
                              pg_stat_get_last_analyze_time(oid), pg_stat_get_last_autoanalyze_time(oid)) IS NULL
                THEN reltuples / greatest(relpages, 1) * pg_relation_size(oid)
                     / CAST(current_setting('block_size') AS integer) END) AS bigint)
  FROM pg_class
 WHERE oid = to_regclass(:jobs)
"""


def count(connection: Connection, *, before: Reading | None = None, reach: timedelta = DAY) -> Reading:
    """Count it all in this transaction, which should be one snapshot: a job that moves is then counted once.

    `before` is the last reading; `reach`, how far back attempts are counted one by one where no minutes are.
    """
    began = time.monotonic()
    now: datetime = connection.execute(select(func.now())).scalar_one()
    workers = _workers(connection)
    lanes = _lanes(connection, {worker.queue for worker in workers}, before)
    told = _feedback(connection, now, before)
    well = replace(health.read(connection, waits=False), waited_seconds=_waited(lanes))
    unconfirmed = functions.call(connection, "reading_unconfirmed", {"since": DAY, "most": MAX_COUNTED + 1}).one()
    found = Reading(
        read_at=now,
        seconds=0.0,
        failed_at=None,
        failure="",
        lanes=lanes,
        jobs_estimate=_jobs_estimate(connection, lanes),
        flight=_flight(connection),
        pauses=_pauses(connection),
        buckets=_buckets(connection),
        account=_account(connection),
        workers=workers,
        outcomes=_outcomes(connection, now, reach),
        unconfirmed_day=unconfirmed.unconfirmed,
        sent_again_day=unconfirmed.sent_again,
        health=well,
        feedback=told,
        warnings=health.warnings(well) | feedback.warnings(told),
        priorities={row.name: Priority(row.priority) for row in functions.call(connection, "action_list")},
    )
    return replace(found, seconds=time.monotonic() - began)


def _lanes(connection: Connection, known: set[str], before: Reading | None) -> tuple[Lane, ...]:
    known |= {lane.queue for lane in before.lanes} if before else set()
    rows = functions.call(connection, "reading_lanes", {"most": MAX_COUNTED + 1, "known": sorted(known)})
    return tuple(
        Lane(
            row.queue,
            Priority(row.priority),
            row.action,
            due=row.due,
            later=row.later,
            held=row.held,
            capped=max(row.due, row.later, row.held) > MAX_COUNTED,
            oldest_seconds=row.oldest_seconds,
            head=Position(row.head_due_at, row.head_token) if row.due else None,
        )
        for row in rows
    )


def _waited(lanes: Sequence[Lane]) -> dict[Priority, float]:
    """Tell how long the oldest of each priority that has one has been due."""
    due = sorted((lane for lane in lanes if lane.due), key=attrgetter("priority"))
    return {
        priority: max(lane.oldest_seconds for lane in some) for priority, some in groupby(due, attrgetter("priority"))
    }


def _jobs_estimate(connection: Connection, lanes: Sequence[Lane]) -> int:
    """Tell how many jobs there are: what was counted, or by what PostgreSQL believes where not all of them were."""
    counted = sum(lane.due + lane.later + lane.held for lane in lanes)
    if not any(lane.capped for lane in lanes):
        return counted
    believed = connection.execute(text(_BELIEVED), {"jobs": qualified(connection, "jobs")}).scalar()
    return max(counted, believed or 0)


def _seconds_since(moment: ColumnElement[datetime]) -> ColumnElement[Any]:
    """The difference of two numbers: not every version of PostgreSQL has one of two moments where one is infinite.

    As a number it is finite, since JSON knows no other.
    """
    seconds = func.extract("epoch", func.now()) - func.extract("epoch", moment)
    finite = func.least(func.greatest(seconds, -FOR_EVER.total_seconds()), FOR_EVER.total_seconds())
    return case((moment.is_not(None), finite))  # least() passes over a NULL


def _flight(connection: Connection) -> Flight:
    held = jobs_in_flight.c
    batches = func.count(held.batch.distinct())
    late = _seconds_since(func.min(held.lease_until))
    since = _seconds_since(func.min(held.at))
    row = connection.execute(
        select(batches, func.count(), batches.filter(held.lease_until < func.now()), late, since).select_from(
            jobs_in_flight
        )
    ).one()
    return Flight(*row[:3], *(max(0.0, float(seconds or 0)) for seconds in row[3:]))


def _pauses(connection: Connection) -> tuple[Paused, ...]:
    paused = open_pauses.c
    seconds = _seconds_since(paused.opened_at)
    columns = (paused.scope, paused.code, paused.reason, seconds, paused.opened_at, paused.probe_at)
    return tuple(
        Paused(
            scope,
            code,
            reason,
            abs(float(age)),
            by_hand=probe_at is None and code not in reputation.CODES,
            opened_at=opened_at,
            probe_at=probe_at,
        )
        for scope, code, reason, age, opened_at, probe_at in connection.execute(
            select(*columns).order_by(paused.opened_at)
        )
    )


def _buckets(connection: Connection) -> dict[str, Bucket]:
    """Tell of each what throttling has left of the rate by now: what is kept is how it was with the last throttle."""
    kept = permit_buckets.c
    columns = (kept.bucket, kept.granted, kept.slowdown, kept.level, _seconds_since(kept.throttled_at))
    rows = connection.execute(select(*columns).order_by(kept.bucket))
    return {
        name: Bucket(granted, _crept_back(slowdown, since), level) for name, granted, slowdown, level, since in rows
    }


def _crept_back(slowdown: float, seconds: Any) -> float:
    """As `permits_take` has it."""
    if seconds is None:
        return slowdown
    return min(1.0, slowdown + buckets.RECOVERY_PER_SECOND * max(0.0, float(seconds)))


def _account(connection: Connection) -> SesAccount:
    said, granted = account_limits.c, permit_buckets.c.granted
    since = granted - said.granted_before
    row = connection.execute(
        select(account_limits, since.label("since")).join_from(
            account_limits, permit_buckets, permit_buckets.c.bucket == "mails", isouter=True
        )
    ).first()
    if row is None:
        return SesAccount(None, None, None, None, 0, None, None, None)
    return SesAccount(
        row.fetched_at,
        row.max_send_rate,
        row.max_24_hour_send,
        row.sent_last_24_hours,
        max(0, row.since or 0),
        row.sending_enabled,
        row.production_access,
        row.enforcement,
    )


def _workers(connection: Connection) -> tuple[Worker, ...]:
    newest = select(known_workers).order_by(known_workers.c.seen_at.desc()).limit(MAX_WORKERS).subquery()
    rows = connection.execute(select(newest).order_by(newest.c.queue, newest.c.name))
    return tuple(Worker(**row._mapping) for row in rows)


def _feedback(connection: Connection, now: datetime, before: Reading | None) -> Feedback:
    old = None if before is None else before.feedback
    last = None if before is None else before.read_at
    return Feedback(
        feed.state(connection),
        old.suppressed if old and _is_same(last, now, SUPPRESSED_EVERY) else suppressions.count(connection),
        old.reputation if old and _is_same(last, now, RATES_EVERY) else reputation.read(connection),
    )


def _is_same(last: datetime | None, now: datetime, every: timedelta) -> bool:
    """Whether two moments are in the same one of periods of so long."""
    return last is not None and last.timestamp() // every.total_seconds() == now.timestamp() // every.total_seconds()


def _outcomes(connection: Connection, now: datetime, reach: timedelta) -> dict[str, dict[str, int]]:
    """Count by minutes as far as there are any, and after those one by one."""
    closed = now.replace(second=0, microsecond=0)
    until: datetime = connection.execute(select(fleet_reading.c.minutes_until)).scalar() or now - DAY
    until = max(min(until, closed), now - min(DAY, reach))
    counts: dict[str, dict[str, int]] = {"hour": {}, "day": {}}
    for name, hour, day in [*_by_minute(connection, now, until), *_one_by_one(connection, until)]:
        for period, number in (("hour", hour), ("day", day)):
            if number:
                counts[period][name] = counts[period].get(name, 0) + number
    return {period: dict(sorted(found.items())) for period, found in counts.items()}


def _by_minute(connection: Connection, now: datetime, until: datetime) -> list[tuple[str, int, int]]:
    counted = minute_counts.c
    hour_ago, day_ago = ((now - age).replace(second=0, microsecond=0) for age in (HOUR, DAY))
    mails = func.sum(counted.mails)
    rows = connection.execute(
        select(counted.outcome, func.coalesce(mails.filter(counted.at >= hour_ago), 0), mails)
        .where(counted.at >= day_ago, counted.at < until)
        .group_by(counted.outcome)
    )
    return [(outcome, int(hour), int(day)) for outcome, hour, day in rows]


def _one_by_one(connection: Connection, since: datetime) -> list[tuple[str, int, int]]:
    recorded = attempts.c
    hour_ago = func.now() - cast(literal(HOUR), Interval)
    number: Any = func.count()
    rows = connection.execute(
        select(recorded.outcome, recorded.state, number.filter(recorded.at > hour_ago), number)
        .where(recorded.at >= cast(literal(since), recorded.at.type))
        .group_by(recorded.outcome, recorded.state)
    )
    return [(_name(outcome, state), hour, day) for outcome, state, hour, day in rows]


def _name(outcome: str, state: str) -> str:
    """Name what is counted: as minutes do."""
    if state == "late":
        return "late"
    return "taken_back" if (outcome, state) == ("sent", "retried") else outcome
