"""All jobs that are not finished, in the order in which they leave: lane by lane, a page at a time."""

from collections.abc import Iterator
from datetime import datetime, timedelta
from heapq import merge
from itertools import chain, groupby, islice
from typing import Any, Final

from sqlalchemy import Connection, func, select

from mailroom.db import functions
from mailroom.ops import jobs
from mailroom.ops.jobs import Filters, Found, Moment

# Rows of one lane that are asked for at a time.
STRETCH: Final = 1_000


def find(connection: Connection, filters: Filters, *, limit: int | None = None) -> Iterator[Found]:
    """Return what `jobs.find` returns, and of a long queue no more than the first `limit` jobs are read.

    In one snapshot, if the connection holds one: else a job that moves meanwhile may be told twice, or not at all.
    """
    by_key = filters.tokens or filters.account is not None
    if filters.on_record or filters.held or by_key:
        yield from jobs.find(connection, filters, limit=limit)
        return
    found = chain(
        jobs.in_flight(connection, filters), _waiting(connection, filters, limit or STRETCH), _held(connection, filters)
    )
    yield from islice(found, limit)


def _held(connection: Connection, filters: Filters) -> Iterator[Found]:
    held = Filters(since=filters.since, until=filters.until, queue=filters.queue, held=True)
    yield from jobs.find(connection, held)


def _waiting(connection: Connection, filters: Filters, stretch: int) -> Iterator[Found]:
    """The jobs of each priority, whatever their queue and action are, in one order of time."""
    lanes = functions.call(connection, "browse_lanes", {"of_queue": filters.queue}).all()
    now: datetime = connection.execute(select(func.now())).scalar_one()
    period = {"since": _moment(filters.since, now), "until": _moment(filters.until, now)}
    most = min(stretch, STRETCH)
    for _, alike in groupby(sorted(lanes, key=lambda each: each.priority), key=lambda each: each.priority):
        rows = (_lane(connection, lane, period, most) for lane in alike)
        yield from merge(*rows, key=lambda found: (found.at, found.token))


def _lane(connection: Connection, lane: Any, period: dict[str, datetime | None], most: int) -> Iterator[Found]:
    named = {"queue": lane.queue, "priority": lane.priority, "action": lane.action, "most": most}
    after: dict[str, Any] = {"after_due_at": None, "after_token": None}
    while True:
        rows = functions.call(connection, "browse_lane", named | period | after).all()
        for row in rows:
            place = (lane.action, "waiting", row.due_at, row.attempt, lane.queue, lane.priority)
            yield Found(row.token, row.account, *place, batch=None, outcome=None, code=None, message_id=None)
        if len(rows) < most:
            return
        after = {"after_due_at": rows[-1].due_at, "after_token": rows[-1].token}


def _moment(given: Moment | None, now: datetime) -> datetime | None:
    return now - given if isinstance(given, timedelta) else given
