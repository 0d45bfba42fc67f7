"""Take due jobs for one sender, and open a batch for them: one statement, in which PostgreSQL decides every race."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from itertools import takewhile
from typing import Any, Final
from uuid import UUID

from sqlalchemy import Connection, Row

from mailroom.db.engine import statement
from mailroom.job import RECOVERY_LIMITS, Action, Batch, Job, Position, Priority, RecoveryLimits
from mailroom.queue.floors import LANES, SLACK, Floors, Lane, as_binds, rank

# Where the last claim found nothing to mail, this many jobs are looked at: those that are over are ended quickly.
FLOOD_LIMIT: Final = 500
# When a job comes back whose account or token somebody has locked.
BUSY_WAIT: Final = timedelta(seconds=1)
LONGEST_BUSY_WAIT: Final = timedelta(seconds=30)


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
            **as_binds(seen, lanes),
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
