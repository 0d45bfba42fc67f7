"""What a person does to jobs: release, drop, retry (mailroom/sql/job_release.sql and its neighbours)."""

from typing import cast

from tests.model import record
from tests.model.state import CANCELLED, SENT, Database, Job, Row, State, Statement, logged, replaced, with_job
from tests.model.world import World


def release(database: Database, token: int) -> Database | None:
    """Locks the job, and reads nothing else."""
    job = database.jobs[token - 1]
    if job is None or not job.held:
        return None
    return with_job(database, token, job._replace(held=False))


def drop(database: Database, token: int) -> Database | None:
    """Locks the job, and reads nothing else."""
    job = database.jobs[token - 1]
    if job is None:
        return None
    row = Row(token, 0, 0, CANCELLED, 0, False, False, job.attempt, database.tokens[token - 1])
    return logged(with_job(database, token, None), row)


def refused(world: World, database: Database, token: int) -> bool:
    """Whether a retry leaves this token as it is, since it is on record as accepted."""
    if world.rules.retry_asks_record:
        return bool(record.accepted(world, database, token))
    return any(row.token == token and row.outcome == SENT for row in database.log)


def retry_plan(world: World, database: Database, token: int) -> Statement | None:
    """Reads what is finished and not sent, and whether it was accepted."""
    row = record.final(database, token)
    if row is None or row.outcome == SENT or refused(world, database, token):
        return None
    return Statement("retry", (), (row,), "")


def retry(state: State, statement: Statement) -> State:
    """Locks the final row: one that was taken back meanwhile is left alone. The job counts as tried."""
    [row] = cast(tuple[Row, ...], statement.plan)
    database = state.database
    if row not in database.log:
        return state
    database = replaced(database, row, row._replace(retried=True))
    return state._replace(database=with_job(database, row.token, Job(1, held=False)))
