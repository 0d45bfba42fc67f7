"""The life of one mail in one order of time: made, due, claimed, called, accepted, delivered or bounced."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from sqlalchemy import Connection, Row, func, select

from mailroom.db.bounded import bounded
from mailroom.db.views import attempts, jobs_in_flight, waiting_jobs
from mailroom.ops import jobs
from mailroom.ops.jobs import Reported, Token
from mailroom.ops.words import several, span

_AFTER_ALL: Final = datetime.max.replace(tzinfo=UTC)
# Where moments are the same, or SES's clock is a little behind: what leads to what.
_ORDER: Final = ("made", "due", "claimed", "called")
_EVENTS: Final = {
    "send": "SES says that it took it",
    "delivery": "the recipient's server took it",
    "bounce": "it bounced",
    "complaint": "the recipient complained",
    "reject": "SES rejected what is in it: it never went out",
    "rendering_failure": "its template did not render: it never went out",
    "delivery_delay": "the recipient's server does not take it yet",
}
# What is said of a complaint of these types, which blames nobody.
_NO_COMPLAINTS: Final = {
    "not-spam": "the recipient says that it is no spam",
    "auth-failure": "a server doubts who sent it",
}
_OUTCOMES: Final = {
    "sent": "SES accepted it",
    "rejected": "SES refused it, for its own sake",
    "failed": "given up: no attempt is left",
    "expired": "not sent: its token had run out",
    "cancelled": "not sent: it was not wanted any more",
    "suppressed": "not sent: its address is not mailed",
    "deferred": "not accepted: it will be tried again",
    "unconfirmed": "no answer that can be believed: it may be out",
}


@dataclass(frozen=True, slots=True)
class Moment:
    """One point in the life of a mail. `kind` is made, due, claimed, called, an outcome, an event as SES names it,
    waiting, held, in flight, consumed or expires; `text` says it in words, without addresses. `at` None: unknown.
    """

    at: datetime | None
    kind: str
    text: str
    code: str | None = None
    batch: int | None = None


def life(connection: Connection, token: int) -> tuple[Moment, ...]:
    """Return all that is known of the mail of a token, the oldest first, and last where it is now: looks by key."""
    with bounded(connection):
        known = jobs.find_token(connection, token)
        tried = _attempts(connection, token)
        told = jobs.reported(connection, token)
        present = [*_in_flight(connection, token), *_waiting(connection, token)]
        now: datetime = connection.execute(select(func.now())).scalar_one()
    past = [moment for row in tried for moment in _attempt(row)] + [_event(each) for each in told]
    if known is not None:
        past += _token(known, now=now)
    return tuple(sorted(past, key=_when) + present)


def _when(moment: Moment) -> tuple[datetime, int]:
    order = _ORDER.index(moment.kind) if moment.kind in _ORDER else len(_ORDER)
    return moment.at or _AFTER_ALL, order


def _attempts(connection: Connection, token: int) -> list[Row[Any]]:
    recorded = attempts.c
    columns = (recorded.at, recorded.state, recorded.outcome, recorded.code, recorded.batch, recorded.attempt)
    times = (recorded.due_at, recorded.claimed_at, recorded.call_ms)
    return list(connection.execute(select(*columns, *times).where(recorded.token == token).order_by(recorded.id)))


def _attempt(row: Any) -> Iterator[Moment]:
    """What is known of one attempt: of older releases only how it ended."""
    if row.due_at is not None:
        yield Moment(row.due_at, "due", "due" if not row.attempt else "due for another try", batch=row.batch)
    if row.claimed_at is not None:
        waited = (
            "" if row.due_at is None else f", {span(max(row.claimed_at - row.due_at, timedelta(0)))} after it was due"
        )
        yield Moment(row.claimed_at, "claimed", f"a worker took it{waited}", batch=row.batch)
    took = ""
    if row.call_ms is not None:
        began = row.at - timedelta(milliseconds=row.call_ms)
        yield Moment(max(began, row.claimed_at or began), "called", "the call of SES began, about", batch=row.batch)
        took = f", after {row.call_ms} ms"
    what, *meaning = _OUTCOMES.get(row.outcome, row.outcome).partition(": ")
    text = "".join([what, took, *meaning, _STATES.get(row.state, "")])
    yield Moment(row.at, row.outcome, text, row.code, row.batch)


_STATES: Final = {"late": "; the answer came when others had it already", "retried": "; taken back since"}


def _event(told: Reported) -> Moment:
    said = " ".join(filter(None, (told.type, told.subtype, told.status)))
    blames_nobody = _NO_COMPLAINTS.get(told.type) if told.kind == "complaint" else None
    return Moment(told.at, told.kind, blames_nobody or _EVENTS.get(told.kind, told.kind), said or None)


def _token(known: Token, *, now: datetime) -> Iterator[Moment]:
    yield Moment(known.created_at, "made", "the application asked for it")
    if known.consumed_at is not None:
        yield Moment(known.consumed_at, "consumed", "its link was used")
    else:
        is_over = known.expires_at <= now
        yield Moment(
            known.expires_at, "expires", "its link ended" if is_over else "its link ends, unless it is renewed"
        )


def _in_flight(connection: Connection, token: int) -> list[Moment]:
    flight = jobs_in_flight.c
    rows = connection.execute(select(flight.at, flight.batch, flight.worker).where(flight.token == token))
    return [Moment(row.at, "in flight", f"with {row.worker} since then", batch=row.batch) for row in rows]


def _waiting(connection: Connection, token: int) -> list[Moment]:
    waiting = waiting_jobs.c
    rows = connection.execute(select(waiting.state, waiting.at, waiting.attempt).where(waiting.token == token))
    return [
        Moment(None, "held", "held until a person decides")
        if row.state == "held"
        else Moment(row.at, "waiting", "waits" if not row.attempt else f"waits, tried {several(row.attempt, 'time')}")
        for row in rows
    ]
