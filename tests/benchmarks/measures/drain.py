"""How fast workers drain a queue when sending takes no time: mailroom, the floor beneath it, and its peers."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Final

from tests.benchmarks.contenders import FLOOR, MAILROOM, PGQUEUER, PROCRASTINATE, UNPREPARED, Contender, how
from tests.benchmarks.contenders.program import How
from tests.benchmarks.draining import drain
from tests.benchmarks.grid import Aim, Grid
from tests.benchmarks.machine import Server
from tests.benchmarks.trial import Trial

TITLE = "Drain"
ABOUT = """1 or 2 worker processes, whose transport does nothing, drain a queue that was filled before. The rate is
jobs divided by the seconds from the start of all workers to the last settlement, by the server's clock. CPU is
microseconds a job, of the worker processes and of PostgreSQL. The floor is minimal SQL over psycopg 3 that does the
same on the same tables: claim with SKIP LOCKED, open a batch, fetch what is to be sent, settle, with two prepared
statements and two commits a batch. It does not sign, check or limit anything. (mailroom prepares no statements, so
that it works behind PgBouncer in transaction mode. One row shows the floor without them.) mailroom and the floor
have one sender a process, except in one row. If sending takes no time, mailroom claims up to 500 jobs in several
batches at once, and the floor claims one batch. One row shows a floor that takes 500 in one batch. procrastinate
runs with 10 tasks at a time (more were no faster), on a pool of 20 connections, and with fewer jobs, because its
rate does not depend on how many wait. pgqueuer runs on asyncpg and uvloop with batches of 1,000, its best, and of
50. The peers keep a row for each job in their own tables, and do not look at accounts."""
RATES: Final = "Drain rate"

# Name, contender, how, and whether it is so slow that fewer jobs must do.
_WAYS: Final[list[tuple[str, Contender, How]]] = [
    ("floor, batch 50", FLOOR, how(50)),
    ("mailroom, batch 50", MAILROOM, how(50)),
    ("mailroom with 4 senders, batch 50", MAILROOM, how(50, concurrency=4)),
    ("floor, unprepared, batch 50", UNPREPARED, how(50)),
    ("floor, batch 500", FLOOR, how(500)),
    ("floor, batch 10", FLOOR, how(10)),
    ("mailroom, batch 10", MAILROOM, how(10)),
    ("pgqueuer, batch 1000", PGQUEUER, how(1000)),
    ("pgqueuer, batch 50", PGQUEUER, how(50)),
    ("procrastinate", PROCRASTINATE, how(1, concurrency=10)),
]


def row(name: str, processes: int) -> str:
    """The name of a row."""
    return f"{name}, {processes} process{'es' if processes > 1 else ''}"


def measure(trial: Trial) -> list[Grid]:
    """Drain with each in turn."""
    grid = Grid(RATES)
    with Server() as server:
        ways: dict[str, Callable[[], None]] = {}
        for processes in (1, 2):
            for name, contender, each in _WAYS:
                jobs = _jobs(trial, contender, each)
                ways[row(name, processes)] = partial(
                    _measure, grid, server, row(name, processes), contender, each, jobs, processes
                )
        trial.interleave(ways)
    return [grid]


def _jobs(trial: Trial, contender: Contender, each: How) -> int:
    """In minutes there is no time for as many of those that are slow."""
    if contender is PROCRASTINATE:
        return trial.pick(tiny=300, bench=3_000, full=20_000)
    return trial.pick(tiny=2_000, bench=100_000 if each.batch > 10 else 50_000, full=100_000)


def _measure(grid: Grid, server: Server, name: str, contender: Contender, each: How, jobs: int, processes: int) -> None:
    found = drain(server, contender, each, jobs=jobs, processes=processes)
    grid.put(
        name,
        {"jobs": jobs, "jobs/s": found.rate, "worker CPU µs": found.worker_cpu, "server CPU µs": found.server_cpu},
    )


def aims(grids: Mapping[str, Grid]) -> list[Aim]:
    """mailroom against the floor and its peers."""
    grid = grids.get(RATES, Grid(RATES))
    found = []
    for batch in (50, 10):
        for processes in (1, 2):
            ours, floor = (row(f"{name}, batch {batch}", processes) for name in ("mailroom", "floor"))
            what = row(f"drain against the floor, batch {batch}", processes)
            found.append(Aim(what, grid.ratio(ours, floor, "jobs/s"), 0.6))
    for processes in (1, 2):
        ours = row("mailroom, batch 50", processes)
        several = grid.ratio(ours, row("floor, batch 500", processes), "jobs/s")
        found.append(Aim(row("drain against a floor that takes 500 at once", processes), several, 0.6))
        against = {name: grid.ratio(ours, row(name, processes), "jobs/s") for name, _, _ in _WAYS}
        found.append(Aim(row("drain against procrastinate", processes), against["procrastinate"], 20, unit="times"))
        found.append(Aim(row("drain against pgqueuer", processes), against["pgqueuer, batch 1000"], 1.0))
    return found
