"""What a mail costs the database: WAL, dead rows, CPU; and whether what is left behind is cleared away."""

import contextlib
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Final

import psycopg

from tests.benchmarks.contenders import FLOOR, MAILROOM, Contender, how
from tests.benchmarks.grid import Aim, Grid
from tests.benchmarks.machine import Server, scalar
from tests.benchmarks.trial import Size, Trial

TITLE = "Cost"
ABOUT = """First the cost of draining alone, after a vacuum and, so that whole pages count once, a checkpoint before
the fill: WAL bytes, dead rows, writing transactions, and CPU, each for one mail. Then bloat. Statements of 5,000
accounts insert bulk activations through the triggers, while one worker process with 2 senders drains, until that
many have been sent. Then autovacuum alone has three minutes (30 s in the short run). Sizes are in MB, of the tables
that turn over, with their indexes: at the start (after a twentieth of the mails, and a rest of the same length), at
most, and at the end; and the maximum in each tenth. The pages of an index are used again, but its file never
shrinks. It stays as large as the jobs between two runs of autovacuum made it. (In the short run autovacuum runs
every 5 s, otherwise once a minute, its default. It is off for the cost of one mail.)"""
BY_MAIL: Final = "By mail"
BLOAT: Final = "MB of the tables that turn over"
TENTHS: Final = "The most MB, by tenths of the mails"
_CHUNK: Final = 5_000
_INSERT: Final = (
    "INSERT INTO accounts (email, login) SELECT n || '@example.com', n"
    " FROM (SELECT gen_random_uuid() AS n FROM generate_series(1, 5000)) AS new"
)
_DEAD: Final = "SELECT coalesce(sum(n_tup_upd + n_tup_del), 0)::bigint FROM pg_stat_user_tables"
_WAL: Final = "SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')::float"
_WRITES: Final = "SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint"
_SENT: Final = "SELECT last_value FROM deliveries_id_seq"
_SIZES: Final = {
    "jobs": "SELECT pg_table_size('jobs') / 1048576.0",
    "jobs_claim_idx": "SELECT pg_table_size('jobs_claim_idx') / 1048576.0",
    "jobs_pkey": "SELECT pg_table_size('jobs_pkey') / 1048576.0",
    "batches and its index": "SELECT pg_total_relation_size('batches') / 1048576.0",
}


def measure(trial: Trial) -> list[Grid]:
    """By mail, for mailroom and the floor in turn; then the bloat, once."""
    by_mail = Grid(BY_MAIL)
    jobs = trial.pick(tiny=5_000, bench=50_000, full=200_000)
    with Server(autovacuum="off") as server:
        ways: dict[str, Callable[[], None]] = {
            f"{contender.name}, batch {batch}": partial(_measure, by_mail, server, contender, batch, jobs)
            for contender in (MAILROOM, FLOOR)
            for batch in (50, 10)
        }
        trial.interleave(ways)
    return [by_mail, *_bloat(trial)]


def _measure(grid: Grid, server: Server, contender: Contender, batch: int, jobs: int) -> None:
    database = server.create()
    server.run(database, "CHECKPOINT")
    contender.prepare(server.url(database), jobs)
    server.run(database, "VACUUM ANALYZE")
    with server.connect(database) as connection:
        with contender.worker(server.url(database), how(batch)) as worker:
            before = _counters(connection)
            spent = server.cpu_seconds() + worker.cpu_seconds()
            worker.go()
            worker.wait_for(lambda: contender.has_drained(connection, jobs))
            spent = server.cpu_seconds() + worker.cpu_seconds() - spent
            wal, writes, _ = _counters(connection)
            worker.stop()  # a session tells what it has counted when it ends
        _, _, dead = _counters(connection)
    server.drop(database)
    grid.put(
        f"{contender.name}, batch {batch}",
        {
            "WAL bytes": (wal - before[0]) / jobs,
            "dead rows": (dead - before[2]) / jobs,
            "writing transactions": (writes - before[1]) / jobs,
            "CPU µs, worker and server": spent / jobs * 1e6,
        },
    )


def _counters(connection: psycopg.Connection[Any]) -> tuple[float, float, float]:
    wal, writes, dead = (float(scalar(connection, sql)) for sql in (_WAL, _WRITES, _DEAD))
    return wal, writes, dead


def _bloat(trial: Trial) -> list[Grid]:
    sizes, tenths = Grid(BLOAT), Grid(TENTHS)
    mails = trial.pick(tiny=20_000, bench=300_000, full=10_000_000)
    settings = {} if trial.size is Size.FULL else {"autovacuum_naptime": "5s"}
    with Server(**settings) as server:
        database = server.create()
        MAILROOM.prepare(server.url(database), _CHUNK)
        server.run(database, "VACUUM ANALYZE")
        rest = trial.pick(tiny=10.0, bench=30.0, full=180.0)
        with server.connect(database) as connection:
            _turn_over(server, database, connection, mails // 20)
            time.sleep(rest)
            start = _sizes(connection)
            for tenth in range(1, 11):
                tenths.put(f"{tenth}", _turn_over(server, database, connection, mails * tenth // 10))
            end = _wait_for_vacuum(connection, start, rest)
    for name in _SIZES:
        most = max(tenths.median(tenth, name) for tenth in tenths.cells)
        sizes.put(name, {"start": start[name], "most": most, "end": end[name], "mails": mails})
    return [sizes, tenths]


def _turn_over(server: Server, database: str, connection: psycopg.Connection[Any], mails: int) -> dict[str, float]:
    """Insert and drain until so many are sent in all; return the largest sizes that were seen."""
    most = _sizes(connection)
    inserted = int(scalar(connection, "SELECT count(*) FROM tokens"))
    with contextlib.ExitStack() as stack:
        worker = stack.enter_context(MAILROOM.worker(server.url(database), how(50, 2)))
        worker.go()
        while inserted < mails:
            if inserted - scalar(connection, _SENT) < 2 * _CHUNK:
                connection.execute(_INSERT.encode())
                inserted += _CHUNK
            time.sleep(0.01)
            most = {name: max(most[name], size) for name, size in _sizes(connection).items()}
        worker.wait_for(lambda: MAILROOM.has_drained(connection, inserted))
        worker.stop()
    return most


def _wait_for_vacuum(connection: psycopg.Connection[Any], start: dict[str, float], seconds: float) -> dict[str, float]:
    deadline = time.monotonic() + seconds
    sizes = _sizes(connection)
    while any(size > start[name] for name, size in sizes.items()) and time.monotonic() < deadline:
        time.sleep(1)
        sizes = _sizes(connection)
    return sizes


def _sizes(connection: psycopg.Connection[Any]) -> dict[str, float]:
    return {name: float(scalar(connection, sql)) for name, sql in _SIZES.items()}


def aims(grids: Mapping[str, Grid]) -> list[Aim]:
    """The sizes in the end against those at the start."""
    cells = grids.get(BLOAT, Grid(BLOAT)).cells
    return [
        Aim(f"size after autovacuum against the start: {name}", _ratio(cells.get(name, {})), 1.0, at_most=True)
        for name in _SIZES
    ]


def _ratio(columns: dict[str, list[float]]) -> list[float]:
    pairs = zip(columns.get("end", []), columns.get("start", []), strict=False)
    return [end / start for end, start in pairs if start]
