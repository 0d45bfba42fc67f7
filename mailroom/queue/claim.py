"""Take due jobs for one sender, and open a batch for them: one statement, in which PostgreSQL decides every race."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import takewhile
from typing import Any, Final, NamedTuple
from uuid import UUID

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from mailroom.db import functions
from mailroom.db.literals import numbers_literal
from mailroom.db.step_size import is_cut_off
from mailroom.job import Action, Batch, Job, Position, Priority
from mailroom.queue.floors import Floors, as_binds
from mailroom.queue.lanes import Lane, Lanes
from mailroom.queue.limits import Limits

# Where the last claim found nothing to mail, this many jobs are looked at: those that are finished are ended quickly.
FLOOD_LIMIT: Final = 500
# When a job comes back whose account or token somebody has locked.
BUSY_WAIT: Final = timedelta(seconds=1)
MAX_BUSY_WAIT: Final = timedelta(seconds=30)


@dataclass(frozen=True, slots=True)
class Finished:
    """A job that the claim found to be finished: it is not to be mailed, and its deliveries row says why."""

    token: int
    action: str
    outcome: str
    error_code: str


@dataclass(frozen=True, slots=True)
class Claim:
    """What one claim took of a lane: batches to send, jobs that are finished, or neither. How many are `busy`.

    `others`: there was work in other lanes as well.
    """

    batches: tuple[Batch, ...]
    finished: tuple[Finished, ...]
    lane: Lane | None = None
    busy: int = 0
    others: bool = False

    @property
    def taken(self) -> int:
        """How many jobs it took."""
        return len(self.finished) + sum(len(batch.jobs) for batch in self.batches)


NOTHING: Final = Claim((), ())


class ClaimedRow(NamedTuple):
    """A row of `sql/claim.sql`, in the order of its columns. Its names are found far sooner than those of SQLAlchemy's.

    `batch` is there in the first row of each batch, and from `fence` to `has_code` what is said of it. Personal data
    and secrets stay out of `repr`.
    """

    batch: int | None
    fence: UUID
    template: str
    path: str
    number: int
    has_code: bool
    token: int
    due_at: datetime
    priority: int
    action: str
    attempt: int
    account: int
    email: str
    login: str
    data: str | None
    secret: bytes
    code: str
    resend: bool
    outcome: str | None
    error_code: str
    busy: bool
    surplus: bool
    others: bool

    def __repr__(self) -> str:
        return f"{type(self).__name__}(token={self.token})"


def claim(
    connection: Connection,
    limits: Limits,
    *,
    worker: str,
    floors: Floors,
    lanes: Lanes,
    job_limit: int | None = None,
    flood: tuple[Lane, int] | None = None,
    probing: bool = False,
) -> Claim:
    """Take due jobs of one of these lanes, and open batches for them, each of at most `limits.batch_limit` jobs.

    One batch, or several with at most `job_limit` jobs in all. None is opened before it is full or its oldest job has
    waited `limits.batch_timeout`; urgent jobs and jobs that come back do not wait. Jobs whose token or account no
    longer asks for the mail are finished in the same statement, and so are those that a newer one supersedes, or of
    which the account has had its share. `flood` is a lane full of jobs that are finished or busy, and how many jobs
    to look at there: what could be mailed beyond `job_limit` goes back as it was.
    What is paused is passed over; when `probing`, only what is paused by hand. Jobs in quarantine are taken alone. A
    job whose account or token somebody has locked goes back for BUSY_WAIT, and longer the older it is.
    """
    seen = floors.read(lanes.all)
    jobs = limits.batch_limit if job_limit is None else job_limit
    scans = [max(jobs, flood[1]) if flood is not None and lane == flood[0] else jobs for lane in lanes.all]
    binds: dict[str, Any] = {"worker": worker, "job_limit": jobs, "scans": numbers_literal(scans), "probing": probing}
    ranks = numbers_literal(lanes.rank(lane).value for lane in lanes.all)
    binds |= _as_binds(limits, lanes.all, seen) | {"ranks": ranks, "scan_limit": max(scans, default=jobs)}
    binds["slack"] = floors.slack
    rows = _taken(connection, binds, floors, seen)
    if not rows:
        return NOTHING
    lane = (Priority(rows[0].priority), rows[0].action)
    end = _end(rows)
    moved = floors.advance(lane, seen=seen[lane], end=end)
    # It may have locked and left a last part that was not full, and another claim passed over that meanwhile.
    left_some = not moved and len(rows) < jobs and len(rows) % limits.batch_limit == 0
    if left_some or any(row.surplus for row in rows):
        floors.lower(lane, end)
    return _claimed(rows, lane, lanes.actions[lane[1]])


def _taken(
    connection: Connection, binds: dict[str, Any], floors: Floors, seen: dict[Lane, Position]
) -> Sequence[ClaimedRow]:
    """Claim. If that fails, others have passed over what it had locked; if it is cut off, what is dead may be why."""
    try:
        return [ClaimedRow._make(row) for row in functions.call(connection, "claim", binds).all()]
    except DBAPIError as error:
        if not is_cut_off(error):
            floors.lower_all(seen)
        raise


def _as_binds(limits: Limits, lanes: Sequence[Lane], floors: dict[Lane, Position]) -> dict[str, Any]:
    return {
        "queue": limits.queue,
        "batch_limit": limits.batch_limit,
        "batch_timeout": limits.batch_timeout,
        "lease": limits.lease,
        "busy_wait": BUSY_WAIT,
        "max_busy_wait": MAX_BUSY_WAIT,
        **as_binds(floors, lanes),
    }


def _end(rows: Sequence[ClaimedRow]) -> Position:
    """Where a claim ended: at its last job, or before the first that went back and is due as it was."""
    kept = list(takewhile(lambda row: not row.surplus, rows))
    if not kept:
        return Position(rows[0].due_at, rows[0].token - 1)
    return Position(kept[-1].due_at, kept[-1].token)


def _claimed(rows: Sequence[ClaimedRow], lane: Lane, known: Action) -> Claim:
    priority, name = lane
    finished = [Finished(row.token, name, row.outcome, row.error_code) for row in rows if row.outcome is not None]
    batches: list[tuple[int, ClaimedRow, list[ClaimedRow]]] = []
    for row in rows:
        if row.batch is not None:
            batches.append((row.batch, row, []))
        if row.outcome is None and not row.busy and not row.surplus:
            batches[-1][2].append(row)
    opened = []
    for batch, first, mailed in batches:
        action = Action(
            name,
            number=first.number,
            template=first.template,
            path=first.path,
            has_code=first.has_code,
            source=known.source,
            reply_to=known.reply_to,
        )
        jobs = tuple(_job(row, action) for row in mailed)
        opened.append(Batch(batch, first.fence, action, priority, jobs, first.due_at))
    return Claim(tuple(opened), tuple(finished), lane, sum(row.busy for row in rows), rows[0].others)


def _job(r: ClaimedRow, action: Action) -> Job:
    who = (r.token, r.account, action, r.attempt, r.email, r.login)
    return Job(*who, bytes(r.secret), r.code, r.resend, r.data, r.due_at)
