"""How many may claim at once: 1 to 64 connections drain one queue."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Final

from tests.benchmarks.contenders import FLOOR, MAILROOM, Contender, how
from tests.benchmarks.draining import drain
from tests.benchmarks.grid import Aim, Grid
from tests.benchmarks.machine import Server
from tests.benchmarks.trial import Trial

TITLE = "Many workers"
ABOUT = """1, 4, 16 and 64 connections claim from one queue and settle, in up to 4 processes with equal numbers of
senders, in batches of 50. The total should not fall when there are more connections than needed."""
RATES: Final = "Drain rate by claiming connections"
CLAIMERS: Final = (1, 4, 16, 64)
_PROCESSES: Final = 4


def _row(contender: Contender, claimers: int) -> str:
    return f"{contender.name}, {claimers} connection{'s' if claimers > 1 else ''}"


def measure(trial: Trial) -> list[Grid]:
    """Drain with so many connections, in turn."""
    grid = Grid(RATES)
    jobs = trial.pick(tiny=5_000, bench=40_000, full=200_000)
    with Server() as server:
        ways: dict[str, Callable[[], None]] = {
            _row(contender, claimers): partial(_measure, grid, server, contender, claimers, jobs)
            for claimers in CLAIMERS
            for contender in trial.pick(tiny=(MAILROOM, FLOOR), bench=(MAILROOM,), full=(MAILROOM, FLOOR))
        }
        trial.interleave(ways)
    return [grid]


def _measure(grid: Grid, server: Server, contender: Contender, claimers: int, jobs: int) -> None:
    processes = min(claimers, _PROCESSES)
    each = how(50, concurrency=claimers // processes)
    found = drain(server, contender, each, jobs=jobs, processes=processes)
    grid.put(
        _row(contender, claimers),
        {"processes": processes, "jobs/s": found.rate, "worker CPU µs": found.worker_cpu},
    )


def aims(grids: Mapping[str, Grid]) -> list[Aim]:
    """One connection, and the least total of several, against the best total."""
    cells = grids.get(RATES, Grid(RATES)).cells
    totals = [cells[name]["jobs/s"] for claimers in CLAIMERS if (name := _row(MAILROOM, claimers)) in cells]
    by_run = list(zip(*totals, strict=True))
    return [
        Aim("total of 1 connection against the best of 1 to 64", [run[0] / max(run) for run in by_run], 0.8),
        Aim("least total of 4 to 64 connections against the best", [min(run[1:]) / max(run) for run in by_run], 0.8),
    ]
