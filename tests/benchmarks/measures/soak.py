"""Whether anything drifts when mails come steadily for long, with an old snapshot held for a while in the middle."""

import contextlib
import threading
import time
from collections.abc import Mapping
from typing import Any, Final

import psycopg

from tests.benchmarks.contenders import MAILROOM
from tests.benchmarks.grid import Aim, Grid
from tests.benchmarks.machine import Program, Server, old_snapshot, scalar
from tests.benchmarks.trial import Size, Trial, say
from tests.benchmarks.worker_process import simulator, worker

TITLE = "Soak"
ABOUT = """500 accounts a second are inserted, 10 in each statement, and `mailroom worker` with 4 senders mails them
through boto3 to the simulator. An old snapshot is held for a sixth of the time, from the middle on (5 of 30
minutes). Latency is from the token's creation to the record of its delivery, by the database's clock, of all mails
of a part."""
FOUND: Final = "By twelfths of the time"
_PARTS: Final = 12
_SNAPSHOT_PARTS: Final = (6, 7)
_RATE: Final = 500
_CHUNK: Final = 10
_INSERT: Final = (
    "INSERT INTO accounts (email, login) SELECT n || '@example.com', n"
    " FROM (SELECT gen_random_uuid() AS n FROM generate_series(1, 10)) AS new"
)
_LATENCY: Final = """
SELECT count(*), percentile_cont(0.5) WITHIN GROUP (ORDER BY waited),
       percentile_cont(0.99) WITHIN GROUP (ORDER BY waited)
  FROM (SELECT extract(epoch FROM deliveries.created_at - tokens.created_at)::float * 1000 AS waited
          FROM deliveries JOIN tokens ON tokens.id = deliveries.token
         WHERE deliveries.id > %s AND deliveries.id <= %s) AS mail
"""
_DONE: Final = "SELECT coalesce(max(id), 0) FROM deliveries"


def measure(trial: Trial) -> list[Grid]:
    """Once, by parts; `trial.soak_seconds` in all, fewer where it is not the full run."""
    grid = Grid(FOUND)
    seconds = trial.pick(tiny=24.0, bench=120.0, full=trial.soak_seconds) / _PARTS
    with Server() as server, simulator() as (_, url):
        database = server.create()
        MAILROOM.prepare(server.url(database))
        with (
            server.connect(database) as connection,
            worker(server, database, ses_url=url, senders=4) as working,
            _Producer(server, database) as producer,
        ):
            time.sleep(2)
            with contextlib.ExitStack() as snapshot:
                for part in range(_PARTS):
                    if part == _SNAPSHOT_PARTS[0]:
                        snapshot.enter_context(old_snapshot(server, database))
                    if part == _SNAPSHOT_PARTS[-1] + 1:
                        snapshot.close()
                    _measure_part(grid, connection, working, part, seconds)
            producer.check()
    if trial.size is not Size.FULL:
        say("  shorter than a soak should be")
    return [grid]


class _Producer:
    """A thread that inserts accounts at a steady rate; behind, it catches up."""

    def __init__(self, server: Server, database: str) -> None:
        self._server = server
        self._database = database
        self._stopping = threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._produce)

    def __enter__(self) -> "_Producer":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._thread.join()

    def check(self) -> None:
        """Raise what has ended it, if anything did."""
        if self._error is not None:
            raise self._error

    def _produce(self) -> None:
        try:
            with self._server.connect(self._database) as connection:
                due = time.monotonic()
                while not self._stopping.is_set():
                    connection.execute(_INSERT.encode())
                    due += _CHUNK / _RATE
                    self._stopping.wait(max(0.0, due - time.monotonic()))
        except psycopg.Error as error:
            self._error = error


def _measure_part(grid: Grid, connection: psycopg.Connection[Any], working: Program, part: int, seconds: float) -> None:
    done, spent = scalar(connection, _DONE), working.cpu_seconds()
    time.sleep(seconds)
    until = scalar(connection, _DONE)
    row = connection.execute(_LATENCY.encode(), [done, until]).fetchone()
    assert row is not None
    snapshot = ", old snapshot" if part in _SNAPSHOT_PARTS else ""
    grid.put(
        f"{part + 1}{snapshot}",
        {
            "mails/s": row[0] / seconds,
            "p50 ms": row[1] or float("nan"),
            "p99 ms": row[2] or float("nan"),
            "worker CPU %": (working.cpu_seconds() - spent) / seconds * 100,
            "worker MB": working.memory_mb()[0],
            "waiting": scalar(connection, "SELECT count(*) FROM jobs"),
            "jobs and indexes MB": float(scalar(connection, "SELECT pg_total_relation_size('jobs') / 1048576.0")),
            "seconds": seconds,
        },
    )


def aims(grids: Mapping[str, Grid]) -> list[Aim]:
    """The last part against the second; the first is the warm-up."""
    cells = grids.get(FOUND, Grid(FOUND)).cells
    early, late = cells.get("2", {}), cells.get(str(_PARTS), {})
    held = cells.get(f"{_SNAPSHOT_PARTS[-1] + 1}, old snapshot", {})
    return [
        Aim("soak: rate at the end against the beginning", _against(late, early, "mails/s"), 0.95),
        Aim("soak: rate under the old snapshot against the beginning", _against(held, early, "mails/s"), 0.95),
        Aim("soak: p99 at the end against the beginning", _against(late, early, "p99 ms"), 1.5, at_most=True),
        Aim("soak: memory at the end against the beginning", _against(late, early, "worker MB"), 1.1, at_most=True),
    ]


def _against(late: dict[str, list[float]], early: dict[str, list[float]], column: str) -> list[float]:
    return [one / other for one, other in zip(late.get(column, []), early.get(column, []), strict=False) if other]
