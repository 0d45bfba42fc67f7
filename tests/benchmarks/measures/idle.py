"""What a worker costs that has nothing to do."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from tests.benchmarks import rows
from tests.benchmarks.contenders import PGQUEUER, PROCRASTINATE, Contender, how
from tests.benchmarks.grid import Aim, Grid
from tests.benchmarks.machine import Program, Server
from tests.benchmarks.trial import Trial
from tests.benchmarks.worker_process import simulator, worker

TITLE = "Idle"
ABOUT = """A worker process that listens, left alone with an empty queue after a warm-up: the statements that the
server logs for it, the CPU time of the process (percent of one core), and its resident memory. mailroom: `mailroom
worker` with 4 senders at its defaults, boto3 loaded and SES's account watched. The peers as in the drain."""
FOUND: Final = "An idle worker"
_WARM_UP_SECONDS: Final = 8.0


def measure(trial: Trial) -> list[Grid]:
    """mailroom, then its peers, in turn."""
    grid = Grid(FOUND)
    seconds = trial.pick(tiny=5.0, bench=20.0, full=120.0)
    with Server(log_statement="all", log_line_prefix="%d/", autovacuum="off") as server, simulator() as (_, url):
        ours = server.create()
        rows.migrated(server.url(ours))
        peers = {peer: server.create() for peer in (PGQUEUER, PROCRASTINATE)}
        for peer, database in peers.items():
            peer.prepare(server.url(database))

        def measure_ours() -> None:
            with worker(server, ours, ses_url=url, senders=4) as working:
                _watch(grid, "mailroom", server, ours, working, seconds)

        def measure_peer(peer: Contender, database: str) -> None:
            each = how(1000) if peer is PGQUEUER else how(1, 10)
            with peer.worker(server.url(database), each) as working:
                working.go()
                _watch(grid, peer.name, server, database, working, seconds)

        for _ in range(trial.runs if trial.size != "bench" else 1):
            measure_ours()
            for peer, database in peers.items():
                measure_peer(peer, database)
    return [grid]


def _watch(grid: Grid, name: str, server: Server, database: str, working: Program, seconds: float) -> None:
    time.sleep(min(_WARM_UP_SECONDS, seconds))
    statements, spent = _statements(server.postgres.log, database), working.cpu_seconds()
    time.sleep(seconds)
    grid.put(
        name,
        {
            "statements/s": (_statements(server.postgres.log, database) - statements) / seconds,
            "CPU %": (working.cpu_seconds() - spent) / seconds * 100,
            "memory MB": working.memory_mb(),
        },
    )


def _statements(log: Path, database: str) -> int:
    """How many statements the server has logged for a database; prepared ones count once each time they run."""
    lines = (line for line in log.read_text().splitlines() if line.startswith(f"{database}/LOG:"))
    return sum("  statement: " in line or "  execute " in line for line in lines)


def aims(grids: Mapping[str, Grid]) -> list[Aim]:
    """In absolute terms."""
    ours = grids.get(FOUND, Grid(FOUND)).cells.get("mailroom", {})
    return [
        Aim("idle, statements", ours.get("statements/s", []), 0.5, at_most=True, unit="/s"),
        Aim("idle, CPU of a core", [value / 100 for value in ours.get("CPU %", [])], 0.002, at_most=True),
        Aim("idle, memory", ours.get("memory MB", []), 70, at_most=True, unit="MB"),
    ]
