"""The process around N senders: it looks for what is due, wakes senders for it, rescues, and stops in order."""

import logging
import os
import queue as mailbox
import socket
import threading
import time
from collections.abc import Callable, Hashable
from datetime import timedelta
from typing import Final

from sqlalchemy import Connection, Engine, func, select
from sqlalchemy.exc import DBAPIError

from mailroom.db.engine import renew_connections
from mailroom.db.step_size import is_cut_off
from mailroom.errors import MailroomError
from mailroom.fleet.permits import ASK_AGAIN, NO_LIMIT, Permits
from mailroom.mail.transport import Transport
from mailroom.ops.maintenance import Maintenance
from mailroom.queue.clock_repair import ClockRepair
from mailroom.queue.limits import Limits
from mailroom.queue.listener import NORMAL, STEP, URGENT, Listener
from mailroom.queue.look import View
from mailroom.queue.rescue import Rescue
from mailroom.worker.outage import Outage
from mailroom.worker.sender import Sender, Work
from mailroom.worker.shared import Shared

log = logging.getLogger(__name__)

# After work a look comes in a while, and then later and later: a commit may have seen a queue that was not yet empty,
# and so not have notified, and have come too late for who settled last to see it.
FIRST_LOOK: Final = timedelta(seconds=1)
# While the pages of the queue are looked at, or a clock is repaired, some at a time.
NEXT_STEP: Final = timedelta(milliseconds=100)
OUTAGE_WAIT: Final = timedelta(seconds=1)
# What is more than a look takes its turn: who waits for a look must not wait for that.
MAX_LOOK: Final = timedelta(seconds=0.25)
LOOK: Final = "look"
WORKED: Final = "worked"
WAITS: Final = "waits"
# A sender waits for a permit, but not for the next day's quota.
MAX_PERMIT_WAIT: Final = timedelta(seconds=5)


class Worker:
    """Works until it is stopped. `run` once."""

    def __init__(
        self,
        engine: Engine,
        transport: Transport,
        *,
        key: bytes,
        limits: Limits,
        concurrency: int,
        sweep_interval: timedelta,
        prune_after: timedelta | None = None,
        permits: Permits = NO_LIMIT,
    ) -> None:
        """`engine` needs a pool of `concurrency` + 2 connections, and one more where the account is watched."""
        self._engine = engine
        self._limits = limits
        self._sweep_interval = sweep_interval
        self._maintenance = Maintenance(engine, queue=limits.queue, prune_after=prune_after)
        self._shared = Shared(engine, transport, key=key, limits=limits, permits=permits)
        names = f"{socket.gethostname()}/{os.getpid()}"
        self._senders = [
            Sender(self._shared, name=f"{names}/{number}", start_another=lambda: self._start_senders(1))
            for number in range(concurrency)
        ]
        self._probeable = threading.Event()
        self._came = threading.Event()
        self._failure: MailroomError | None = None
        self._claims = self._shared.claims
        self._rescue = Rescue(resend_after=limits.resend_after)
        self._clock_repair = ClockRepair(limits)
        self._outage = Outage()
        # What wakes the process, and what wakes one sender: True for work, False to stop. SimpleQueue, since a signal
        # handler may put into it at any moment.
        self._wakeups: mailbox.SimpleQueue[str] = mailbox.SimpleQueue()
        self._work_tokens: mailbox.SimpleQueue[bool] = mailbox.SimpleQueue()

    def run(self, listener: Listener | None = None) -> None:
        """Work until `stop`; then let calls in flight finish, and settle them.

        Raises TransportError if the transport takes no more, MailroomError if a sender died.
        """
        threads = [threading.Thread(target=self._serve, args=(sender,)) for sender in self._senders]
        listening = None if listener is None else threading.Thread(target=listener.run, daemon=True)
        for thread in [*threads, *([listening] if listening else [])]:
            thread.start()
        log.info("worker started queue=%s concurrency=%d", self._limits.queue, len(self._senders))
        try:
            self._keep_looking()
        finally:
            self.stop()
            if listener is not None:
                listener.stop()
            for thread in threads:
                thread.join()
            if listening is not None:
                listening.join(2 * STEP.total_seconds())  # it may hang in a connection, and nothing depends on it
        log.info("worker stopped")
        if self._failure is not None:
            raise self._failure

    def stop(self) -> None:
        """Claim nothing more. May be called from any thread and from a signal handler, and more than once."""
        self._shared.stopping.set()
        self._wakeups.put("")
        for _ in self._senders:
            self._work_tokens.put(False)

    def woken(self, payload: str) -> None:
        """Take a notification: a job starts a sender, an urgent one also frees one; any other is worth a look."""
        if payload == URGENT:
            self._shared.urgent_came.set()
        if payload in {URGENT, NORMAL}:
            self._came.set()
            self._start_senders(1)
        else:
            self._wakeups.put(payload)

    def ping(self, channel: str, payload: str) -> bool:
        """Notify a channel over an ordinary connection; False if the database cannot be reached."""
        try:
            with self._engine.connect() as connection:
                connection.execute(select(func.pg_notify(channel, payload)))
        except DBAPIError:
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
            view = self._see(connection, goes_on if sweep or self._claims.is_scanning else None)
            ahead = view.ahead
            while ahead and goes_on():
                ahead = self._clock_repair.step(connection, self._claims.lanes.all)
            while view.rescuable and not self._shared.stopping.is_set() and self._rescue.step(connection):
                view = self._see(connection, None)
        rest = self._rescue.rest if view.rescuable else None
        waits = [wait for wait in (view.next, rest, NEXT_STEP if self._claims.is_scanning or ahead else None) if wait]
        return min(waits, default=None)

    def _see(self, connection: Connection, from_start: Callable[[], bool] | None) -> View:
        """Look, and start as many senders as there is work for. A sender that failed is to try again."""
        claims = self._claims
        self._came.clear()
        view = claims.look(connection) if from_start is None else claims.look_from_start(connection, from_start)
        if view.probeable:
            self._probeable.set()
        failed = self._outage.failing - {LOOK}
        self._start_senders(len(self._senders) if failed else view.ready + view.probeable)
        return view

    def _keep_looking(self) -> None:
        soon, sweep_at = FIRST_LOOK, time.monotonic()
        while not self._shared.stopping.is_set():
            sweep = time.monotonic() >= sweep_at
            if sweep:
                sweep_at = time.monotonic() + self._sweep_interval.total_seconds()
            upcoming = self._look_if_possible(sweep=sweep)
            if sweep and LOOK not in self._outage.failing:
                self._maintenance.step(time.monotonic())
            ends = min(time.monotonic() + min(soon, upcoming or soon).total_seconds(), sweep_at)
            worked = self._wait_for_wakeup(ends)
            soon = FIRST_LOOK if worked else min(soon * 2, self._sweep_interval)

    def _look_if_possible(self, *, sweep: bool) -> timedelta | None:
        try:
            upcoming = self.look(sweep=sweep)
        except DBAPIError as error:
            self._note_outage(LOOK, error)
            return OUTAGE_WAIT
        self._outage.works(LOOK)
        return upcoming

    def _wait_for_wakeup(self, ends: float) -> bool:
        """Wait, until a monotonic moment, for what asks for a look; whether a sender has worked.

        That alone, and a job that may have to wait, ask for one in a while: one for all of them.
        """
        worked = False
        while (wait := ends - time.monotonic()) > 0:
            try:
                wakeups = {self._wakeups.get(timeout=wait)}
            except mailbox.Empty:
                break
            while not self._wakeups.empty():
                wakeups.add(self._wakeups.get())
            worked |= WORKED in wakeups
            if wakeups - {WORKED, WAITS}:
                break
            soon = NEXT_STEP if WAITS in wakeups else FIRST_LOOK
            ends = min(ends, time.monotonic() + soon.total_seconds())
        return worked

    def _serve(self, sender: Sender) -> None:
        """Be one sender's thread. Should it die, the process stops, so that whoever supervises it sees."""
        alive = False
        try:
            while self._work_tokens.get():
                self._drain(sender)
            sender.claimer.return_abandoned()
            alive = True
        finally:
            if not alive:
                self._fail(MailroomError("a sender died; the log says why"))

    def _drain(self, sender: Sender) -> None:
        """Work until nothing is left to claim."""
        worked = False
        try:
            worked = self._probe_if_due(sender)
            while self._may_claim():
                work = sender.work_claim()
                worked |= self._probe_if_due(sender)  # what is paused must not wait for the end of what is not
                if work is None and self._await_permit(sender):
                    continue
                if work is None or not self._note(sender, work):
                    break
                worked = True
                if not work.due:
                    break
        except DBAPIError as error:
            self._note_failure(sender, error)
        except MailroomError as error:
            self._fail(error)
        if worked:
            self._wakeups.put(WORKED)

    def _note(self, sender: Sender, work: Work) -> bool:
        """Take note of what a claim came to; whether there was anything to claim."""
        self._outage.works(sender)
        if work.taken + work.busy == 0:
            self._shared.breaker.nothing_to_try()
            if self._came.is_set():  # what came waits for a batch to fill, perhaps: a look tells for how long
                self._wakeups.put(WAITS)
            return False
        return True

    def _probe_if_due(self, sender: Sender) -> bool:
        if not self._probeable.is_set():
            return False
        self._probeable.clear()
        return sender.prober.probe(self._shared.stopping.is_set)

    def _note_outage(self, what: Hashable, error: DBAPIError) -> None:
        """Leave the connections there are for new ones where one failure follows another, whatever it is called.

        A role's settings or rights may have been fixed since they were made, or the name led to another server then.
        """
        if self._outage.fails(what, error):
            renew_connections(self._engine)

    def _note_failure(self, sender: Sender, error: DBAPIError) -> None:
        self._note_outage(sender, error)
        if is_cut_off(error):
            self._claims.start_over()
        self._shared.stopping.wait(OUTAGE_WAIT.total_seconds())

    def _may_claim(self) -> bool:
        """Wait while the account is at fault; False once the worker stops."""
        while not self._shared.stopping.is_set():
            wait = self._shared.breaker.wait_to_try(time.monotonic())
            if not wait:
                return True
            self._shared.stopping.wait(wait.total_seconds())
        return False

    def _await_permit(self, sender: Sender) -> bool:
        """Wait a moment for a permit; False if there will be none for long, and looking again is enough."""
        self._shared.breaker.nothing_to_try()
        wait = sender.permit_wait()
        if wait > MAX_PERMIT_WAIT:
            return False
        self._shared.stopping.wait(min(wait, ASK_AGAIN).total_seconds())
        return True

    def _fail(self, error: MailroomError) -> None:
        self._failure = error
        self.stop()

    def _start_senders(self, count: int) -> None:
        """Hand out work tokens, never more than there are senders: each works until nothing is left."""
        for _ in range(min(count, len(self._senders) - self._work_tokens.qsize())):
            self._work_tokens.put(True)
