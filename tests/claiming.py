"""Claims and settlements by hand, as a worker makes them, and what is on record of them."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

from sqlalchemy import BigInteger, Connection, bindparam, text

from mailroom import queue
from mailroom.job import Batch, Position
from mailroom.outcome import Outcome
from mailroom.queue.claim import Claim
from mailroom.queue.floors import Floors
from mailroom.queue.limits import Limits
from mailroom.queue.verdict import MAX_ATTEMPTS, Verdict, judge
from tests.kinds import KINDS, LANES
from tests.world import add_accounts, ask_recovery, rows

NOTHING = timedelta(0)
LEASE = timedelta(seconds=30)


def enqueue(connection: Connection, count: int = 1, prefix: str = "user") -> list[int]:
    """Insert accounts whose activations have been due for a minute; return the tokens."""
    accounts = add_accounts(connection, count, prefix=prefix)
    waited(connection)
    return [r.id for r in rows(connection, "SELECT id FROM tokens WHERE account = ANY(:a) ORDER BY id", a=accounts)]


def enqueue_recovery(connection: Connection, prefix: str = "known") -> int:
    """Insert an account whose recovery has been due for a minute; return the token."""
    token = ask_recovery(connection, add_accounts(connection, 1, status="active", prefix=prefix)[0])
    waited(connection)
    return token


def claim(connection: Connection, **how: Any) -> Claim:
    """Claim as a worker would that lets nothing wait; `how` differs from that."""
    usual = Limits(queue="mailroom", batch_limit=50, batch_timeout=NOTHING, lease=LEASE)
    limits = replace(usual, **{name: how.pop(name) for name in list(how) if hasattr(usual, name)})
    return queue.claim(connection, limits, **{"worker": "test", "floors": Floors(), "lanes": KINDS, **how})


def batch_of(claim: Claim) -> Batch | None:
    """Return the batch of a claim that may open one at the most."""
    assert len(claim.batches) <= 1
    return claim.batches[0] if claim.batches else None


def take(connection: Connection, **how: Any) -> Batch:
    """Claim, where there must be a batch to send."""
    batch = batch_of(claim(connection, **how))
    assert batch is not None
    return batch


def look(connection: Connection, **how: Any) -> queue.View:
    """Look as a worker would that lets nothing wait; `how` differs from that."""
    usual: dict[str, Any] = {"queue": "mailroom", "batch_limit": 50, "batch_timeout": NOTHING, "floors": Floors()}
    usual["lanes"] = LANES
    return queue.look(connection, **usual | how)


def tokens_of(batch: Batch) -> list[int]:
    return [job.token for job in batch.jobs]


def verdicts(batch: Batch, outcomes: Sequence[Outcome]) -> list[Verdict]:
    """What the outcomes of the first jobs of a batch lead to."""
    return [judge(outcome, attempt=job.attempt, jitter=0) for job, outcome in zip(batch.jobs, outcomes, strict=False)]


def settle(connection: Connection, batch: Batch, *outcomes: Outcome) -> bool:
    """Settle the first jobs of a batch, by position; the others go back. Whether the batch was still ours."""
    return batch.fence in queue.settle(connection, [(batch, verdicts(batch, outcomes))])


def settle_alike(connection: Connection, batch: Batch, outcome: Outcome, *, last: bool = False) -> bool:
    """Settle all jobs of a batch with one outcome; `last` if it was their last attempt."""
    attempts = [MAX_ATTEMPTS - 1 if last else job.attempt for job in batch.jobs]
    return batch.fence in queue.settle(
        connection, [(batch, [judge(outcome, attempt=attempt, jitter=0) for attempt in attempts])]
    )


def start_over(floors: Floors) -> None:
    """Let the next claims begin at the beginning of the queue."""
    for lane in LANES:
        floors.lower(lane, Position(None, 0))


def waited(connection: Connection, seconds: float = 60, *, token: int | None = None) -> None:
    """Let jobs have been due for that long."""
    connection.execute(
        text("UPDATE jobs SET due_at = now() - make_interval(secs => :seconds) WHERE token = coalesce(:token, token)"),
        {"seconds": seconds, "token": token},
    )


def run_out(connection: Connection, batch: Batch | None = None) -> None:
    """Let every lease have run out, or that of one batch."""
    connection.execute(
        text(
            "UPDATE batches SET lease_until = clock_timestamp() - interval '1 second' WHERE id = coalesce(:id, id)"
        ).bindparams(bindparam("id", batch and batch.id, BigInteger))
    )


def log(connection: Connection) -> list[tuple[Any, ...]]:
    """What is on record, in order: token, outcome, attempt, whether it was late."""
    return [
        (r.token, r.outcome, r.attempt, r.late)
        for r in rows(connection, "SELECT token, outcome, attempt, late FROM deliveries ORDER BY id")
    ]


def waiting(connection: Connection) -> list[tuple[int, int, int]]:
    """What waits, in order: token, attempt, and the seconds until it is due."""
    return [
        (r.token, r.attempt, round(r.wait))
        for r in rows(
            connection, "SELECT token, attempt, extract(epoch FROM due_at - now()) AS wait FROM jobs ORDER BY token"
        )
    ]
