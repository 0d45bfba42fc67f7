"""Workers as processes: many at once, killed, stopped, frozen, and with the database taken away from under them."""

import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import DBAPIError

from mailroom.demo.postgres import EmbeddedPostgres
from mailroom.simulator import Fault, Simulator
from tests.machine import missing
from tests.running import Processes, connecting, eventually
from tests.servers import BINARIES, GIVEN, TESTS_PATH, Server, migrate
from tests.world import add_accounts, count, drained, misplaced, rows

pytestmark = pytest.mark.slow

BULK = "SendBulkEmail"  # not the look at the account, which a worker begins with


def sent_twice(simulator: Simulator) -> set[int]:
    return {int(token) for token in simulator.ledger.duplicates()}


def on_record_as_unconfirmed(engine: Engine) -> set[int]:
    with engine.connect() as connection:
        return {row.token for row in rows(connection, "SELECT token FROM deliveries WHERE outcome = 'unconfirmed'")}


def test_four_processes_of_four_senders_send_20000_mails_once_each(
    engine: Engine, url: str, server: Server, simulator: Simulator, processes: Processes
) -> None:
    said = len(server.embedded.log.read_text()) if server.embedded else 0
    with engine.connect() as connection:
        for part in range(4):
            add_accounts(connection, 5_000, prefix=f"part{part}-")
        for _ in range(4):
            processes.start("worker", "--concurrency", "4", url=url, simulator=simulator, MAILROOM_BATCH_LIMIT="50")
        samples = 0
        while not drained(connection):
            assert misplaced(connection) == []
            samples += 1
        assert samples > 5
        assert misplaced(connection) == []
        assert count(connection, "deliveries WHERE outcome = 'sent'") == 20_000
    counts = simulator.ledger.counts()
    assert (counts.mails, counts.duplicates) == (20_000, 0)
    if server.embedded:
        assert "deadlock detected" not in server.embedded.log.read_text()[said:]


def sign_up_each(connection: Connection, number: int, *, a_second: int) -> None:
    """Let so many people sign up, each in a commit of its own, at that pace; what is late is made up for at once."""
    began, made = time.monotonic(), 0
    while made < number:
        due = min(number, int((time.monotonic() - began) * a_second) + 1)
        if made < due:
            add_accounts(connection, due - made, prefix=f"after{made}-")
            made = due
        else:
            threading.Event().wait(0.001)


def test_four_senders_keep_up_with_200_sign_ups_a_second_in_half_as_many_calls(
    engine: Engine, url: str, simulator: Simulator, processes: Processes
) -> None:
    """A call takes 60 ms: one for each mail would be 67 a second. What comes meanwhile leaves together."""
    simulator.faults.add(*(Fault(operation=each, latency_ms=60, times=None) for each in ("SendEmail", BULK)))
    settings = {"MAILROOM_BATCH_TIMEOUT": "5000", "MAILROOM_SES_BULK_RATE": "unlimited"}
    processes.worker("--concurrency", "4", url=url, simulator=simulator, **settings)
    with engine.connect() as connection:
        sign_up_each(connection, 1_000, a_second=200)
        assert count(connection, "jobs") < 200, "a second's worth"
        eventually(lambda: drained(connection), "all is sent")
        assert misplaced(connection) == []
    counts = simulator.ledger.counts()
    calls = sum(request.operation in {"SendEmail", BULK} for request in simulator.ledger.requests)
    assert (counts.mails, counts.duplicates) == (1_000, 0)
    assert calls <= 500


def test_sigterm_lets_slow_calls_finish_and_settles_them(
    engine: Engine, url: str, simulator: Simulator, processes: Processes
) -> None:
    simulator.faults.add(Fault(operation=BULK, latency_ms=1500, times=None))
    with engine.connect() as connection:
        add_accounts(connection, 1_000)
        worker = processes.worker("--concurrency", "4", url=url, simulator=simulator)
        eventually(lambda: count(connection, "batches") == 4, "four calls are in flight")
        worker.signal(signal.SIGTERM)
        assert worker.wait() == 0, worker.log.read_text()
        assert count(connection, "batches") == 0
        sent = simulator.ledger.counts().mails
        assert 40 <= sent < 1_000
        assert count(connection, "deliveries WHERE outcome = 'sent'") == sent
        assert count(connection, "jobs WHERE attempt = 0") == 1_000 - sent
        assert misplaced(connection) == []
    assert worker.says("worker stopped")


def test_a_second_signal_ends_it_at_once(engine: Engine, url: str, simulator: Simulator, processes: Processes) -> None:
    simulator.faults.add(Fault(operation=BULK, accept_then="hang", times=None))
    with engine.connect() as connection:
        add_accounts(connection, 10)
        worker = processes.worker(url=url, simulator=simulator)
        eventually(lambda: simulator.ledger.counts().mails == 10, "the call hangs")
        worker.signal(signal.SIGINT)
        worker.signal(signal.SIGTERM)
        assert worker.wait() == 1
        assert count(connection, "batches") == 1


@pytest.mark.early
def test_mails_of_a_killed_worker_leave_again_within_45_seconds(
    engine: Engine, url: str, simulator: Simulator, processes: Processes
) -> None:
    """At the default lease and sweep interval. Each such mail is on record as unconfirmed, and only those go twice."""
    simulator.faults.add(Fault(operation=BULK, accept_then="hang", times=2))
    with engine.connect() as connection:
        add_accounts(connection, 60)
        worker = processes.worker("--concurrency", "2", url=url, simulator=simulator)
        eventually(lambda: simulator.ledger.counts().mails == 20, "two calls hang after SES accepted them")
        worker.signal(signal.SIGKILL)
        worker.wait()
        held = {token for row in rows(connection, "SELECT tokens FROM batches") for token in row.tokens}
        assert len(held) == 20
        processes.worker("--concurrency", "2", url=url, simulator=simulator)
        eventually(lambda: drained(connection), "all has left", seconds=45)
        assert misplaced(connection) == []
        assert count(connection, "deliveries WHERE outcome = 'sent'") == 60
    assert sent_twice(simulator) == held == on_record_as_unconfirmed(engine)


def test_a_worker_frozen_past_its_lease_sends_nothing_twice_that_is_not_on_record(
    engine: Engine, url: str, simulator: Simulator, processes: Processes
) -> None:
    simulator.faults.add(Fault(operation=BULK, latency_ms=5000, times=1))
    with engine.connect() as connection:
        add_accounts(connection, 10)
        frozen = processes.worker(url=url, simulator=simulator)
        eventually(lambda: simulator.ledger.counts().mails == 10, "the call is in flight")
        frozen.freeze()
        [batch] = rows(connection, "SELECT id FROM batches")
        connection.execute(text("UPDATE batches SET lease_until = now() - interval '1 second'"))
        processes.worker(url=url, simulator=simulator, MAILROOM_SWEEP_INTERVAL="200")
        eventually(lambda: count(connection, "deliveries WHERE outcome = 'unconfirmed'") == 10, "it is rescued")
        frozen.signal(signal.SIGCONT)
        eventually(lambda: count(connection, "deliveries WHERE late"), "its answer is kept")
        connection.execute(text("UPDATE jobs SET due_at = now()"))
        eventually(lambda: drained(connection), "all is over")
        assert misplaced(connection) == []
        late = rows(connection, "SELECT batch, outcome FROM deliveries WHERE late")
        assert {(row.batch, row.outcome) for row in late} == {(batch.id, "sent")}
    assert simulator.ledger.counts().mails == 10
    assert sent_twice(simulator) == set()


@pytest.fixture(params=list(BINARIES))
def own_postgres(request: pytest.FixtureRequest) -> Iterator[EmbeddedPostgres]:
    """A server of the test's own, that keeps what it has committed: it is going to be stopped the hard way."""
    binaries: Path | None = BINARIES[request.param]
    if GIVEN:
        pytest.skip("a server that was given is not ours to stop")
    if binaries is not None and not binaries.exists():
        missing(f"Debian's PostgreSQL in {binaries}")
    with EmbeddedPostgres(binaries, settings={"search_path": TESTS_PATH}) as postgres:
        migrate(postgres.url())
        yield postgres


def test_workers_outlive_a_database_that_crashes(
    own_postgres: EmbeddedPostgres, simulator: Simulator, processes: Processes
) -> None:
    simulator.faults.add(Fault(operation=BULK, latency_ms=20, times=None))
    url = own_postgres.url()
    with connecting(url) as engine, engine.connect() as connection:
        add_accounts(connection, 3_000)
    workers = [processes.worker("--concurrency", "2", url=url, simulator=simulator) for _ in range(2)]
    for goal in (500, 1_500):
        eventually(lambda: simulator.ledger.counts().mails > goal, "mails leave")  # noqa: B023
        own_postgres.stop("immediate")
        threading.Event().wait(2)
        own_postgres.start()
    with connecting(url) as engine:
        with engine.connect() as connection:
            eventually(lambda: drained(connection), "all is sent", seconds=90)
            assert misplaced(connection) == []
            assert count(connection, "deliveries WHERE outcome = 'sent' AND NOT late") == 3_000
        assert sent_twice(simulator) <= on_record_as_unconfirmed(engine)
    for worker in workers:
        worker.signal(signal.SIGTERM)
        assert worker.wait() == 0


def test_a_batch_is_settled_later_when_the_database_is_down_just_then(
    own_postgres: EmbeddedPostgres, simulator: Simulator, processes: Processes
) -> None:
    simulator.faults.add(Fault(operation=BULK, latency_ms=5000, times=1))
    url = own_postgres.url()
    with connecting(url) as engine, engine.connect() as connection:
        add_accounts(connection, 10)
    worker = processes.worker(url=url, simulator=simulator)
    eventually(lambda: simulator.ledger.counts().mails == 10, "the call is in flight")
    own_postgres.stop("immediate")
    eventually(lambda: worker.says("not settled yet"), "settling fails")
    with connecting(url) as engine, pytest.raises(DBAPIError), engine.connect():
        pytest.fail("the database should be down")
    own_postgres.start()
    with connecting(url) as engine, engine.connect() as connection:
        eventually(lambda: count(connection, "deliveries WHERE outcome = 'sent'") == 10, "it is settled")
        assert drained(connection)
        assert misplaced(connection) == []
        assert count(connection, "deliveries") == 10
    assert simulator.ledger.counts().mails == 10
