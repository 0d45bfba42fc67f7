"""What events of SES cost beside the mails that they tell of, and what they do to how soon those leave."""

import contextlib
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Literal

import psycopg

from tests.benchmarks import rows
from tests.benchmarks.grid import Aim, Grid
from tests.benchmarks.machine import Program, Server, scalar
from tests.benchmarks.trial import Trial
from tests.benchmarks.worker_process import aws, simulator, worker

TITLE = "Events beside mails"
ABOUT = """Password recoveries, 500 a second, go through all triggers and `mailroom worker` with one sender (which
is fast enough), and through boto3 to the simulator. The simulator publishes two events for each mail (Send and
Delivery). boto3 reads them from its queue, ten at a time, in one of three ways: nobody reads, the worker itself
reads, or `mailroom events` reads in a separate process. The cost of reading is compared with events that nobody
reads, because the simulator has work with those too. p50 and p99 are from the insert to the settlement. The CPU
times of the worker and of the server are for each mail. The simulator, also a Python process, shares the cores with
all of them."""
FOUND: Final = "500 mails a second, and what is told of them"
ALONE: Final = "without events"
UNREAD: Final = "read by nobody"
WITHIN: Final = "read by the worker"
APART: Final = "read by a process of its own"
RATE: Final = 500
_ACCOUNTS: Final = 10_000
_STEP_SECONDS: Final = 0.005
_REST_SECONDS: Final = 5.0
_WARM_UP: Final = 20
_QUEUE: Final = "123456789012/mailroom-events"
_HEARD: Final = "SELECT added FROM feed"

_ASK: Final = """
INSERT INTO tokens (action, account)
SELECT 'password_recovery', 1 + n %% %(accounts)s FROM generate_series(%(first)s::bigint, %(last)s::bigint) AS n
"""
_TOLD: Final = """
SELECT count(*) FILTER (WHERE outcome = 'sent'),
       percentile_cont(0.5) WITHIN GROUP (ORDER BY extract(epoch FROM logged.created_at - tokens.created_at)) * 1000,
       percentile_cont(0.99) WITHIN GROUP (ORDER BY extract(epoch FROM logged.created_at - tokens.created_at)) * 1000
  FROM deliveries AS logged JOIN tokens ON tokens.id = logged.token
 WHERE NOT late
"""


@dataclass(frozen=True, slots=True)
class _Case:
    """Whether events are told of mails, and who reads them."""

    name: str
    events: bool
    reader: Literal["nobody", "worker", "own"]


_CASES: Final = (
    _Case(ALONE, False, "nobody"),
    _Case(UNREAD, True, "nobody"),
    _Case(WITHIN, True, "worker"),
    _Case(APART, True, "own"),
)


def measure(trial: Trial) -> list[Grid]:
    """Each way in turn, in a database of its own."""
    grid = Grid(FOUND)
    seconds = trial.pick(tiny=3, bench=20, full=60)
    with Server() as server:
        trial.interleave({case.name: partial(_measure, grid, server, seconds, case) for case in _CASES})
    return [grid]


def _measure(grid: Grid, server: Server, seconds: int, case: _Case) -> None:
    database = server.create()
    rows.migrated(server.url(database))
    rows.add_active_accounts(server.url(database), _ACCOUNTS)
    with simulator(events=case.events) as (ses, url):
        feed = {"MAILROOM_EVENTS_QUEUE_URL": f"{url}/{_QUEUE}"} if case.reader == "worker" else {}
        with worker(server, database, ses_url=url, senders=1, **feed) as working, server.connect(database) as asking:
            _ask(asking, first=0, count=_WARM_UP)
            time.sleep(_REST_SECONDS)
            with _reader(server, database, url, case) as reader:
                began = time.monotonic()
                spent = server.cpu_seconds(), working.cpu_seconds(), ses.cpu_seconds()
                asked = _ask_steadily(asking, seconds)
                took, heard = time.monotonic() - began, float(scalar(asking, _HEARD))
                time.sleep(_REST_SECONDS)  # for what is on its way
                by_server, by_worker = server.cpu_seconds() - spent[0], working.cpu_seconds() - spent[1]
                by_ses, by_reader = ses.cpu_seconds() - spent[2], reader.cpu_seconds() if reader else 0.0
            sent, p50, p99 = asking.execute(_TOLD).fetchall()[0]
            told = float(scalar(asking, _HEARD))
    server.drop(database)
    found = {
        "mails/s": asked / took,
        "p50, ms": float(p50),
        "p99, ms": float(p99),
        "worker, CPU ms": by_worker / asked * 1000,
        "server, CPU ms": by_server / asked * 1000,
        "simulator, CPU ms": by_ses / asked * 1000,
        "not sent in the end": asked + _WARM_UP - sent,
    }
    if case.reader != "nobody":
        found |= {"events/s": heard / took, "events a mail in the end": told / sent}
    grid.put(case.name, found | ({"reader, CPU ms": by_reader / asked * 1000} if reader else {}))


@contextlib.contextmanager
def _reader(server: Server, database: str, url: str, case: _Case) -> Iterator[Program | None]:
    """Run `mailroom events`, where it is to read them: until none comes any more."""
    if case.reader != "own":
        yield None
        return
    environment = {
        "MAILROOM_DATABASE_URL": server.postgres.url(database),
        "MAILROOM_EVENTS_QUEUE_URL": f"{url}/{_QUEUE}",
        **aws(url),
    }
    with Program("-m", "mailroom", "events", "--max-seconds", "3600", **environment) as program:
        yield program


def _ask_steadily(connection: psycopg.Connection[Any], seconds: int) -> int:
    """Ask for as many recoveries as are due, again and again; return how many that were."""
    began, asked = time.monotonic(), 0
    while (elapsed := time.monotonic() - began) < seconds:
        due = int(elapsed * RATE)
        if due > asked:
            _ask(connection, first=asked, count=due - asked)
            asked = due
        time.sleep(_STEP_SECONDS)
    return asked


def _ask(connection: psycopg.Connection[Any], *, first: int, count: int) -> None:
    connection.execute(_ASK, {"accounts": _ACCOUNTS, "first": first, "last": first + count - 1})


def aims(grids: Mapping[str, Grid]) -> list[Aim]:
    """All that is told is absorbed at once, and mails leave as soon as without."""
    grid = grids.get(FOUND, Grid(FOUND))
    return [
        Aim(
            "events absorbed while 500 mails a second leave",
            [value / (2 * RATE) for value in grid.cells.get(WITHIN, {}).get("events/s", [])],
            0.95,
        ),
        Aim("p50 with events read against unread", grid.ratio(WITHIN, UNREAD, "p50, ms"), 1.1, at_most=True),
        Aim("p50 with events read apart against unread", grid.ratio(APART, UNREAD, "p50, ms"), 1.1, at_most=True),
    ]
