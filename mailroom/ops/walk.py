"""Jobs and attempts as `jobs.find` tells them, a page at a time: lane by lane, and the record from its end."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from heapq import merge
from itertools import chain, groupby, islice
from typing import Any, Final

from sqlalchemy import Connection, func, select

from mailroom.db import functions
from mailroom.db.moments import EARLIEST
from mailroom.db.views import attempts
from mailroom.ops import jobs
from mailroom.ops.jobs import Filters, Found, Moment

# Rows of one lane, of what is held, or of the record that are asked for at a time.
STRETCH: Final = 1_000
# Rows of the record that are looked at in one go, once many had nothing of what is asked for.
LONGEST_STRETCH: Final = 64_000
# Rows are on record by when they were made, but for those that were committed so much later.
OUT_OF_ORDER: Final = timedelta(hours=1)


def find(connection: Connection, filters: Filters, *, limit: int | None = None) -> Iterator[Found]:
    """Return what `jobs.find` returns, what is held by token; and of much no more is read than the first `limit` need.

    In one snapshot, if the connection holds one: else a job that moves meanwhile may be told twice, or not at all.
    """
    most = min(limit or STRETCH, STRETCH)
    if filters.tokens or filters.account is not None:
        found = _by_key(connection, filters, limit)
    elif filters.on_record:
        found = _recorded(connection, filters, limit)
    elif filters.held:
        found = _held(connection, filters, most)
    else:
        waiting, held = _waiting(connection, filters, most), _held(connection, filters, most)
        found = chain(jobs.in_flight(connection, filters), waiting, held)
    yield from islice(found, limit)


def _by_key(connection: Connection, filters: Filters, limit: int | None) -> Iterator[Found]:
    """Those of some tokens, or of an account: its tokens are asked for first, for a join may walk over all."""
    if filters.account is not None:
        own = jobs.tokens_of(connection, filters.account)
        chosen = own.intersection(filters.tokens) if filters.tokens else own
        filters = replace(filters, tokens=tuple(chosen), account=None)
    if filters.tokens:
        yield from jobs.find(connection, filters, limit=limit)


def _recorded(connection: Connection, filters: Filters, limit: int | None) -> Iterator[Found]:
    """Attempts on record, the newest first, in stretches that grow: until there are enough, or the period is over."""
    since = _moment(filters.since, _now(connection))
    left, stretch = limit, STRETCH
    newest = connection.scalar(select(func.max(attempts.c.id)))
    while newest is not None and left != 0:
        first = newest - stretch + 1
        found = jobs.recorded(connection, filters, first=first, before=newest + 1, limit=left)
        yield from found
        left = None if left is None else left - len(found)
        last = select(attempts.c.id, attempts.c.at).where(attempts.c.id < first).order_by(attempts.c.id.desc()).limit(1)
        row = connection.execute(last).first()
        is_over = row is None or (since is not None and since - row.at > OUT_OF_ORDER)
        newest = None if is_over or row is None else row.id
        stretch = min(2 * stretch, LONGEST_STRETCH)


def _held(connection: Connection, filters: Filters, most: int) -> Iterator[Found]:
    now = _now(connection)
    since, until = _moment(filters.since, now), _moment(filters.until, now)
    after = None
    while True:
        rows = functions.call(connection, "browse_held", {"after_token": after, "most": most}).all()
        for row in rows:
            place = (row.action, "held", row.tried_at, row.attempt, row.queue, row.priority)
            if filters.queue in {None, row.queue} and _is_within(row.tried_at, since, until):
                yield Found(row.token, row.account, *place, batch=None, outcome=None, code=None, message_id=None)
        if len(rows) < most:
            return
        after = rows[-1].token


def _is_within(at: datetime | None, since: datetime | None, until: datetime | None) -> bool:
    if at is None:
        return since is None and until is None
    return (since is None or at >= since) and (until is None or at < until)


def _waiting(connection: Connection, filters: Filters, most: int) -> Iterator[Found]:
    """The jobs of each priority, whatever their queue and action are, in one order of time."""
    lanes = functions.call(connection, "browse_lanes", {"of_queue": filters.queue}).all()
    now = _now(connection)
    period = {"since": _moment(filters.since, now), "until": _moment(filters.until, now)}
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


def _now(connection: Connection) -> datetime:
    now: datetime = connection.execute(select(func.now())).scalar_one()
    return now


def _moment(given: Moment | None, now: datetime) -> datetime | None:
    return now - min(given, now - EARLIEST) if isinstance(given, timedelta) else given
