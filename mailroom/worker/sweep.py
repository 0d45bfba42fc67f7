"""One pass over all that is due, for cron: rescue what was lost, and send what waits."""

import logging
import time
from collections.abc import Callable
from datetime import timedelta
from enum import Enum, auto
from typing import Final

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError

from mailroom.db.engine import first_line
from mailroom.db.stride import is_cut_off
from mailroom.fleet.permits import ASK_AGAIN
from mailroom.queue.claim import LONGEST_BUSY_WAIT
from mailroom.queue.clock_repair import Moments
from mailroom.queue.late_acceptances import believe
from mailroom.queue.look import View
from mailroom.queue.rescue import Rescue
from mailroom.worker.breaker import Backoff
from mailroom.worker.sender import Sender, Work

log = logging.getLogger(__name__)

# Between two claims that find locked what a look has seen. Other claims hold it for milliseconds; whoever holds it
# longer than all of this is waited for no more.
WAITS: Final = tuple(timedelta(seconds=seconds) for seconds in (0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1, 1))


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

    def goes_on() -> bool:
        return time.monotonic() < deadline and not stopping()

    _believe_late(engine)
    rescue = Rescue(resend_after=sender.limits.resend_after)
    with engine.connect() as connection:
        while not stopping() and rescue.step(connection):
            pass
        _look(connection, sender, goes_on)
    while goes_on() and sender.probe(stopping):
        pass
    try:
        swept = _work_off(engine, sender, backoff, goes_on)
    finally:
        sender.give_back_abandoned()
    while rescue.owes and goes_on():  # in smaller steps; what these give back is due later anyway
        time.sleep(min(rescue.rest, ASK_AGAIN).total_seconds())
        with engine.connect() as connection:
            rescue.step(connection)
    return swept


def _believe_late(engine: Engine) -> None:
    """Let late acceptances decide; what keeps that from being done does not keep mails from being sent."""
    try:
        with engine.connect() as connection:
            believe(connection)
    except DBAPIError as error:
        log.warning("late acceptances failed, the next sweep tries again: %s", first_line(error))


def _work_off(engine: Engine, sender: Sender, backoff: Backoff, goes_on: Callable[[], bool]) -> Swept:
    waits, busy = iter(WAITS), False
    while goes_on():
        work = _claim(sender)
        if work is None:
            time.sleep(min(sender.permit_wait(), ASK_AGAIN).total_seconds())
            continue
        busy |= work.busy > 0
        if work.taken:
            waits = iter(WAITS)
        elif work.busy:
            continue
        elif not _is_left(engine, sender, goes_on, busy=busy):
            if sender.probe(lambda: not goes_on()):  # it was paused meanwhile
                continue
            return Swept.REFUSED if sender.is_paused() else Swept.DRAINED
        elif not _wait(next(waits, None)):
            return Swept.LEFT
        if backoff.is_open:
            return Swept.REFUSED
    return Swept.LEFT if _is_left(engine, sender, goes_on, busy=busy) else Swept.DRAINED


def _claim(sender: Sender) -> Work | None:
    """Work a claim; one that is cut off has taken nothing, and the next begins where something is alive."""
    try:
        return sender.work_claim()
    except DBAPIError as error:
        if not is_cut_off(error):
            raise
    sender.lookout.doubt()
    return Work(0, full=False)


def _look(connection: Connection, sender: Sender, goes_on: Callable[[], bool]) -> View:
    """Look from the beginning of the queue, for what came back or committed late; bring back what is too far ahead."""
    view = sender.lookout.look_from_start(connection, goes_on)
    if not view.ahead:
        return view
    moments = Moments(sender.limits)
    while moments.step(connection) and goes_on():
        pass
    return sender.lookout.look_from_start(connection, goes_on)


def _is_left(engine: Engine, sender: Sender, goes_on: Callable[[], bool], *, busy: bool) -> bool:
    """Whether something is due that can be sent, or there may be; where some were `busy`, also in a moment."""
    with engine.connect() as connection:
        view = _look(connection, sender, goes_on)
    soon = busy and view.next is not None and view.next <= LONGEST_BUSY_WAIT
    return view.ready > 0 or soon or sender.lookout.is_walking


def _wait(wait: timedelta | None) -> bool:
    """Wait for those who hold what is due; False if that has been tried often enough."""
    if wait is not None:
        time.sleep(wait.total_seconds())
    return wait is not None
