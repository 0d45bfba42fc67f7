"""Tells systemd how the process is: ready, what it does, that it is not stuck, stopping. One datagram each."""

import contextlib
import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Final

from mailroom.worker.vitals import Vitals

log = logging.getLogger(__name__)

STATUS_EVERY: Final = timedelta(minutes=1)
# How often it is looked whether there is something to tell.
STEP: Final = timedelta(seconds=0.5)


def notify(address: str, state: str) -> str:
    """Send one state to the socket of NOTIFY_SOCKET, a path or @ and an abstract name; return what prevented it."""
    where = "\0" + address[1:] if address.startswith("@") else address
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as datagrams:
            datagrams.setblocking(False)
            datagrams.sendto(state.encode(), where)
    except OSError as error:
        return error.strerror or type(error).__name__
    return ""


class Supervised:
    """What is told, when it is time for it. `is_live` says whether the process is stuck.

    What cannot be told is told at the next step: a queue may be full for a moment, or systemd start itself again. If
    READY or a sign of life were lost, systemd would kill the process.
    """

    def __init__(
        self, tell: Callable[[str], str], vitals: Vitals, is_live: Callable[[], bool], *, watchdog: timedelta | None
    ) -> None:
        """`tell` returns what prevented it. `watchdog`: within which time systemd wants to hear; None: it does not."""
        self._tell = tell
        self._vitals = vitals
        self._is_live = is_live
        self._beat = None if watchdog is None else watchdog.total_seconds() / 2
        self._trouble = ""
        self._said_ready = self._said_stopping = False
        self._status_at = self._beat_at = float("-inf")

    def step(self, now: float) -> None:
        """Tell what is due at `now`, in monotonic seconds. A process that is stuck says nothing, and is restarted."""
        vitals = self._vitals
        if vitals.is_started and not self._said_ready:
            self._said_ready = self._say("READY=1")
        if vitals.is_stopping and not self._said_stopping:
            self._said_stopping = self._say("STOPPING=1")
        if now - self._status_at >= STATUS_EVERY.total_seconds() and vitals.is_started:
            self._status_at = now
            self._say(f"STATUS={self._status()}")
        if self._beat is not None and now - self._beat_at >= self._beat and self._is_live():
            self._beat_at = now if self._say("WATCHDOG=1") else self._beat_at

    def _say(self, state: str) -> bool:
        """Tell it, and say once that it cannot be told; whether it was."""
        trouble = self._tell(state)
        if trouble and trouble != self._trouble:
            log.warning("systemd not told state=%s: %s", state.partition("=")[0], trouble)
        self._trouble = trouble
        return not trouble

    def _status(self) -> str:
        vitals = self._vitals
        heard = vitals.is_listening
        words = [
            f"{vitals.busy} of {vitals.senders} senders busy",
            *([] if heard is None else ["listening" if heard() else "not listening"]),
            *(["backing off"] if vitals.backs_off() else []),
            *(["stopping"] if vitals.is_stopping else []),
        ]
        return ", ".join(words)


@contextlib.contextmanager
def supervised(
    address: str, vitals: Vitals, is_live: Callable[[], bool], *, watchdog: timedelta | None
) -> Iterator[None]:
    """Keep systemd told for as long as the block lasts, from a thread of its own, which speaks for the others."""
    over = threading.Event()
    told = Supervised(lambda state: notify(address, state), vitals, is_live, watchdog=watchdog)

    def keep_telling() -> None:
        while not over.wait(STEP.total_seconds()):
            told.step(time.monotonic())

    thread = threading.Thread(target=keep_telling, name="systemd", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        told.step(time.monotonic())
