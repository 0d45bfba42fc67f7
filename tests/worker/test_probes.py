"""What the probes of a worker say, whatever happens to it: the table of docs, row by row."""

import signal
import socket
import threading
from collections.abc import Sequence
from datetime import timedelta

import pytest
from sqlalchemy import Connection, Engine

from mailroom.mail.transport import Mail
from mailroom.outcome import Deferred, Outcome
from mailroom.simulator import Simulator
from mailroom.worker import probes
from mailroom.worker.vitals import LOOK, SENDER, Vitals
from tests.proxy import HalfOpenProxy
from tests.running import Processes, Scripted, accept, eventually
from tests.worker.watched import LIMITS, Clock, get, watched
from tests.world import add_accounts, count, drained

EACH_SERVER = False

NOWHERE = "postgresql://127.0.0.1:1/nowhere"


def test_a_worker_with_nothing_more_to_do_is_live_and_ready(url: str, connection: Connection) -> None:
    with watched(url, Scripted(), listen=url) as worker:
        add_accounts(connection, 1)
        eventually(lambda: drained(connection), "it has worked")
        eventually(lambda: worker.probe() == (200, 200), "it works")
        for _ in range(3):
            worker.pass_seconds(25)
        assert worker.probe() == (200, 200)


def test_a_call_that_never_returns_is_not_live(url: str, connection: Connection) -> None:
    """getaddrinfo, for one, knows no time-out."""
    released, sends = threading.Event(), Scripted()

    def hang(mails: Sequence[Mail]) -> Sequence[Outcome]:
        released.wait(60)
        return accept(mails)

    sends.answers = [hang]
    with watched(url, sends, concurrency=2) as worker:
        add_accounts(connection, 3)
        eventually(lambda: sends.calls, "the call is made")
        worker.pass_seconds(40)
        assert worker.probe() == (200, 200), "the lease is 30 s, and a statement may take 20"
        worker.pass_seconds(12)
        assert worker.probe() == (503, 200)
        assert "[-] step: 52 s of 50 s" in get(worker.port, "/livez?verbose")[1]
        released.set()
        eventually(lambda: worker.probe()[0] == 200, "it goes on")


def test_a_database_that_is_down_for_five_minutes_is_not_ready_and_yet_live(url: str, connection: Connection) -> None:
    """Also while a settlement is repeated all that time. A restart mends nothing, and would lose calls in flight."""
    sends, called, answers = Scripted(), threading.Event(), threading.Event()

    def answer(mails: Sequence[Mail]) -> Sequence[Outcome]:
        called.set()
        answers.wait(60)
        return accept(mails)

    sends.answers = [answer]
    with HalfOpenProxy(url) as proxy, watched(proxy.url, sends, listen=url) as worker:
        add_accounts(connection, 3)
        assert called.wait(60)
        proxy.lead_to(NOWHERE)
        proxy.drop()
        answers.set()
        eventually(lambda: worker.value("mailroom_settle_retries_total") > 1, "the settlement is repeated")
        for _ in range(10):
            worker.pass_seconds(30)
            retried = worker.value("mailroom_settle_retries_total")
            eventually(lambda: worker.value("mailroom_settle_retries_total") > retried, "again")  # noqa: B023
            assert worker.probe()[0] == 200
        assert worker.probe() == (200, 503)
        assert "[-] database: 300 s of 30 s" in get(worker.port, "/readyz?verbose")[1]
        proxy.lead_to(url)
        eventually(lambda: worker.probe() == (200, 200), "the database is back")
        eventually(lambda: count(connection, "deliveries WHERE outcome = 'sent'") == 3, "they are on record")


def test_a_listen_that_is_lost_is_ready_and_live_and_told(direct_url: str) -> None:
    with (
        HalfOpenProxy(direct_url) as proxy,
        watched(direct_url, Scripted(), listen=proxy.url, healthcheck_interval=0.2) as worker,
    ):
        eventually(lambda: worker.value("mailroom_listening") == 1, "it listens")
        eventually(lambda: worker.probe() == (200, 200), "it works")
        proxy.freeze()
        eventually(lambda: worker.value("mailroom_listening") == 0, "it hears nothing")
        assert worker.probe() == (200, 200)


def test_ses_that_refuses_the_account_is_ready_and_live_and_told(url: str, connection: Connection) -> None:
    sends = Scripted()
    sends.answers = [lambda mails: [Deferred("EndpointConnectionError", "no", charged=False)] * len(mails)]
    with watched(url, sends) as worker:
        add_accounts(connection, 3)
        eventually(lambda: worker.value("mailroom_backing_off") == 1, "it backs off")
        worker.pass_seconds(25)
        assert worker.probe() == (200, 200)


def test_a_worker_that_stops_is_not_ready_and_yet_live(url: str, connection: Connection) -> None:
    released, sends = threading.Event(), Scripted()
    sends.answers = [lambda mails: (released.wait(60), accept(mails))[1]]
    with watched(url, sends) as worker:
        add_accounts(connection, 3)
        eventually(lambda: sends.calls, "a call is in flight")
        worker.vitals.is_stopping = True  # what a signal makes of it
        assert worker.probe() == (200, 503)
        released.set()


def test_before_it_has_started_a_worker_is_live_and_not_ready() -> None:
    vitals = Vitals()
    assert probes.passed(probes.live(vitals, LIMITS))
    assert [check.name for check in probes.ready(vitals, LIMITS) if not check.passed] == ["started", "database"]


def test_a_thread_that_looks_and_never_comes_round_is_not_live() -> None:
    clock = Clock()
    vitals = Vitals(clock)
    with vitals.watched(LOOK):
        vitals.came_round()
        clock.ahead = 115
        assert probes.passed(probes.live(vitals, LIMITS))
        clock.ahead = 116
        assert [check.name for check in probes.live(vitals, LIMITS) if not check.passed] == ["look"]


def test_a_worker_that_sweeps_seldom_is_not_called_ready_nor_live_for_longer() -> None:
    """It comes round for its report. A database that is down all day is none that is ready."""
    seldom = probes.bounds(
        lease=timedelta(seconds=30), answer_within=timedelta(seconds=20), sweep_interval=timedelta(hours=12)
    )
    assert seldom.reached == LIMITS.reached == timedelta(seconds=30)
    assert seldom.look == timedelta(seconds=60 + 45 + 40)


def test_a_sender_that_died_is_not_live() -> None:
    vitals = Vitals()
    with pytest.raises(ZeroDivisionError), vitals.watched(SENDER):
        raise ZeroDivisionError
    assert [check.name for check in probes.live(vitals, LIMITS) if not check.passed] == ["threads"]


def test_a_sender_that_waits_for_another_or_for_work_does_not_hang() -> None:
    clock = Clock()
    vitals = Vitals(clock)
    with vitals.watched(SENDER):
        assert vitals.busy == 1
        vitals.rest()
        clock.ahead = 1_000
        assert probes.passed(probes.live(vitals, LIMITS))
        assert vitals.busy == 0


@pytest.mark.early
def test_a_process_that_is_frozen_answers_nobody(
    url: str, engine: Engine, simulator: Simulator, processes: Processes
) -> None:
    worker = processes.worker("--probe-port", "0", url=url, simulator=simulator)
    line = next(line for line in worker.log.read_text().splitlines() if "probes address=" in line)
    port = int(line.rpartition(":")[2])
    eventually(lambda: get(port, "/readyz")[0] == 200, "it is ready")
    worker.freeze()
    with pytest.raises(TimeoutError):
        get(port, "/livez", seconds=1)
    worker.signal(signal.SIGCONT)
    eventually(lambda: get(port, "/livez")[0] == 200, "it is back")
    worker.signal(signal.SIGTERM)
    assert worker.wait() == 0
    with pytest.raises(OSError, match="refused"), socket.create_connection(("127.0.0.1", port)):
        pytest.fail("nobody should be there")
