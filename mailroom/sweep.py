"""One pass over all that is due, for cron: rescue what was lost, and send what waits."""

import logging
import time
from collections.abc import Callable, Iterable
from datetime import timedelta
from enum import Enum, auto

from sqlalchemy import Engine

from mailroom import queue
from mailroom.backoff import Backoff
from mailroom.permits import ASK_AGAIN
from mailroom.queue import Rescued
from mailroom.sender import Sender
from mailroom.upkeep import log_believed

log = logging.getLogger(__name__)


class Swept(Enum):
    """How a sweep ended."""

    DRAINED = auto()  # nothing that was due is left
    LEFT = auto()  # the time was up, or it was stopped
    REFUSED = auto()  # what is left is paused, or cannot be sent from here at the moment


def sweep(
    engine: Engine,
    sender: Sender,
    *,
    backoff: Backoff,
    longest: timedelta,
    stopping: Callable[[], bool] = lambda: False,
) -> Swept:
    """Rescue, and then work until nothing is due, `longest` is over, or it is `stopping`.

    It waits for permits as long as that. Safe beside workers and other sweeps.
    """
    deadline = time.monotonic() + longest.total_seconds()
    with engine.connect() as connection:
        log_believed(queue.believe(connection))
        while rescued := queue.rescue(connection, resend_after=sender.limits.resend_after):
            log_rescued(rescued)
    while time.monotonic() < deadline and not stopping() and sender.probe(stopping):
        pass
    while time.monotonic() < deadline and not stopping():
        work = sender.work_claim()
        if work is None:
            time.sleep(min(sender.permit_wait(), ASK_AGAIN).total_seconds())
            continue
        if work.taken == 0 and not sender.starts_over():
            if sender.probe(stopping):  # it was paused meanwhile
                continue
            return Swept.REFUSED if sender.is_paused() else Swept.DRAINED
        if backoff.is_open:
            return Swept.REFUSED
    with engine.connect() as connection:
        return Swept.LEFT if sender.look(connection).ready else Swept.DRAINED


def log_rescued(rescued: Iterable[Rescued]) -> None:
    """One line for each mail of a lost batch: it may have been sent, and is sent again."""
    for job in rescued:
        log.warning(
            "mail token=%d action=%s batch=%d attempt=%d outcome=%s code=LeaseExpired worker=%s",
            *(job.token, job.action, job.batch, job.attempt, "failed" if job.failed else "unconfirmed", job.worker),
        )
