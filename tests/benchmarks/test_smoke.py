"""What the benchmarks count, where a count cannot flake; and that they measure what they say. Times are not asserted.

On a server without autovacuum, so that nobody but the test writes or reads anything.
"""

import re
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import Engine

from mailroom import queue, ses
from mailroom.db.engine import connect_engine
from mailroom.mail.transport import Transport
from mailroom.ops.maintenance import Maintenance
from mailroom.outcome import Sent
from mailroom.queue.feed import ResendWait
from mailroom.queue.floors import Floors
from mailroom.queue.limits import Limits
from mailroom.queue.verdict import judge
from mailroom.simulator import Simulator
from mailroom.worker.report import Report
from mailroom.worker.sender import Sender
from mailroom.worker.shared import Shared
from tests.benchmarks import page, results, rows
from tests.benchmarks.contenders import floor
from tests.benchmarks.contenders.mailroom import NoTransport
from tests.benchmarks.contenders.program import Stamps
from tests.benchmarks.grid import Grid
from tests.benchmarks.machine import Server, scalar
from tests.benchmarks.measures import MEASURES, drain, growth, latency
from tests.benchmarks.trial import Size, Trial
from tests.claiming import claim as claim_due
from tests.kinds import LANES
from tests.machine import ROOT
from tests.running import aws
from tests.world import KEY, misplaced

pytestmark = pytest.mark.slow

# So many that no plan reads all of them.
JOBS = 10_000
LIMITS = Limits("mailroom", 50, batch_timeout=timedelta(0), lease=timedelta(seconds=30))


@pytest.fixture(scope="module")
def quiet() -> Iterator[Server]:
    with Server(autovacuum="off", log_statement="all", log_line_prefix="%a/", fsync="off") as server:
        yield server


@pytest.fixture
def filled(quiet: Server) -> Iterator[str]:
    """The name of a database in which jobs wait."""
    with quiet.copy("filled", _fill) as name:
        yield name


@pytest.fixture
def engine(quiet: Server, filled: str) -> Iterator[Engine]:
    made = connect_engine(quiet.postgres.url(filled), pool_size=3)
    yield made
    made.dispose()


def _fill(url: str) -> None:
    rows.migrated(url)
    rows.fill(url, JOBS)


def _sender(engine: Engine, transport: Transport) -> Sender:
    return Sender(Shared(engine, transport, key=KEY, limits=LIMITS), name="smoke")


def _statements(server: Server) -> int:
    """How many statements mailroom has sent to the server so far."""
    lines = [line for line in server.postgres.log.read_text().splitlines() if line.startswith("mailroom/LOG:")]
    return sum("  statement: " in line or "  execute " in line for line in lines)


def _writing_transactions(server: Server, name: str) -> int:
    with server.connect(name) as connection:
        return int(scalar(connection, "SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint"))


def _spent(server: Server, name: str, act: Callable[[], object]) -> tuple[int, int]:
    statements, writes = _statements(server), _writing_transactions(server, name)
    act()
    return _statements(server) - statements, _writing_transactions(server, name) - writes


def test_a_claim_takes_two_statements_and_two_commits_however_many_batches_it_opens(
    quiet: Server, filled: str, engine: Engine
) -> None:
    sender = _sender(engine, NoTransport(0, Stamps(None)))
    sender.work_claim()  # the first opens the connection
    assert _spent(quiet, filled, sender.work_claim) == (2, 2)
    assert _spent(quiet, filled, lambda: [sender.work_claim() for _ in range(5)]) == (10, 10)


def test_an_idle_worker_asks_one_statement_a_report_and_eight_a_minute_besides_its_looks(
    quiet: Server, engine: Engine
) -> None:
    """Whether it is its turn to count for the fleet or not."""
    report = Report(engine, [_sender(engine, NoTransport(0, Stamps(None)))], queue="mailroom")
    care = Maintenance(engine, queue="mailroom", prune_after=None, resend=ResendWait(LIMITS))
    with engine.connect():
        pass  # the first opens the connection
    asked = []
    for act in (lambda: report.step(0), lambda: report.step(15), lambda: care.step(0), lambda: care.step(59)):
        before = _statements(quiet)
        act()
        asked.append(_statements(quiet) - before)
    assert asked == [1, 1, 8, 0]


def test_a_batch_is_one_request(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    with Simulator() as simulator:
        simulator.configuration_sets.create("default")
        for name, value in aws(simulator).items():
            monkeypatch.setenv(name, value)
        transport = ses.SesTransport(ses.connect(region=None, connections=1), source="noreply@example.com")
        sender = _sender(engine, transport)
        for _ in range(3):
            work = sender.work_claim()
            assert work is not None
            counts = simulator.ledger.counts()
            assert counts.mails == counts.requests * 50


def _read_by_claim(engine: Engine, floors: Floors) -> int:
    """Claim and settle; return what the claim has read: entries of its index and rows of jobs, dead ones too."""
    read = (
        "SELECT pg_stat_get_xact_tuples_returned('jobs_claim_idx'::regclass)"
        " + pg_stat_get_xact_tuples_returned('jobs'::regclass)"
    )
    with engine.connect().execution_options(isolation_level="READ COMMITTED") as connection:
        before: int = connection.exec_driver_sql(read).scalar_one()
        [batch] = claim_due(
            connection,
            queue="mailroom",
            worker="smoke",
            batch_limit=50,
            batch_timeout=timedelta(0),
            lease=timedelta(seconds=30),
            floors=floors,
        ).batches
        after: int = connection.exec_driver_sql(read).scalar_one()
        queue.settle(connection, [(batch, [judge(Sent("m"), attempt=0, jitter=0) for _ in batch.jobs])])
        connection.commit()
    return after - before


def test_a_claim_reads_no_more_than_it_takes(engine: Engine) -> None:
    """A look, a first job that can be had, the jobs themselves, and some entries to know where lanes end."""
    floors = Floors()
    read = [_read_by_claim(engine, floors) for _ in range(20)]
    assert 50 < max(read) <= 2 * 50 + 1 + 2 * len(LANES)


def test_the_floor_does_the_same_work(quiet: Server, filled: str, engine: Engine) -> None:
    with psycopg.connect(quiet.url(filled), autocommit=True) as connection:
        while floor.work_batch(connection, 50):
            pass
    with engine.connect() as ours:
        assert misplaced(ours) == []
        assert ours.exec_driver_sql("SELECT count(*) FROM deliveries WHERE outcome = 'sent'").scalar_one() == JOBS


def test_what_is_filled_is_what_the_triggers_make(quiet: Server, filled: str, engine: Engine) -> None:
    made = "SELECT DISTINCT action, priority, attempt, queue FROM jobs ORDER BY 1, 2"
    with engine.connect() as connection:
        assert misplaced(connection) == []
        by_fill = connection.exec_driver_sql(made).all()
        connection.exec_driver_sql(
            "INSERT INTO accounts (email, login) SELECT n || '@example.net', n FROM generate_series(1, 60) AS n"
        )
        assert misplaced(connection) == []
        assert connection.exec_driver_sql(made).all() == by_fill


def test_a_page_is_written_from_what_was_kept(tmp_path: Path) -> None:
    """With pictures, where the extra `bench` is installed."""
    folder = tmp_path / "benchmarks"
    titles = {"drain": drain.RATES, "latency": latency.TIMES, "growth": growth.FOUND}
    for name in MEASURES:
        grid = Grid(titles.get(name, "Found"))
        grid.put("mailroom", {"jobs/s": 2.0, "p99": 3.0, "claim ms": 4.0})
        results.keep(folder, name, Trial(Size.TINY, runs=1), 1, [grid])
    page.write(folder, tmp_path / "benchmarks.md")
    written = (tmp_path / "benchmarks.md").read_text()
    assert all(f"## {measure.TITLE}" in written for measure in MEASURES.values())
    for picture in re.findall(r"\]\(([^)]+)\)", written):
        assert (tmp_path / picture).exists()


def test_a_grid_compares_run_by_run() -> None:
    grid = Grid("Found")
    for ours, floor_rate in ((3.0, 4.0), (2.0, 4.0), (8.0, 10.0)):
        grid.put("mailroom", {"rate": ours})
        grid.put("floor", {"rate": floor_rate})
    assert grid.ratio("mailroom", "floor", "rate") == [0.75, 0.5, 0.8]
    assert "3 [2-8]" in grid.markdown()


def test_the_lock_of_the_benchmarks_agrees_with_that_of_all_else() -> None:
    pins, with_peers = (_pins(name) for name in ("requirements.lock", "requirements-bench.lock"))
    assert pins.items() <= with_peers.items()


def _pins(name: str) -> dict[str, str]:
    lines = (ROOT / name).read_text().splitlines()
    return dict(line.split(" ")[0].split("==") for line in lines if "==" in line and not line.startswith(" "))
