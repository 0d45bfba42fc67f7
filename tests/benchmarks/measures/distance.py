"""What a drain costs when the database is not on the machine of the worker, but a round trip away."""

import contextlib
import re
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Final

from psycopg.conninfo import conninfo_to_dict, make_conninfo

from tests.benchmarks.contenders import MAILROOM, how
from tests.benchmarks.grid import Aim, Grid
from tests.benchmarks.machine import Program, Server, scalar
from tests.benchmarks.trial import Trial

TITLE = "Distance"
ABOUT = """One worker process reaches its database through a proxy that delays everything by half of a round trip: 1
ms, as in the same zone, and 20 ms, as in another region. Its transport does nothing. A batch of 50 takes two round
trips, for its claim and its settlement. The senders of a process make theirs in parallel. The proxy itself uses CPU
of the same two cores; the rows with 0 ms show how much."""
RATES: Final = "Drain rate by round trip to the database"
ROUND_TRIPS_MS: Final = (0.0, 1.0, 20.0)
SENDERS: Final = (1, 4, 16)


def row(milliseconds: float, senders: int) -> str:
    """The name of a row."""
    return f"{milliseconds:g} ms, {senders} sender{'s' if senders > 1 else ''}"


def measure(trial: Trial) -> list[Grid]:
    """Drain at each distance with so many senders, in turn."""
    grid = Grid(RATES)
    with Server() as server:
        ways: dict[str, Callable[[], None]] = {
            row(milliseconds, senders): partial(_measure, grid, server, trial, milliseconds, senders)
            for milliseconds in ROUND_TRIPS_MS
            for senders in SENDERS
        }
        trial.interleave(ways)
    return [grid]


def _measure(grid: Grid, server: Server, trial: Trial, milliseconds: float, senders: int) -> None:
    jobs = trial.pick(tiny=2_000, bench=20_000, full=50_000)
    kind = (MAILROOM.prepare, MAILROOM.name, jobs)
    with (
        server.copy(kind, lambda url: MAILROOM.prepare(url, jobs)) as database,
        _far(server.url(database), milliseconds) as url,
        server.connect(database) as connection,
        MAILROOM.worker(url, how(50, concurrency=senders)) as worker,
    ):
        began_at = scalar(connection, "SELECT clock_timestamp()")
        worker.go()
        worker.wait_for(lambda: MAILROOM.has_drained(connection, jobs))
        seconds = (scalar(connection, MAILROOM.last_done) - began_at).total_seconds()
    grid.put(row(milliseconds, senders), {"jobs": jobs, "jobs/s": jobs / seconds})


@contextlib.contextmanager
def _far(url: str, milliseconds: float) -> Iterator[str]:
    """Give a way to a database that takes so long there and back."""
    given = conninfo_to_dict(url)
    with Program("-m", "tests.benchmarks.far", str(given["host"]), str(given["port"]), str(milliseconds)) as proxy:
        proxy.await_words("listening on ")
        found = re.search(r"listening on (\d+)", proxy.said())
        assert found is not None
        yield make_conninfo(url, host="127.0.0.1", port=found[1])


def aims(grids: Mapping[str, Grid]) -> list[Aim]:
    """None: it is for reckoning with."""
    return []
