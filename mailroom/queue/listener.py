"""LISTEN on a connection of its own: a hint that comes sooner than the sweep. Nothing depends on it."""

import logging
import threading
import time
import uuid
from collections.abc import Callable
from datetime import timedelta
from typing import Final

import psycopg
from psycopg import sql

from mailroom.db.engine import BoundedConnection, connect

log = logging.getLogger(__name__)

DEFAULT_CHANNEL: Final = "token_insert"
# What is notified of a job: its priority.
URGENT: Final = "0"
NORMAL: Final = "1"
PING: Final = "ping "
# A ping that takes longer than this, or than the health-check interval, has been lost.
PING_PATIENCE: Final = timedelta(seconds=5)
FIRST_WAIT: Final = timedelta(seconds=1)
MAX_WAIT: Final = timedelta(seconds=60)
# How soon the thread notices that it is to stop, or that a ping is lost.
STEP: Final = timedelta(seconds=0.5)


def hears_itself(conninfo: str, channel: str, ping: Callable[[str, str], object]) -> str | None:
    """Listen, send a notification with `ping`, and wait for it; return what was wrong, or None."""
    payload = PING + uuid.uuid4().hex
    try:
        with connect(conninfo, answer_within=PING_PATIENCE) as connection:
            connection.execute(sql.SQL("LISTEN {}").format(sql.Identifier(channel)))
            ping(channel, payload)
            deadline = time.monotonic() + PING_PATIENCE.total_seconds()
            while (left := deadline - time.monotonic()) > 0:
                # Taken to its end each time: a generator that is left half way keeps the connection locked.
                heard = [notification.payload for notification in connection.notifies(timeout=left, stop_after=1)]
                if payload in heard:
                    return None
    except psycopg.Error as error:
        return " ".join(str(error).split()) or type(error).__name__
    return "a notification to oneself does not arrive (a pooler without LISTEN?)"


class Listener:
    """Keeps a LISTEN connection, and proves that it lives.

    The proof is a notification sent to oneself over another connection: a half-open TCP connection and a pooler that
    forgets LISTEN look perfectly healthy from within. While there is no proof, the sweep does the work.
    `is_listening`: there is proof.
    """

    def __init__(
        self,
        conninfo: str,
        channel: str,
        *,
        healthcheck_interval: timedelta,
        woken: Callable[[str], None],
        ping: Callable[[str, str], bool],
    ) -> None:
        """`woken` is called with each payload, and with an empty one whenever something may have been missed.

        `ping` sends a notification, of channel and payload; False if it could not: that proves nothing either way.
        """
        self._conninfo = conninfo
        self._channel = channel
        self._healthcheck_interval = healthcheck_interval.total_seconds()
        self._patience = min(PING_PATIENCE, healthcheck_interval).total_seconds()
        self._woken = woken
        self._ping = ping
        self._stopping = threading.Event()
        self._name = uuid.uuid4().hex
        self._failures = 0
        self.is_listening = False

    def run(self) -> None:
        """Listen until stopped; connect again whenever the connection is lost or proves dead."""
        while not self._stopping.is_set():
            try:
                reason = self._listen()
            finally:  # whatever ends it, nobody is to take it for one that hears
                self.is_listening = False
            if not self._stopping.is_set():
                self._lost(reason)

    def stop(self) -> None:
        """Make `run` return within STEP."""
        self._stopping.set()

    def _lost(self, reason: str) -> None:
        if self._failures == 0:
            log.warning("listen lost, sweeping meanwhile: %s", reason)
        wait = min(FIRST_WAIT * 2.0 ** min(self._failures, 16), MAX_WAIT)
        self._failures += 1
        self._stopping.wait(wait.total_seconds())

    def _listen(self) -> str:
        """Hold one connection for as long as it is good; return why it is not any more."""
        try:
            with connect(self._conninfo, answer_within=PING_PATIENCE) as connection:
                connection.execute(sql.SQL("LISTEN {}").format(sql.Identifier(self._channel)))
                self._woken("")
                return self._hear(connection)
        except psycopg.Error as error:
            return " ".join(str(error).split()) or type(error).__name__

    def _hear(self, connection: BoundedConnection) -> str:
        proven_at = asked_at = None
        while not self._stopping.is_set():
            now = time.monotonic()
            if asked_at is not None and now - asked_at > self._patience:
                return "a notification to oneself did not arrive (half-open connection, or a pooler without LISTEN?)"
            if asked_at is None and (proven_at is None or now - proven_at >= self._healthcheck_interval):
                asked_at = now if self._ping(self._channel, PING + self._name) else None
            for notification in connection.notifies(timeout=STEP.total_seconds(), stop_after=1):
                proven_at, asked_at = time.monotonic(), None
                self._proven()
                if not notification.payload.startswith(PING):
                    self._woken(notification.payload)
        return "stopped"

    def _proven(self) -> None:
        self.is_listening = True
        if self._failures > 0:
            log.info("listen restored")
        self._failures = 0
