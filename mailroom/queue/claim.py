"""The queue: claim, settle and rescue jobs, and look for what is due. PostgreSQL decides every race.

Each function is one statement, but for what is settled late. On a connection that commits by itself each is one
transaction, as the worker has it.
"""

import hashlib
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from itertools import takewhile
from typing import Any, Final
from uuid import UUID

from sqlalchemy import Connection, Row

from mailroom.db.engine import numbers_literal, statement, words_literal
from mailroom.fleet.pauses import LONGEST_PROBE
from mailroom.job import RECOVERY_LIMITS, Action, Batch, Job, Position, Priority, RecoveryLimits
from mailroom.queue.floors import LANES, Floors, Lane, rank
from mailroom.queue.verdict import GRACE, LONGEST_DELAY, MAX_ATTEMPTS, UNCHARGED_DELAY, Delivery, Verdict

# Commits land out of order by this much without a claim missing them; what is later waits for the sweep.
SLACK: Final = timedelta(seconds=1)
# The same for a look, which moves the floor of each lane up to the first job that it sees, but no nearer than this: a
# transaction that takes longer waits for the sweep.
SETTLED_AFTER: Final = timedelta(seconds=30)
RESCUED_BATCHES: Final = 100
# Where the last claim found nothing to mail, this many jobs are looked at: those that are over are ended quickly.
FLOOD_LIMIT: Final = 500
# When a job comes back whose account or token somebody has locked.
BUSY_WAIT: Final = timedelta(seconds=1)
LONGEST_BUSY_WAIT: Final = timedelta(seconds=30)
# Of the hash of a token's secret, what a late answer has to prove.
PROOF_BYTES: Final = 8


@dataclass(frozen=True, slots=True)
class Over:
    """A job that the claim found to be over: it is not to be mailed, and its deliveries row says why."""

    token: int
    action: Action
    outcome: str
    error_code: str


@dataclass(frozen=True, slots=True)
class Claim:
    """What one claim took of a lane: batches to send, jobs that are over, or neither. How many it put off as `busy`."""

    batches: tuple[Batch, ...]
    over: tuple[Over, ...]
    lane: Lane | None = None
    busy: int = 0

    @property
    def taken(self) -> int:
        """How many jobs it took."""
        return len(self.over) + sum(len(batch.jobs) for batch in self.batches)


@dataclass(frozen=True, slots=True)
class View:
    """What a look found: lanes with a batch to claim now, when there is more to do (None: nothing waits).

    `rescuable`: leases have run out. `probeable`: a pause can be tried. `ahead`: there are moments so far in the future
    that the clock must have been set back since.
    """

    ready: int
    next: timedelta | None
    rescuable: bool
    probeable: bool
    ahead: bool = False


@dataclass(frozen=True, slots=True)
class Rescued:
    """A job given back because its batch was not settled within its lease; `failed` if it had no attempt left."""

    batch: int
    worker: str
    action: Action
    token: int
    attempt: int
    failed: bool


NOTHING: Final = Claim((), ())


def claim(  # noqa: PLR0913 - what the one statement binds
    connection: Connection,
    *,
    queue: str,
    worker: str,
    batch_limit: int,
    batch_timeout: timedelta,
    lease: timedelta,
    floors: Floors,
    job_limit: int | None = None,
    flooded: Lane | None = None,
    flood_limit: int = FLOOD_LIMIT,
    lanes: Sequence[Lane] = LANES,
    probing: bool = False,
    recoveries: RecoveryLimits = RECOVERY_LIMITS,
) -> Claim:
    """Take due jobs of one of these lanes, and open batches of at most `batch_limit` that hold for `lease`.

    One batch, or several with at most `job_limit` jobs in all. None is opened before it is full or its oldest job has
    waited `batch_timeout`; urgent jobs and jobs that come back do not wait. Jobs whose token or account no longer asks
    for the mail are over in the same statement, and so are recoveries that a newer one supersedes, or of which the
    account has had its share. In a lane that is `flooded` with jobs that are over or busy, `flood_limit` jobs are
    looked at, and what could be mailed beyond `job_limit` goes back as it was.
    What is paused is passed over; when `probing`, only what is paused by hand. Jobs in quarantine are taken alone. A
    job whose account or token somebody has locked goes back for BUSY_WAIT, and longer the older it is.
    """
    seen = floors.read()
    jobs = batch_limit if job_limit is None else job_limit
    scans = [max(jobs, flood_limit) if lane == flooded else jobs for lane in lanes]
    answer = connection.execute(
        statement("claim"),
        {
            "queue": queue,
            "worker": worker,
            "batch_limit": batch_limit,
            "job_limit": jobs,
            "scan_limit": max(scans, default=jobs),
            "scans": scans,
            "batch_timeout": batch_timeout,
            "lease": lease,
            "slack": SLACK,
            "busy_wait": BUSY_WAIT,
            "longest_busy_wait": LONGEST_BUSY_WAIT,
            "probing": probing,
            "recoveries_per_15_minutes": recoveries.per_15_minutes,
            "recoveries_per_day": recoveries.per_day,
            "ranks": [rank(lane).value for lane in lanes],
            **_lanes(seen, lanes),
        },
    )
    rows = answer.all()
    if rows[0].token is None:
        return NOTHING
    lane = (Priority(rows[0].priority), Action(rows[0].action))
    end = _end(rows)
    moved = floors.advance(lane, seen=seen[lane], end=end)
    # It may have locked and left a last part that was not full, and another claim passed over that meanwhile.
    left_some = not moved and len(rows) < jobs and len(rows) % batch_limit == 0
    if left_some or any(row.surplus for row in rows):
        floors.lower(lane, end)
    return _claimed(rows, lane)


def settle(connection: Connection, judged: Iterable[tuple[Batch, Sequence[Verdict]]]) -> set[UUID]:
    """Record what became of the jobs of batches, one or more of one action, by position, and close the batches.

    Jobs without a verdict are given back, as they were before the claim. Returns the fences of the batches that were
    still ours, and that this call closed. Of one that had been rescued the results are kept as late, in a statement of
    its own, and decide nothing. Safe to repeat when an answer was lost. Raises ValueError for a batch that is there
    twice.
    """
    closing = list(judged)
    if len({batch.fence for batch, _ in closing}) < len(closing):
        raise ValueError("a batch is there twice")
    by_job = [
        (place, *one)
        for place, (batch, verdicts) in enumerate(closing, start=1)
        for one in zip(batch.jobs, verdicts, strict=False)
    ]
    again = [(place, job, verdict.again) for place, job, verdict in by_job if verdict.again is not None]
    binds = {
        "closing_ids": [batch.id for batch, _ in closing],
        "closing_fences": [batch.fence for batch, _ in closing],
        "action": closing[0][0].action.value,
        "places": numbers_literal(place for place, _, verdict in by_job for _ in verdict.deliveries),
        **_told([(job, delivery) for _, job, verdict in by_job for delivery in verdict.deliveries]),
        "again_tokens": [job.token for _, job, _ in again],
        "again_places": [place for place, _, _ in again],
        "again_attempts": [retry.attempt for _, _, retry in again],
        "again_after": [retry.after for _, _, retry in again],
    }
    owned = {fence for fence in connection.execute(statement("settle"), binds).scalars() if fence is not None}
    for batch, verdicts in closing:
        told = [(job, one) for job, verdict in zip(batch.jobs, verdicts, strict=False) for one in verdict.deliveries]
        if told and batch.fence not in owned:
            proofs = words_literal("\\x" + _proof(job.secret).hex() for job, _ in told)
            late = {"batch": batch.id, "fence": batch.fence, "action": batch.action.value, "proofs": proofs}
            connection.execute(statement("settle_late"), late | _told(told))
    return owned


def _told(told: Sequence[tuple[Job, Delivery]]) -> dict[str, str]:
    return {
        "tokens": numbers_literal(job.token for job, _ in told),
        "accounts": numbers_literal(job.account for job, _ in told),
        "attempts": numbers_literal(job.attempt for job, _ in told),
        "outcomes": words_literal(delivery.outcome for _, delivery in told),
        "message_ids": words_literal(_storable(delivery.message_id) for _, delivery in told),
        "error_codes": words_literal(_storable(delivery.error_code) for _, delivery in told),
        "errors": words_literal(_storable(delivery.error) for _, delivery in told),
    }


def give_back_abandoned(connection: Connection, *, worker: str, known: Collection[UUID]) -> int:
    """Give back the batches of a sender that it does not know; return how many there were.

    Their claim was given up before its answer came, and was made all the same. `worker` is a name that no other sender
    ever had; what it has claimed and not settled is `known`.
    """
    rows = connection.execute(statement("abandoned"), {"worker": worker, "known": list(known)}).all()
    found = (Batch(r.id, r.fence, Action(r.action), Priority(r.priority), (), r.due_at) for r in rows)
    return sum(len(settle(connection, [(batch, [])])) for batch in found)


def rescue(
    connection: Connection,
    *,
    resend_after: timedelta | None = GRACE,
    batch_limit: int = RESCUED_BATCHES,
    passed_over: int = 0,
) -> list[Rescued]:
    """Give back the jobs of batches whose lease ran out, so many batches at a time; the oldest may be `passed_over`.

    They come due after `resend_after`; None holds them until somebody decides.
    """
    binds = {"batch_limit": batch_limit, "passed_over": passed_over}
    rows = connection.execute(
        statement("rescue"), {**binds, "max_attempts": MAX_ATTEMPTS, "resend_after": resend_after}
    ).all()
    return [
        Rescued(r.batch, r.worker, Action(r.action), r.token, r.attempt, r.failed) for r in rows if r.token is not None
    ]


def look(
    connection: Connection,
    *,
    queue: str,
    batch_limit: int,
    batch_timeout: timedelta,
    floors: Floors,
    lanes: Sequence[Lane] = LANES,
    from_start: bool = False,
    longest_wait: timedelta = LONGEST_DELAY,
) -> View:
    """See what there is to do in these lanes, and if nothing, when there will be. Changes nothing in the database.

    The floors move up to what it saw, so that the claims that follow do not walk over the same dead rows. `from_start`
    looks below them as well, for jobs that committed late or came back, and moves them down to those. No job that waits
    for another attempt waits for longer than `longest_wait`.
    """
    seen = floors.read()
    start = dict.fromkeys(lanes, Position(None, 0)) if from_start else seen
    row = connection.execute(
        statement("look"),
        {
            "queue": queue,
            "batch_limit": batch_limit,
            "batch_timeout": batch_timeout,
            "slack": SLACK,
            "settled_after": SETTLED_AFTER,
            "longest_wait": longest_wait,
            "untried_wait": UNCHARGED_DELAY,
            "longest_probe": LONGEST_PROBE,
            **_lanes(start, lanes),
        },
    ).one()
    for priority, action, due_at, token in zip(
        row.heads_priority, row.heads_action, row.heads_due_at, row.heads_token, strict=True
    ):
        lane, head = (Priority(priority), Action(action)), Position(due_at, token)
        if from_start:
            floors.found(lane, head, seen=seen[lane])
        else:
            floors.advance(lane, seen=seen[lane], end=head)
    upcoming = None if row.next_seconds is None else timedelta(seconds=row.next_seconds)
    return View(row.ready, upcoming, row.rescuable, row.probeable, row.ahead)


def _lanes(floors: dict[Lane, Position], lanes: Sequence[Lane]) -> dict[str, list[Any]]:
    positions = [floors[lane] for lane in lanes]
    return {
        "priorities": [priority.value for priority, _ in lanes],
        "actions": [action.value for _, action in lanes],
        "floors_due_at": [position.due_at for position in positions],
        "floors_token": [position.token for position in positions],
    }


def _storable(words: str | None) -> str | None:
    """Replace what PostgreSQL cannot hold, NUL among it: an odd answer must not keep its batch from settling."""
    if words is None or (words.isascii() and "\0" not in words):
        return words
    return words.replace("\0", "?").encode(errors="replace").decode()


def _proof(secret: bytes) -> bytes:
    return hashlib.sha256(secret).digest()[:PROOF_BYTES]


def _end(rows: Sequence[Row[Any]]) -> Position:
    """Where a claim ended: at its last job, or before the first that went back and is due as it was."""
    kept = list(takewhile(lambda row: not row.surplus, rows))
    if not kept:
        return Position(rows[0].due_at, rows[0].token - 1)
    return Position(kept[-1].due_at, kept[-1].token)


def _claimed(rows: Sequence[Row[Any]], lane: Lane) -> Claim:
    priority, action = lane
    over = [Over(row.token, action, row.outcome, row.error_code) for row in rows if row.outcome is not None]
    batches: list[tuple[Row[Any], list[Row[Any]]]] = []
    for row in rows:
        if row.batch is not None:
            batches.append((row, []))
        if row.outcome is None and not row.busy and not row.surplus:
            batches[-1][1].append(row)
    opened = (
        Batch(first.batch, UUID(first.fence), action, priority, tuple(map(_job, mailed)), first.due_at)
        for first, mailed in batches
    )
    return Claim(tuple(opened), tuple(over), lane, sum(row.busy for row in rows))


def _job(r: Row[Any]) -> Job:
    return Job(r.token, r.account, Action(r.action), r.attempt, r.email, r.login, bytes(r.secret), r.code, r.resend)
