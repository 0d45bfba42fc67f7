"""`status`: a table for people, JSON for programs."""

from dataclasses import asdict
from datetime import timedelta
from typing import Annotated

import typer
from rich.table import Table

from mailroom import settings
from mailroom.cli.terminal import print_json, print_table, printable, say
from mailroom.cli.wiring import open_database
from mailroom.ops import status
from mailroom.ops.status import Status


def show(
    *, as_json: Annotated[bool, typer.Option("--json", help="Print JSON. Durations are in seconds.")] = False
) -> None:
    """Show the state of the queue.

    That is what waits, what is paused, what is in flight, and the outcomes of the last hour and of the last day.
    """
    with (
        open_database(settings.load("database_url"), answer_within=None, writes=False) as engine,
        engine.connect() as connection,
    ):
        # One snapshot for all of it: a job that moves meanwhile is neither missed nor counted twice.
        found = status.read(connection.execution_options(isolation_level="REPEATABLE READ"))
    if as_json:
        print_json(asdict(found))
    else:
        _print(found)


def _print(found: Status) -> None:
    waiting = Table("queue", "priority", "action", title="waiting", title_justify="left")
    for heading in ("jobs", "due", "oldest"):
        waiting.add_column(heading, justify="right")
    for row in found.waiting:
        age = str(timedelta(seconds=round(row.oldest_seconds))) if row.due else "-"
        lane = (printable(row.queue), f"{row.priority.value} {row.priority.name.lower()}", row.action)
        waiting.add_row(*lane, f"{row.jobs:,}", f"{row.due:,}", age)
    _print_or(waiting, "waiting: nothing")
    for pause in found.paused:
        since = timedelta(seconds=round(pause.seconds))
        ends = "until resumed by hand" if pause.by_hand else "until a probe goes through"
        say(f"paused: {pause.scope} for {since}, {ends}: {pause.code}, {pause.reason}")
    flight = found.in_flight
    say(f"in flight: {flight.jobs:,} jobs in {flight.batches:,} batches, {flight.overdue:,} past their lease")
    outcomes = Table("outcome", title="outcomes", title_justify="left")
    for period in found.outcomes:
        outcomes.add_column(f"last {period}", justify="right")
    names = sorted({name for counts in found.outcomes.values() for name in counts})
    for name in names:
        outcomes.add_row(name, *(f"{counts.get(name, 0):,}" for counts in found.outcomes.values()))
    _print_or(outcomes, "outcomes: none in the last day")
    for code, message in found.warnings.items():
        say(f"warning: {code}: {message}")


def _print_or(table: Table, nothing: str) -> None:
    if table.row_count:
        print_table(table)
    else:
        say(nothing)
