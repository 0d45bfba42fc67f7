"""The arguments and options by which `jobs` chooses jobs, and the connection on which it looks for them."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Annotated, Final

import typer
from sqlalchemy import Connection

from mailroom import settings
from mailroom.cli.ids import positive
from mailroom.cli.manual import setting
from mailroom.cli.wiring import open_database
from mailroom.db.schema import delivery_outcome
from mailroom.errors import SettingsError
from mailroom.ops.jobs import Filters, Moment

# How long a statement may wait: what somebody has locked must not be waited for without a word.
ANSWER_WITHIN: Final = timedelta(seconds=20)
UNITS: Final = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
TIME_HELP: Final = "an age (90s, 15m, 2h, 7d) or a time (2026-03-01, 2026-03-01T12:30; in UTC unless it has an offset)"

Tokens = Annotated[
    list[int] | None,
    typer.Argument(metavar="TOKEN", callback=positive, show_default="none", help="Ids of the tokens of the jobs."),
]
Token = Annotated[int, typer.Argument(metavar="TOKEN", callback=positive, help="The id of the token of the job.")]
TokenOption = Annotated[
    list[int] | None,
    typer.Option(metavar="ID", callback=positive, show_default="any", help="Only jobs of this token. May be repeated."),
]
Account = Annotated[
    int | None, typer.Option(metavar="ID", callback=positive, show_default="any", help="Only jobs of this account.")
]
Outcomes = Annotated[
    list[str] | None,
    typer.Option(
        "--outcome",
        metavar="OUTCOME",
        show_default="any",
        help=f"Only attempts with this outcome: {', '.join(delivery_outcome.enums)}. May be repeated.",
    ),
]
Code = Annotated[
    str | None, typer.Option(metavar="TEXT", show_default="any", help="Only attempts with this error code.")
]
Since = Annotated[
    str | None, typer.Option(metavar="TIME", show_default="any", help=f"Only from this time on: {TIME_HELP}.")
]
Until = Annotated[
    str | None, typer.Option(metavar="TIME", show_default="any", help="Only before this time, given as for --since.")
]
Queue = Annotated[
    str | None,
    typer.Option(metavar="NAME", show_default="any", help="Only jobs that wait or are in flight in this queue."),
]
Held = Annotated[
    bool, typer.Option("--held", help="Only held jobs. They may have been sent, and wait for a person to decide.")
]
Limit = Annotated[int, typer.Option(metavar="INTEGER", callback=positive, help="Show at most this many.")]
ChangeLimit = Annotated[
    int | None,
    typer.Option(metavar="INTEGER", callback=positive, show_default="all", help="Change at most this many jobs."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
ShowAddresses = Annotated[
    bool, typer.Option("--show-addresses", help="Show addresses and logins. They are personal data.")
]
QueueName = Annotated[str | None, setting("queue_name", "NAME", words="Queue that finished jobs are put back into.")]


def read_time(given: str | None) -> Moment | None:
    """Read what --since or --until was given. Raises SettingsError, which says what is accepted."""
    if given is None:
        return None
    ago = read_age(given)
    if ago is not None:
        return ago
    try:
        moment = datetime.fromisoformat(given)
        # PostgreSQL takes no offset of sixteen hours or more.
        return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)
    except (ValueError, OverflowError):
        raise SettingsError(f"{given!r} is not a time: give {TIME_HELP}") from None


def read_age(given: str) -> timedelta | None:
    """Return the time that is written as in 90s, 15m, 2h or 7d; None if it is written in another way."""
    found = re.fullmatch(r"([0-9]{1,6})([smhd])", given)
    return None if found is None else timedelta(**{UNITS[found[2]]: int(found[1])})


def check(filters: Filters, *, choose: bool = False) -> None:
    """Raise SettingsError where options do not go together, or `choose` nothing."""
    for outcome in filters.outcomes:
        if outcome not in delivery_outcome.enums:
            raise SettingsError(f"{outcome!r} is not an outcome: give {', '.join(delivery_outcome.enums)}")
    if filters.on_record and filters.held:
        raise SettingsError("--held does not go with --outcome or --code: an attempt on record is not held")
    if filters.on_record and filters.queue:
        raise SettingsError("--queue does not go with --outcome or --code: an attempt on record has no queue")
    if choose and filters == Filters():
        raise SettingsError("name tokens, or choose jobs by options")


@contextmanager
def open_jobs(*, writes: bool = True) -> Iterator[Connection]:
    """Give a connection on which no statement waits for long."""
    with (
        open_database(settings.load("database_url"), answer_within=ANSWER_WITHIN, writes=writes) as engine,
        engine.connect() as connection,
    ):
        yield connection
