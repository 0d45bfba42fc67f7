"""How a queue drains while another session holds an old snapshot, under which no dead row can be removed."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Final

from tests.benchmarks.contenders import FLOOR, MAILROOM, PGQUEUER, PROCRASTINATE, Contender, how
from tests.benchmarks.contenders.program import How
from tests.benchmarks.draining import drain
from tests.benchmarks.grid import Aim, Grid
from tests.benchmarks.machine import Server
from tests.benchmarks.trial import Trial

TITLE = "Old snapshot"
ABOUT = """One worker process drains its queue while another session has an open snapshot that is older than the
drain, as with a forgotten transaction or a long dump. Runs without and with the snapshot take turns."""
RATES: Final = "Drain rate under an old snapshot"
_CONTENDERS: Final[list[tuple[Contender, How]]] = [
    (MAILROOM, how(50)),
    (FLOOR, how(50)),
    (PGQUEUER, how(1000)),
    (PROCRASTINATE, how(1, concurrency=10)),
]
WITHOUT: Final = "{}, no snapshot"
WITH: Final = "{}, old snapshot"


def measure(trial: Trial) -> list[Grid]:
    """Drain each queue without and with the snapshot, in turn."""
    grid = Grid(RATES)
    with Server() as server:
        ways: dict[str, Callable[[], None]] = {}
        for contender, each in _CONTENDERS:
            for held, words in ((False, WITHOUT), (True, WITH)):
                name = words.format(contender.name)
                ways[name] = partial(_measure, grid, server, name, contender, each, _jobs(trial, contender), held)
        trial.interleave(ways)
    return [grid]


def _jobs(trial: Trial, contender: Contender) -> int:
    if contender is PROCRASTINATE:
        return trial.pick(tiny=300, bench=3_000, full=20_000)
    return trial.pick(tiny=2_000, bench=60_000, full=200_000)


def _measure(grid: Grid, server: Server, name: str, contender: Contender, each: How, jobs: int, held: bool) -> None:
    found = drain(server, contender, each, jobs=jobs, snapshot=held)
    grid.put(name, {"jobs": jobs, "jobs/s": found.rate, "server CPU µs": found.server_cpu})


def aims(grids: Mapping[str, Grid]) -> list[Aim]:
    """The rate with against the rate without."""
    ratio = grids.get(RATES, Grid(RATES)).ratio(WITH.format("mailroom"), WITHOUT.format("mailroom"), "jobs/s")
    return [Aim("drain under an old snapshot against without", ratio, 0.9)]
