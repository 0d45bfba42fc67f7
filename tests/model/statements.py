"""The functions of a worker: claim, settle, settle_late, rescue, and a batch that is given back.

Each says what it locks: what it reads there is what is so when it acts. The rest is what its snapshot showed.
"""

from collections.abc import Iterator
from itertools import combinations
from typing import Any, cast

from tests.model import record
from tests.model.state import (
    ANSWER,
    FAILED,
    NEVER_OUT,
    REJECTED,
    SENT,
    UNCONFIRMED,
    Batch,
    Carried,
    Database,
    Job,
    Row,
    State,
    Statement,
    Worker,
    fence_of,
    logged,
    message_of,
    told,
    unused_fence,
    with_job,
)
from tests.model.world import World

Plan = tuple[Any, ...]


def without_worker(state: State, worker: Worker) -> tuple[Worker, ...]:
    workers = list(state.workers)
    workers.remove(worker)
    return tuple(workers)


def with_worker(state: State, before: Worker, after: Worker) -> State:
    """Let one worker go on to what it does next."""
    return state._replace(workers=tuple(sorted((*without_worker(state, before), after))))


# mailroom/sql/claim.sql


def claims(world: World, state: State) -> Iterator[Statement]:
    """Any jobs that are due may be claimed together. Read: the tokens, and whether they were accepted."""
    database = state.database
    due = [token for token, job in enumerate(database.jobs, start=1) if job is not None and not job.held]
    for size in range(1, len(due) + 1):
        for chosen in combinations(due, size):
            looks = [_look(world, state, token) for token in chosen]
            broken = "11" if any(look[3] for look in looks) else ""
            yield Statement("claim", chosen, tuple(look[:3] for look in looks), broken)


def _look(world: World, state: State, token: int) -> tuple[int, Job, int, bool]:
    """A token, its job, the acceptance that the claim sees, and whether one is on record that it does not see."""
    database = state.database
    job = cast(Job, database.jobs[token - 1])
    seen = world.rules.any_attempt or job.attempt > 0
    message = record.accepted(world, database, token) if seen else 0
    return token, job, message, not message and _stands(state, token)


def _stands(state: State, token: int) -> bool:
    """Whether the acceptance of a mail of just this token is on record, whatever the rules make of it."""
    database = state.database
    mine = {mail.message for mail in state.mails if mail.secret == database.tokens[token - 1]}
    kept = {row.message for row in database.log if row.late and row.outcome == SENT and row.token == token}
    kept |= {event.message for event in database.events if event.kind not in NEVER_OUT}
    return any(not record.told_never_out(database, message) for message in kept & mine)


def claim(world: World, state: State, statement: Statement) -> State:
    """Locks the jobs: one that somebody took or changed since the snapshot is passed over."""
    database = state.database
    taken = []
    for token, job, message in cast(tuple[tuple[int, Job, int], ...], statement.plan):
        same = token in statement.jobs and database.jobs[token - 1] == job
        if not same and world.rules.asked_under_locks:
            continue
        database = with_job(database, token, None)
        secret = database.tokens[token - 1]
        if message:
            row = Row(token, 0, fence_of(message), SENT, message, False, False, job.attempt, secret)
            database = logged(database, row)
        else:
            taken.append(Carried(token, job.attempt, secret, refused=""))
    if not taken:
        return state._replace(database=database)
    fence = unused_fence(state)
    number = database.next_batch if world.failovers else fence
    batch = Batch(number, fence, tuple((one.token, one.attempt) for one in taken))
    worker = Worker("claimed", number, fence, tuple(taken))
    database = database._replace(
        batches=tuple(sorted((*database.batches, batch))),
        next_batch=database.next_batch + (1 if world.failovers else 0),
    )
    return state._replace(database=database, workers=tuple(sorted((*state.workers, worker))))


# mailroom/sql/settle.sql and mailroom/sql/settle_late.sql


def outcome_of(worker: Worker, job: Carried) -> str:
    """What the worker makes of the answer, or of none (mailroom/queue/verdict.py)."""
    if worker.phase == "unanswered":
        return UNCONFIRMED
    return {"": SENT, "refuse": "deferred", "bar": REJECTED}[job.refused]


def _verdicts(world: World, worker: Worker, job: Carried) -> list[str]:
    outcome = outcome_of(worker, job)
    if outcome in (SENT, REJECTED):
        return [outcome]
    spent = job.attempt + 1 >= world.attempts
    return ([UNCONFIRMED] if outcome == UNCONFIRMED else []) + ([FAILED] if spent else [])


def rows_of(world: World, worker: Worker, batch: int, fence: int, *, late: bool) -> list[Row]:
    """The deliveries that a settlement brings."""
    return [
        Row(
            job.token,
            batch,
            fence,
            outcome,
            message_of(worker.fence, job.token) if outcome == SENT else 0,
            late,
            False,
            job.attempt,
            job.secret,
        )
        for job in worker.jobs
        for outcome in _verdicts(world, worker, job)
    ]


def heard(database: Database, worker: Worker) -> Database:
    """For the checker: which acceptances this settlement brings."""
    if worker.phase != "answered":
        return database
    return told(database, *((message_of(worker.fence, job.token), ANSWER) for job in worker.jobs if not job.refused))


def batch_to_close(world: World, database: Database, worker: Worker) -> Batch | None:
    """By its fence; without that rule by its id, which comes again after a failover."""
    for batch in database.batches:
        if batch.id == worker.batch and (batch.fence == worker.fence or not world.rules.fence):
            return batch
    return None


def settle(world: World, database: Database, worker: Worker, batch: Batch) -> Database:
    """Locks the batch by deleting it, and reads nothing else: so it acts at once, on what is so."""
    rows = rows_of(world, worker, batch.id, batch.fence, late=False)
    over = {row.token for row in rows if row.outcome != UNCONFIRMED}
    answers = {job.token: job for job in worker.jobs}
    database = logged(database._replace(batches=tuple(b for b in database.batches if b != batch)), *rows)
    for token, attempt in batch.jobs:
        if token in over or database.jobs[token - 1] is not None:
            continue
        answer = answers.get(token)
        if answer is None:
            database = with_job(database, token, Job(attempt, held=False))
        else:
            held = world.hold and worker.phase == "unanswered"
            database = with_job(database, token, Job(answer.attempt + 1, held))
    return heard(database, worker)


def late_settlement(world: World, database: Database, worker: Worker) -> Statement:
    """Reads which tokens are those that were mailed, and what is logged already. It locks nothing."""
    rows: list[Row] = []
    for row in rows_of(world, worker, worker.batch, worker.fence, late=True):
        there = len(database.tokens) >= row.token and database.tokens[row.token - 1] == row.secret
        kept = row if there or not world.rules.secret else row._replace(token=0)
        again = any(
            (old.token, old.fence, old.outcome) == (row.token, row.fence, row.outcome)
            or (old.token == 0 and (old.fence, old.outcome, old.secret) == (row.fence, row.outcome, row.secret))
            for old in database.log
        )
        if not again:
            rows.append(kept)
    return Statement("settle late", (), (worker, *rows), "")


def settle_late(world: World, state: State, statement: Statement) -> tuple[State, str]:
    """Keep the rows. Without rule 15 a settlement also made due what was held."""
    worker, *rows = cast(tuple[Any, ...], statement.plan)
    database = heard(logged(state.database, *rows), worker)
    broken = ""
    if not world.rules.only_sweep_frees and worker.phase == "answered":
        for one in worker.jobs:
            job = database.jobs[one.token - 1] if one.token <= len(database.jobs) else None
            if job is not None and job.held:
                database = with_job(database, one.token, job._replace(held=False))
                known = [record.told_never_out(database, doubt) for doubt in record.unconfirmed(database, one.token)]
                failed = record.told_never_out(database, message_of(worker.fence, one.token))
                broken = "7" if failed and not all(known) else broken
    return state._replace(database=database), broken


# mailroom/sql/rescue.sql


def rescue(world: World, database: Database, batch: Batch) -> Database:
    """Locks the batch by deleting it, and reads nothing else that matters."""
    if world.rules.rescue_closes:
        database = database._replace(batches=tuple(b for b in database.batches if b != batch))
    for token, attempt in batch.jobs:
        secret = database.tokens[token - 1]
        row = Row(token, batch.id, batch.fence, UNCONFIRMED, 0, False, False, attempt, secret)
        rows = [row] if world.rules.rescue_logs else []
        if attempt + 1 >= world.attempts:
            rows.append(row._replace(outcome=FAILED))
        elif world.rules.rescue_gives_back and database.jobs[token - 1] is None:
            database = with_job(database, token, Job(attempt + 1, world.hold))
        database = logged(database, *rows)
    return database


# A settlement without results


def give_back(database: Database, batch: Batch) -> Database:
    """Put the jobs back as they were: nothing of them is on record."""
    database = database._replace(batches=tuple(b for b in database.batches if b != batch))
    for token, attempt in batch.jobs:
        if database.jobs[token - 1] is None:
            database = with_job(database, token, Job(attempt, held=False))
    return database
