"""What an operator sees of jobs: waiting, held, in flight and finished."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Connection,
    FromClause,
    Interval,
    Label,
    Select,
    SmallInteger,
    Text,
    case,
    cast,
    func,
    literal,
    literal_column,
    null,
    select,
    union_all,
)

from mailroom.db.schema import accounts, batches, deliveries, jobs, moment, tokens

Moment = datetime | timedelta


@dataclass(frozen=True, slots=True)
class Filters:
    """Which jobs; what is not given, or empty, does not restrict.

    With an outcome or a code they are attempts on record, else jobs that wait or are in flight; `held`: only those
    that are held. `since` and `until` are of the attempt (of one that is held, of its last), or of when the job is due,
    or its batch claimed; a timedelta is so long ago.
    """

    tokens: tuple[int, ...] = ()
    account: int | None = None
    outcomes: tuple[str, ...] = ()
    code: str | None = None
    since: Moment | None = None
    until: Moment | None = None
    queue: str | None = None
    held: bool = False

    @property
    def on_record(self) -> bool:
        """Whether they choose among attempts on record."""
        return bool(self.outcomes or self.code)


@dataclass(frozen=True, slots=True)
class Found:
    """A job that waits, is held or in flight, or an attempt on record: `finished` if it decided, `retried` if that was
    taken back, `late` if it came too late to, and `tried` if another one followed. `at` is when it is due, was claimed,
    was recorded, or, if it is held, was tried last. `email` and `login` are None unless they were asked for.
    """

    token: int
    account: int | None
    action: str
    state: str
    at: datetime | None
    attempt: int
    queue: str | None
    priority: int | None
    batch: int | None
    outcome: str | None
    code: str | None
    message_id: str | None
    email: str | None
    login: str | None


@dataclass(frozen=True, slots=True)
class Token:
    """A token, without what it is worth: who holds the secret can use it."""

    id: int
    account: int
    created_at: datetime
    expires_at: datetime
    consumed_at: datetime | None


def find(
    connection: Connection, filters: Filters, *, limit: int | None = None, addresses: bool = False
) -> Iterator[Found]:
    """Return attempts on record, the newest first; or jobs in flight, then those that wait, as they will leave, and
    then those that are held.
    """
    if filters.on_record:
        places = _attempts(filters).subquery()
        order: list[ColumnElement[Any]] = [places.c.number.desc()]
    else:
        waiting = _waiting(filters)
        places = (waiting if filters.held else union_all(_in_flight(filters), waiting)).subquery()
        order = [places.c.batch.nulls_last(), places.c.state == "held", places.c.priority, places.c.at, places.c.token]
    for row in connection.execute(_described(places, addresses=addresses).order_by(*order).limit(limit)):
        yield Found(*row)


def history(connection: Connection, token: int, *, addresses: bool = False) -> list[Found]:
    """Return every attempt of a job, the oldest first, and then where it is, unless it is finished."""
    filters = Filters(tokens=(token,))
    attempts = _attempts(filters).subquery()
    rows = connection.execute(_described(attempts, addresses=addresses).order_by(attempts.c.number))
    return [*(Found(*row) for row in rows), *find(connection, filters, addresses=addresses)]


def find_token(connection: Connection, token: int) -> Token | None:
    """Return what is known of a token itself."""
    columns = (tokens.c.id, tokens.c.account, tokens.c.created_at, tokens.c.expires_at, tokens.c.consumed_at)
    row = connection.execute(select(*columns).where(tokens.c.id == token)).first()
    return None if row is None else Token(*row)


def _waiting(filters: Filters) -> Select[Any]:
    """Jobs that wait or are held. One that is held is due never: its moment is that of its last attempt."""
    is_held = jobs.c.due_at == literal_column("'infinity'")
    last_tried = select(func.max(deliveries.c.created_at)).where(deliveries.c.token == jobs.c.token).scalar_subquery()
    at = case((is_held, last_tried), else_=jobs.c.due_at)
    found = _restricted(
        select(
            jobs.c.token,
            cast(null(), BigInteger).label("account"),
            jobs.c.action,
            case((is_held, "held"), else_="waiting").label("state"),
            at.label("at"),
            jobs.c.attempt,
            jobs.c.queue,
            jobs.c.priority,
            cast(null(), BigInteger).label("batch"),
            *_nothing("outcome", "code", "message_id"),
            cast(null(), BigInteger).label("number"),
        ),
        filters,
        token=jobs.c.token,
        at=at,
        queue=jobs.c.queue,
    )
    return found.where(is_held) if filters.held else found


def _in_flight(filters: Filters) -> Select[Any]:
    held = func.unnest(batches.c.tokens, batches.c.attempts).table_valued("token", "attempt").render_derived("held")
    return _restricted(
        select(
            cast(held.c.token, BigInteger).label("token"),
            cast(null(), BigInteger).label("account"),
            batches.c.action,
            literal("in flight").label("state"),
            batches.c.claimed_at.label("at"),
            cast(held.c.attempt, SmallInteger).label("attempt"),
            batches.c.queue,
            batches.c.priority,
            batches.c.id.label("batch"),
            *_nothing("outcome", "code", "message_id"),
            cast(null(), BigInteger).label("number"),
        ).select_from(batches.join(held, literal(True))),
        filters,
        token=held.c.token,
        at=batches.c.claimed_at,
        queue=batches.c.queue,
    )


def _attempts(filters: Filters) -> Select[Any]:
    state = case(
        (deliveries.c.late, "late"),
        (deliveries.c.retried_at.is_not(None), "retried"),
        (deliveries.c.outcome.in_(["deferred", "unconfirmed"]), "tried"),
        else_="finished",
    )
    found = _restricted(
        select(
            deliveries.c.token,
            deliveries.c.account,
            deliveries.c.action,
            state.label("state"),
            deliveries.c.created_at.label("at"),
            deliveries.c.attempt,
            *_nothing("queue"),
            cast(null(), SmallInteger).label("priority"),
            deliveries.c.batch,
            cast(deliveries.c.outcome, Text).label("outcome"),
            deliveries.c.error_code.label("code"),
            deliveries.c.message_id,
            deliveries.c.id.label("number"),
        ),
        filters,
        token=deliveries.c.token,
        at=deliveries.c.created_at,
        queue=None,
    )
    if filters.outcomes:
        found = found.where(deliveries.c.outcome.in_(filters.outcomes))
    if filters.code is not None:
        found = found.where(deliveries.c.error_code == filters.code)
    return found


def _nothing(*names: str) -> list[Label[str]]:
    """Columns that this place does not have."""
    return [cast(null(), Text).label(name) for name in names]


def _restricted(
    places: Select[Any],
    filters: Filters,
    *,
    token: ColumnElement[int],
    at: ColumnElement[datetime],
    queue: ColumnElement[str] | None,
) -> Select[Any]:
    """Keep what the filters choose, but for what only attempts have."""
    if filters.tokens:
        places = places.where(token.in_(filters.tokens))
    if filters.account is not None:
        places = places.where(token.in_(select(tokens.c.id).where(tokens.c.account == filters.account)))
    if filters.since is not None:
        places = places.where(at >= _moment(filters.since))
    if filters.until is not None:
        places = places.where(at < _moment(filters.until))
    if filters.queue is not None and queue is not None:
        places = places.where(queue == filters.queue)
    return places


def _moment(given: Moment) -> ColumnElement[datetime]:
    """Tell a moment by the database's clock."""
    return func.now() - cast(literal(given), Interval) if isinstance(given, timedelta) else cast(literal(given), moment)


def _described(places: FromClause, *, addresses: bool) -> Select[Any]:
    """Say whose they are; and with `addresses`, who that is."""
    owner = func.coalesce(places.c.account, tokens.c.account)
    who = (accounts.c.email, accounts.c.login) if addresses else _nothing("email", "login")
    shown = [column for column in places.c if column.name not in {"token", "account", "number"}]
    joined = places.outerjoin(tokens, tokens.c.id == places.c.token).outerjoin(accounts, accounts.c.id == owner)
    return select(places.c.token, owner, *shown, *who).select_from(joined)
