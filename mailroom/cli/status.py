"""`status`: a table for people, JSON for programs."""

from dataclasses import asdict
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Final

import typer

from mailroom import settings
from mailroom.cli.terminal import new_table, print_json, print_table, printable, say
from mailroom.cli.wiring import open_database
from mailroom.ops import minutes, reputation, status, unsent
from mailroom.ops.advice import RECENT, Advice, advise
from mailroom.ops.feedback import Feedback
from mailroom.ops.reading import Paused
from mailroom.ops.reputation import AWS_BOUNCES, AWS_COMPLAINTS
from mailroom.ops.status import Status
from mailroom.ops.words import CAP, several

if TYPE_CHECKING:
    from rich.table import Table

# How long a statement may wait: for somebody who has locked a table, perhaps, and who is why one asks.
ANSWER_WITHIN: Final = timedelta(seconds=10)
WORDS: Final = {"newest": "of the newest", "day": "of the last 24 hours,"}


def show(
    *,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON. Durations are in seconds.")] = False,
    check: Annotated[
        bool, typer.Option("--check", help="Exit 1 if there is a warning, or mails are tried in vain, again and again.")
    ] = False,
) -> None:
    """Show the state of the queue.

    First it says whether mail leaves, and lists what needs you, each with what to do. Then it shows what waits, what is
    paused, what is in flight, and the outcomes of the last hour and of the last day. With events of SES it also shows
    the age of the newest event, and the bounce and complaint rates.

    One worker counts for all, every 15 seconds. The command shows these numbers and their age. If they are older than a
    minute, the command counts for itself.
    """
    given = settings.load("database_url")
    with (
        open_database(given, answer_within=ANSWER_WITHIN, writes=False) as engine,
        engine.connect() as connection,
    ):
        # One snapshot for all of it: a job that moves meanwhile is neither missed nor counted twice.
        snapshot = connection.execution_options(isolation_level="REPEATABLE READ")
        counted, warned = status.counted(snapshot)
        recent = minutes.read(snapshot, since=RECENT)
    found = status.of(counted, warned=warned)
    now = counted.read_at + timedelta(seconds=counted.age_seconds)
    told = advise(counted, recent, now=now, rate_limit=given.ses_rate)
    if as_json:
        print_json(asdict(found) | {"needs": [asdict(need) for need in told.needs]}, default=datetime.isoformat)
    else:
        _advise(told)
        _print(found)
    if check and (found.warnings or any(need.code in unsent.CODES for need in told.needs)):
        raise typer.Exit(1)


def _advise(told: Advice) -> None:
    """Say first whether mail leaves, then what needs a person, the worst first, each with its cure."""
    say(told.sentence)
    for need in told.needs:
        say(f"{need.state}: {need.code}: {need.what}: {need.why} -> {need.cure}")


def _print(found: Status) -> None:
    if found.age_seconds >= 1:
        say(f"counted {found.age_seconds:.0f} s ago")
    waiting = new_table("queue", "priority", "action", title="waiting")
    for heading in ("jobs", "due", "oldest"):
        waiting.add_column(heading, justify="right")
    for row in found.waiting:
        age = str(timedelta(seconds=round(row.oldest_seconds))) if row.due else "-"
        lane = (printable(row.queue), f"{row.priority.value} {row.priority.name.lower()}", row.action)
        more = ("+" if row.capped else "", "+" if row.due > CAP else "")
        waiting.add_row(*lane, f"{row.jobs:,}{more[0]}", f"{row.due:,}{more[1]}", age)
    _print_or(waiting, "waiting: nothing")
    if any(row.capped for row in found.waiting):
        say(f"waiting: about {found.jobs_estimate:,} in all")
    for pause in found.paused:
        since = timedelta(seconds=round(pause.seconds))
        say(f"paused: {pause.scope} for {since}, {_end(pause)}: {pause.code}, {pause.reason}")
    flight = found.in_flight
    batches = several(flight.batches, "batch", "batches")
    say(f"in flight: {several(flight.jobs, 'job')} in {batches}, {flight.overdue:,} past their lease")
    outcomes = new_table("outcome", title="outcomes")
    for period in found.outcomes:
        outcomes.add_column(f"last {period}", justify="right")
    names = sorted({name for counts in found.outcomes.values() for name in counts})
    for name in names:
        outcomes.add_row(name, *(f"{counts.get(name, 0):,}" for counts in found.outcomes.values()))
    _print_or(outcomes, "outcomes: none in the last day")
    _print_feedback(found.feedback)
    for code, message in found.warnings.items():
        say(f"warning: {code}: {message}")


def _end(pause: Paused) -> str:
    if pause.by_hand:
        return "until resumed by hand"
    return "until the rate is lower" if pause.code in reputation.CODES else "until a probe goes through"


def _print_feedback(found: Feedback) -> None:
    """Say what SES told, once it has told something; rates without events would be flattery."""
    feed = found.feed
    if feed.heard_seconds is not None:
        age = timedelta(seconds=round(feed.heard_seconds))
        say(
            f"events: the newest {age} ago, {feed.added:,} in all, {feed.elsewhere:,} of elsewhere,"
            f" {feed.unknown:,} of unknown mails"
        )
        for period, each in found.reputation.items():
            say(
                f"rates: {WORDS[period]} {each.mails:,} mails: bounced {each.bounce_rate:.2%}, complained of"
                f" {each.complaint_rate:.2%} (AWS: {_lines(AWS_BOUNCES)}, {_lines(AWS_COMPLAINTS)})"
            )
    if found.suppressed:
        say(f"suppressed: {', '.join(f'{reason} {count:,}' for reason, count in found.suppressed.items())}")


def _lines(of_aws: tuple[float, float]) -> str:
    return " and ".join(f"{line:.1%}" for line in of_aws)


def _print_or(table: "Table", nothing: str) -> None:
    if table.row_count:
        print_table(table)
    else:
        say(nothing)
