"""What there is at a moment: the database, the workers, and what Amazon SES did. Tuples, equal when they are the same.

A fence is a number that nothing else bears; a message is its fence and its token in one number. A secret is the number
of a sign-up. A failover puts back the whole Database, with what is only there for the checker.
"""

from typing import NamedTuple

Message = int
TOKENS = 4  # ids are below it

SENT, UNCONFIRMED, FAILED, CANCELLED, REJECTED = "sent", "unconfirmed", "failed", "cancelled", "rejected"
FINAL = (SENT, FAILED, CANCELLED, REJECTED)
SEND, BOUNCE, FAILURE, REJECT = "Send", "Bounce", "RF", "Reject"
NEVER_OUT = (FAILURE, REJECT)
ANSWER = "answer"


class Job(NamedTuple):
    attempt: int
    held: bool


class Batch(NamedTuple):
    id: int
    fence: int
    jobs: tuple[tuple[int, int], ...]  # token, attempt


class Row(NamedTuple):
    """A row of deliveries. No token (0): what was mailed is not here. No message (0): nobody said."""

    token: int
    batch: int
    fence: int
    outcome: str
    message: Message
    late: bool
    retried: bool
    attempt: int
    secret: int


class Event(NamedTuple):
    kind: str
    message: Message


class Database(NamedTuple):
    tokens: tuple[int, ...]  # the secret of each, by id from 1; 0: gone
    jobs: tuple[Job | None, ...]  # by token
    batches: tuple[Batch, ...]
    log: tuple[Row, ...]
    events: tuple[Event, ...]
    next_batch: int
    address: int  # of the account, now
    suppressed: tuple[int, ...]
    # For the checker: which evidence has come, kept or not, and what was taken back.
    told: tuple[tuple[Message, str], ...]
    taken_back: tuple[Message, ...]


class Carried(NamedTuple):
    """A job in the hands of a worker."""

    token: int
    attempt: int
    secret: int
    refused: str  # by Amazon SES: for now, for good


class Worker(NamedTuple):
    phase: str  # claimed, called, answered, unanswered; late: to be settled as late
    batch: int
    fence: int
    jobs: tuple[Carried, ...]


class Mail(NamedTuple):
    """What Amazon SES accepted. It went out, or there will be an event that says that it never did."""

    message: Message
    secret: int
    batch: int
    address: int
    contradicted_by: str  # RF, Reject; nothing: it is out


class Statement(NamedTuple):
    """One that has read its snapshot, and has yet to lock, act and commit. `jobs`: those it read that are there yet."""

    name: str
    jobs: tuple[int, ...]
    plan: tuple[object, ...]
    broken: str


class State(NamedTuple):
    database: Database
    workers: tuple[Worker, ...]  # the busy ones
    mails: tuple[Mail, ...]
    standby: Database | None
    failovers: int
    lost: tuple[int, ...]  # fences of batches that the failover forgot
    sign_ups: int
    acts: int  # of a person, so far
    pending: tuple[Statement, ...]


class Step(NamedTuple):
    """What may happen next: its name, what is so then, and the property that this broke, if any."""

    label: str
    state: State
    broken: str = ""


def message_of(fence: int, token: int) -> Message:
    return fence * TOKENS + token


def token_of(message: Message) -> int:
    return message % TOKENS


def fence_of(message: Message) -> int:
    return message // TOKENS


def with_job(database: Database, token: int, job: Job | None) -> Database:
    """Put a job there, or take it away."""
    jobs = database.jobs
    return database._replace(jobs=(*jobs[: token - 1], job, *jobs[token:]))


def logged(database: Database, *rows: Row) -> Database:
    """Add rows to the log."""
    return database._replace(log=tuple(sorted((*database.log, *rows))))


def told(database: Database, *what: tuple[Message, str]) -> Database:
    """Let the checker know what evidence has come."""
    return database._replace(told=tuple(sorted({*database.told, *what})))


def replaced(database: Database, old: Row, new: Row) -> Database:
    """Change a row of the log."""
    rows = list(database.log)
    rows[rows.index(old)] = new
    return database._replace(log=tuple(sorted(rows)))


def unused_fence(state: State) -> int:
    """Return a number that nothing bears: as good as a random one, and the states stay few."""
    used = {worker.fence for worker in state.workers} | {fence_of(mail.message) for mail in state.mails}
    used.update(state.lost)
    for database in (state.database, state.standby):
        if database is not None:
            used.update(batch.fence for batch in database.batches)
            used.update(row.fence for row in database.log)
            used.update(fence_of(event.message) for event in database.events)
    for statement in state.pending:
        if statement.name == "settle late":
            used.update(part.fence for part in statement.plan if isinstance(part, (Row, Worker)))
    return next(fence for fence in range(1, 1000) if fence not in used)
