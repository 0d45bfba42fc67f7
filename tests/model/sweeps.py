"""The sweeps over the record: take back, free, amend; and what absorbs an event, and prunes. By mailroom/sql."""

from typing import Any, cast

from tests.model import record
from tests.model.state import (
    BOUNCE,
    FAILED,
    NEVER_OUT,
    REJECT,
    REJECTED,
    SENT,
    Database,
    Event,
    Job,
    Mail,
    Row,
    State,
    Statement,
    fence_of,
    logged,
    replaced,
    token_of,
    told,
    with_job,
)
from tests.model.world import World

# take_back: what is `sent` and failed to render waits again, or has failed; what was rejected is so


def take_back_plan(world: World, database: Database) -> Statement | None:
    """Reads which messages failed to render, and the final rows of them."""
    rows = []
    for row in database.log:
        if row.outcome != SENT or row.late or row.retried or not row.token:
            continue
        if world.rules.of_that_message:
            failed = record.never_out(database, row.message)
        else:
            failed = any(e.kind in NEVER_OUT and token_of(e.message) == row.token for e in database.events)
        if failed:
            rows.append(row)
    jobs = tuple(token for token, job in enumerate(database.jobs, start=1) if job and _rejected(world, database, token))
    return Statement("take back", jobs, tuple(rows), "") if rows or jobs else None


def _rejected(world: World, database: Database, token: int) -> bool:
    """Whether the answer to each of its calls that matter never came, and each was rejected."""
    doubts = record.unconfirmed(database, token)
    rejected = bool(doubts) and all(Event(REJECT, message) in database.events for message in doubts)
    return world.tagged and rejected and not record.accepted(world, database, token)


def take_back(world: World, state: State, statement: Statement) -> tuple[State, str]:
    """Locks the final rows and the jobs: of one that somebody has taken meanwhile, nothing is done."""
    database, broken = state.database, ""
    for row in cast(tuple[Row, ...], statement.plan):
        if row in database.log:
            database, over = _take_one_back(world, state, database, row)
            broken = over or broken
    for token in statement.jobs:
        if (job := database.jobs[token - 1]) is not None:
            row = Row(token, 0, 0, REJECTED, 0, False, False, job.attempt, database.tokens[token - 1])
            database = logged(with_job(database, token, None), row)
    return state._replace(database=database), broken


def _take_one_back(world: World, state: State, database: Database, row: Row) -> tuple[Database, str]:
    attempt = row.attempt + 1 if world.rules.costs_an_attempt else row.attempt
    database = replaced(database, row, row._replace(retried=True))
    if Event(REJECT, row.message) in database.events:
        database = logged(database, row._replace(outcome=REJECTED, message=0))
    elif attempt >= world.attempts:
        database = logged(database, row._replace(outcome=FAILED, message=0))
    else:
        database = with_job(database, row.token, Job(attempt, held=False))
    database = database._replace(taken_back=tuple(sorted((*database.taken_back, row.message))))
    often = sum(1 for message in database.taken_back if token_of(message) == row.token)
    allowed = world.attempts * (1 + state.acts + len(state.lost))
    twice = database.taken_back.count(row.message) > 1
    return database, "5" if twice or often > allowed else ""


# late_acceptances: what is held and settled by evidence is due; what failed or was rejected, and was accepted, was sent


def free_plan(world: World, database: Database) -> Statement | None:
    """Reads who is held, what was accepted, and what failed to render."""
    jobs, broken = [], ""
    for token, job in enumerate(database.jobs, start=1):
        if job is None or not job.held:
            continue
        message = record.accepted(world, database, token) if world.rules.free_accepted else 0
        unconfirmed = record.unconfirmed(database, token)
        never = (
            world.rules.free_never_out
            and world.tagged
            and bool(unconfirmed)
            and all(record.never_out(database, one) for one in unconfirmed)
        )
        if message or never:
            jobs.append(token)
            broken = "7" if not never and record.told_never_out(database, message) else broken
    return Statement("free", tuple(jobs), (), broken) if jobs else None


def free(state: State, statement: Statement) -> State:
    """Locks the jobs: one that is not held any more, or was taken, is passed over."""
    database = state.database
    for token in statement.jobs:
        job = database.jobs[token - 1]
        if job is not None and job.held:
            database = with_job(database, token, job._replace(held=False))
    return state._replace(database=database)


def amend_plan(world: World, database: Database) -> Statement | None:
    """Reads what failed or was rejected, and was accepted."""
    if not world.rules.amend:
        return None
    found = []
    for row in database.log:
        if row.outcome in (FAILED, REJECTED) and row.token and not row.late and not row.retried:
            message = record.accepted(world, database, row.token)
            if message:
                found.append((row, message))
    return Statement("amend", (), tuple(found), "") if found else None


def amend(state: State, statement: Statement) -> State:
    """Locks the final rows: of one that was retried meanwhile, nothing is done."""
    database = state.database
    for row, message in cast(tuple[tuple[Row, int], ...], statement.plan):
        if row in database.log:
            database = replaced(database, row, row._replace(retried=True))
            sent = row._replace(outcome=SENT, message=message, fence=fence_of(message), batch=0)
            database = logged(database, sent)
    return state._replace(database=database)


# absorb: an event enters as a row


def absorb_plan(world: World, database: Database, mail: Mail, kind: str) -> Statement:
    """Reads whether the token was in that batch, here: an acceptance counts only then."""
    bears_tags = world.tagged or kind not in NEVER_OUT
    if bears_tags and (world.rules.together or kind in NEVER_OUT):
        here = record.known(world, database, mail.message, mail.batch)
    else:
        here = bears_tags or any(row.message == mail.message for row in database.log)
    keep = here or (kind in NEVER_OUT and world.rules.failure_is_kept)
    return Statement("absorb", (), (kind, mail, keep), "")


def absorb(world: World, state: State, statement: Statement) -> tuple[State, str]:
    """Insert the row, unless it is there. Suppress what bounced. Without rule 9, a failure takes back at once."""
    kind, mail, keep = cast(tuple[Any, ...], statement.plan)
    database, broken = told(state.database, (mail.message, kind)), ""
    event = Event(kind, mail.message)
    if keep:
        if event in database.events:
            broken = "" if world.rules.unique else "8"
        else:
            database = database._replace(events=tuple(sorted((*database.events, event))))
        if kind == BOUNCE:
            address = mail.address if world.rules.destination else database.address
            broken = broken or ("" if address == mail.address else "6")
            database = database._replace(suppressed=tuple(sorted({*database.suppressed, address})))
    state = state._replace(database=database)
    if kind in NEVER_OUT and not world.rules.sweep_takes_back:
        plan = take_back_plan(world, database)
        if plan is not None:
            return take_back(world, state, plan)
    return state, broken


# prune: a token that is finished goes with all that is known of it


def prune_plan(database: Database, token: int) -> Statement | None:
    """Reads that it neither waits nor is in flight, and is finished."""
    flying = any(token == held for batch in database.batches for held, _ in batch.jobs)
    if not database.tokens[token - 1] or database.jobs[token - 1] is not None or flying:
        return None
    if record.final(database, token) is None:
        return None
    rows = tuple(row for row in database.log if row.token == token)
    return Statement("prune", (), (token, rows), "")


def prune(state: State, statement: Statement) -> State:
    """Locks the rows of the log that it read: had one of them been retried meanwhile, the token stays."""
    database = state.database
    token, rows = cast(tuple[Any, ...], statement.plan)
    if any(row not in database.log for row in rows):
        return state
    known = {row.message for row in rows} | {row.fence * 4 + token for row in rows}
    tokens = database.tokens
    return state._replace(
        database=database._replace(
            tokens=(*tokens[: token - 1], 0, *tokens[token:]),
            log=tuple(row for row in database.log if row not in rows),
            events=tuple(event for event in database.events if event.message not in known),
        )
    )


def swept(world: World, state: State) -> State:
    """Let the sweeps come by until they find nothing."""
    for _ in range(20):
        database = state.database
        if (plan := take_back_plan(world, database)) and world.rules.sweep_takes_back:
            state = take_back(world, state, plan)[0]
        elif plan := free_plan(world, database):
            state = free(state, plan)
        elif plan := amend_plan(world, database):
            state = amend(state, plan)
        else:
            break
    return state
