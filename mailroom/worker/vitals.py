"""What a process knows of its own state, kept in memory: when each of its threads last began a step, and more."""

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

# A sender that was refused asks again sooner than that, unless there is nothing that it may send.
ASKED_WITHIN: Final = timedelta(minutes=1)
# What watched threads do.
LOOK: Final = "look"
SENDER: Final = "sender"


def host_name() -> str:
    """Return the name of this host, as text that can be written: it may be any bytes."""
    return socket.gethostname().encode(errors="replace").decode()


def process_name() -> str:
    """Return the host and the id of this process."""
    return f"{host_name()}/{os.getpid()}"


@dataclass(slots=True)
class _Thread:
    """What a thread is called, and when its step began; None: it has nothing to do, or waits for another thread."""

    name: str
    since: float | None


class Vitals:
    """Written by the threads that work, read by whoever watches the process. Safe to share between threads.

    A step begins with whatever may hang: a connection, a statement, a call, a wait; and lasts until the next. A thread
    that waits for another one rests: the other is watched.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """`clock` tells monotonic seconds."""
        self._clock = clock
        self._threads: dict[int, _Thread] = {}
        self._reached_at: float | None = None
        # When the database first and last refused what a sender asks of it, with nothing done between.
        self._refused: tuple[float, float] | None = None
        self.is_started = self.is_stopping = False
        self.died = 0
        self.looked_at = 0.0
        # What only others know, once they are there; None: the process does not listen.
        self.is_listening: Callable[[], bool] | None = None
        self.backs_off: Callable[[], bool] = lambda: False
        self.rescued: Callable[[], int] = lambda: 0
        self.reconciled: Callable[[], int] = lambda: 0

    # What a thread says of itself

    @contextmanager
    def watched(self, name: str) -> Iterator[None]:
        """Watch the current thread for as long as the block lasts; one that ends with an error has died."""
        key = threading.get_ident()
        self._threads[key] = _Thread(name, self._clock())
        try:
            yield
        except BaseException:
            self.died += 1
            raise
        finally:
            del self._threads[key]

    def beat(self) -> None:
        """Take note that the current thread begins a step, if it is one that is watched."""
        thread = self._threads.get(threading.get_ident())
        if thread is not None:
            thread.since = self._clock()

    def rest(self) -> None:
        """Take note that the current thread waits to be given something to do, or for another thread."""
        thread = self._threads.get(threading.get_ident())
        if thread is not None:
            thread.since = None

    # What is said of the process

    def came_round(self) -> None:
        """Take note that the thread that looks for work has come round: it begins another look."""
        self.looked_at = time.time()
        self.beat()

    def reached(self) -> None:
        """Take note that the database has answered a look."""
        self._reached_at = self._clock()

    def served(self) -> None:
        """Take note that the database has done what a sender asked of it."""
        self._refused = None

    def refused(self) -> None:
        """Take note that the database has not done what a sender asked of it."""
        now = self._clock()
        self._refused = (now if self._refused is None else self._refused[0], now)

    # What others ask

    @property
    def unreached_seconds(self) -> float | None:
        """How long the database has not answered a look; None: it never has."""
        return None if self._reached_at is None else self._clock() - self._reached_at

    @property
    def refused_seconds(self) -> float:
        """For how long the database has done nothing that senders ask; 0 where it was not asked lately."""
        first, last = self._refused or (0.0, 0.0)
        return last - first if self._clock() - last <= ASKED_WITHIN.total_seconds() else 0.0

    def step_seconds(self, *, looks: bool) -> float:
        """How long the longest step of the thread that looks, or else of the senders, has taken so far."""
        now = self._clock()
        begun = [one.since for one in self._of(looks=looks) if one.since is not None]
        return max((now - since for since in begun), default=0.0)

    @property
    def senders(self) -> int:
        """How many senders there are."""
        return len(self._of(looks=False))

    @property
    def busy(self) -> int:
        """How many senders have something to do."""
        return sum(one.since is not None for one in self._of(looks=False))

    def _of(self, *, looks: bool) -> list[_Thread]:
        return [one for one in tuple(self._threads.values()) if (one.name == LOOK) is looks]
