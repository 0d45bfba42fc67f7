"""One pass over all that is due, for cron: rescue what was lost, and send what waits."""

import logging
import time
from collections.abc import Callable
from datetime import timedelta
from enum import Enum, auto
from functools import partial
from typing import Final

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from mailroom.db.engine import first_line
from mailroom.db.step_size import StepSize, is_cut_off
from mailroom.fleet.permits import ASK_AGAIN
from mailroom.ops import reputation
from mailroom.queue import feed, late_acceptances
from mailroom.queue.claim import MAX_BUSY_WAIT
from mailroom.queue.clock_repair import ClockRepair
from mailroom.queue.look import View
from mailroom.queue.rescue import Rescue
from mailroom.worker.sender import Sender, Work
from mailroom.worker.shared import Shared

log = logging.getLogger(__name__)

# Between two claims that find locked what a look has seen. Other claims hold it for milliseconds; whoever holds it
# longer than all of this is waited for no more.
WAITS: Final = tuple(timedelta(seconds=seconds) for seconds in (0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1, 1))


class Swept(Enum):
    """How a sweep ended."""

    DRAINED = auto()  # nothing that was due is left
    LEFT = auto()  # the time was up, or it was stopped
    REFUSED = auto()  # what is left is paused, or cannot be sent from here at the moment


def sweep(shared: Shared, *, name: str, max_time: timedelta) -> Swept:
    """Rescue, and then work until nothing is due, `max_time` is over, or it is to stop.

    It waits for permits as long as that. Safe beside workers and other sweeps. `name` is for the batches.
    """
    engine, sender, stopping = shared.engine, Sender(shared, name=name), shared.stopping.is_set
    deadline = time.monotonic() + max_time.total_seconds()

    def goes_on() -> bool:
        return time.monotonic() < deadline and not stopping()

    _act_on_record(shared, goes_on)
    rescue = Rescue(shared.resend)
    shared.vitals.rescued = lambda: rescue.mails
    with engine.connect() as connection:
        while not stopping() and rescue.step(connection) and goes_on():
            pass
        _look(connection, shared, goes_on)
    if goes_on():  # another probe comes when nothing else is left
        _probe(shared, sender, stopping)
    try:
        swept = _drain(shared, sender, goes_on)
    finally:
        sender.claimer.return_abandoned()
    while rescue.owes and goes_on():  # in smaller steps; what these return is due later anyway
        time.sleep(min(rescue.rest, ASK_AGAIN).total_seconds())
        with engine.connect() as connection:
            rescue.step(connection)
    return Swept.LEFT if rescue.owes and swept is Swept.DRAINED else swept


def _act_on_record(shared: Shared, goes_on: Callable[[], bool]) -> None:
    """Let evidence decide that came late; what keeps that from being done does not keep mails from being sent."""
    acts: tuple[Callable[[Connection], object], ...] = (
        lambda connection: StepSize(feed.MAX_TAKEN_BACK).take(
            lambda most: feed.take_back(connection, queue=shared.limits.queue, most=most)
        ),
        partial(late_acceptances.apply, goes_on=goes_on),
    )
    for act in acts:
        try:
            with shared.engine.connect() as connection:
                act(connection)
        except DBAPIError as error:
            log.warning("late evidence is left to the next sweep: %s", first_line(error))
    try:
        with shared.engine.connect() as connection:
            reputation.review(connection)
    except DBAPIError as error:
        log.warning("the review of the rates is left to the next sweep: %s", first_line(error))


def _drain(shared: Shared, sender: Sender, goes_on: Callable[[], bool]) -> Swept:
    waits, busy = iter(WAITS), False
    while goes_on() and not shared.breaker.is_open:
        work = _claim(shared, sender)
        if work is None:
            wait = min(sender.permit_wait(), ASK_AGAIN).total_seconds()
            time.sleep(wait)
            shared.telemetry.permit_awaited(wait)
            continue
        busy |= work.busy > 0
        if work.taken:
            waits = iter(WAITS)
        elif work.busy:
            continue
        else:
            paused = shared.claims.is_paused()  # first: what comes due from now on waits for no pause
            if _is_left(shared, goes_on, busy=busy):
                if not _wait(next(waits, None)):
                    return Swept.LEFT
            elif not _probe(shared, sender, lambda: not goes_on()):  # it may be paused since a moment ago
                return Swept.REFUSED if paused else Swept.DRAINED
    if shared.breaker.is_open and not shared.stopping.is_set():  # the last call met a fault, perhaps as the time was up
        return Swept.REFUSED
    return Swept.LEFT if _is_left(shared, goes_on, busy=busy) else Swept.DRAINED


def _probe(shared: Shared, sender: Sender, stopping: Callable[[], bool]) -> bool:
    """Try a pause; one that cannot be tried, since too much is dead, keeps nothing else from being sent."""
    try:
        return sender.prober.probe(stopping)
    except DBAPIError as error:
        if not is_cut_off(error):
            raise
    shared.claims.start_over()
    return False


def _claim(shared: Shared, sender: Sender) -> Work | None:
    """Work a claim; one that is cut off has taken nothing, and the next begins where something is alive."""
    try:
        return sender.work_claim()
    except DBAPIError as error:
        if not is_cut_off(error):
            raise
    shared.claims.start_over()
    return Work(0, full=False)


def _look(connection: Connection, shared: Shared, goes_on: Callable[[], bool]) -> View:
    """Look from the beginning of the queue, for what came back or committed late; bring back what is too far ahead."""
    shared.telemetry.sweeps(connection)
    view = shared.claims.look_from_start(connection, goes_on)
    shared.telemetry.knows(shared.claims.lanes.actions)
    if not view.ahead:
        return view
    repair = ClockRepair(shared.limits)
    while repair.step(connection, shared.claims.lanes.all) and goes_on():
        pass
    return shared.claims.look_from_start(connection, goes_on)


def _is_left(shared: Shared, goes_on: Callable[[], bool], *, busy: bool) -> bool:
    """Whether something is due that can be sent, or there may be; where some were `busy`, also in a moment."""
    with shared.engine.connect() as connection:
        view = _look(connection, shared, goes_on)
    soon = busy and view.next is not None and view.next <= MAX_BUSY_WAIT
    return view.ready > 0 or soon or shared.claims.is_scanning


def _wait(wait: timedelta | None) -> bool:
    """Wait for those who hold what is due; False if that has been tried often enough."""
    if wait is not None:
        time.sleep(wait.total_seconds())
    return wait is not None
