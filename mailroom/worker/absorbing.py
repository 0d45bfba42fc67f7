"""Takes what was received into the record: together where it can, one by one where one of it is at fault."""

import contextlib
import random
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Final

import psycopg
from sqlalchemy import Connection, Engine
from sqlalchemy import exc as sqlalchemy
from sqlalchemy.exc import DBAPIError

import mailroom
from mailroom.db.engine import first_line
from mailroom.errors import FeedError
from mailroom.event import Event
from mailroom.mail.event_source import EventSource, Received
from mailroom.queue.events import Absorbed
from mailroom.signals import Stop
from mailroom.worker.tally import Tally

Absorb = Callable[[Connection, Sequence[Event]], Absorbed]

# Between two attempts while the database is away. As soon as it is back, what waited is sent again, unless it is known
# by then that it is out.
FIRST_REST: Final = timedelta(milliseconds=500)
MAX_REST: Final = timedelta(seconds=2)
# Messages that are in hand for this long are hidden from others again: receiving them hid them for 30 s.
KEEP_EVERY: Final = timedelta(seconds=15)
# An event that is cut off this often, while the database takes others, is held up alone, and must not hold up those.
MAX_CUT_OFF: Final = 5
# How often it is noted that the queue is read, though it is empty.
NOTE_EVERY: Final = timedelta(minutes=1)
DATABASE: Final = "events wait for the database"
# Code that is ours: a folder elsewhere may have that name too, such as a checkout with its .venv in it.
_PACKAGE: Final = Path(mailroom.__file__).parent


class _InHand:
    """What one reader has received, and then what of it is on record."""

    def __init__(self, messages: Sequence[Received]) -> None:
        self.messages = messages
        self.recorded: Sequence[Received] | None = None


class Absorbing:
    """One statement at a time, for all readers: what comes meanwhile shares the next. Safe between threads.

    So it takes one connection of the pool, whatever is read. While the database is away it holds on to what is in hand,
    and to the readers with it: nothing more is received that would have to be given back.
    """

    def __init__(
        self,
        engine: Engine,
        source: EventSource,
        absorb: Absorb,
        *,
        tally: Tally,
        stopping: Stop,
        patient: bool,
    ) -> None:
        """Who is not `patient` gets DBAPIError while the database is away, and is to be the only reader."""
        self._engine = engine
        self._source = source
        self._absorb = absorb
        self._tally = tally
        self._stopping = stopping
        self._patient = patient
        self._guard = threading.Lock()
        self._turn = threading.Lock()
        self._waiting: list[_InHand] = []
        self._note_at = 0.0

    def absorb(self, messages: Sequence[Received]) -> Sequence[Received]:
        """Take messages that hold events into the record; return those that are committed, and may be deleted."""
        mine = _InHand(messages)
        with self._guard:
            self._waiting.append(mine)
        with self._turn:
            if mine.recorded is None:
                self._absorb_waiting()
        return mine.recorded or ()

    def note_reading(self) -> None:
        """Have it on record, now and then, that the queue is read, though no event came."""
        now = time.monotonic()
        if now < self._note_at or not self._turn.acquire(blocking=False):
            return
        self._note_at = now + NOTE_EVERY.total_seconds()
        try:
            with self._engine.connect() as connection:
                self._absorb(connection, [])
        except DBAPIError:
            self._note_at = 0.0  # whoever has something in hand says it
        finally:
            self._turn.release()

    def _absorb_waiting(self) -> None:
        with self._guard:
            group, self._waiting = self._waiting, []
        recorded = {id(each) for each in self._recorded([each for one in group for each in one.messages])}
        for one in group:
            one.recorded = [each for each in one.messages if id(each) in recorded]

    def _recorded(self, messages: Sequence[Received]) -> Sequence[Received]:
        """Absorb these, however long that takes; return those that are on record. None of them if it is to stop."""
        rest, kept_at, cut_off = FIRST_REST, time.monotonic(), 0
        while True:
            try:
                self._record(messages)
            except Exception as error:  # a bug of ours must stop neither the other events nor the mails
                cut_off += is_cut_off(error)
                tried = cut_off >= MAX_CUT_OFF or (cut_off > 0 and not self._patient)
                if not is_outage(error) or (cut_off and (len(messages) > 1 or (tried and self._takes_others()))):
                    return self._one_by_one(messages, error)
                if not self._patient:
                    raise
                self._note_outage(error)
            else:
                return messages
            if self._stopping.wait(rest.total_seconds() * (1 - random.random() / 2)):  # noqa: S311
                return ()
            rest = min(rest * 2, MAX_REST)
            if time.monotonic() - kept_at > KEEP_EVERY.total_seconds():
                kept_at = time.monotonic()
                self._keep(messages)

    def _record(self, messages: Sequence[Received]) -> None:
        events = [each.holds for each in messages if isinstance(each.holds, Event)]
        with self._engine.connect() as connection:
            absorbed = self._absorb(connection, events)
        self._tally.works(DATABASE)
        self._tally.absorbed(absorbed)
        self._tally.took(messages)

    def _takes_others(self) -> bool:
        """Whether the database takes what there is to write for any event, though not this one."""
        try:
            with self._engine.connect() as connection:
                self._absorb(connection, [])
        except (DBAPIError, sqlalchemy.TimeoutError):
            return False
        return True

    def _one_by_one(self, messages: Sequence[Received], error: Exception) -> Sequence[Received]:
        """Absorb what can be; who is at fault alone is left, and comes again until the queue puts it aside."""
        if len(messages) == 1:
            self._tally.left(messages[0], error, place(error))
            return ()
        return [done for each in messages for done in self._recorded([each])]

    def _note_outage(self, error: Exception) -> None:
        self._tally.trouble(DATABASE, first_line(error) if isinstance(error, DBAPIError) else type(error).__name__)

    def _keep(self, messages: Sequence[Received]) -> None:
        with self._guard:
            others = [each for one in self._waiting for each in one.messages]
        with contextlib.suppress(FeedError):  # they come again, then, and are absorbed twice
            self._source.keep([*messages, *others])


def is_outage(error: Exception) -> bool:
    """Whether the database is away, or lacks what anything would need: not the fault of what was to be absorbed."""
    if isinstance(error, DBAPIError):
        away = psycopg.OperationalError | psycopg.InterfaceError | psycopg.ProgrammingError | psycopg.NotSupportedError
        return isinstance(error.orig, away)
    return isinstance(error, sqlalchemy.TimeoutError)


def is_cut_off(error: Exception) -> bool:
    """Whether something was in the way for too long: of several events, one may be, and the others need not wait."""
    cut = psycopg.errors.QueryCanceled | psycopg.errors.LockNotAvailable | psycopg.errors.DeadlockDetected
    return isinstance(error, DBAPIError) and isinstance(error.orig, cut)


def place(error: Exception) -> str:
    """Return where a bug is. What it says may quote what it stumbled over, which is nobody's business."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if Path(frame.filename).is_relative_to(_PACKAGE)]
    last = (ours or frames)[-1]
    return f"{Path(last.filename).name}:{last.lineno}"
