"""How long an urgent mail waits from its commit to its request at the transport."""

import contextlib
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from tests.benchmarks.contenders import MAILROOM, PGQUEUER, PROCRASTINATE, Contender, how
from tests.benchmarks.contenders.program import read_stamps
from tests.benchmarks.grid import Aim, Grid, percentile
from tests.benchmarks.machine import Server, scalar
from tests.benchmarks.trial import Trial

TITLE = "Latency"
ABOUT = """A separate process commits an urgent job (for mailroom: a password recovery) every 20 ms, and a worker
process listens. The time is from the return of that commit to the job's arrival at the transport (for the peers: in
the task), by the clock that both processes share. It is measured idle, and while the worker drains a backlog of
bulk jobs. With calls that take no time, the backlog uses both cores of the machine. With calls of 50 ms, as to SES,
the calls are the limit: the urgent mails alone then keep 2.5 senders busy. The peers take the urgent job by its
priority, pgqueuer with its best batch, procrastinate with 10 tasks. If the backlog was gone before the last urgent
job was requested, its row says 0 under `backlog lasted`."""
TIMES: Final = "From commit to transport, ms"
CALL_SECONDS: Final = 0.05
GAP_SECONDS: Final = 0.02
IDLE: Final = "mailroom, 4 senders, idle"
BEHIND: Final = "mailroom, 4 senders, behind the backlog"
# With calls that last, by the number of senders.
BEHIND_CALLS: Final = {
    senders: f"mailroom, {senders} sender{'s' if senders > 1 else ''}, behind the backlog, calls of 50 ms"
    for senders in (1, 4, 8)
}
_WARM_UP_SECONDS: Final = 0.5
_PATIENCE_SECONDS: Final = 30.0


@dataclass(frozen=True, slots=True)
class _Case:
    """Who is measured, and behind how much."""

    name: str
    contender: Contender
    batch: int
    senders: int
    backlog: int = 0
    call_seconds: float = 0


def _cases(backlog: int) -> list[_Case]:
    return [
        _Case(IDLE, MAILROOM, 50, 4),
        _Case(BEHIND, MAILROOM, 50, 4, backlog),
        *(_Case(name, MAILROOM, 50, senders, backlog, CALL_SECONDS) for senders, name in BEHIND_CALLS.items()),
        _Case("pgqueuer, idle", PGQUEUER, 1000, 1),
        _Case("pgqueuer, behind the backlog", PGQUEUER, 1000, 1, backlog),
        _Case("procrastinate, idle", PROCRASTINATE, 1, 10),
        _Case("procrastinate, behind the backlog", PROCRASTINATE, 1, 10, min(backlog, 100_000)),
    ]


def measure(trial: Trial) -> list[Grid]:
    """Each queue idle and behind a backlog, in turn."""
    grid = Grid(TIMES)
    count = trial.pick(tiny=20, bench=200, full=500)
    backlog = trial.pick(tiny=2_000, bench=300_000, full=1_000_000)
    with Server() as server:
        trial.interleave({case.name: partial(_measure, grid, server, count, case) for case in _cases(backlog)})
    return [grid]


def _measure(grid: Grid, server: Server, count: int, case: _Case) -> None:
    kind = (case.contender.name, case.backlog)
    with (
        _stamps() as (asked, arrived),
        server.copy(kind, lambda url: case.contender.prepare(url, case.backlog)) as database,
        server.connect(database) as connection,
        case.contender.worker(
            server.url(database), how(case.batch, case.senders, call_seconds=case.call_seconds, stamps=arrived)
        ) as worker,
    ):
        worker.go()
        time.sleep(_WARM_UP_SECONDS)
        with case.contender.program("ask", server.url(database), count=count, gap=GAP_SECONDS, stamps=asked) as asking:
            asking.finish()
        lasted = bool(scalar(connection, case.contender.left))
        deadline = time.monotonic() + _PATIENCE_SECONDS
        worker.wait_for(lambda: len(read_stamps(arrived)) >= count or time.monotonic() > deadline)
        times = _milliseconds(asked, arrived)
    missing = count - len(times)
    times += [_PATIENCE_SECONDS * 1000] * missing  # at the least
    columns = {"p50": percentile(times, 0.5), "p99": percentile(times, 0.99), "most": max(times)}
    columns |= {"samples": count, "missing after 30 s": missing}
    grid.put(case.name, columns | {"backlog": case.backlog, "backlog lasted": float(lasted)})


@contextlib.contextmanager
def _stamps() -> Iterator[tuple[Path, Path]]:
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        asked, arrived = Path(folder) / "asked", Path(folder) / "arrived"
        asked.touch()
        arrived.touch()
        yield asked, arrived


def _milliseconds(asked: Path, arrived: Path) -> list[float]:
    began, ended = read_stamps(asked), read_stamps(arrived)
    return [(ended[key] - moment) * 1000 for key, moment in began.items() if key in ended]


def aims(grids: Mapping[str, Grid]) -> list[Aim]:
    """Idle in absolute terms; behind a backlog no later than one call."""
    cells = grids.get(TIMES, Grid(TIMES)).cells
    idle = cells.get(IDLE, {})
    return [
        Aim("latency idle, p50", idle.get("p50", []), 5, at_most=True, unit="ms"),
        Aim("latency idle, p99", idle.get("p99", []), 25, at_most=True, unit="ms"),
        *(_against_idle(senders, cells.get(BEHIND_CALLS[senders], {}), idle) for senders in (4, 8)),
    ]


def _against_idle(senders: int, behind: dict[str, list[float]], idle: dict[str, list[float]]) -> Aim:
    runs = zip(behind.get("p99", []), idle.get("p99", []), behind.get("backlog lasted", []), strict=False)
    more = [late - early for late, early, lasted in runs if lasted]
    what = f"p99 behind a backlog, more than idle, {senders} senders"
    return Aim(what, more, CALL_SECONDS * 1000, at_most=True, unit="ms")
