"""Pages of rows for whoever looks: each by index, bounded, and without one lost or repeated between two pages."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from sqlalchemy import Connection, CursorResult, Row

from mailroom.db import functions
from mailroom.db.bounded import bounded
from mailroom.job import Position, Priority
from mailroom.ops import jobs
from mailroom.ops.jobs import Filters, Found

__all__ = [
    "Flooded",
    "Floods",
    "Page",
    "Place",
    "Unclear",
    "UnclearPage",
    "flight",
    "flooded",
    "held",
    "lane",
    "record",
    "unconfirmed",
]

PAGE: Final = 50
# Rows of the record that one statement looks at, and how many statements one page is worth.
SCAN_LIMIT: Final = 20_000
MAX_SCANS: Final = 3
# Rows of the record that one look for floods reads.
FLOOD_SCAN_LIMIT: Final = 50_000


@dataclass(frozen=True, slots=True)
class Place:
    """Where a page ended: what comes next is after it. `at` is None where the order is by number alone."""

    at: datetime | None
    number: int


@dataclass(frozen=True, slots=True)
class Page:
    """Some rows, and where the next ones begin: None if there are none.

    `looked_back_to`: how far a search over the record came before it stopped; None: it did not stop before its end.
    """

    rows: tuple[Found, ...]
    next: Place | None
    looked_back_to: datetime | None = None


@dataclass(frozen=True, slots=True)
class Unclear:
    """A mail that may have been out when nobody heard, and what became of it.

    `ended` is one of: waiting, held, in flight, sent again (it may be out twice), twice (it is), once (the first was
    out), never (SES says that the first was not), given up.
    """

    token: int | None
    account: int | None
    action: str
    at: datetime
    code: str | None
    ended: str


@dataclass(frozen=True, slots=True)
class UnclearPage:
    """A page of them, the newest first."""

    rows: tuple[Unclear, ...]
    next: Place | None


@dataclass(frozen=True, slots=True)
class Flooded:
    """An account for which more mails were asked than it may get: how many were not sent, and when the last was."""

    account: int
    mails: int
    last_at: datetime


@dataclass(frozen=True, slots=True)
class Floods:
    """Who is being flooded, the worst first. `looked_back_to`: how far the look came; None: as far as was asked."""

    accounts: tuple[Flooded, ...]
    looked_back_to: datetime | None


def lane(
    connection: Connection,
    queue: str,
    priority: Priority,
    action: str,
    *,
    after: Place | None = None,
    start: Position | None = None,
    limit: int = PAGE,
) -> Page:
    """Return the jobs of a lane that are not held, as they will leave; `start`: only what is behind that place.

    Where nothing waits any more lie rows that are dead and not yet vacuumed, perhaps a million: a reading knows what is
    behind them, and saves the walk over them (`causes.nothing_due_before`).
    """
    places = [(after.at, after.number)] if after else []
    places += [(start.due_at, start.token)] if start else []
    at, token = max(places, default=(None, None))
    place = {"queue": queue, "priority": int(priority), "action": action}
    binds = place | {"after_due_at": at, "after_token": token, "since": None, "until": None, "most": limit + 1}
    rows = _ask(connection, "browse_lane", binds)
    found = tuple(_waiting(row, queue, priority, action) for row in rows[:limit])
    return Page(found, _after(rows, limit, lambda row: Place(row.due_at, row.token)))


def held(connection: Connection, *, after: Place | None = None, limit: int = PAGE) -> Page:
    """Return the jobs that are held, by token. `at` is when each was tried last."""
    rows = _ask(connection, "browse_held", {"after_token": after.number if after else None, "most": limit + 1})
    found = (
        Found(
            token=row.token,
            account=row.account,
            action=row.action,
            state="held",
            at=row.tried_at,
            attempt=row.attempt,
            queue=row.queue,
            priority=row.priority,
            **_NO_ATTEMPT,
        )
        for row in rows[:limit]
    )
    return Page(tuple(found), _after(rows, limit, lambda row: Place(None, row.token)))


def flight(connection: Connection, *, after: Place | None = None, limit: int = PAGE) -> Page:
    """Return the jobs that are in flight, by token; all are read, since a fleet has no more in its hands than that."""
    with bounded(connection):
        found = sorted(jobs.in_flight(connection, Filters()), key=lambda each: each.token)
    rest = [each for each in found if after is None or each.token > after.number]
    return Page(tuple(rest[:limit]), Place(None, rest[limit - 1].token) if len(rest) > limit else None)


def record(
    connection: Connection,
    *,
    outcome: str | None = None,
    code: str | None = None,
    since: datetime | None = None,
    before: Place | None = None,
    limit: int = PAGE,
) -> Page:
    """Return attempts on record, the newest first by id, as far back as a bounded look comes.

    Where it stops before the end, the page has how far it came, and its next one goes on from there.
    """
    chosen: list[Any] = []
    edge = before
    everything = outcome is None and code is None
    for _ in range(MAX_SCANS):
        binds = {"before_id": edge.number if edge else None, "of_outcome": outcome, "of_code": code, "since": since}
        scan = limit + 1 if everything else SCAN_LIMIT
        rows = _ask(connection, "browse_attempts", binds | {"scan_limit": scan, "most": limit + 1 - len(chosen)})
        chosen += [row for row in rows if row.id is not None]
        if len(chosen) > limit:
            return Page(tuple(map(_attempt, chosen[:limit])), Place(None, chosen[limit - 1].id))
        if not rows or rows[0].is_all:
            return Page(tuple(map(_attempt, chosen)), None)
        edge = Place(rows[0].looked_to, rows[0].looked_to_id)
    return Page(tuple(map(_attempt, chosen)), edge, edge.at if edge else None)


def unconfirmed(
    connection: Connection, *, since: datetime, before: Place | None = None, limit: int = PAGE
) -> UnclearPage:
    """Return mails of which nobody knew whether they were out, the newest first, and what became of each."""
    place = {"before_at": before.at if before else None, "before_id": before.number if before else None}
    rows = _ask(connection, "browse_unconfirmed", {"since": since, "most": limit + 1} | place)
    found = (Unclear(row.token, row.account, row.action, row.at, row.code, ended(row)) for row in rows[:limit])
    return UnclearPage(tuple(found), _after(rows, limit, lambda row: Place(row.at, row.id)))


def ended(row: Any) -> str:
    """Say in a word what became of an unconfirmed mail."""
    if row.sent_again:
        return "never" if row.contradicted else "twice" if row.accepted else "sent again"
    if row.accepted:
        return "once"
    return row.place or ("never" if row.contradicted else "given up")


def flooded(connection: Connection, *, since: datetime, limit: int = PAGE) -> Floods:
    """Return the accounts that got fewer mails than were asked for them, the worst first."""
    rows = _ask(connection, "browse_flooded", {"since": since, "scan_limit": FLOOD_SCAN_LIMIT, "most": limit})
    found = (Flooded(row.account, row.mails, row.last_at) for row in rows if row.account is not None)
    return Floods(tuple(found), rows[0].looked_to if rows else None)


_NO_ATTEMPT: Final = {"batch": None, "outcome": None, "code": None, "message_id": None}


def _ask(connection: Connection, name: str, binds: Mapping[str, Any]) -> list[Row[Any]]:
    with bounded(connection):
        asked: CursorResult[Any] = functions.call(connection, name, binds)
        return list(asked.all())


def _waiting(row: Any, queue: str, priority: int, action: str) -> Found:
    return Found(
        row.token, row.account, action, "waiting", row.due_at, row.attempt, queue, int(priority), **_NO_ATTEMPT
    )


def _attempt(row: Any) -> Found:
    return Found(
        *(row.token, row.account, row.action, row.state, row.at, row.attempt, None, None, row.batch),
        *(row.outcome, row.code, row.message_id),
    )


def _after(rows: list[Row[Any]], limit: int, place: Any) -> Place | None:
    """Where the next page begins, if there is one row more than fits."""
    return place(rows[limit - 1]) if len(rows) > limit else None
