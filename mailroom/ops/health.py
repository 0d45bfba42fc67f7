"""What makes a queue suffer, seen before it does: old transactions, dead rows, jobs and batches that wait too long."""

from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Final

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from mailroom.db import functions
from mailroom.db.namespace import qualified
from mailroom.db.step_size import is_cut_off
from mailroom.job import Priority

MAX_TRANSACTION: Final = timedelta(minutes=15)
# Where the age cannot be seen: a busy hour's worth.
MAX_TRANSACTIONS: Final = 1_000_000
MAX_DEAD_JOBS: Final = 200_000
# A rescue comes with the next sweep. Where none comes, nobody sweeps.
MAX_OVERDUE: Final = timedelta(minutes=1)
# By priority; an activation is worth as long as its life, an import may take its day.
MAX_WAIT: Final = {
    Priority.URGENT: timedelta(minutes=1),
    Priority.NORMAL: timedelta(minutes=15),
    Priority.BULK: timedelta(days=1),
    Priority.QUARANTINE: timedelta(days=1),
}


@dataclass(frozen=True, slots=True)
class Health:
    """What there is to worry about.

    `holder` has the oldest transaction that keeps dead rows from being vacuumed: since `held_seconds` (None: hidden
    from this role) and `held_transactions`. `vacuumed`: autovacuum is at work on jobs. `overdue_seconds` is how far
    beyond its lease the worst batch is. `waited_seconds` has the oldest due job of each priority that has one; None: so
    much is dead before it that the database does not get there. `table` is jobs, as SQL finds it anywhere.
    """

    holder: str | None
    held_seconds: float | None
    held_transactions: int | None
    dead_jobs: int
    vacuumed: bool
    overdue_seconds: float
    waited_seconds: dict[Priority, float] | None
    table: str = "mailroom.jobs"


def read_what_can_be(connection: Connection) -> Health:
    """Read it; if need be without how long jobs have waited. On a connection that commits each statement."""
    try:
        return read(connection)
    except DBAPIError as error:
        if not is_cut_off(error):
            raise
        return replace(read(connection, waits=False), waited_seconds=None)


def read(connection: Connection, *, waits: bool = True) -> Health:
    """Read it, with how long jobs have waited or not; a few milliseconds, however long the queue."""
    row = functions.call(connection, "health", {"waits": waits}).one()
    return Health(
        holder=row.holder,
        held_seconds=row.held_seconds,
        held_transactions=row.held_transactions,
        dead_jobs=row.dead_jobs,
        vacuumed=row.vacuumed,
        overdue_seconds=row.overdue_seconds,
        waited_seconds={
            Priority(priority): seconds for priority, seconds in zip(row.priorities, row.waited_seconds, strict=True)
        },
        table=qualified(connection, "jobs"),
    )


def warnings(found: Health) -> dict[str, str]:
    """Return what a person should look into, by code."""
    warned = {}
    if (found.held_seconds or 0) > MAX_TRANSACTION.total_seconds():
        warned["OldTransaction"] = (
            f"{found.holder} has kept dead rows from being vacuumed for {found.held_seconds:.0f} s"
        )
    elif (found.held_transactions or 0) > MAX_TRANSACTIONS:
        warned["OldTransaction"] = f"dead rows of the last {found.held_transactions} transactions cannot be vacuumed"
    if found.dead_jobs > MAX_DEAD_JOBS:
        warned["DeadRows"] = f"jobs has {found.dead_jobs} dead rows"
    if not found.vacuumed:
        warned["NoAutovacuum"] = "autovacuum is off, for jobs or altogether"
    if found.overdue_seconds > MAX_OVERDUE.total_seconds():
        warned["OverdueBatch"] = f"a batch is {found.overdue_seconds:.0f} s past its lease: nobody sweeps"
    if found.waited_seconds is None:
        warned["QueueUnread"] = "how long jobs have waited cannot be read: a walk over dead rows is cut off"
    for priority, seconds in (found.waited_seconds or {}).items():
        if seconds > MAX_WAIT[priority].total_seconds():
            warned[f"OldJob{priority.value}"] = (
                f"the oldest {priority.name.lower()} job has been due for {seconds:.0f} s"
            )
    return warned
