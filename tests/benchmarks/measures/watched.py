"""What it costs a worker to be watched: its probes and metrics."""

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import psycopg

from mailroom.demo.postgres import free_port
from tests.benchmarks.contenders import MAILROOM
from tests.benchmarks.grid import Aim, Grid
from tests.benchmarks.machine import Program, Server, scalar
from tests.benchmarks.trial import Trial, say
from tests.benchmarks.worker_process import simulator, worker

TITLE = "A worker that is watched"
ABOUT = """Two `mailroom worker` processes with 4 senders each send the waiting mails through boto3, one without
probes and metrics, one with them (`--probe-port`). They run at the same time, so that both are slowed down alike.
Each has its own database and simulator. They are compared until the first of them has sent nine tenths. CPU is
microseconds of the worker for each mail. Memory is what the worker holds at the end, in MB."""
FOUND: Final = "With and without probes and metrics, side by side"
OFF: Final = "without"
ON: Final = "with"
DONE: Final = "SELECT count(*) FROM deliveries"


@dataclass(frozen=True, slots=True)
class _Side:
    """A worker, and the database that it works on."""

    program: Program
    connection: psycopg.Connection[Any]

    def now(self) -> tuple[float, int]:
        """Seconds of CPU, and mails, so far."""
        return self.program.cpu_seconds(), int(scalar(self.connection, DONE))


def measure(trial: Trial) -> list[Grid]:
    """Both at once, each in a copy of the same database; which of them starts first changes."""
    grid = Grid(FOUND)
    jobs = trial.pick(tiny=4_000, bench=40_000, full=200_000)
    with Server() as server:
        for run in range(trial.runs):
            with contextlib.ExitStack() as opened:
                order = (OFF, ON) if run % 2 == 0 else (ON, OFF)
                _race(
                    grid, {name: opened.enter_context(_side(server, jobs, watched=name is ON)) for name in order}, jobs
                )
            say(f"  run {run + 1} of {trial.runs}")
    return [grid]


@contextlib.contextmanager
def _side(server: Server, jobs: int, *, watched: bool) -> Iterator[_Side]:
    settings = {"MAILROOM_PROBE_ADDRESS": str(free_port())} if watched else {}
    with (
        simulator() as (_, url),
        server.copy((MAILROOM.name, jobs), lambda filled: MAILROOM.prepare(filled, jobs)) as database,
        server.connect(database) as connection,
        worker(server, database, ses_url=url, senders=4, **settings) as program,
    ):
        yield _Side(program, connection)


def _race(grid: Grid, sides: Mapping[str, _Side], jobs: int) -> None:
    one = next(iter(sides.values())).program
    one.wait_for(lambda: all(side.now()[1] > jobs / 20 for side in sides.values()))
    began = {name: side.now() for name, side in sides.items()}
    one.wait_for(lambda: any(side.now()[1] > jobs * 0.9 for side in sides.values()), every=0.25)
    for name, side in sides.items():
        (cpu, done), (cpu_before, done_before) = side.now(), began[name]
        mails, memory = done - done_before, side.program.process.memory_info().rss
        grid.put(name, {"mails": mails, "CPU µs": (cpu - cpu_before) / mails * 1e6, "memory, MB": memory / 1e6})


def aims(grids: Mapping[str, Grid]) -> list[Aim]:
    """As fast, and hardly larger."""
    grid = grids.get(FOUND, Grid(FOUND))
    pairs = zip(
        grid.cells.get(ON, {}).get("memory, MB", []), grid.cells.get(OFF, {}).get("memory, MB", []), strict=False
    )
    return [
        Aim("mails with metrics against without, side by side", grid.ratio(ON, OFF, "mails"), 0.98),
        Aim("CPU a mail with metrics against without", grid.ratio(ON, OFF, "CPU µs"), 1.02, at_most=True),
        Aim("memory for metrics", [on - off for on, off in pairs], 5, at_most=True, unit="MB"),
    ]
