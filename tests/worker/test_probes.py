"""What the probes of a worker say, whatever happens to it: the table of docs, row by row."""

import re
import signal
import socket
import threading
from collections.abc import Sequence
from datetime import timedelta

import pytest
from sqlalchemy import Connection, Engine, text

from mailroom.mail.transport import Mail
from mailroom.ops import grants
from mailroom.outcome import Deferred, Outcome
from mailroom.simulator import Simulator
from mailroom.worker import probes
from mailroom.worker.vitals import LOOK, SENDER, Vitals
from tests.machine import ROOT
from tests.proxy import HalfOpenProxy
from tests.roles import a_role
from tests.running import Processes, Scripted, accept, eventually
from tests.servers import Server
from tests.worker.watched import LIMITS, Clock, Watched, get, watched
from tests.world import add_accounts, count, drained

DOCS = ROOT / "docs" / "window.md"
NOWHERE = "postgresql://127.0.0.1:1/nowhere"


def documented() -> dict[str, str]:
    """The table of docs: by what happens, what /livez, /readyz and a metric say of it."""
    _, _, table = DOCS.read_text().partition("| what happens | `/livez` | `/readyz` | what tells it on `/metrics` |\n")
    lines = table.partition("\n\n")[0].splitlines()[1:]
    return {line.split(" | ")[0].removeprefix("| "): line for line in lines}


def line(happens: str, live: object, ready: object, tells: str) -> str:
    return f"| {happens} | {live} | {ready} | {tells} |"


def told(worker: Watched, name: str, says: str = "") -> str:
    """What a metric says on /metrics, as docs have it: its value, if nothing else is to be said."""
    found = re.search(rf"^{name} (\S+)$", get(worker.port, "/metrics")[1], re.MULTILINE)
    assert found is not None, name
    return f"`{name}` {says or f'is {float(found[1]):.0f}'}"


def test_docs_have_a_line_for_each_thing_that_happens_here() -> None:
    happens = ["all is well", "SIGSTOP", "a call that never returns", "the database is down for five minutes"]
    happens += ["the database refuses every claim", "LISTEN is lost", "it stops"]
    assert list(documented()) == happens


@pytest.mark.slow
def test_a_worker_with_nothing_more_to_do_is_live_and_ready(url: str, connection: Connection) -> None:
    with watched(url, Scripted(), listen=url) as worker:
        add_accounts(connection, 1)
        eventually(lambda: drained(connection), "it has worked")
        eventually(lambda: worker.probe() == (200, 200), "it works")
        for _ in range(3):
            worker.pass_seconds(25)
        eventually(lambda: worker.value("mailroom_senders_busy") == 0, "it has nothing to do")
        said = line("all is well", *worker.probe(), told(worker, "mailroom_listening"))
    assert said == documented()["all is well"]


@pytest.mark.slow
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
        worker.pass_seconds(50)
        assert worker.probe() == (200, 200), "the lease is 30 s, and a statement may take 20"
        worker.pass_seconds(1)
        live, ready = worker.probe()
        assert "[-] step: 51 s of 50 s" in get(worker.port, "/livez?verbose")[1]
        busy = told(worker, "mailroom_senders_busy", "stays above 0")
        assert worker.value("mailroom_senders_busy") == 1, "of two"
        said = line("a call that never returns", f"{live} after the lease and 20 s", ready, busy)
        assert said == documented()["a call that never returns"]
        released.set()
        eventually(lambda: worker.probe()[0] == 200, "it goes on")


@pytest.mark.slow
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
        assert _passing(worker, 30) == (200, 200)
        said = {_passing(worker, seconds) for seconds in (1, *[30] * 8, 29)}
        assert "[-] database: 300 s of 30 s" in get(worker.port, "/readyz?verbose")[1]
        [(live, ready)] = said
        tells = told(worker, "mailroom_settle_retries_total", "rises")
        row = line("the database is down for five minutes", live, f"{ready} after 30 s", tells)
        assert row == documented()["the database is down for five minutes"]
        proxy.lead_to(url)
        eventually(lambda: worker.probe() == (200, 200), "the database is back")
        eventually(lambda: count(connection, "deliveries WHERE outcome = 'sent'") == 3, "they are on record")


def _passing(worker: Watched, seconds: float) -> tuple[int, int]:
    """What the probes say so many seconds later, once the settlement has been tried again."""
    retried = worker.value("mailroom_settle_retries_total")
    worker.pass_seconds(seconds)
    eventually(lambda: worker.value("mailroom_settle_retries_total") > retried, "again")
    return worker.probe()


@pytest.mark.slow
@pytest.mark.parametrize(("refused", "says"), [("claim", "database error"), ("settle", "not settled yet")])
def test_a_database_that_refuses_every_claim_is_not_ready_and_yet_live(
    server: Server, url: str, connection: Connection, caplog: pytest.LogCaptureFixture, refused: str, says: str
) -> None:
    """Looks go well, as long as only a right to claim lacks, or the disk is full."""
    with a_role(server) as (role, log_in):
        grants.apply(connection, grants.statements(connection, "worker", role))
        connection.execute(text(f"REVOKE EXECUTE ON FUNCTION {refused} FROM {role}"))
        add_accounts(connection, 1)
        with watched(log_in(url), Scripted()) as worker:
            eventually(lambda: says in caplog.text, "it is refused")
            assert worker.probe() == (200, 200)
            worker.pass_seconds(31)
            eventually(lambda: worker.probe() == (200, 503), "it is all the time")
            assert "[-] refused: 31 s of 30 s" in get(worker.port, "/readyz?verbose")[1]
            tells = told(worker, f"mailroom_{refused}_duration_seconds_count", "does not rise")
            said = line("the database refuses every claim", 200, "503 after 30 s", tells)
            assert refused != "claim" or said == documented()["the database refuses every claim"]
            connection.execute(text(f"GRANT EXECUTE ON FUNCTION {refused} TO {role}"))
            eventually(lambda: worker.probe() == (200, 200), "it is not any more")


@pytest.mark.slow
def test_a_listen_that_is_lost_is_ready_and_live_and_told(direct_url: str) -> None:
    with (
        HalfOpenProxy(direct_url) as proxy,
        watched(direct_url, Scripted(), listen=proxy.url, healthcheck_interval=0.2) as worker,
    ):
        eventually(lambda: worker.value("mailroom_listening") == 1, "it listens")
        eventually(lambda: worker.probe() == (200, 200), "it works")
        proxy.freeze()
        eventually(lambda: worker.value("mailroom_listening") == 0, "it hears nothing")
        said = line("LISTEN is lost", *worker.probe(), told(worker, "mailroom_listening"))
    assert said == documented()["LISTEN is lost"]


@pytest.mark.slow
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
        busy = told(worker, "mailroom_senders_busy", "falls to 0")
        assert line("it stops", *worker.probe(), busy) == documented()["it stops"]
        released.set()
        eventually(lambda: worker.value("mailroom_senders_busy") == 0, "nothing is in flight any more")


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


@pytest.mark.slow
@pytest.mark.early
def test_a_process_that_is_frozen_answers_nobody(
    url: str, engine: Engine, simulator: Simulator, processes: Processes
) -> None:
    worker = processes.worker("--probe-port", "0", url=url, simulator=simulator)
    started = next(each for each in worker.log.read_text().splitlines() if "probes address=" in each)
    port = int(started.rpartition(":")[2])
    eventually(lambda: get(port, "/readyz")[0] == 200, "it is ready")
    worker.freeze()
    said = line("SIGSTOP", *(_asked(port, route) for route in ("/livez", "/readyz", "/metrics")))
    assert said == documented()["SIGSTOP"]
    worker.signal(signal.SIGCONT)
    eventually(lambda: get(port, "/livez")[0] == 200, "it is back")
    worker.signal(signal.SIGTERM)
    assert worker.wait() == 0
    with pytest.raises(OSError, match="refused"), socket.create_connection(("127.0.0.1", port)):
        pytest.fail("nobody should be there")


def _asked(port: int, route: str) -> str:
    """What is said to somebody who waits for a second."""
    try:
        return str(get(port, route, seconds=1)[0])
    except TimeoutError:
        return "no answer"
