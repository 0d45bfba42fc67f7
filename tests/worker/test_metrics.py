"""What a process counts is what is on record, and its labels have few values, whatever comes."""

import os
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from importlib import metadata
from pathlib import Path

import pytest
from sqlalchemy import Connection, Engine, text

from mailroom.job import Action, Batch, Priority
from mailroom.mail.transport import Mail
from mailroom.outcome import Deferred, Outcome, RefusedTogether, Rejected, Scope, Sent, Unconfirmed
from mailroom.queue.verdict import Delivery, Verdict
from mailroom.simulator import Simulator
from mailroom.worker import telemetry
from mailroom.worker.database_clock import DatabaseClock
from mailroom.worker.metrics import MAX_ACTIONS, MAX_CODES, Metrics
from mailroom.worker.observed import result_of
from mailroom.worker.vitals import Vitals
from tests.cli.command import MAILROOM, sending
from tests.cli.command import run as run_command
from tests.running import Scripted, eventually
from tests.worker.counting import but_untried, counted, recorded
from tests.worker.watched import get, watched
from tests.world import add_accounts, ask_recovery, count, drained, misplaced

NO = Deferred("EndpointConnectionError", "no", charged=False)


@pytest.mark.slow
def test_a_worker_counts_what_is_on_record(url: str, connection: Connection) -> None:
    sends = Scripted()
    answers: list[Sequence[Outcome]] = [
        [Sent("m"), Rejected("MessageRejected", "no"), Deferred("FAILED", "later", charged=True)],
        [Unconfirmed("ReadTimeoutError", "who knows"), Sent("m"), Sent("m")],
    ]

    def answer(mails: Sequence[Mail]) -> Sequence[Outcome]:
        return (answers.pop(0) if answers else [Sent("m")] * 3)[: len(mails)]

    sends.answers = [answer]
    accounts = add_accounts(connection, 9)
    active = add_accounts(connection, 3, status="active", prefix="active")
    for account in active:
        ask_recovery(connection, account)
    connection.execute(text("UPDATE accounts SET status = 'suspended' WHERE id = :id"), {"id": accounts[0]})
    with watched(url, sends, batch_limit=3) as worker:
        eventually(lambda: count(connection, "deliveries WHERE outcome = 'unconfirmed'"), "one is in doubt")
        connection.execute(text("UPDATE jobs SET due_at = now()"))
        eventually(lambda: drained(connection), "all is over")
        eventually(lambda: but_untried(counted(get(worker.port, "/metrics")[1])) == recorded(connection), "they agree")
        found = get(worker.port, "/metrics")[1]
        batches = worker.value("mailroom_batch_jobs_count", action="activation")
        calls = worker.value("mailroom_calls_total", operation="SendBulkEmail", result="answered")
        waits = worker.value("mailroom_wait_seconds_count", action="password_recovery", priority="urgent")
        faults = {code: worker.value("mailroom_faults_total", code=code) for code in ("MessageRejected", "FAILED")}
    assert recorded(connection)["activation", "cancelled"] == 1
    assert recorded(connection)["activation", "unconfirmed"] == 1
    assert misplaced(connection) == []
    assert batches >= 3
    assert calls >= 3
    assert waits >= 3  # one for each attempt
    assert faults == {"MessageRejected": 1, "FAILED": 1}
    assert "mailroom_settle_duration_seconds_count" in found
    assert "_created" not in found


def test_what_has_not_happened_yet_is_told_to_be_0(url: str) -> None:
    """A series that begins with its first mail cannot be seen to rise, and the first in doubt is what matters."""
    with watched(url, Scripted()) as worker:
        doubtful = {"action": "activation", "outcome": "unconfirmed"}
        eventually(lambda: 'outcome="unconfirmed"' in get(worker.port, "/metrics")[1], "the kinds of mail are known")
        assert worker.value("mailroom_mails_total", **doubtful) == 0


@pytest.mark.slow
def test_a_wait_is_told_by_the_clock_of_the_database(url: str, connection: Connection) -> None:
    """Whatever this machine's says: what has been due for ten minutes has waited as long."""
    add_accounts(connection, 1)
    connection.execute(text("UPDATE jobs SET due_at = now() - interval '10 minutes'"))
    with watched(url, Scripted()) as worker:
        eventually(lambda: drained(connection), "it leaves")
        waited = worker.value("mailroom_wait_seconds_sum", action="activation", priority="normal")
    assert waited == pytest.approx(600, abs=60)


def test_the_clock_of_the_database_is_asked_once_a_minute(connection: Connection) -> None:
    now = [0.0]
    clock = DatabaseClock(lambda: now[0])
    moment = datetime(2026, 1, 1, tzinfo=UTC)
    assert clock.seconds_since(moment) is None
    clock.refresh(connection)
    first = clock.seconds_since(moment)
    now[0] += 59
    clock.refresh(connection)
    assert first is not None
    assert clock.seconds_since(moment) == pytest.approx(first + 59)
    now[0] += 2
    clock.refresh(connection)
    told = clock.seconds_since(moment)
    assert told is not None
    assert told < first + 59
    assert clock.seconds_since(datetime.now(UTC) + timedelta(hours=1)) == 0


@pytest.mark.parametrize(
    ("answers", "result"),
    [
        ([Sent("m")], "answered"),
        ([Sent("m"), Rejected("MESSAGE_REJECTED", "no")], "answered"),
        ([Rejected("MESSAGE_REJECTED", "no"), Deferred("FAILED", "no", charged=True)], "answered"),
        ([Rejected("MessageRejected", "no")], "refused"),
        ([RefusedTogether("MessageRejected")] * 2, "refused"),
        ([Deferred("AccountSuspendedException", "no", charged=False, scope=Scope.ACCOUNT)] * 2, "refused"),
        ([Deferred("TooManyRequestsException", "no", charged=False)], "refused"),
        ([NO, NO], "unsent"),
        ([Unconfirmed("ReadTimeoutError", "no")] * 2, "unconfirmed"),
        ([Unconfirmed("Unreadable", "no"), Sent("m")], "answered"),
    ],
)
def test_the_result_of_a_call_is_one_of_four(answers: Sequence[Outcome], result: str) -> None:
    assert result_of(answers, throttles={"TooManyRequestsException"}) == result


def test_no_label_has_more_values_than_anybody_can_keep() -> None:
    metrics = Metrics(Vitals())
    moment = datetime.now(UTC)
    for number in range(3 * MAX_CODES):
        action = Action(f"kind{number}", number=number, template="t", path="/p")
        batch = Batch(1, None, action, Priority.NORMAL, (None,), moment)  # type: ignore[arg-type]  # it is counted alone
        delivery = Delivery("deferred", error_code=f"Code{number}")
        metrics.settled(batch, [Verdict((delivery,))], owned=True)
    families = {family.name: family for family in metrics.registry.collect()}
    assert len(families["mailroom_faults"].samples) == MAX_CODES + 1
    assert len(families["mailroom_mails"].samples) == MAX_ACTIONS + 1
    assert metrics.registry.get_sample_value("mailroom_faults_total", {"code": "other"}) == 2 * MAX_CODES


@pytest.mark.slow
def test_a_sweep_leaves_its_metrics_in_a_file(url: str, engine: Engine, simulator: Simulator, tmp_path: Path) -> None:
    with engine.connect() as connection:
        add_accounts(connection, 12)
    path = tmp_path / "mailroom.prom"
    ended = run_command([*MAILROOM, "sweep", "--metrics-file", str(path)], env=sending(url, simulator))
    assert ended.code == 0, ended.err
    with engine.connect() as connection:
        assert counted(path.read_text()) == recorded(connection) == {("activation", "sent"): 12}
    assert "mailroom_reconciled_total 0.0" in path.read_text()
    assert 'mailroom_calls_total{operation="SendBulkEmail",result="answered"} 2.0' in path.read_text()
    names = {line.split("{")[0].split()[0] for line in path.read_text().splitlines() if not line.startswith("#")}
    assert {name for name in names if not name.startswith("mailroom_")} == set(), "node_exporter has some of its own"
    assert not names & {"mailroom_last_look_timestamp_seconds", "mailroom_senders"}, "it is over"


def test_a_sweep_that_fails_says_so_also_where_its_metrics_cannot_be_written(
    simulator: Simulator, tmp_path: Path
) -> None:
    env = sending("postgresql://127.0.0.1:1/nowhere", simulator)
    ended = run_command([*MAILROOM, "sweep", "--metrics-file", str(tmp_path / "none" / "x.prom")], env=env)
    assert ended.code == 1
    assert "the database cannot be used" in ended.err
    assert "metrics" not in ended.err


@pytest.mark.slow
def test_metrics_that_cannot_be_written_are_an_error(url: str, simulator: Simulator, tmp_path: Path) -> None:
    path = tmp_path / "none" / "x.prom"
    ended = run_command([*MAILROOM, "sweep", "--metrics-file", str(path)], env=sending(url, simulator))
    ended.assert_one_line(1, f"the metrics cannot be written to {path}: No such file or directory")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["pipe", "link", "folder"])
def test_what_is_no_file_is_not_replaced_by_one(url: str, simulator: Simulator, tmp_path: Path, kind: str) -> None:
    path = tmp_path / "x.prom"
    {"pipe": os.mkfifo, "link": lambda made: made.symlink_to(__file__), "folder": Path.mkdir}[kind](path)
    before = path.lstat()
    ended = run_command([*MAILROOM, "sweep", "--metrics-file", str(path)], env=sending(url, simulator))
    ended.assert_one_line(2, f"--metrics-file: {path} is there, and is no ordinary file")
    after = path.lstat()
    written = (after.st_ino, after.st_mode, after.st_size, after.st_mtime_ns, after.st_ctime_ns)
    assert written == (before.st_ino, before.st_mode, before.st_size, before.st_mtime_ns, before.st_ctime_ns)


def test_what_was_never_installed_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """It runs from a folder, of which nobody knows the version."""
    monkeypatch.setattr(telemetry, "version", lambda _: metadata.version("mailroom-as-it-was-never-installed"))
    assert telemetry.installed_version() == "unknown"
    assert b'mailroom_build_info{revision="' in Metrics(Vitals()).exposition()
    assert b'version="unknown"' in Metrics(Vitals()).exposition()
