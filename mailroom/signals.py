"""The signals that ask a process to stop: heard from its first moment, answered by whoever works at the time."""

import atexit
import os
import signal
import time
from _thread import allocate_lock
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

# Without `typing`, which would cost a third of the time until they are heard.
STOPS = (
    *(signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT),
    # These ask other programs for other things, as to reopen their log. They would kill this one, perhaps in a call.
    *(signal.SIGUSR1, signal.SIGUSR2),
)
# A terminal that closes says so twice, the kernel and then the shell: that is one hang-up.
HANGUP_SECONDS = 1.0
# Whoever passes a signal on to a process, and then to the group that it is in, says so twice (timeout): that is one.
ECHO_SECONDS = 0.1

Answer = Callable[[], None]


class Stop:
    """A flag that any thread waits for, and that a signal handler may set at any moment.

    An Event has a lock, and whoever begins to wait holds it for a moment. A handler in the same thread would then wait
    for that lock for ever.
    """

    def __init__(self) -> None:
        self._is_set = False
        self._gate = allocate_lock()
        self._gate.acquire()

    def is_set(self) -> bool:
        return self._is_set

    def set(self) -> None:
        self._is_set = True
        self._open()

    def wait(self, seconds: float | None = None) -> bool:
        """Wait until it is set, so long at most; return whether it is."""
        if not self._is_set and self._gate.acquire(timeout=-1 if seconds is None else max(0.0, seconds)):
            self._open()
        return self._is_set

    def _open(self) -> None:
        """Let one pass, who lets the next one pass."""
        with suppress(RuntimeError):  # it is open
            self._gate.release()


class _Hearing:
    """What this process has heard, and who answers."""

    asked_at: float | None = None
    number: int | None = None
    answer: Answer | None = None


def listen() -> None:
    """Hear the signals from now on: the first is answered, the second ends the process at once, with 1.

    PID 1 of a container has no default action for them: they would be lost. Whoever started us may have blocked them,
    so that none is lost before this line; it comes now. A SIGHUP that is ignored (nohup) stays so. Main thread only.
    """
    for number in STOPS:
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, _hear)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPS)
    atexit.register(_ignore)


def asked() -> bool:
    """Whether the process has been asked to stop."""
    return _Hearing.asked_at is not None


@contextmanager
def answered_by(answer: Answer) -> Iterator[None]:
    """Have the first signal answered by `answer`, called between any two steps of the main thread.

    If it came before, `answer` is called at once; it may be called more than once.
    """
    before, _Hearing.answer = _Hearing.answer, answer
    try:
        if asked():
            answer()
        yield
    finally:
        _Hearing.answer = before


def _ignore() -> None:
    """Let nothing change any more how the process ends: all is done, and Python is about to take its handlers away."""
    for number in STOPS:
        signal.signal(number, signal.SIG_IGN)


def _hear(number: int, frame: FrameType | None) -> None:
    now = time.monotonic()
    if _Hearing.asked_at is None:
        _Hearing.asked_at, _Hearing.number = now, number
        if _Hearing.answer is not None:
            _Hearing.answer()
    elif now - _Hearing.asked_at > _same_for(number):
        os._exit(1)


def _same_for(number: int) -> float:
    """For how many seconds after the first signal this one is no second."""
    if number == signal.SIGHUP:
        return HANGUP_SECONDS
    return ECHO_SECONDS if number == _Hearing.number else 0.0
