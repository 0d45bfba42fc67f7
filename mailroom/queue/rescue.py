"""Gives back what was lost, as much at a time as the database takes, and never in the way of what can be sent."""

import logging
import time
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from mailroom.db import functions
from mailroom.db.engine import first_line
from mailroom.db.step_size import StepSize
from mailroom.queue.feed import ResendWait
from mailroom.queue.verdict import GRACE, MAX_ATTEMPTS

log = logging.getLogger(__name__)

# A batch that cannot even be rescued alone is passed over; then looking for work comes first for so many times as long.
RESTS: Final = 10
# And longer with each that follows, up to MAX_REST: where all are refused at once, it would spin.
LONGER: Final = 0.1
MAX_REST: Final = 1.0
RESCUED_BATCHES: Final = 100


@dataclass(frozen=True, slots=True)
class Rescued:
    """A job given back because its batch was not settled within its lease; `failed` if it had no attempt left."""

    batch: int
    worker: str
    action: str
    token: int
    attempt: int
    failed: bool


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
    rows = functions.call(
        connection, "rescue", {**binds, "max_attempts": MAX_ATTEMPTS, "resend_after": resend_after}
    ).all()
    return [Rescued(r.batch, r.worker, r.action, r.token, r.attempt, r.failed) for r in rows]


class Rescue:
    """Rescues in steps, for one process. `owes`: the last step was refused, or there may be more.

    `mails` counts those whose jobs it gave back.
    """

    def __init__(self, resend: ResendWait) -> None:
        self._resend = resend
        self._step_size = StepSize(RESCUED_BATCHES)
        self._passed_over = 0
        self._rests_until = float("-inf")
        self._failing = False
        self.owes = False
        self.mails = 0

    def step(self, connection: Connection) -> bool:
        """Give some batches back; whether there may be more that can be given back at once.

        What the database refuses is logged once, and tried with less. Raises DBAPIError if the connection is lost.
        """
        began = time.monotonic()
        if began < self._rests_until:
            return False
        try:
            self._resend.refresh(connection)  # nobody may have asked yet, in a process that begins with what was lost
        except DBAPIError as error:  # then the wait is as it was: whether SES is heard holds up no rescue
            if error.connection_invalidated:
                connection.rollback()  # or SQLAlchemy makes no other in its place
        try:
            rescued = rescue(
                connection,
                resend_after=self._resend.current,
                batch_limit=self._step_size.size,
                passed_over=self._passed_over,
            )
        except DBAPIError as error:
            self._refused(error, took=time.monotonic() - began)
            if error.connection_invalidated:
                raise
            return False
        log_rescued(rescued)
        self.mails += len(rescued)
        self.owes = bool(rescued)
        if not rescued:
            self._passed_over = 0
            return False
        self._step_size.grow()
        if self._failing and self._step_size.is_whole and not self._passed_over:
            log.info("rescue works again")
            self._failing = False
        return True

    @property
    def rest(self) -> timedelta:
        """How long until it is worth trying."""
        return timedelta(seconds=max(0.0, self._rests_until - time.monotonic()))

    def _refused(self, error: DBAPIError, *, took: float) -> None:
        if not self._failing:
            log.warning("rescue failed, trying with less: %s", first_line(error))
        self._failing = self.owes = True
        rest = took
        if not self._step_size.shrink():
            self._passed_over += 1
            rest = max(RESTS * took, min(MAX_REST, LONGER * self._passed_over))
        self._rests_until = time.monotonic() + rest


def log_rescued(rescued: Iterable[Rescued]) -> None:
    """Log a line for each mail of a lost batch: it may have been sent, and may be sent again."""
    for job in rescued:
        log.warning(
            "mail token=%d action=%s batch=%d attempt=%d outcome=%s code=LeaseExpired worker=%s",
            *(job.token, job.action, job.batch, job.attempt, "failed" if job.failed else "unconfirmed", job.worker),
        )
