"""Whether the queue stays as fast when more waits, and when more has been."""

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Final

from sqlalchemy import Connection

from mailroom import queue
from mailroom.db.engine import connect_engine
from mailroom.outcome import Sent
from mailroom.queue.floors import Floors
from mailroom.queue.verdict import judge
from tests.benchmarks import rows
from tests.benchmarks.contenders import MAILROOM, how
from tests.benchmarks.contenders.program import MESSAGE_ID
from tests.benchmarks.grid import Aim, Grid
from tests.benchmarks.machine import Server, scalar
from tests.benchmarks.trial import Trial, say
from tests.claiming import claim as claim_due

TITLE = "Growth"
ABOUT = """Each database has that many waiting jobs, each with its account and token, filled by SQL and then
vacuumed and analysed. One more has a long history of deliveries. A tenth of the jobs count as tried before, so that
their claim searches the history. In each run, in each database, one session claims 50 jobs and settles them, 50
times; the times shown are the medians. Then one worker process with one sender drains a part. Its rate is from its
first settlement to its last. Then the jobs are filled up again. All this happens three times. `max_wal_size` is
16GB. The smallest queue is drained to a quarter each time. The medians show how flat the rates are: of five noisy
figures the lowest is always well below the best."""
FOUND: Final = "By jobs waiting"
_CLAIMS: Final = 50
_DRAINED: Final = 5_000
_REPEATS: Final = 3
_DONE: Final = "SELECT last_value FROM deliveries_id_seq"
_RATE: Final = """
SELECT count(*) FILTER (WHERE created_at > first.at) / extract(epoch FROM max(created_at) - min(first.at))::float
  FROM deliveries, (SELECT min(created_at) AS at FROM deliveries WHERE id > {done}) AS first
 WHERE id > {done}
"""


@dataclass(frozen=True, slots=True)
class _Store:
    """A database with so much in it: jobs that wait, and deliveries."""

    name: str
    waiting: int
    history: int = 0


def _stores(trial: Trial) -> list[_Store]:
    tiny = [_Store("10 k", 10_000), _Store("20 k", 20_000), _Store("10 k, 20 k history", 10_000, 20_000)]
    bench = [_Store("10 k", 10_000), _Store("100 k", 100_000), _Store("100 k, 1 M history", 100_000, 1_000_000)]
    million = 1_000_000
    full = [
        *bench[:2],
        _Store("1 M", million),
        _Store("10 M", 10 * million),
        _Store("100 k, 50 M history", 100_000, 50 * million),
    ]
    return trial.pick(tiny=tiny, bench=bench, full=full)


def measure(trial: Trial) -> list[Grid]:
    """Fill all databases, then measure in each in turn."""
    grid = Grid(FOUND)
    with Server(max_wal_size="16GB") as server:
        ways: dict[str, Callable[[], None]] = {}
        for store in _stores(trial):
            ways[store.name] = partial(_measure, grid, server, _filled(server, store), store)
        trial.interleave(ways)
    return [grid]


def _filled(server: Server, store: _Store) -> str:
    began = time.monotonic()
    name = server.create()
    MAILROOM.prepare(server.url(name), store.waiting)
    rows.fill_history(server.url(name), store.history)
    _let_some_be_tried(server, name)
    server.run(name, "VACUUM ANALYZE")
    server.run(name, "CHECKPOINT")
    say(f"  filled: {store.name} in {time.monotonic() - began:.0f} s")
    return name


def _measure(grid: Grid, server: Server, database: str, store: _Store) -> None:
    for _ in range(_REPEATS):
        claims, settlements = _claim_and_settle(server.url(database))
        rate = _drain(server, database, _DRAINED)
        waiting = _left(server, database)
        rows.fill(server.url(database), store.waiting - waiting)
        _let_some_be_tried(server, database)
        grid.put(store.name, {"jobs/s": rate, "claim ms": claims, "settle ms": settlements, "left": waiting})


def _let_some_be_tried(server: Server, database: str) -> None:
    server.run(database, "UPDATE jobs SET attempt = 1 WHERE token % 10 = 0 AND attempt = 0")
    server.run(database, "VACUUM ANALYZE jobs")


def _claim_and_settle(url: str) -> tuple[float, float]:
    engine = connect_engine(url)
    floors = Floors()
    with engine.connect() as connection:
        times = [_work(connection, floors) for _ in range(_CLAIMS)]
    engine.dispose()
    claims, settlements = zip(*times, strict=True)
    return statistics.median(claims), statistics.median(settlements)


def _work(connection: Connection, floors: Floors) -> tuple[float, float]:
    began = time.perf_counter()
    claim = claim_due(
        connection,
        queue="mailroom",
        worker="bench",
        batch_limit=50,
        batch_timeout=timedelta(0),
        lease=timedelta(seconds=30),
        floors=floors,
    )
    claimed = time.perf_counter()
    [batch] = claim.batches
    verdicts = [judge(Sent(MESSAGE_ID), attempt=job.attempt, jitter=0) for job in batch.jobs]
    judged = time.perf_counter()
    queue.settle(connection, [(batch, verdicts)])
    return (claimed - began) * 1000, (time.perf_counter() - judged) * 1000


def _drain(server: Server, database: str, jobs: int) -> float:
    """Jobs a second, by the server's clock, until so many are settled; the worker is stopped in order then."""
    with MAILROOM.worker(server.url(database), how(50)) as worker, server.connect(database) as connection:
        done = scalar(connection, _DONE)
        worker.go()
        worker.wait_for(lambda: scalar(connection, _DONE) >= done + jobs)
        worker.stop()
        return float(scalar(connection, _RATE.format(done=done)))


def _left(server: Server, database: str) -> int:
    with server.connect(database) as connection:
        return int(scalar(connection, "SELECT count(*) FROM jobs"))


def aims(grids: Mapping[str, Grid]) -> list[Aim]:
    """The slowest against the fastest, by their medians: of the rates, and of the times of a claim."""
    grid = grids.get(FOUND, Grid(FOUND))
    return [
        Aim("growth: least drain rate against the best", _flatness(grid, "jobs/s"), 0.85),
        Aim("growth: quickest claim against the slowest", _flatness(grid, "claim ms"), 0.85),
    ]


def _flatness(grid: Grid, column: str) -> list[float]:
    medians = [grid.median(store, column) for store in grid.cells]
    return [min(medians) / max(medians)] if medians else []
