"""What keeps the queue true and small besides mailing: tokens that have no place, history that is old, warnings."""

import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Final

from sqlalchemy import Connection, Engine, func, select
from sqlalchemy.exc import DBAPIError

from mailroom.db import functions, preflight
from mailroom.db.engine import first_line
from mailroom.db.step_size import StepSize
from mailroom.db.views import attempts
from mailroom.ops import feedback, health, reputation
from mailroom.queue import feed
from mailroom.queue.feed import MAX_TAKEN_BACK, FeedState, ResendWait
from mailroom.queue.late_acceptances import MAX_LOOKED_AT, LateAcceptances

log = logging.getLogger(__name__)

# Rows looked at by one statement: a few hundredths of a second.
SCAN_LIMIT: Final = 5_000
# What nobody asked for goes no further back: that a week-old activation is still wanted is for a person to say.
HORIZON: Final = timedelta(days=7)
MINUTE: Final = timedelta(minutes=1)
# After this time a step leaves the rest to the next one: its thread looks for work, too.
MAX_STEP: Final = timedelta(seconds=1)
# How long held and failed jobs are looked at in each minute; the next minute goes on.
MAX_LATE: Final = timedelta(seconds=0.5)
LATE: Final = "late acceptances"
TAKE_BACK: Final = "taking back what never went out"
# Between two steps of a prune, and between two prunes.
PRUNE_STEP: Final = timedelta(seconds=5)
PRUNE_INTERVAL: Final = timedelta(hours=1)
# SQLSTATEs of what each statement would meet: no connection, no lock, no right, no room, no such function, no time.
_OF_ALL: Final = ("08", "0A", "25", "3F", "40", "42", "53", "55", "57", "58", "XX")
# Below it the limits that count the mails of a day, and the status, would lose what they count.
MIN_HISTORY: Final = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Reconciled:
    """The tokens that were enqueued, and below which id to go on; None: that was all."""

    enqueued: tuple[int, ...]
    below: int | None


@dataclass(frozen=True, slots=True)
class Pruned:
    """How many rows were deleted, and after which delivery to go on; None: that was all."""

    deliveries: int
    tokens: int
    after: int | None


def reconcile(
    engine: Engine,
    *,
    queue: str,
    below: int | None = None,
    horizon: timedelta | None = HORIZON,
    scan_limit: int = SCAN_LIMIT,
) -> Reconciled:
    """Enqueue those of `scan_limit` tokens, the newest first, in no place, unless they are older than `horizon`.

    Raises DBAPIError if another one is at work for too long.
    """
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        row = functions.call(
            connection, "reconcile", {"queue": queue, "below": below, "horizon": horizon, "scan_limit": scan_limit}
        ).one()
    return Reconciled(tuple(row.enqueued), row.next_below)


def reconcile_all(engine: Engine, *, queue: str) -> Iterator[Reconciled]:
    """Look at every token there is, whatever its age, a step at a time."""
    found, step_size = Reconciled((), None), StepSize(SCAN_LIMIT)
    while True:
        found = step_size.take(partial(_reconcile, engine, queue, found.below, None))
        yield found
        if found.below is None:
            return


def reconcile_newest(engine: Engine, *, queue: str) -> Reconciled:
    """Look at as many of the newest tokens as the database does in one statement, at most SCAN_LIMIT."""
    return StepSize(SCAN_LIMIT).take(partial(_reconcile, engine, queue, None, HORIZON))


def _reconcile(engine: Engine, queue: str, below: int | None, horizon: timedelta | None, scan_limit: int) -> Reconciled:
    return reconcile(engine, queue=queue, below=below, horizon=horizon, scan_limit=scan_limit)


def prune(connection: Connection, *, older_than: timedelta, after: int = 0, scan_limit: int = SCAN_LIMIT) -> Pruned:
    """Forget those tokens of `scan_limit` deliveries, the oldest first, finished longer than `older_than` ago.

    `older_than` is at least a day: the status, and limits that count the mails of a day, would lose what they count.
    """
    row = functions.call(
        connection, "prune", {"older_than": older_than, "after": after, "scan_limit": scan_limit}
    ).one()
    return Pruned(row.deliveries, row.tokens, row.after_id)


def prune_all(engine: Engine, *, older_than: timedelta) -> Iterator[Pruned]:
    """Forget everything finished for longer than that, a step and a commit at a time. DBAPIError of what may not go is
    raised in the end."""
    step_size, refused = StepSize(SCAN_LIMIT), None
    after: int | None = 0
    while after is not None:
        try:
            pruned = step_size.take(partial(_prune, engine, older_than, after))
        except DBAPIError as error:
            if not _is_refused(error):
                raise
            refused = refused or error
            after = _beyond(engine, after, step_size.size)
        else:
            yield pruned
            after = pruned.after
    if refused is not None:
        raise refused


def _prune(engine: Engine, older_than: timedelta, after: int, scan_limit: int) -> Pruned:
    with engine.connect() as connection:
        return prune(connection, older_than=older_than, after=after, scan_limit=scan_limit)


def _beyond(engine: Engine, after: int, scan_limit: int) -> int | None:
    """Return after which delivery to go on behind a step of which nothing may go; None: nothing is there."""
    looked = select(attempts.c.id).where(attempts.c.id > after).order_by(attempts.c.id).limit(scan_limit).subquery()
    with engine.connect() as connection:
        last: int | None = connection.scalar(select(func.max(looked.c.id)))
    return last


def _is_refused(error: DBAPIError) -> bool:
    """Whether it is for these rows' sake, as a constraint or a trigger has it, that nothing comes of a statement."""
    sqlstate = getattr(error.orig, "sqlstate", None)
    return sqlstate is not None and not sqlstate.startswith(_OF_ALL)


def log_reconciled(found: Reconciled) -> None:
    """Say that mails were about to be forgotten: somebody should know why."""
    if found.enqueued:
        log.warning("reconciled tokens=%d first=%d", len(found.enqueued), found.enqueued[0])


class Maintenance:
    """What a worker does of it, a bounded step at a time, so that looking for work is never held up for long."""

    def __init__(
        self,
        engine: Engine,
        *,
        queue: str,
        prune_after: timedelta | None,
        scan_limit: int = SCAN_LIMIT,
        resend: ResendWait | None = None,
    ) -> None:
        """`prune_after`: how old history may get; None: it is kept. `scan_limit`: rows looked at by one statement.

        `resend` is to know whether events are heard.
        """
        self._engine = engine
        self._queue = queue
        self._prune_after = prune_after
        self._resend = resend
        self._scan_limits = {
            "reconcile": StepSize(scan_limit),
            "prune": StepSize(scan_limit),
            LATE: StepSize(MAX_LOOKED_AT),
            TAKE_BACK: StepSize(MAX_TAKEN_BACK),
        }
        self._minute_at = self._prune_at = float("-inf")
        self._due: list[tuple[str, Callable[[], None]]] = []  # what is left of a minute
        self._walk: int | None = None
        self._late = LateAcceptances()
        self._pruned: int | None = None  # after which delivery the prune goes on; None: it begins
        self._heard: FeedState | None = None
        self._warnings: dict[str, dict[str, str]] = {}
        self._failures: set[str] = set()
        self.reconciled = 0  # tokens that it has enqueued

    def step(self, now: float) -> None:
        """Do what is due at `now`, in monotonic seconds, or some of it: where somebody has locked a table, each waits.

        What the database refuses is logged once, and tried again with less.
        """
        if now >= self._minute_at and not self._due:
            self._minute_at = now + MINUTE.total_seconds()
            self._due = self._each_minute()
        ends = time.monotonic() + MAX_STEP.total_seconds()
        while self._due and time.monotonic() < ends:
            self._try(*self._due.pop(0))
        if self._prune_after is not None and now >= self._prune_at and not self._due:
            before = self._pruned
            done = self._try("prune", partial(self._prune, self._prune_after)) or self._pruned != before
            goes_on = done and self._pruned is not None  # also behind what may not go
            self._prune_at = now + (PRUNE_STEP if goes_on else PRUNE_INTERVAL).total_seconds()

    @property
    def owes(self) -> bool:
        """Whether something of the last step waits for the next."""
        return bool(self._due)

    def _each_minute(self) -> list[tuple[str, Callable[[], None]]]:
        return [
            ("the look at the settings", partial(preflight.leave_unsafe, self._engine)),
            ("reconcile", self._reconcile),
            (TAKE_BACK, self._take_back),
            (LATE, self._apply_late),
            ("feed", self._hear),
            ("the review of the rates", self._review),
            ("health", partial(self._warn, "health", lambda found: health.warnings(health.read_what_can_be(found)))),
            ("feedback", partial(self._warn, "feedback", self._feedback_warnings)),
        ]

    def _reconcile(self) -> None:
        """Look at the newest tokens, and then at some more, further back each time until the horizon is reached."""
        newest = self._reconcile_below(None)
        further = self._walk or newest
        self._walk = further and self._reconcile_below(further)

    def _reconcile_below(self, token: int | None) -> int | None:
        found = reconcile(self._engine, queue=self._queue, below=token, scan_limit=self._scan_limits["reconcile"].size)
        log_reconciled(found)
        self.reconciled += len(found.enqueued)
        return found.below

    def _apply_late(self) -> None:
        """Go on over what is held and what failed, for a moment, or until all has been looked at."""
        ends = time.monotonic() + MAX_LATE.total_seconds()
        with self._engine.connect() as connection:
            self._late.step(connection, most=self._scan_limits[LATE].size)
            while not self._late.has_ended and time.monotonic() < ends:
                self._late.step(connection, most=self._scan_limits[LATE].size)

    def _take_back(self) -> None:
        with self._engine.connect() as connection:
            feed.take_back(connection, queue=self._queue, most=self._scan_limits[TAKE_BACK].size)

    def _hear(self) -> None:
        """See whether SES is heard: for the mails that may be out, and for the warnings of the same minute."""
        self._heard = None
        with self._engine.connect() as connection:
            self._heard = feed.state(connection)
        if self._resend is not None:
            self._resend.learn(self._heard)

    def _feedback_warnings(self, connection: Connection) -> dict[str, str]:
        return feedback.read_warnings(connection, self._heard)

    def _review(self) -> None:
        with self._engine.connect() as connection:
            reputation.review(connection)

    def _warn(self, name: str, read: Callable[[Connection], dict[str, str]]) -> None:
        with self._engine.connect() as connection:
            found = read(connection)
        warned = self._warnings.get(name, {})
        for code in found.keys() - warned.keys():
            log.warning("warning code=%s %s", code, found[code])
        for code in warned.keys() - found.keys():
            log.info("warning over code=%s", code)
        self._warnings[name] = found

    def _prune(self, older_than: timedelta) -> None:
        after, size = self._pruned or 0, self._scan_limits["prune"].size
        try:
            pruned = _prune(self._engine, older_than, after, size)
        except DBAPIError as error:
            if _is_refused(error):
                self._pruned = _beyond(self._engine, after, size)
            raise
        if pruned.deliveries:
            log.info("pruned deliveries=%d tokens=%d", pruned.deliveries, pruned.tokens)
        self._pruned = pruned.after

    def _try(self, name: str, act: Callable[[], None]) -> bool:
        try:
            act()
        except DBAPIError as error:
            if name not in self._failures:
                log.warning("%s failed, trying again: %s", name, first_line(error))
            self._failures.add(name)
            if name in self._scan_limits and not (name == "prune" and _is_refused(error)):
                self._scan_limits[name].shrink()
            return False
        self._failures.discard(name)
        if name in self._scan_limits:
            self._scan_limits[name].grow()
        return True
