"""The process around N senders: it looks for what is due, wakes senders for it, rescues, and stops in order."""

import logging
import queue as mailbox
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from math import inf
from typing import Final

from sqlalchemy import Connection, func, select
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from mailroom.db.step_size import is_cut_off
from mailroom.errors import MailroomError
from mailroom.fleet.permits import ASK_AGAIN
from mailroom.ops.maintenance import Maintenance
from mailroom.queue.clock_repair import ClockRepair
from mailroom.queue.listener import NORMAL, STEP, URGENT, Listener
from mailroom.queue.look import View
from mailroom.queue.rescue import Rescue
from mailroom.worker.outage import Outage
from mailroom.worker.probe_turn import ProbeTurn
from mailroom.worker.report import Report
from mailroom.worker.sender import Sender, Work
from mailroom.worker.shared import Shared
from mailroom.worker.starting import start_all
from mailroom.worker.vitals import LOOK, SENDER, process_name
from mailroom.worker.wakeups import FIRST_LOOK, NEXT_STEP, WAITS, WORKED, Notified, Wakeups

log = logging.getLogger(__name__)

OUTAGE_WAIT: Final = timedelta(seconds=1)
# What is more than a look takes its turn: who waits for a look must not wait for that.
MAX_LOOK: Final = timedelta(seconds=0.25)
# A sender waits for a permit, but not for the next day's quota.
MAX_PERMIT_WAIT: Final = timedelta(seconds=5)


class Worker:
    """Works until it is stopped. `run` once."""

    def __init__(
        self,
        shared: Shared,
        *,
        concurrency: int,
        sweep_interval: timedelta,
        prune_after: timedelta | None = None,
    ) -> None:
        """The engine needs `concurrency` + 2 connections, one more to watch the account, and one more for events."""
        self._shared = shared
        self._engine, self._limits, self._vitals = shared.engine, shared.limits, shared.vitals
        self._sweep_interval = sweep_interval
        self._maintenance = Maintenance(
            self._engine, queue=self._limits.queue, prune_after=prune_after, resend=shared.resend
        )
        self._senders = [
            Sender(self._shared, name=f"{process_name()}/{number}", start_another=lambda: self._start_senders(1))
            for number in range(concurrency)
        ]
        self._report = Report(self._engine, self._senders, queue=self._limits.queue)
        self._probe_turn = ProbeTurn(lambda: shared.breaker.is_open or shared.own_fault.is_suspected)
        self._notified = Notified()
        self._failure: MailroomError | None = None
        self._claims = self._shared.claims
        self._rescue = Rescue(self._shared.resend)
        self._clock_repair = ClockRepair(self._limits)
        self._outage = Outage(self._engine, self._vitals)
        # What wakes the process, and what wakes one sender: True for work, False to stop.
        self._wakeups = Wakeups()
        self._work_tokens: mailbox.SimpleQueue[bool] = mailbox.SimpleQueue()

    def run(self, listener: Listener | None = None, *, feeding: bool = False) -> None:
        """Work until `stop`; then let calls in flight finish, and settle them.

        `feeding`: beside it, this process reads the events of the provider. Raises TransportError if the transport
        takes no more, MailroomError if a sender died, or cannot be started.
        """
        self._report.listener, self._report.feeding = listener, feeding
        threads = [threading.Thread(target=self._serve, args=(sender,)) for sender in self._senders]
        listening = [] if listener is None else [threading.Thread(target=listener.run, daemon=True)]
        try:
            start_all([*threads, *listening])
            log.info("worker started queue=%s concurrency=%d", self._limits.queue, len(self._senders))
            self._tell_vitals(listener)
            self._keep_looking()
        finally:
            self.stop()
            if listener is not None:
                listener.stop()
            for thread in filter(threading.Thread.is_alive, threads):
                thread.join()
            for thread in filter(threading.Thread.is_alive, listening):
                thread.join(2 * STEP.total_seconds())  # it may hang in a connection, and nothing depends on it
            self._report.leave(reachable=LOOK not in self._outage.failing)
        log.info("worker stopped")
        if self._failure is not None:
            raise self._failure

    def stop(self) -> None:
        """Claim nothing more. May be called from any thread and from a signal handler, and more than once."""
        self._vitals.is_stopping = True
        self._shared.stopping.set()
        self._wakeups.put("")
        for _ in self._senders:
            self._work_tokens.put(False)

    def woken(self, payload: str) -> None:
        """Take a notification: a job starts a sender, an urgent one also frees one; any other is worth a look."""
        if payload:
            self._shared.telemetry.woken("notification")
        if payload == URGENT:
            self._shared.urgent_came.set()
        if payload in {URGENT, NORMAL} and self._notified.is_worth_a_claim():
            self._start_senders(1)
        else:
            self._wakeups.put("")

    def ping(self, channel: str, payload: str) -> bool:
        """Notify a channel over an ordinary connection; False if the database cannot be reached."""
        try:
            with self._engine.connect() as connection:
                connection.execute(select(func.pg_notify(channel, payload)))
        except SQLAlchemyError:
            return False
        return True

    def look(self, *, sweep: bool) -> timedelta | None:
        """Wake senders for what is due, rescue what is lost; return when there is more to do (None: nothing waits).

        A sweep looks from the beginning of the queue, where jobs are that committed late. Senders are woken first:
        nothing that is not done here keeps mails from leaving.
        """
        ends = time.monotonic() + MAX_LOOK.total_seconds()

        def goes_on() -> bool:
            return time.monotonic() < ends and not self._shared.stopping.is_set()

        with self._engine.connect() as connection:
            if sweep:
                self._shared.telemetry.sweeps(connection)
            view = self._see(connection, goes_on if sweep or self._claims.is_scanning else None)
            self._vitals.reached()
            if sweep:
                self._shared.telemetry.knows(self._claims.lanes.actions)
            ahead = view.ahead
            while ahead and goes_on():
                ahead = self._clock_repair.step(connection, self._claims.lanes.all)
            while view.rescuable and not self._shared.stopping.is_set() and self._rescue.step(connection):
                view = self._see(connection, None)
        rest = self._rescue.rest if view.rescuable else None
        waits = (view.next, rest, self._probe_turn.rest, NEXT_STEP if self._claims.is_scanning or ahead else None)
        return min(filter(None, waits), default=None)

    def _see(self, connection: Connection, from_start: Callable[[], bool] | None) -> View:
        """Look, and start as many senders as there is work for. A sender that failed is to try again."""
        claims = self._claims
        self._notified.came = False
        view = claims.look(connection) if from_start is None else claims.look_from_start(connection, from_start)
        probeable = self._probe_turn.see(view.probeable)
        failed = self._outage.failing - {LOOK}
        self._start_senders(len(self._senders) if failed else view.ready + probeable)
        return view

    def _tell_vitals(self, listener: Listener | None) -> None:
        vitals = self._vitals
        vitals.backs_off = lambda: self._shared.breaker.is_open
        vitals.rescued, vitals.reconciled = lambda: self._rescue.mails, lambda: self._maintenance.reconciled
        vitals.is_listening = None if listener is None else lambda: listener.is_listening
        vitals.is_started = True

    def _keep_looking(self) -> None:
        with self._vitals.watched(LOOK):
            self._look_until_stopped()

    def _look_until_stopped(self) -> None:
        soon, sweep_at = FIRST_LOOK, time.monotonic()
        while not self._shared.stopping.is_set():
            self._vitals.came_round()
            began = time.monotonic()
            sweep = began >= sweep_at
            self._shared.telemetry.woken("sweep" if sweep else "look")
            if sweep:
                sweep_at = began + self._sweep_interval.total_seconds()
            upcoming = self._look_if_possible(sweep=sweep)
            report_at = self._do_the_rest(began, sweep_at, sweep=sweep)
            ends = min(time.monotonic() + min(soon, upcoming or soon).total_seconds(), sweep_at, report_at)
            worked = self._wakeups.wait(ends)
            soon = FIRST_LOOK if worked else min(soon * 2, self._sweep_interval)

    def _do_the_rest(self, now: float, sweep_at: float, *, sweep: bool) -> float:
        """Do what is not looking for work, where the database can be reached; return the moment of the next report."""
        if LOOK in self._outage.failing or self._shared.stopping.is_set():
            return inf
        if sweep or self._maintenance.owes:
            self._maintenance.step(now)
        return self._report.step(now, sweep_at=sweep_at)

    def _look_if_possible(self, *, sweep: bool) -> timedelta | None:
        try:
            upcoming = self.look(sweep=sweep)
        except DBAPIError as error:
            self._outage.fails(LOOK, error)
            return OUTAGE_WAIT
        self._outage.works(LOOK)
        return upcoming

    def _serve(self, sender: Sender) -> None:
        """Be one sender's thread. Should it die, the process stops, so that whoever supervises it sees."""
        alive = False
        try:
            with self._vitals.watched(SENDER):
                self._vitals.rest()
                while self._work_tokens.get():
                    self._vitals.beat()
                    self._drain(sender)
                    self._vitals.rest()
                sender.claimer.return_abandoned()
            alive = True
        finally:
            if not alive:
                self._fail(MailroomError("a sender died; the log says why"))

    def _drain(self, sender: Sender) -> None:
        """Work until nothing is left to claim. What is paused and what is not do not wait for each other's end."""
        worked = probed = False
        try:
            while self._may_claim():
                if not probed and self._probe_if_due(sender):
                    worked = probed = True
                    continue
                work = sender.work_claim()
                if work is None and self._await_permit(sender):
                    continue
                due = probed
                if work is not None and self._note(sender, work):
                    worked, due = True, due or work.due
                if not due:
                    break
                probed = False
        except DBAPIError as error:
            self._note_failure(sender, error)
            worked = True  # what it was woken for waits on, and nobody notifies of that again
        except MailroomError as error:
            self._fail(error)
        if worked:
            self._wakeups.put(WORKED)

    def _note(self, sender: Sender, work: Work) -> bool:
        """Take note of what a claim came to; whether there was anything to claim."""
        self._outage.works(sender)
        found = work.taken + work.busy > 0
        self._notified.claimed(found=found)
        # Something waits for a batch to fill, perhaps: a look tells for how long.
        if not found and (self._notified.came or work.scarce):
            self._wakeups.put(WAITS)
        return found

    def _probe_if_due(self, sender: Sender) -> bool:
        return self._probe_turn.take() and sender.prober.probe(self._shared.stopping.is_set)

    def _note_failure(self, sender: Sender, error: DBAPIError) -> None:
        self._outage.fails(sender, error)
        if is_cut_off(error):
            self._claims.start_over()
        self._shared.stopping.wait(OUTAGE_WAIT.total_seconds())

    def _may_claim(self) -> bool:
        """Wait while the account is at fault; False once the worker stops."""
        while not self._shared.stopping.is_set():
            wait = self._shared.breaker.wait_to_try(time.monotonic())
            if not wait:
                return True
            self._vitals.beat()
            self._shared.stopping.wait(wait.total_seconds())
        return False

    def _await_permit(self, sender: Sender) -> bool:
        """Wait a moment for a permit; False if there will be none for long, and looking again is enough."""
        wait = sender.permit_wait()
        if wait > MAX_PERMIT_WAIT:
            return False
        self._vitals.beat()
        began = time.monotonic()
        self._shared.stopping.wait(min(wait, ASK_AGAIN).total_seconds())
        self._shared.telemetry.permit_awaited(time.monotonic() - began)
        return True

    def _fail(self, error: MailroomError) -> None:
        self._failure = error
        self.stop()

    def _start_senders(self, count: int) -> None:
        """Hand out work tokens, never more than there are senders: each works until nothing is left."""
        for _ in range(min(count, len(self._senders) - self._work_tokens.qsize())):
            self._work_tokens.put(True)
