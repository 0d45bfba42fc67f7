"""What a worker costs that has nothing to do."""

import contextlib
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.benchmarks import rows
from tests.benchmarks.contenders import PGQUEUER, PROCRASTINATE, how
from tests.benchmarks.grid import Aim, Grid
from tests.benchmarks.machine import Program, Server
from tests.benchmarks.trial import Trial
from tests.benchmarks.worker_process import simulator, worker

TITLE = "Idle"
ABOUT = """A worker process that listens is left alone with an empty queue after a warm-up. Measured are the
statements that the server logs for it, the CPU time of the process (percent of one core), its resident memory, and
how much of that it shares with no other process. mailroom runs `mailroom worker` with 4 senders, boto3 loaded and
SES's account watched. The peers run as in the drain. Autovacuum is off. It is watched for whole minutes, since
some things are done once a minute. One worker of a fleet counts for all every 15 s, in one statement. Here it is the
only one."""
FOUND: Final = "An idle worker"
_WARM_UP_SECONDS: Final = 8.0


def measure(trial: Trial) -> list[Grid]:
    """All at once, so often: each in a database of its own."""
    grid = Grid(FOUND)
    seconds = trial.pick(tiny=5.0, bench=60.0, full=120.0)
    with Server(log_statement="all", log_line_prefix="%d/", autovacuum="off") as server, simulator() as (_, url):
        ours = server.create()
        rows.migrated(server.url(ours))
        peers = {peer: server.create() for peer in (PGQUEUER, PROCRASTINATE)}
        for peer, database in peers.items():
            peer.prepare(server.url(database))
        for _ in range(trial.runs):
            with contextlib.ExitStack() as stack:
                idlers = [_Idler("mailroom", ours, stack.enter_context(worker(server, ours, ses_url=url, senders=4)))]
                for peer, database in peers.items():
                    each = how(1000) if peer is PGQUEUER else how(1, 10)
                    working = stack.enter_context(peer.worker(server.url(database), each))
                    working.go()
                    idlers.append(_Idler(peer.name, database, working))
                _watch(grid, server.postgres.log, idlers, seconds)
    return [grid]


@dataclass(frozen=True, slots=True)
class _Idler:
    """A worker that has nothing to do, and the database in which it has it."""

    name: str
    database: str
    working: Program


def _watch(grid: Grid, log: Path, idlers: list[_Idler], seconds: float) -> None:
    time.sleep(min(_WARM_UP_SECONDS, seconds))
    before = [(_statements(log, idler.database), idler.working.cpu_seconds()) for idler in idlers]
    time.sleep(seconds)
    for idler, (statements, spent) in zip(idlers, before, strict=True):
        resident, own = idler.working.memory_mb()
        grid.put(
            idler.name,
            {
                "statements/s": (_statements(log, idler.database) - statements) / seconds,
                "CPU %": (idler.working.cpu_seconds() - spent) / seconds * 100,
                "memory MB": resident,
                "of that its own": own,
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
