"""What it costs a worker to be watched: its probes and metrics."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Final

from mailroom.demo.postgres import free_port
from tests.benchmarks.contenders import MAILROOM
from tests.benchmarks.grid import Aim, Grid
from tests.benchmarks.machine import Server, scalar
from tests.benchmarks.measures.ses import RATE
from tests.benchmarks.trial import Trial
from tests.benchmarks.worker_process import simulator, worker

TITLE = "A worker that is watched"
ABOUT = """`mailroom worker` with 4 senders sends what waits through boto3 to the simulator, without probes and metrics,
and with them (`--probe-port`), in turn. CPU is microseconds of the worker a mail; memory is what the worker holds at
the end, in MB."""
FOUND: Final = "With and without probes and metrics"
OFF: Final = "without"
ON: Final = "with"


def measure(trial: Trial) -> list[Grid]:
    """Both ways in turn, each in a copy of the same database."""
    grid = Grid(FOUND)
    jobs = trial.pick(tiny=2_000, bench=40_000, full=200_000)
    with Server() as server:
        ways: dict[str, Callable[[], None]] = {
            OFF: partial(_work, grid, server, jobs, OFF, {}),
            ON: partial(_work, grid, server, jobs, ON, {"MAILROOM_PROBE_ADDRESS": str(free_port())}),
        }
        trial.interleave(ways)
    return [grid]


def _work(grid: Grid, server: Server, jobs: int, name: str, settings: Mapping[str, str]) -> None:
    with (
        simulator() as (_, url),
        server.copy((MAILROOM.name, jobs), lambda filled: MAILROOM.prepare(filled, jobs)) as database,
        server.connect(database) as connection,
        worker(server, database, ses_url=url, senders=4, **settings) as working,
    ):
        before = working.cpu_seconds()
        working.wait_for(lambda: MAILROOM.has_drained(connection, jobs))
        spent, memory = working.cpu_seconds() - before, working.process.memory_info().rss
        rate = float(scalar(connection, RATE))
    grid.put(name, {"mails/s": rate, "CPU µs": spent / jobs * 1e6, "memory, MB": memory / 1e6})


def aims(grids: Mapping[str, Grid]) -> list[Aim]:
    """As fast, and hardly larger."""
    grid = grids.get(FOUND, Grid(FOUND))
    pairs = zip(
        grid.cells.get(ON, {}).get("memory, MB", []), grid.cells.get(OFF, {}).get("memory, MB", []), strict=False
    )
    return [
        Aim("mails a second with metrics against without", grid.ratio(ON, OFF, "mails/s"), 0.98),
        Aim("memory for metrics", [on - off for on, off in pairs], 5, at_most=True, unit="MB"),
    ]
