"""`jobs`: looking at single jobs, and changing what becomes of them."""

import contextlib
from collections.abc import Iterable, Iterator
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Final

import typer
from sqlalchemy import Connection

from mailroom import settings
from mailroom.cli import job_options as options
from mailroom.cli.manual import ending
from mailroom.cli.terminal import new_table, print_json, print_table, printable, say
from mailroom.cli.wiring import one_snapshot, open_database, progress
from mailroom.db.schema import delivery_outcome
from mailroom.errors import MailroomError, SettingsError
from mailroom.job import Priority
from mailroom.ops import jobs, walk
from mailroom.ops.jobs import Filters, Found, Reported
from mailroom.queue import by_hand

# How long a statement may wait: what somebody has locked must not be waited for without a word.
ANSWER_WITHIN: Final = timedelta(seconds=20)
PERSONAL: Final = ("email", "login")

app = typer.Typer(
    help="List, retry, release or drop jobs.\n\n"
    "Options choose among the jobs that are not finished. With --outcome or --code they choose among the attempts on"
    " record.",
    no_args_is_help=True,
)


@app.command("list", epilog=ending("mailroom jobs list --outcome failed --since 1h"))
def list_jobs(  # noqa: PLR0913 - an option each
    *,
    token: options.TokenOption = None,
    account: options.Account = None,
    outcome: options.Outcomes = None,
    code: options.Code = None,
    since: options.Since = None,
    until: options.Until = None,
    queue: options.Queue = None,
    held: options.Held = False,
    limit: options.Limit = 100,
    show_addresses: options.ShowAddresses = False,
    as_json: options.AsJson = False,
) -> None:
    """List jobs, or attempts on record.

    First come the jobs in flight, then those that wait, in the order in which they will be sent, then those that are
    held. With --outcome or --code: the attempts on record, the newest first.
    """
    outcomes, moments = tuple(outcome or ()), (options.read_time(since), options.read_time(until))
    filters = Filters(tuple(token or ()), account, outcomes, code, *moments, queue, held)
    _check(filters)
    with _open(writes=False) as connection:
        with one_snapshot(connection) as snapshot:
            found = list(walk.find(snapshot, filters, limit=limit))
        if show_addresses:
            found = jobs.with_addresses(connection, found)
    if as_json:
        print_json([_as_json(row, addresses=show_addresses) for row in found])
    else:
        _print(found, addresses=show_addresses)


@app.command(epilog=ending("mailroom jobs show 42 --json"))
def show(
    token: options.Token,
    *,
    show_addresses: options.ShowAddresses = False,
    as_json: options.AsJson = False,
) -> None:
    """Show all that is known of one job.

    That is its token, every attempt, the events of SES about its mails, and where it is now. Exit 1 if nothing is
    known.
    """
    with _open(writes=False) as connection:
        known = jobs.find_token(connection, token)
        found = jobs.history(connection, token)
        reported = jobs.reported(connection, token)
        if show_addresses:
            found = jobs.with_addresses(connection, found)
    if known is None and not found and not reported:
        raise MailroomError(f"nothing is known of token {token}")
    if as_json:
        history = [_as_json(row, addresses=show_addresses) for row in found]
        life = {"token": known and asdict(known), "history": history, "events": [asdict(each) for each in reported]}
        print_json(life, default=datetime.isoformat)
        return
    if known is None:
        say(f"token {token}: gone")
    else:
        used = f"consumed {_shown(known.consumed_at)}" if known.consumed_at else "not consumed"
        made, ends = _shown(known.created_at), _shown(known.expires_at)
        say(f"token {token} of account {known.account}: made {made}, ends {ends}, {used}")
    _print(jobs.in_order(found, reported), addresses=show_addresses)


@app.command(epilog=ending("mailroom jobs retry --outcome failed --since 1h"))
def retry(  # noqa: PLR0913 - an option each
    tokens: options.Tokens = None,
    *,
    account: options.Account = None,
    outcome: options.Outcomes = None,
    code: options.Code = None,
    since: options.Since = None,
    until: options.Until = None,
    queue: options.Queue = None,
    limit: options.ChangeLimit = None,
    queue_name: options.QueueName = None,
    as_json: options.AsJson = False,
) -> None:
    """Try unsent jobs again.

    A finished job that was not sent is put back. A waiting job becomes due now. `mailroom jobs list` shows which jobs
    the same options choose.

    Jobs that were sent, are in flight or are held are left as they are. So are jobs whose token is consumed or gone.
    As always, the claim decides whether a mail is still wanted. So a recovery that has expired expires again.

    Exit 1 if a TOKEN was left as it is.
    """
    outcomes, moments = tuple(outcome or ()), (options.read_time(since), options.read_time(until))
    filters = Filters(tuple(tokens or ()), account, outcomes, code, *moments, queue)
    _check(filters, choose=True)
    given = settings.load("database_url", queue_name=queue_name)
    with _open() as connection:
        with _telling(_chosen(connection, filters, limit)) as chosen:
            done = by_hand.retry(connection, chosen, queue=given.queue_name)
        left = _left(connection, filters, {*done.put_back, *done.made_due})
    words = f"put back {len(done.put_back):,}, made due {len(done.made_due):,}"
    _tell(asdict(done), words, left, as_json=as_json)


@app.command(epilog=ending("mailroom jobs release --since 1h"))
def release(
    tokens: options.Tokens = None,
    *,
    account: options.Account = None,
    since: options.Since = None,
    until: options.Until = None,
    queue: options.Queue = None,
    limit: options.ChangeLimit = None,
    as_json: options.AsJson = False,
) -> None:
    """Send mails that are held.

    A held mail may have been sent already. A person who gets it twice gets the same link twice.
    `mailroom jobs list --held` shows which jobs are held.

    A mail is not sent again if SES is known to have accepted it meanwhile. Jobs that are not held are left as they are.

    Exit 1 if a TOKEN was left as it is.
    """
    moments = (options.read_time(since), options.read_time(until))
    filters = Filters(tuple(tokens or ()), account, (), None, *moments, queue)
    _check(filters, choose=True)
    with _open() as connection:
        with _telling(_chosen(connection, replace(filters, held=True), limit)) as chosen:
            released = by_hand.release(connection, chosen)
        left = _left(connection, filters, set(released))
    _tell({"released": released}, f"released {len(released):,}", left, as_json=as_json)


@app.command(epilog=ending("mailroom jobs drop 42"))
def drop(
    tokens: options.Tokens = None,
    *,
    account: options.Account = None,
    since: options.Since = None,
    until: options.Until = None,
    queue: options.Queue = None,
    held: options.Held = False,
    limit: options.ChangeLimit = None,
    as_json: options.AsJson = False,
) -> None:
    """Cancel jobs that wait or are held.

    They stay on record with the error code Dropped. `mailroom jobs list` shows which jobs the same options choose.

    Jobs that are in flight or finished are left as they are.

    Exit 1 if a TOKEN was left as it is.
    """
    moments = (options.read_time(since), options.read_time(until))
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
        open_database(settings.load("database_url"), answer_within=ANSWER_WITHIN, writes=writes) as engine,
        engine.connect() as connection,
    ):
        yield connection


def _check(filters: Filters, *, choose: bool = False) -> None:
    for outcome in filters.outcomes:
        if outcome not in delivery_outcome.enums:
            raise SettingsError(f"{outcome!r} is not an outcome: give {', '.join(delivery_outcome.enums)}")
    if filters.on_record and filters.held:
        raise SettingsError("--held does not go with --outcome or --code: an attempt on record is not held")
    if filters.on_record and filters.queue:
        raise SettingsError("--queue does not go with --outcome or --code: an attempt on record has no queue")
    if choose and filters == Filters():
        raise SettingsError("name tokens, or choose jobs by options")


def _chosen(connection: Connection, filters: Filters, limit: int | None) -> list[int]:
    """The tokens of the jobs that are meant: all of them, before any is changed."""
    if filters == Filters(tokens=filters.tokens):
        return list(dict.fromkeys(filters.tokens))[:limit]
    states = {"finished"} if filters.on_record else {"waiting", "held"}
    with one_snapshot(connection) as snapshot:
        found = (row.token for row in walk.find(snapshot, filters) if row.state in states)
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


def _as_json(row: Found, *, addresses: bool) -> dict[str, object]:
    moments = {"at": row.at, "due_at": row.due_at, "claimed_at": row.claimed_at}
    shown = asdict(row) | {name: None if at is None else at.isoformat() for name, at in moments.items()}
    return shown if addresses else {name: value for name, value in shown.items() if name not in PERSONAL}


def _print(found: Iterable[Found | Reported], *, addresses: bool) -> None:
    table = new_table(
        *("token", "account", "action", "state", "at", "attempt", "queue", "priority", "batch", "outcome")
    )
    for heading in ("code", *(PERSONAL if addresses else ())):
        table.add_column(heading)
    for row in found:
        cells = _event_cells(row) if isinstance(row, Reported) else _cells(row, addresses=addresses)
        table.add_row(*("" if cell is None else printable(str(cell)) for cell in cells))
    if table.row_count:
        print_table(table)
    else:
        say("no jobs")


def _cells(row: Found, *, addresses: bool) -> tuple[object, ...]:
    priority = None if row.priority is None else Priority(row.priority).name.lower()
    place = (row.token, row.account, row.action, row.state, _shown(row.at), row.attempt, row.queue, priority)
    return (*place, row.batch, row.outcome, row.code, *((row.email, row.login) if addresses else ()))


def _event_cells(row: Reported) -> tuple[object, ...]:
    """What SES told, under the headings of an attempt."""
    told = " ".join(filter(None, (row.type, row.subtype, row.status)))
    return (None, None, None, "event", _shown(row.at), None, None, None, None, row.kind, told)


def _shown(at: datetime | None) -> str:
    return "" if at is None else f"{at.astimezone(UTC):%Y-%m-%d %H:%M:%SZ}"
