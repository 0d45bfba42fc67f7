"""`jobs`: looking at single jobs, and changing what becomes of them."""

import contextlib
import re
from collections.abc import Iterable, Iterator
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Annotated, Final

import typer
from rich.table import Table
from sqlalchemy import Connection

from mailroom import settings
from mailroom.cli.terminal import MAX_ID, print_json, print_table, printable, say
from mailroom.cli.wiring import open_database, progress
from mailroom.db.schema import delivery_outcome
from mailroom.errors import MailroomError, SettingsError
from mailroom.job import Priority
from mailroom.ops import jobs
from mailroom.ops.jobs import Filters, Found, Moment
from mailroom.queue import by_hand

UNITS: Final = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
PERSONAL: Final = ("email", "login")
MOMENT_HELP: Final = "so long ago (90s, 15m, 2h, 7d), or at a moment (2026-03-01, 2026-03-01T12:30, UTC unless it says)"

app = typer.Typer(
    help="Look at jobs, retry, release or drop them."
    " With --outcome or --code: attempts on record; else what is not finished.",
    no_args_is_help=True,
)

Tokens = Annotated[list[int] | None, typer.Argument(metavar="[TOKEN]...", min=1, max=MAX_ID, help="Ids of tokens.")]
Account = Annotated[int | None, typer.Option(min=1, max=MAX_ID, help="Of this account.")]
Outcomes = Annotated[
    list[str] | None, typer.Option("--outcome", help=f"{', '.join(delivery_outcome.enums)}; repeat it.")
]
Code = Annotated[str | None, typer.Option(help="With this error code.")]
Since = Annotated[str | None, typer.Option(help=f"Not before: {MOMENT_HELP}.")]
Until = Annotated[str | None, typer.Option(help=f"Before: {MOMENT_HELP}.")]
Queue = Annotated[str | None, typer.Option(help="Waiting or in flight in this queue.")]
Held = Annotated[bool, typer.Option("--held", help="Held: perhaps sent, until somebody decides.")]
Limit = Annotated[int | None, typer.Option(min=1, max=MAX_ID, help="At most so many.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
ShowAddresses = Annotated[bool, typer.Option("--show-addresses", help="Show addresses and logins, which are personal.")]


@app.command("list")
def list_jobs(  # noqa: PLR0913 - an option each
    *,
    token: Annotated[list[int] | None, typer.Option(min=1, max=MAX_ID, help="Of this token; repeat it.")] = None,
    account: Account = None,
    outcome: Outcomes = None,
    code: Code = None,
    since: Since = None,
    until: Until = None,
    queue: Queue = None,
    held: Held = False,
    limit: Limit = 100,
    show_addresses: ShowAddresses = False,
    as_json: AsJson = False,
) -> None:
    """List what is in flight, waits (as it will leave) and is held; or attempts on record, the newest first."""
    outcomes, moments = tuple(outcome or ()), (_moment(since), _moment(until))
    filters = Filters(tuple(token or ()), account, outcomes, code, *moments, queue, held)
    _check(filters)
    with _open(writes=False) as connection:
        found = list(jobs.find(connection, filters, limit=limit, addresses=show_addresses))
    if as_json:
        print_json([_told(row, addresses=show_addresses) for row in found])
    else:
        _print(found, addresses=show_addresses)


@app.command()
def show(
    token: Annotated[int, typer.Argument(min=1, max=MAX_ID, help="The id of a token.")],
    *,
    show_addresses: ShowAddresses = False,
    as_json: AsJson = False,
) -> None:
    """Show all that is known of one job: its token, every attempt, and where it is. Exit 1 if nothing is."""
    with _open(writes=False) as connection:
        known = jobs.find_token(connection, token)
        found = jobs.history(connection, token, addresses=show_addresses)
    if known is None and not found:
        raise MailroomError(f"nothing is known of a token {token}")
    if as_json:
        history = [_told(row, addresses=show_addresses) for row in found]
        print_json({"token": known and asdict(known), "history": history}, default=datetime.isoformat)
        return
    if known is None:
        say(f"token {token}: gone")
    else:
        used = f"consumed {_shown(known.consumed_at)}" if known.consumed_at else "not consumed"
        made, ends = _shown(known.created_at), _shown(known.expires_at)
        say(f"token {token} of account {known.account}: made {made}, ends {ends}, {used}")
    _print(found, addresses=show_addresses)


@app.command()
def retry(  # noqa: PLR0913 - an option each
    tokens: Tokens = None,
    *,
    account: Account = None,
    outcome: Outcomes = None,
    code: Code = None,
    since: Since = None,
    until: Until = None,
    queue: Queue = None,
    limit: Limit = None,
    queue_name: Annotated[str | None, typer.Option(help="Where jobs go back to; else MAILROOM_QUEUE_NAME.")] = None,
    as_json: AsJson = False,
) -> None:
    """Put jobs back that are finished and were not sent; make those due now that wait. `jobs list` shows which.

    What was sent, is in flight or held, or has a token that is consumed or gone, is left as it is. Whether a mail is
    still wanted is decided when it is claimed, as always: a recovery that has run out expires again.
    Exit 1 if a TOKEN was left.
    """
    filters = Filters(tuple(tokens or ()), account, tuple(outcome or ()), code, _moment(since), _moment(until), queue)
    _check(filters, choose=True)
    given = settings.load("database_url", queue_name=queue_name)
    with _open() as connection:
        with _telling(_chosen(connection, filters, limit)) as chosen:
            done = by_hand.retry(connection, chosen, queue=given.queue_name)
        left = _left(connection, filters, {*done.put_back, *done.made_due})
    words = f"put back {len(done.put_back):,}, made due {len(done.made_due):,}"
    _tell(asdict(done), words, left, as_json=as_json)


@app.command()
def release(
    tokens: Tokens = None,
    *,
    account: Account = None,
    since: Since = None,
    until: Until = None,
    queue: Queue = None,
    limit: Limit = None,
    as_json: AsJson = False,
) -> None:
    """Send mails that are held after all, though they may be out: for who gets it twice it is the same link.

    `jobs list --held` shows which. What SES is known to have taken meanwhile is not sent again, and what is not held is
    left as it is. Exit 1 if a TOKEN was left.
    """
    moments = (_moment(since), _moment(until))
    filters = Filters(tuple(tokens or ()), account, (), None, *moments, queue)
    _check(filters, choose=True)
    with _open() as connection:
        with _telling(_chosen(connection, replace(filters, held=True), limit)) as chosen:
            released = by_hand.release(connection, chosen)
        left = _left(connection, filters, set(released))
    _tell({"released": released}, f"released {len(released):,}", left, as_json=as_json)


@app.command()
def drop(
    tokens: Tokens = None,
    *,
    account: Account = None,
    since: Since = None,
    until: Until = None,
    queue: Queue = None,
    held: Held = False,
    limit: Limit = None,
    as_json: AsJson = False,
) -> None:
    """Cancel jobs that wait or are held, for good; on record as Dropped. `jobs list` shows which.

    What is in flight or finished is left as it is. Exit 1 if a TOKEN was left.
    """
    moments = (_moment(since), _moment(until))
    filters = Filters(tuple(tokens or ()), account, (), None, *moments, queue, held)
    _check(filters, choose=True)
    with _open() as connection:
        with _telling(_chosen(connection, filters, limit)) as chosen:
            dropped = by_hand.drop(connection, chosen)
        left = _left(connection, filters, set(dropped))
    _tell({"dropped": dropped}, f"dropped {len(dropped):,}", left, as_json=as_json)


@contextlib.contextmanager
def _open(*, writes: bool = True) -> Iterator[Connection]:
    with (
        open_database(settings.load("database_url"), answer_within=None, writes=writes) as engine,
        engine.connect() as connection,
    ):
        yield connection


def _moment(given: str | None) -> Moment | None:
    if given is None:
        return None
    ago = re.fullmatch(r"([0-9]{1,6})([smhd])", given)
    if ago is not None:
        return timedelta(**{UNITS[ago[2]]: int(ago[1])})
    try:
        moment = datetime.fromisoformat(given)
    except ValueError:
        raise SettingsError(f"{given!r} is no moment: {MOMENT_HELP}") from None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _check(filters: Filters, *, choose: bool = False) -> None:
    for outcome in filters.outcomes:
        if outcome not in delivery_outcome.enums:
            raise SettingsError(f"{outcome!r} is no outcome: {', '.join(delivery_outcome.enums)}")
    if filters.on_record and filters.held:
        raise SettingsError("--held is for jobs that are not finished: an attempt on record is not held")
    if filters.on_record and filters.queue:
        raise SettingsError("--queue is for jobs that wait or are in flight: what is on record is of no queue")
    if choose and filters == Filters():
        raise SettingsError("name tokens, or say by options which jobs are meant")


def _chosen(connection: Connection, filters: Filters, limit: int | None) -> list[int]:
    """The tokens of the jobs that are meant: all of them, before any is changed."""
    if filters == Filters(tokens=filters.tokens):
        return list(dict.fromkeys(filters.tokens))[:limit]
    states = {"finished"} if filters.on_record else {"waiting", "held"}
    found = (row.token for row in jobs.find(connection, filters) if row.state in states)
    return list(dict.fromkeys(islice(found, limit)))


@contextlib.contextmanager
def _telling(chosen: list[int]) -> Iterator[Iterator[int]]:
    """Give the tokens, and tell how many have been taken up."""
    with progress() as tell:

        def taken_up() -> Iterator[int]:
            for number, token in enumerate(chosen, start=1):
                if number % by_hand.CHANGED_AT_ONCE == 0:
                    tell(f"{number:,} of {len(chosen):,}")
                yield token

        yield taken_up()


def _left(connection: Connection, filters: Filters, done: set[int]) -> dict[int, str]:
    """Tokens that were named and nothing was done to, and what is so of them."""
    left = {}
    for token in filters.tokens:
        if token not in done:
            found = jobs.history(connection, token)
            left[token] = "nothing is known of it" if not found else found[-1].outcome or found[-1].state
    return left


def _tell(done: dict[str, list[int]], words: str, left: dict[int, str], *, as_json: bool) -> None:
    if as_json:
        print_json(done | {"left": left})
    else:
        say(words)
    if left:
        states = ", ".join(f"{token} ({state})" for token, state in left.items())
        raise MailroomError(f"left as they are: {states}")


def _told(row: Found, *, addresses: bool) -> dict[str, object]:
    shown = asdict(row) | {"at": None if row.at is None else row.at.isoformat()}
    return shown if addresses else {name: value for name, value in shown.items() if name not in PERSONAL}


def _print(found: Iterable[Found], *, addresses: bool) -> None:
    table = Table(*("token", "account", "action", "state", "at", "attempt", "queue", "priority", "batch", "outcome"))
    for heading in ("code", *(PERSONAL if addresses else ())):
        table.add_column(heading)
    for row in found:
        priority = None if row.priority is None else Priority(row.priority).name.lower()
        cells = (row.token, row.account, row.action, row.state, _shown(row.at), row.attempt, row.queue, priority)
        who = (row.email, row.login) if addresses else ()
        table.add_row(
            *("" if cell is None else printable(str(cell)) for cell in (*cells, row.batch, row.outcome, row.code, *who))
        )
    if table.row_count:
        print_table(table)
    else:
        say("no jobs")


def _shown(at: datetime | None) -> str:
    return "" if at is None else f"{at.astimezone(UTC):%Y-%m-%d %H:%M:%SZ}"
