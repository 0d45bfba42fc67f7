"""How fast mails leave through boto3, against a bare loop of the same calls."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Final

from tests.benchmarks.contenders import MAILROOM
from tests.benchmarks.contenders.bare_ses import ENTRIES
from tests.benchmarks.contenders.program import READY
from tests.benchmarks.grid import Aim, Grid
from tests.benchmarks.machine import Program, Server, scalar
from tests.benchmarks.trial import Trial
from tests.benchmarks.worker_process import aws, simulator, worker

TITLE = "SES"
ABOUT = """`mailroom worker` sends the waiting mails through boto3 to the SES simulator. The simulator is a separate
process that answers at once, or after 50 ms, as SES might. The bare loop makes boto3 calls in as many threads, with
one ready-made request of 50 entries, on a client with the same settings, and without a database. Both share the
machine's cores with the simulator, and mailroom also with PostgreSQL. mailroom's rate is from its first settlement
to its last. CPU is microseconds a mail. (mailroom switches off botocore's validation of parameters, and so does the
loop. With validation the loop would be slower by a quarter.)"""
RATES: Final = "Through boto3 to the simulator"
CALL_MS: Final = 50
# Threads, and milliseconds that a call takes.
CASES: Final = ((1, 0), (4, 0), (16, 0), (4, CALL_MS), (16, CALL_MS))

RATE: Final = """
SELECT count(*) FILTER (WHERE created_at > first.at) / extract(epoch FROM max(created_at) - min(first.at))::float
  FROM deliveries, (SELECT min(created_at) AS at FROM deliveries) AS first
"""


def _row(name: str, threads: int, call_ms: int) -> str:
    calls = f", calls of {call_ms} ms" if call_ms else ""
    return f"{name}, {threads} thread{'s' if threads > 1 else ''}{calls}"


def measure(trial: Trial) -> list[Grid]:
    """The worker and the loop in turn, with each number of threads."""
    grid = Grid(RATES)
    jobs = trial.pick(tiny=2_000, bench=40_000, full=200_000)
    with Server() as server:
        ways: dict[str, Callable[[], None]] = {}
        for threads, call_ms in CASES:
            ways[_row("bare loop", threads, call_ms)] = partial(_loop, grid, jobs, threads, call_ms)
            ways[_row("mailroom", threads, call_ms)] = partial(_work, grid, server, jobs, threads, call_ms)
        trial.interleave(ways)
    return [grid]


def _loop(grid: Grid, jobs: int, threads: int, call_ms: int) -> None:
    module = "tests.benchmarks.contenders.bare_ses"
    with (
        simulator(call_ms=call_ms) as (ses, url),
        Program("-m", module, str(jobs // ENTRIES), str(threads), **aws(url)) as loop,
    ):
        loop.await_words(READY)
        before, ses_before = loop.cpu_seconds(), ses.cpu_seconds()
        loop.go()
        loop.wait_for(lambda: "seconds=" in loop.said())
        spent, ses_spent = loop.cpu_seconds() - before, ses.cpu_seconds() - ses_before
        told = dict(pair.split("=") for pair in loop.said().split() if "=" in pair)
    mails = int(told["calls"]) * ENTRIES
    grid.put(
        _row("bare loop", threads, call_ms),
        {
            "mails/s": mails / float(told["seconds"]),
            "CPU µs": spent / mails * 1e6,
            "simulator µs": ses_spent / mails * 1e6,
        },
    )


def _work(grid: Grid, server: Server, jobs: int, threads: int, call_ms: int) -> None:
    with (
        simulator(call_ms=call_ms) as (ses, url),
        server.copy((MAILROOM.name, jobs), lambda filled: MAILROOM.prepare(filled, jobs)) as database,
        server.connect(database) as connection,
    ):
        server_before, ses_before = server.cpu_seconds(), ses.cpu_seconds()
        with worker(server, database, ses_url=url, senders=threads) as working:
            before = working.cpu_seconds()
            working.wait_for(lambda: MAILROOM.has_drained(connection, jobs))
            spent = working.cpu_seconds() - before
        server_spent, ses_spent = server.cpu_seconds() - server_before, ses.cpu_seconds() - ses_before
        rate = float(scalar(connection, RATE))
    found = {"mails/s": rate, "CPU µs": spent / jobs * 1e6, "simulator µs": ses_spent / jobs * 1e6}
    grid.put(_row("mailroom", threads, call_ms), found | {"server µs": server_spent / jobs * 1e6})


def aims(grids: Mapping[str, Grid]) -> list[Aim]:
    """mailroom against the loop with as many threads."""
    grid = grids.get(RATES, Grid(RATES))
    return [
        Aim(
            _row("mails through boto3 against a bare loop", threads, call_ms),
            grid.ratio(_row("mailroom", threads, call_ms), _row("bare loop", threads, call_ms), "mails/s"),
            0.85,
        )
        for threads, call_ms in CASES
    ]
