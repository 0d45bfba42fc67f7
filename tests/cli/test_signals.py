"""Signals that ask a process to stop: from its first moment, as PID 1, in a call, and while it waits for somebody."""

import contextlib
import os
import select
import signal
import socket
import subprocess
import sys
import threading

import pytest
from sqlalchemy import Engine, text

from mailroom.signals import STOPS
from mailroom.simulator import Fault, Simulator
from tests.cli.command import MAILROOM, PATIENCE_SECONDS, end, killed_after, sending, small_environment, start
from tests.running import Processes, eventually
from tests.signalling import NEW_PID_1, child, minds, needs_namespaces
from tests.world import add_accounts, count, drained, misplaced

BULK = "SendBulkEmail"
AFTER_MS = [0, 100, 300, *(pytest.param(ms, marks=pytest.mark.slow) for ms in (50, 150, 200, 400, 600))]
# As the image starts it: no signal comes before somebody hears it.
BLOCKED = ["env", "--block-signal=HUP,INT,QUIT,TERM"]


@pytest.mark.slow
@pytest.mark.parametrize("after_ms", AFTER_MS)
@pytest.mark.parametrize("command", ["worker", "sweep", "collect"])
def test_pid_1_hears_a_signal_from_its_first_moment(
    command: str, after_ms: int, ses: Simulator, url: str, engine: Engine
) -> None:
    needs_namespaces()
    with engine.connect() as connection:
        add_accounts(connection, 3)
    environment = small_environment(sending(url, ses))
    process = subprocess.Popen(
        [*NEW_PID_1, *BLOCKED, *MAILROOM, command],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with killed_after(process):
        pid = eventually(lambda: child(process.pid) or process.poll() is not None, "it is there")
        if pid is not True:
            eventually(lambda: minds(pid, signal.SIGTERM), "its first moment")
            threading.Event().wait(after_ms / 1000)
            with contextlib.suppress(ProcessLookupError):  # a sweep that was done before
                os.kill(pid, signal.SIGTERM)
        ended = end(process)
    assert "Traceback" not in ended.err
    with engine.connect() as connection:
        # A sweep that had looked already, and claimed nothing yet, says that something is left.
        is_left = command == "sweep" and count(connection, "jobs") > 0
        assert ended.code in ({0, 3} if is_left else {0}), ended
        assert misplaced(connection) == []
        assert count(connection, "batches") == 0


@pytest.mark.slow
@pytest.mark.parametrize("number", STOPS)
def test_a_call_is_finished_and_settled_whatever_the_signal(
    number: signal.Signals, simulator: Simulator, url: str, engine: Engine, processes: Processes
) -> None:
    """There is more to send than the worker gets to in half a minute: it ends because it is asked to."""
    simulator.faults.add(Fault(operation=BULK, latency_ms=800, times=None))
    with engine.connect() as connection:
        add_accounts(connection, 400)
        worker = processes.worker(url=url, simulator=simulator)
        eventually(lambda: simulator.ledger.counts().mails, "a call is under way")
        worker.signal(number)
        assert worker.wait() == 0, worker.log.read_text()
        assert count(connection, "batches") == 0
        assert count(connection, "deliveries WHERE outcome = 'sent'") == simulator.ledger.counts().mails < 400
        assert misplaced(connection) == []


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGTERM, signal.SIGINT])
def test_who_is_told_the_same_twice_finishes_its_call_all_the_same(
    simulator: Simulator, url: str, engine: Engine, number: signal.Signals
) -> None:
    """By a terminal that closes, or by `timeout`, which tells its command and then the whole group.

    Here it may take ten minutes to do so, since on a busy machine a tenth of a second may be one.
    """
    patient = "signals.HANGUP_SECONDS = signals.ECHO_SECONDS = 600"
    code = f"from mailroom import signals; {patient}; from mailroom.__main__ import main; main()"
    simulator.faults.add(Fault(operation=BULK, latency_ms=1500, times=1))
    with engine.connect() as connection:
        add_accounts(connection, 10)
        command = [sys.executable, "-W", "error", "-c", code, "worker"]
        environment = small_environment(sending(url, simulator))
        process = subprocess.Popen(command, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        with killed_after(process) as worker:
            eventually(lambda: simulator.ledger.counts().mails, "a call is under way")
            worker.send_signal(number)
            threading.Event().wait(0.1)  # not merged with the first
            worker.send_signal(number)
            ended = end(worker)
        assert ended.code == 0, ended
        assert count(connection, "deliveries WHERE outcome = 'sent'") == 10


@pytest.mark.slow
def test_nohup_is_obeyed(ses: Simulator, url: str, engine: Engine) -> None:
    signal_before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        worker = start("worker", env=sending(url, ses))
    finally:
        signal.signal(signal.SIGHUP, signal_before)
    with killed_after(worker), engine.connect() as connection:
        add_accounts(connection, 1)
        eventually(lambda: drained(connection), "it works")
        worker.send_signal(signal.SIGHUP)
        add_accounts(connection, 1, prefix="later")
        eventually(lambda: drained(connection), "it works on")
        worker.send_signal(signal.SIGTERM)
        assert end(worker).code == 0


@pytest.mark.slow
@pytest.mark.parametrize("command", ["worker", "sweep", "collect", "events", "window"])
def test_it_ends_while_it_connects_to_somebody_who_says_nothing(command: str, ses: Simulator) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"postgresql://127.0.0.1:{silent.getsockname()[1]}/app"
        env = sending(url, ses) | {"MAILROOM_EVENTS_QUEUE_URL": ses.events_queue_url}
        arguments = [command, *(["--port", "0"] if command == "window" else [])]
        with killed_after(start(*arguments, env=env)) as process:
            assert select.select([silent], [], [], PATIENCE_SECONDS)[0]
            process.send_signal(signal.SIGTERM)
            ended = end(process)
    assert (ended.code, ended.out, ended.err) == (0, "", "")


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [["status"], ["prune", "--older-than", "90d"], ["jobs", "list"]])
def test_what_does_not_claim_says_that_it_was_stopped(arguments: list[str], ses: Simulator) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"postgresql://127.0.0.1:{silent.getsockname()[1]}/app"
        with killed_after(start(*arguments, env=sending(url, ses))) as process:
            assert select.select([silent], [], [], PATIENCE_SECONDS)[0]
            process.send_signal(signal.SIGTERM)
            ended = end(process)
    ended.assert_one_line(1, "stopped")


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_what_changes_jobs_tells_how_many_it_had_changed_when_it_was_stopped(
    number: signal.Signals, ses: Simulator, url: str, engine: Engine
) -> None:
    """Each thousand is committed alone. Here the database does not come to an end with the second."""
    with engine.connect() as connection:
        add_accounts(connection, 1_200)
        connection.execute(
            text(
                "CREATE FUNCTION hang() RETURNS trigger LANGUAGE plpgsql"
                " AS $$ BEGIN PERFORM pg_sleep(600); RETURN OLD; END $$"
            )
        )
        late = "CREATE TRIGGER hang BEFORE DELETE ON jobs FOR EACH ROW WHEN (OLD.token > 1000)"
        connection.execute(text(f"{late} EXECUTE FUNCTION hang()"))
        with killed_after(start("jobs", "drop", "--queue", "mailroom", env=sending(url, ses))) as process:
            eventually(lambda: count(connection, "deliveries") == 1_000, "the first are dropped")
            eventually(lambda: count(connection, "pg_stat_activity WHERE wait_event = 'PgSleep'"), "it hangs")
            process.send_signal(number)
            ended = end(process)
        assert (ended.code, ended.out, ended.err) == (1, "dropped 1,000\n", "mailroom: stopped\n")
        assert count(connection, "jobs") == 200


@pytest.mark.slow
@pytest.mark.parametrize("number", STOPS)
def test_a_second_signal_ends_it_at_once(
    number: signal.Signals, simulator: Simulator, url: str, engine: Engine
) -> None:
    simulator.faults.add(Fault(operation=BULK, latency_ms=60_000, times=None))
    with engine.connect() as connection:
        add_accounts(connection, 10)
        with killed_after(start("worker", env=sending(url, simulator))) as worker:
            eventually(lambda: simulator.ledger.counts().mails, "a call is under way")
            worker.send_signal(number)
            threading.Event().wait(2)
            worker.send_signal(number)
            assert end(worker).code == 1
        assert count(connection, "batches") == 1
