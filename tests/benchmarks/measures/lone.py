"""What a mail costs that comes alone, as account mail does, and how soon it leaves."""

import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from tests.benchmarks.contenders import MAILROOM, PGQUEUER, PROCRASTINATE, Contender, how
from tests.benchmarks.contenders.program import read_stamps
from tests.benchmarks.grid import Aim, Grid, percentile
from tests.benchmarks.machine import Server, scalar
from tests.benchmarks.trial import Trial

TITLE = "A lone mail"
ABOUT = """One job at a time, 50 a second, to an idle worker process that listens. For mailroom these are password
recoveries through all triggers, with 4 senders and a transport that does nothing. For the peers it is a task that
does nothing. The figures are for each mail: the CPU time of the server, with the insert that asks for the mail; the
CPU time of the worker; the transactions of both; and the time from the return of the commit to the transport (or
the task). `idle` has the cost without mail."""
FOUND: Final = "By mail, 50 a second"
OURS: Final = "mailroom, 4 senders"
GAP_SECONDS: Final = 0.02
_WARM_UP_SECONDS: Final = 2.0
_PATIENCE_SECONDS: Final = 30.0
_TRANSACTIONS: Final = "SELECT xact_commit FROM pg_stat_database WHERE datname = current_database()"


@dataclass(frozen=True, slots=True)
class _Case:
    """Who is measured, and how it works."""

    name: str
    contender: Contender
    batch: int
    senders: int


_CASES: Final = (
    _Case(OURS, MAILROOM, 50, 4),
    _Case("pgqueuer", PGQUEUER, 1000, 1),
    _Case("procrastinate", PROCRASTINATE, 1, 10),
)


def measure(trial: Trial) -> list[Grid]:
    """Each queue in turn, in a database of its own."""
    grid = Grid(FOUND)
    count = trial.pick(tiny=50, bench=500, full=3_000)
    with Server(autovacuum="off") as server:
        trial.interleave({case.name: partial(_measure, grid, server, count, case) for case in _CASES})
    return [grid]


def _measure(grid: Grid, server: Server, count: int, case: _Case) -> None:
    database = server.create()
    case.contender.prepare(server.url(database))
    with (
        tempfile.TemporaryDirectory(prefix="bench-") as folder,
        server.connect(database) as connection,
        case.contender.worker(
            server.url(database), how(case.batch, case.senders, stamps=Path(folder) / "arrived")
        ) as worker,
    ):
        worker.go()
        asked, arrived = Path(folder) / "asked", Path(folder) / "arrived"
        _ask(case.contender, server.url(database), 20, Path(folder) / "warm")
        time.sleep(_WARM_UP_SECONDS)
        before = len(read_stamps(arrived))
        transactions = float(scalar(connection, _TRANSACTIONS))
        spent = server.cpu_seconds(), worker.cpu_seconds()
        _ask(case.contender, server.url(database), count, asked)
        deadline = time.monotonic() + _PATIENCE_SECONDS
        worker.wait_for(lambda: len(read_stamps(arrived)) >= before + count or time.monotonic() > deadline)
        by_server, by_worker = server.cpu_seconds() - spent[0], worker.cpu_seconds() - spent[1]
        worker.stop()  # a session tells what it has counted when it ends
        transactions = float(scalar(connection, _TRANSACTIONS)) - transactions
        began, ended = read_stamps(asked), read_stamps(arrived)
    server.drop(database)
    times = [(ended[key] - moment) * 1000 for key, moment in began.items() if key in ended]
    grid.put(
        case.name,
        {
            "server, CPU ms": by_server / count * 1000,
            "worker, CPU ms": by_worker / count * 1000,
            "transactions": transactions / count,
            "p50, ms": percentile(times, 0.5),
            "p99, ms": percentile(times, 0.99),
            "mails": len(times),
        },
    )


def _ask(contender: Contender, url: str, count: int, stamps: Path) -> None:
    with contender.program("ask", url, count=count, gap=GAP_SECONDS, stamps=stamps) as asking:
        asking.finish()


def aims(grids: Mapping[str, Grid]) -> list[Aim]:
    """In absolute terms; the peers of the same run stand beside it."""
    ours = grids.get(FOUND, Grid(FOUND)).cells.get(OURS, {})
    return [
        Aim("a lone mail, CPU of the server", ours.get("server, CPU ms", []), 1.0, at_most=True, unit="ms"),
        Aim("a lone mail, CPU of the worker", ours.get("worker, CPU ms", []), 1.3, at_most=True, unit="ms"),
        Aim("a lone mail, p50", ours.get("p50, ms", []), 1.5, at_most=True, unit="ms"),
        Aim("a lone mail, p99", ours.get("p99, ms", []), 4, at_most=True, unit="ms"),
    ]
