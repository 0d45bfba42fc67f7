"""Where the pages have their numbers from: the reading of the fleet, looked up once for all who ask at one time."""

import contextlib
import logging
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from sqlalchemy import Connection, Engine, func, select, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.pool import QueuePool

from mailroom.db.identity import SameDatabase
from mailroom.ops import advice, forecast, minutes, reading, refresh
from mailroom.ops.advice import Advice
from mailroom.ops.forecast import Forecast, LaneKey
from mailroom.ops.minutes import Minute
from mailroom.ops.reading import Reading

# All that a page may ask the database for takes no longer; what would is given up, and the page says so.
ANSWER_WITHIN: Final = timedelta(seconds=2)
# Twenty tabs that ask at the same time cost what one does.
KEPT_SECONDS: Final = 2.0
# A reading comes every 15 s from a worker. Where none comes, the window counts itself, if it may.
COUNT_AFTER: Final = timedelta(seconds=40)
HOUR: Final = timedelta(hours=1)
TEN_MINUTES: Final = timedelta(minutes=10)
# Each statement commits by itself where the engine is the worker's; here all see one state, and none can write.
_READ_ONLY: Final[dict[str, Any]] = {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True}
# A database that fails, and one that has no connection free in time.
_FAILURES: Final = (DBAPIError, PoolTimeoutError)

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Seen:
    """What there is to see: the reading, the last hour by minute, and what is made of them.

    `now` is by the clock of the database, also where it does not answer any more. `failure`: the class of the error
    with which the database was asked last; what is here is then older, and there is no advice. `foreign`: there is no
    reading, since another release has counted.
    """

    now: datetime
    reading: Reading | None
    hour: tuple[Minute, ...]
    advice: Advice | None
    forecasts: dict[LaneKey, Forecast]
    rate_limit: float | None = None
    failure: str = ""
    foreign: bool = False

    @property
    def ten_minutes(self) -> tuple[Minute, ...]:
        """The minutes of the last ten."""
        return tuple(minute for minute in self.hour if minute.at >= self.now - TEN_MINUTES)


class Source:
    """Looks through an engine that may be a viewer's; `counting` may be one with a worker's rights, or None.

    `rate_limit`: mails a second that the settings of the fleet allow; None: what SES allows it.
    """

    def __init__(self, engine: Engine, *, counting: Engine | None = None, rate_limit: float | None = None) -> None:
        self._engine = engine
        self._counting = counting
        self._same = None if counting is None else SameDatabase(engine, counting)
        self._rate_limit = rate_limit
        self._lock = threading.Lock()
        # One connection is left for what all pages begin with.
        self._turns = threading.BoundedSemaphore(max(1, _connections(engine) - 1))
        self._seen: Seen | None = None
        self._kept_until = 0.0
        self._counts_from = 0.0

    @contextlib.contextmanager
    def looking(self) -> Iterator[Connection]:
        """Give a connection that reads, in one transaction, with an end to each statement.

        Raises PoolTimeoutError where so many look that none comes free in time.
        """
        if not self._turns.acquire(timeout=ANSWER_WITHIN.total_seconds()):
            raise PoolTimeoutError
        try:
            with self._reading() as connection:
                yield connection
        finally:
            self._turns.release()

    @contextlib.contextmanager
    def _reading(self) -> Iterator[Connection]:
        milliseconds = ANSWER_WITHIN // timedelta(milliseconds=1)
        with self._engine.connect().execution_options(**_READ_ONLY) as connection, connection.begin():
            connection.execute(text("SELECT set_config('statement_timeout', :most, true)"), {"most": str(milliseconds)})
            yield connection

    def see(self) -> Seen:
        """Return what there is to see, at most KEPT_SECONDS old; never raises for the database."""
        with self._lock:
            if self._seen is None or time.monotonic() >= self._kept_until:
                self._seen = self._look()
                self._kept_until = time.monotonic() + KEPT_SECONDS
            return self._seen

    def _look(self) -> Seen:
        try:
            with self._reading() as connection:
                now = connection.scalar(select(func.now()))
                found = reading.read(connection)
                foreign = found is None and reading.is_of_another_release(connection)
                hour = tuple(minutes.read(connection, since=HOUR))
        except _FAILURES as error:
            return self._without(_kind(error))
        assert isinstance(now, datetime)  # noqa: S101 - what the database says of now()
        if found is None or reading.age(found.read_at, now) > COUNT_AFTER:
            found = self._count() or found
        return self._made_of(now, found, hour, foreign=foreign and found is None)

    def _count(self) -> Reading | None:
        """Count, if this window may. Where that fails, nothing is known beyond what was read; it is tried again later.

        It has an engine of its own: that this one fails says nothing of the database that the window looks at.
        """
        if self._counting is None or self._same is None or time.monotonic() < self._counts_from:
            return None
        try:
            if self._same.holds():
                return refresh.refresh(self._counting)
            failure = "AnotherDatabase"
        except _FAILURES as error:
            failure = _kind(error)
        log.warning("cannot count error=%s", failure)
        self._counts_from = time.monotonic() + refresh.EVERY.total_seconds()
        return None

    def _made_of(self, now: datetime, found: Reading | None, hour: tuple[Minute, ...], *, foreign: bool) -> Seen:
        advised = advice.advise(found, hour, now=now, rate_limit=self._rate_limit, foreign=foreign)
        foreseen = {} if found is None else forecast.forecast(found, hour, rate_limit=self._rate_limit, now=now)
        return Seen(now, found, hour, advised, foreseen, self._rate_limit, foreign=foreign)

    def _without(self, failure: str) -> Seen:
        """What was seen before, and that the database does not answer now."""
        if self._seen is None:
            return Seen(datetime.now(UTC), None, (), None, {}, failure=failure)
        passed = timedelta(seconds=time.monotonic() - self._kept_until + KEPT_SECONDS)
        return replace(self._seen, now=self._seen.now + passed, advice=None, failure=failure)


def _connections(engine: Engine) -> int:
    return engine.pool.size() if isinstance(engine.pool, QueuePool) else 1


def _kind(error: DBAPIError | PoolTimeoutError) -> str:
    return type(error.orig if isinstance(error, DBAPIError) else error).__name__
