"""What the operator's window costs: each of its pages, and what is counted for them all."""

import statistics
import time
from collections.abc import Mapping
from typing import Any, Final

import psycopg
from sqlalchemy import Connection, Engine, event

from mailroom.db.engine import connect_engine
from mailroom.ops import refresh
from tests.benchmarks import rows
from tests.benchmarks.grid import Aim, Grid
from tests.benchmarks.machine import Server
from tests.benchmarks.trial import Trial, say
from tests.window.client import Window, opened

TITLE = "The operator's window"
ABOUT = """Bulk activations wait, and the last 150 days have as many mails on record as the table says. For each
page of the window the table shows the time in the database (the sum of its statements, on a warm cache) and the
number of statements. The last column is the same with an old snapshot open and the head of the queue deleted, so
that no vacuum can remove the dead rows. The reading is what one process of the fleet counts every 15 s, or less
often if counting takes long. Its share is of one core."""
PAGES_GRID: Final = "Milliseconds in the database, by page"
READING_GRID: Final = "What is counted for the fleet"
TABS: Final = 20
_TIMES: Final = 5
_PAGES: Final = {
    "now": "/",
    "a mail that waits": "/mail/{last}",
    "a mail on record": "/mail/{recorded}",
    "a lane": "/lane/mailroom/2/activation",
    "in flight": "/flight",
    "held": "/held",
    "the record": "/record",
    "the record, failed": "/record?outcome=failed",
    "the record, a code that is not there": "/record?code=NoSuch&since=30d",
    "a preview: one mail again": "/act/retry?token={recorded}",
    "a preview: all that failed again": "/act/retry?outcome=failed",
    "a preview: all of a code again": "/act/retry?code=NoSuch&since=30d",
    "unconfirmed": "/unconfirmed",
    "flooded": "/flooded",
    "Amazon": "/account",
    "metrics": "/metrics",
    "the reading, for programs": "/reading.json",
}
# What these show is kept for a moment: see `Source`.
_OF_THE_READING: Final = {"/", "/metrics", "/account", "/reading.json"}
_KEPT: Final = 2.1
_HISTORY: Final = """
INSERT INTO deliveries (token, account, batch, fence, created_at, due_at, claimed_at, call_ms, action, outcome, attempt,
                        message_id)
SELECT 1000000000 + n, NULL, n / 50, gen_random_uuid(), moment, moment - interval '1 s', moment - interval '500 ms', 80,
       'activation',
       CASE WHEN n %% 997 = 0 THEN 'unconfirmed' WHEN n %% 211 = 0 THEN 'failed' ELSE 'sent' END::delivery_outcome, 0,
       '0100018c' || lpad(n::text, 52, '0')
  FROM generate_series(%(first)s::bigint, %(last)s::bigint) AS n,
       LATERAL (SELECT now() - interval '150 days' * (1 - n / %(count)s::float)) AS at (moment)
"""
# Of one in fifty of these mails it is known that they arrived.
_TOLD: Final = """
INSERT INTO events (message_id, kind, at, token, fence)
SELECT message_id, kind, created_at, token, fence
  FROM deliveries, (VALUES (CAST('send' AS event_kind)), ('delivery')) AS told (kind)
 WHERE token % 50 = 0 AND token > 1000000000 AND outcome = 'sent'
"""
_KILL: Final = """
DELETE FROM jobs
 WHERE token IN (SELECT token FROM jobs WHERE queue = 'mailroom' AND priority = 2 AND action = 'activation'
                  ORDER BY due_at, token LIMIT %s)
"""


class _Clock:
    """Adds up what statements of an engine take."""

    def __init__(self, engine: Engine) -> None:
        self.seconds, self.statements = 0.0, 0
        event.listen(engine, "before_cursor_execute", self._begins)
        event.listen(engine, "after_cursor_execute", self._ends)

    def _begins(self, connection: Connection, *_: Any) -> None:
        connection.info["began"] = time.perf_counter()

    def _ends(self, connection: Connection, *_: Any) -> None:
        self.seconds += time.perf_counter() - connection.info["began"]
        self.statements += 1

    def take(self) -> tuple[float, int]:
        """Return milliseconds and statements since the last time."""
        taken = self.seconds * 1000, self.statements
        self.seconds, self.statements = 0.0, 0
        return taken


def measure(trial: Trial) -> list[Grid]:
    """Fill a database, and look at it."""
    jobs = trial.pick(tiny=3_000, bench=500_000, full=10_000_000)
    history = trial.pick(tiny=3_000, bench=1_000_000, full=50_000_000)
    dead = trial.pick(tiny=300, bench=100_000, full=1_000_000)
    grids = Grid(PAGES_GRID), Grid(READING_GRID)
    with Server(max_wal_size="16GB", autovacuum="off") as server:
        database = server.create()
        url = server.url(database)
        rows.migrated(url)
        rows.fill(url, jobs)
        fill_record(url, history)
        look(url, f"{jobs:,} jobs, {history:,} deliveries", dead, *grids)
    return list(grids)


def fill_record(url: str, count: int) -> None:
    """Let so many mails have been sent in the past 150 days."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("SET session_replication_role = replica")
        for first in range(1, count + 1, 1_000_000):
            binds = {"first": first, "last": min(count, first + 999_999), "count": count}
            connection.execute(_HISTORY, binds)
        connection.execute(_TOLD.encode())
        connection.execute("VACUUM ANALYZE")


def look(url: str, name: str, dead: int, pages: Grid, readings: Grid) -> None:
    """Measure as it is, and then under an old snapshot with so many dead rows at the head of the queue."""
    _look(url, name, pages, readings)
    with psycopg.connect(url) as holding, psycopg.connect(url, autocommit=True) as killing:
        holding.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        holding.execute("SELECT count(*) FROM pg_class")
        killing.execute(_KILL, [dead])
        _look(url, f"the same, an old snapshot, {dead:,} dead rows", pages, readings)
        holding.rollback()


def _look(url: str, name: str, pages: Grid, readings: Grid) -> None:
    engine = connect_engine(url, pool_size=5)
    clock = _Clock(engine)
    took = [_count(engine, clock) for _ in range(_TIMES)]
    seconds = statistics.median(one for one, _ in took)
    pause = min(max(refresh.EVERY.total_seconds(), seconds / refresh.MAX_SHARE), refresh.LONGEST.total_seconds())
    share = seconds / max(pause, seconds)
    readings.put(name, {"ms": seconds * 1000, "statements": took[-1][1], "share of a core, %": share * 100})
    with opened(engine, actions=engine) as window, engine.connect() as connection:
        last = connection.exec_driver_sql("SELECT max(token) FROM jobs").scalar_one()
        recorded = connection.exec_driver_sql("SELECT max(token) FROM deliveries").scalar_one()
        clock.take()
        for page, path in _PAGES.items():
            times = [_ask(window, path.format(last=last, recorded=recorded), clock) for _ in range(_TIMES)]
            pages.put(page, {name: statistics.median(one for one, _ in times), "statements": times[0][1]})
        clock.take()
        for _ in range(TABS):
            window.ask("/")
        readings.put(name, {f"statements of {TABS} tabs": clock.take()[1]})
    engine.dispose()
    say(f"  {name}")


def _count(engine: Engine, clock: _Clock) -> tuple[float, int]:
    with engine.connect() as connection:
        connection.exec_driver_sql("UPDATE readings SET due_at = now()")
    clock.take()
    began = time.perf_counter()
    refresh.refresh(engine)
    return time.perf_counter() - began, clock.take()[1]


def _ask(window: Window, path: str, clock: _Clock) -> tuple[float, int]:
    """Ask for a page that nobody has asked for in a while."""
    time.sleep(_KEPT if path in _OF_THE_READING else 0)
    clock.take()
    answer = window.ask(path)
    assert answer.status == 200, f"{path}: {answer.status} {answer.text[:500]}"
    return clock.take()


def aims(grids: Mapping[str, Grid]) -> list[Aim]:
    """Each page, and the reading, whatever there is."""
    pages, readings = grids.get(PAGES_GRID, Grid(PAGES_GRID)), grids.get(READING_GRID, Grid(READING_GRID))
    slowest = [
        max(value for name, values in cells.items() if name != "statements" for value in values)
        for cells in pages.cells.values()
    ]
    shares = [max(cells["share of a core, %"]) for cells in readings.cells.values()]
    return [
        Aim("the slowest page, in the database", [max(slowest)] if slowest else [], 100, at_most=True, unit="ms"),
        Aim("the reading, of a core", [max(shares) / 100] if shares else [], 0.01, at_most=True),
    ]
