"""What an operator sees of jobs: waiting, held, in flight and finished."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from operator import itemgetter
from typing import Any, Final

from sqlalchemy import (
    ARRAY,
    BigInteger,
    ColumnElement,
    Connection,
    FromClause,
    Interval,
    Select,
    TableClause,
    and_,
    any_,
    cast,
    func,
    literal,
    literal_column,
    null,
    select,
    union_all,
)

from mailroom.db import functions
from mailroom.db.schema import moment
from mailroom.db.views import attempts, jobs_in_flight, mail_events, token_states, waiting_jobs

# What is told of each; a view that lacks a column has nothing to say there.
_TOLD: Final = (
    *("action", "state", "at", "attempt", "queue", "priority", "batch", "outcome", "code", "message_id"),
    *("due_at", "claimed_at", "call_ms"),
)
_TYPES: Final = {column.name: column.type for view in (attempts, waiting_jobs) for column in view.c}
# The states of a job that is not finished; the others are of attempts.
_PLACES: Final = {"waiting", "held", "in flight"}

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
        return bool(self.outcomes) or self.code is not None


@dataclass(frozen=True, slots=True)
class Found:
    """A job that waits, is held or in flight, or an attempt on record: `finished` if it decided, `retried` if that was
    taken back, `late` if it came too late to, and `tried` if another one followed. `at` is when it is due, was claimed,
    was recorded, or, if it is held, was tried last. Of an attempt `due_at` and `claimed_at` tell how long the job had
    waited, and `call_ms` how long its call took; None: that is not on record, or there was no call. `email` and
    `login` are None but for `with_addresses`.
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
    due_at: datetime | None = None
    claimed_at: datetime | None = None
    call_ms: int | None = None
    email: str | None = None
    login: str | None = None


@dataclass(frozen=True, slots=True)
class Reported:
    """What the provider told of a mail of a job, and at what moment by its clock; `status` is of SMTP, as in 5.1.1."""

    at: datetime
    kind: str
    type: str
    subtype: str
    status: str
    message_id: str


@dataclass(frozen=True, slots=True)
class Token:
    """A token, without what it is worth: who holds the secret can use it."""

    id: int
    account: int
    created_at: datetime
    expires_at: datetime
    consumed_at: datetime | None


def find(connection: Connection, filters: Filters, *, limit: int | None = None) -> Iterator[Found]:
    """Return attempts on record, the newest first; or jobs in flight, then those that wait, as they will leave, and
    then those that are held.
    """
    if filters.on_record:
        places = _chosen(attempts, filters).subquery()
        order: list[ColumnElement[Any]] = [places.c.id.desc()]
    else:
        waiting = _chosen(waiting_jobs, filters)
        places = (waiting if filters.held else union_all(_chosen(jobs_in_flight, filters), waiting)).subquery()
        order = [places.c.batch.nulls_last(), places.c.state == "held", places.c.priority, places.c.at, places.c.token]
    for row in connection.execute(_described(places, filters.tokens).order_by(*order).limit(limit)):
        yield Found(*row)


def in_flight(connection: Connection, filters: Filters) -> Iterator[Found]:
    """Return jobs in flight, by batch: as many as the fleet has in its hands."""
    places = _chosen(jobs_in_flight, filters).subquery()
    order = (places.c.batch, places.c.priority, places.c.at, places.c.token)
    for row in connection.execute(_described(places).order_by(*order)):
        yield Found(*row)


def recorded(connection: Connection, filters: Filters, *, first: int, before: int, limit: int | None) -> list[Found]:
    """Return the attempts of a stretch of the record by id, from `first` to before `before`, the newest first."""
    places = _chosen(attempts, filters).where(attempts.c.id >= first, attempts.c.id < before).subquery()
    rows = connection.execute(_described(places).order_by(places.c.id.desc()).limit(limit))
    return [Found(*row) for row in rows]


def tokens_of(connection: Connection, account: int) -> set[int]:
    """Return the tokens of an account."""
    return set(connection.scalars(select(token_states.c.id).where(token_states.c.account == account)))


def history(connection: Connection, token: int) -> list[Found]:
    """Return every attempt of a job, the oldest first, and then where it is, unless it is finished."""
    filters = Filters(tokens=(token,))
    made = _chosen(attempts, filters).subquery()
    rows = connection.execute(_described(made).order_by(made.c.id))
    return [*(Found(*row) for row in rows), *find(connection, filters)]


def reported(connection: Connection, token: int) -> list[Reported]:
    """Return what the provider told of the mails of a job, the oldest first."""
    told = mail_events.c
    columns = (told.at, told.kind, told.type, told.subtype, told.status, told.message_id)
    rows = connection.execute(select(*columns).where(told.token == token).order_by(told.at, told.kind))
    return [Reported(*row) for row in rows]


def in_order(found: Sequence[Found], told: Iterable[Reported]) -> list[Found | Reported]:
    """Return attempts and what was told of their mails in one order of time, and then where the job is now."""
    made = [row for row in found if row.state not in _PLACES]
    places = [row for row in found if row.state in _PLACES]
    moments: list[tuple[datetime, Found | Reported]] = [(row.at, row) for row in told]
    moments += [(row.at, row) for row in made if row.at is not None]
    return [*(row for _, row in sorted(moments, key=itemgetter(0))), *places]


def with_addresses(connection: Connection, found: Iterable[Found]) -> list[Found]:
    """Return them with the address and login of each account that is there. A viewer may not ask for that."""
    shown = list(found)
    accounts = {row.account for row in shown if row.account is not None}
    rows = functions.call(connection, "account_addresses", {"accounts": list(accounts)})
    who = {row.account: {"email": row.email, "login": row.login} for row in rows}
    return [replace(row, **who.get(row.account, {})) for row in shown]


def find_token(connection: Connection, token: int) -> Token | None:
    """Return what is known of a token itself."""
    known = token_states.c
    columns = (known.id, known.account, known.created_at, known.expires_at, known.consumed_at)
    row = connection.execute(select(*columns).where(known.id == token)).first()
    return None if row is None else Token(*row)


def has_newer(connection: Connection, token: Token, action: str, *, used: bool = False) -> bool:
    """Whether a newer token of its account and action was made; `used`: whether one was consumed."""
    known = token_states.c
    newer = [known.account == token.account, known.action == action, known.id > token.id]
    newer += [known.consumed_at.is_not(None)] if used else []
    return connection.execute(select(known.id).where(*newer).limit(1)).first() is not None


def _chosen(view: TableClause, filters: Filters) -> Select[Any]:
    """Rows of a view that the filters choose, each with all that may be told of a job."""
    # When a job is due that waits, `at` tells; held is never, which is no moment to Python.
    there = {column.name: column for column in view.c if column is not waiting_jobs.c.due_at}
    told = (there.get(name, cast(null(), _TYPES[name]).label(name)) for name in ("id", "token", "account", *_TOLD))
    places = select(*told)
    if filters.tokens:
        places = places.where(_is_one(view.c.token, filters.tokens))
    if filters.account is not None:
        owned = select(token_states.c.id).where(token_states.c.account == filters.account)
        places = places.where(view.c.token.in_(owned))
    if filters.since is not None:
        places = places.where(view.c.at >= _moment(filters.since))
    if filters.until is not None:
        places = places.where(view.c.at < _moment(filters.until))
    if filters.queue is not None and "queue" in there:
        places = places.where(view.c.queue == filters.queue)
    if filters.outcomes:
        places = places.where(view.c.outcome.in_(filters.outcomes))
    if filters.code is not None:
        places = places.where(view.c.code == filters.code)
    return places.where(view.c.due_at == literal_column("'infinity'")) if filters.held else places


def _moment(given: Moment) -> ColumnElement[datetime]:
    """Tell a moment by the database's clock."""
    return func.now() - cast(literal(given), Interval) if isinstance(given, timedelta) else cast(literal(given), moment)


def _is_one(column: ColumnElement[Any], tokens: Sequence[int]) -> ColumnElement[bool]:
    return column == any_(cast(list(tokens), ARRAY(BigInteger)))


def _described(places: FromClause, tokens: Sequence[int] = ()) -> Select[Any]:
    """Say whose they are, also where the place does not know; of some `tokens`, without a look at others."""
    owner = func.coalesce(places.c.account, token_states.c.account)
    same = token_states.c.id == places.c.token
    joined = places.outerjoin(token_states, and_(same, _is_one(token_states.c.id, tokens)) if tokens else same)
    return select(places.c.token, owner, *(places.c[name] for name in _TOLD)).select_from(joined)
