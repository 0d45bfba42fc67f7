"""`jobs`: looking at single jobs. What changes them is in `job_changes`."""

from collections.abc import Iterable
from dataclasses import asdict
from datetime import datetime
from typing import Final

import typer

from mailroom.cli import job_changes
from mailroom.cli import job_options as options
from mailroom.cli.job_options import check, open_jobs
from mailroom.cli.manual import ending
from mailroom.cli.terminal import in_utc, new_table, print_json, print_table, printable, say
from mailroom.cli.wiring import one_snapshot
from mailroom.errors import MailroomError
from mailroom.job import Priority
from mailroom.ops import jobs, walk
from mailroom.ops.jobs import Filters, Found, Reported

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
    check(filters)
    with open_jobs(writes=False) as connection:
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
    with open_jobs(writes=False) as connection:
        with one_snapshot(connection) as snapshot:
            known = jobs.find_token(snapshot, token)
            found = jobs.history(snapshot, token)
            reported = jobs.reported(snapshot, token)
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
        used = f"consumed {in_utc(known.consumed_at)}" if known.consumed_at else "not consumed"
        made, ends = in_utc(known.created_at), in_utc(known.expires_at)
        say(f"token {token} of account {known.account}: made {made}, ends {ends}, {used}")
    _print(jobs.in_order(found, reported), addresses=show_addresses)


app.command(epilog=ending("mailroom jobs retry --outcome failed --since 1h"))(job_changes.retry)
app.command(epilog=ending("mailroom jobs release --since 1h"))(job_changes.release)
app.command(epilog=ending("mailroom jobs drop 42"))(job_changes.drop)


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
    place = (row.token, row.account, row.action, row.state, in_utc(row.at), row.attempt, row.queue, priority)
    return (*place, row.batch, row.outcome, row.code, *((row.email, row.login) if addresses else ()))


def _event_cells(row: Reported) -> tuple[object, ...]:
    """What SES told, under the headings of an attempt."""
    told = " ".join(filter(None, (row.type, row.subtype, row.status)))
    return (None, None, None, "event", in_utc(row.at), None, None, None, None, row.kind, told)
