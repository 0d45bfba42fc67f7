"""What a process tells the fleet every 15 seconds: that it lives. And what one of them counts for all, in turn."""

import logging
import secrets
from collections.abc import Callable, Sequence
from datetime import timedelta
from math import inf
from typing import Any, Final

from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError

from mailroom.db import functions
from mailroom.db.bounded import SOON, bounded
from mailroom.db.engine import first_line
from mailroom.ops.refresh import count_if_due, count_with_report
from mailroom.queue.listener import Listener
from mailroom.worker.probes import REPORT_EVERY
from mailroom.worker.sender import Sender
from mailroom.worker.telemetry import installed_version
from mailroom.worker.vitals import host_name, process_name

log = logging.getLogger(__name__)

FORGET_AFTER: Final = timedelta(days=1)
# How long a report waits for a sweep: coming round for a report alone would cost another look.
MAX_LATE: Final = timedelta(seconds=1)


def tell_of_sweep(engine: Engine, *, queue: str) -> str:
    """Tell the fleet that a sweep has just ended, and count for all, if that is due; return what kept it from counting.

    It is there as a process without senders: one row for all that cron starts on this host. Raises DBAPIError.
    """
    about = {"name": f"{host_name()}/sweep/{queue}", "queue": queue, "version": installed_version()}
    nothing = {"senders": 0, "busy": 0, "listening": None, "feeding": False, "forget_after": FORGET_AFTER}
    with engine.connect() as connection, bounded(connection, SOON):
        functions.call(connection, "worker_seen", about | nothing)
    failures: list[str] = []
    count_if_due(engine, fails=failures.append)
    return "".join(failures)


class Report:
    """Tells the fleet that this process lives, and counts for the fleet when that is due.

    The thread that looks for work does so: if that hangs, the process is not seen any more. For the same reason no
    report takes long.

    `listener` and `feeding` are what is told of it besides its senders: None is a process that does not listen, and
    `feeding` one that reads the events of the provider.
    """

    def __init__(self, engine: Engine, senders: Sequence[Sender], *, queue: str) -> None:
        self.name = f"{process_name()}/{secrets.token_hex(4)}"  # of a process id and a host there may be two, in time
        self.listener: Listener | None = None
        self.feeding = False
        self._engine = engine
        self._senders = senders
        self._about: dict[str, Any] = {"name": self.name, "queue": queue, "version": installed_version()}
        self._about |= {"senders": len(senders)}
        self._troubles: dict[str, str] = {}
        self._seen = False
        self._due_at = float("-inf")

    def step(self, now: float, *, sweep_at: float = inf) -> float:
        """Report if it is due at `now`, in monotonic seconds; return when it is due again.

        It waits a moment for a sweep that comes at `sweep_at` anyway. What the database refuses is logged once.
        """
        if now >= self._due_at:
            self._due_at = now + REPORT_EVERY.total_seconds()
            if any(self._troubles.values()) or not self._report_and_count():
                self._try("the report of this worker", self._report)
                self._try("the count for the fleet", self._count)
        return sweep_at if 0 <= sweep_at - self._due_at < MAX_LATE.total_seconds() else self._due_at

    def leave(self, *, reachable: bool = True) -> None:
        """Say that the process has stopped. Where that cannot be said, it will be forgotten."""
        if not self._seen or not reachable:
            return
        try:
            with self._engine.connect() as connection, bounded(connection, SOON):
                functions.call(connection, "worker_left", {"name": self.name})
        except DBAPIError as error:
            log.info("that this worker has stopped is not on record: %s", first_line(error))

    def _report_and_count(self) -> bool:
        """Do both in one statement; False where that fails: apart, each can tell what is wrong with it."""
        try:
            count_with_report(self._engine, self._now())
        except DBAPIError:
            return False
        self._seen = True
        return True

    def _report(self) -> str:
        with self._engine.connect() as connection, bounded(connection, SOON):
            functions.call(connection, "worker_seen", self._now())
        self._seen = True
        return ""

    def _now(self) -> dict[str, Any]:
        return self._about | {
            "busy": sum(sender.is_busy for sender in self._senders),
            "listening": None if self.listener is None else self.listener.is_listening,
            "feeding": self.feeding,
            "forget_after": FORGET_AFTER,
        }

    def _count(self) -> str | None:
        failures: list[str] = []
        taken = count_if_due(self._engine, fails=failures.append)
        return failures[0] if failures else "" if taken else None

    def _try(self, what: str, act: Callable[[], str | None]) -> None:
        """Do it; it returns what was wrong. None: it was not its turn, and nothing is known."""
        try:
            trouble = act()
        except DBAPIError as error:
            trouble = first_line(error)
        if trouble is None:
            return
        if trouble and trouble != self._troubles.get(what):
            log.warning("%s failed, trying again: %s", what, trouble)
        self._troubles[what] = trouble
