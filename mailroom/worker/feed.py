"""Takes the provider's events into the record, beside the senders and never in their way."""

import contextlib
import queue as mailbox
import random
import threading
import time
from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import Final

from sqlalchemy import Engine

from mailroom.errors import FeedError
from mailroom.event import Event, Ignored, Unreadable
from mailroom.mail.event_source import MAX_WAIT, EventSource, Received
from mailroom.queue import events
from mailroom.signals import Stop
from mailroom.worker.absorbing import Absorb, Absorbing, place
from mailroom.worker.tally import Seen, Tally

# Each takes a few hundred events a second. All but the first rest until one finds as many as it can take at once.
READERS: Final = 4
# How long a reader that helps waits for more, and one that is to find out whether the queue is empty.
HELPER_WAIT: Final = timedelta(seconds=1)
DRAIN_WAIT: Final = timedelta(seconds=2)
# Between two attempts to read what cannot be read, half of it by chance. What cut off the queue has often cut off the
# answers to mails, too: it must be read again well before they are sent again, which is after 60 s.
FIRST_REST: Final = timedelta(seconds=1)
MAX_REST: Final = timedelta(seconds=15)
# Messages that are remembered to have stayed in the queue: SQS has no more than 120,000 in hands at a time.
MAX_STAYED: Final = 20_000
# How long a stop waits for what is in hand to be absorbed. What is not would come again.
MAX_STOP: Final = timedelta(seconds=10)
READ: Final = "events cannot be read"
DELETE: Final = "events cannot be deleted, and come again"


class Feed:
    """Reads events and absorbs them, until it is stopped. It needs one connection of the engine's pool.

    What keeps it from that is said once, and tried again while it is `patient`; else it is raised.
    """

    def __init__(
        self, engine: Engine, source: EventSource, *, absorb: Absorb = events.absorb, patient: bool = True
    ) -> None:
        self._source = source
        self._patient = patient
        self._stopping = Stop()
        self._tally = Tally()
        self._absorbing = Absorbing(engine, source, absorb, tally=self._tally, stopping=self._stopping, patient=patient)
        self._hands = threading.Semaphore(READERS)
        self._calls_for_help: mailbox.SimpleQueue[bool] = mailbox.SimpleQueue()
        self._rest = self._vain_rest = FIRST_REST
        self._stayed = Seen(MAX_STAYED)
        self._is_over = False

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Read in threads of its own until the end of the block, which waits for no event that has not come."""
        reads = [self._keep_reading] + [self._keep_helping] * (READERS - 1)
        for read in reads:
            threading.Thread(target=read, name="feed", daemon=True).start()
        try:
            yield
        finally:
            self.stop()
            self._finish()

    def stop(self) -> None:
        """Receive nothing more. May be called from any thread and from a signal handler, and more than once."""
        self._stopping.set()
        for _ in range(READERS - 1):
            self._calls_for_help.put(False)

    def drain(self, *, max_time: timedelta) -> int:
        """Read until the queue is empty or gives only what stays in it, the time is up or it is stopped.

        Return how many events stay in it since they could not be absorbed. Raises FeedError or DBAPIError if it is not
        `patient`.
        """
        ends = time.monotonic() + max_time.total_seconds()
        try:
            while (left := ends - time.monotonic()) > 0 and self._read(min(DRAIN_WAIT, timedelta(seconds=left))):
                self._tally.tell()
        finally:
            self._tally.tell(at_once=True)
        return self._tally.kept_out()

    def _keep_reading(self) -> None:
        while not self._stopping.is_set():
            self._read_or_rest(MAX_WAIT)
            self._tally.tell()

    def _keep_helping(self) -> None:
        """Read whenever there is more than one can take, until nothing new comes any more."""
        while self._calls_for_help.get():
            while self._read_or_rest(HELPER_WAIT):
                pass

    def _read_or_rest(self, wait: timedelta) -> bool:
        """Read, whatever comes of it: a bug of ours must not end the feed for good."""
        try:
            return self._read(wait)
        except Exception as error:
            self._fails(READ, FeedError(f"{type(error).__name__} at {place(error)}"))
            return False

    def _read(self, wait: timedelta) -> bool:
        """Receive once, and absorb what came; return whether there may be more that has not been seen."""
        if self._stopping.is_set():
            return False
        asked_at = time.monotonic()
        try:
            messages = self._source.receive(wait=wait)
        except FeedError as error:
            self._fails(READ, error)
            return False
        self._works(READ)
        if not any(isinstance(each.holds, Event) for each in messages):
            self._absorbing.note_reading()
        if not messages:
            self._rest_if_hurried(time.monotonic() - asked_at)
            self._vain_rest = FIRST_REST
            return False
        if len(messages) == self._source.most and self._calls_for_help.empty():
            self._calls_for_help.put(True)
        with self._hands:
            of_use = not self._is_over and self._take(messages)  # else the process may end before it is done
        self._rest_if_vain(of_use)
        return of_use

    def _take(self, messages: Sequence[Received]) -> bool:
        """Absorb what is an event, and then delete what need not come again; return whether that was of any use.

        It was not where nothing is gone of what came, and all of it had stayed before.
        """
        self._tally.received(len(messages))
        events = [each for each in messages if isinstance(each.holds, Event)]
        gone = list(self._absorbing.absorb(events)) if events else []
        for each in messages:
            if isinstance(each.holds, Ignored):
                self._tally.ignored(each.holds)
                gone.append(each)
            elif isinstance(each.holds, Unreadable):
                self._tally.unreadable(each)
        if gone and self._delete(gone):
            return True
        new = [each for each in messages if self._stayed.is_new(each.id)]
        return bool(new)

    def _delete(self, messages: Sequence[Received]) -> bool:
        """Delete messages; return whether any is gone."""
        try:
            left = self._source.remove(messages)
        except FeedError as error:
            self._fails(DELETE, error)
            return False
        if left == 0:
            self._works(DELETE)
        else:
            self._tally.trouble(DELETE, "SQS refuses some of them")
        return left < len(messages)

    def _fails(self, what: str, error: FeedError) -> None:
        """Say it once, and rest for a while: longer each time."""
        if not self._patient:
            raise error
        self._tally.trouble(what, str(error))
        rest = self._rest.total_seconds() * (1 - random.random() / 2)  # noqa: S311 - so that a fleet comes back bit by bit
        self._rest = min(self._rest * 2, MAX_REST)
        self._stopping.wait(rest)

    def _rest_if_hurried(self, waited: float) -> None:
        """Ask nobody again at once who says at once that there is nothing: it is not SQS."""
        if waited < HELPER_WAIT.total_seconds() / 2:
            self._stopping.wait(FIRST_REST.total_seconds())

    def _rest_if_vain(self, of_use: bool) -> None:
        """Ask after a while only for what stays and may come again at once: longer each time."""
        if of_use:
            self._vain_rest = FIRST_REST
            return
        rest, self._vain_rest = self._vain_rest, min(self._vain_rest * 2, MAX_WAIT)
        if self._patient:
            self._stopping.wait(rest.total_seconds())

    def _works(self, what: str) -> None:
        self._tally.works(what)
        if what == READ:
            self._rest = FIRST_REST

    def _finish(self) -> None:
        """Wait for what is in hand, and keep from being begun what is not."""
        ends = time.monotonic() + MAX_STOP.total_seconds()
        taken = sum(self._hands.acquire(timeout=max(0.0, ends - time.monotonic())) for _ in range(READERS))
        self._is_over = True
        self._hands.release(taken)
        self._tally.tell(at_once=True)
