"""Each worker is seen while it lives, and one of them counts for all."""

import time
from collections.abc import Sequence
from datetime import timedelta

import pytest
from sqlalchemy import Connection, Engine, event, text

from mailroom.db.engine import BoundedConnection
from mailroom.mail.transport import Mail
from mailroom.ops import counting, reading
from mailroom.ops.reading import Worker
from mailroom.outcome import Outcome
from mailroom.worker.report import Report
from mailroom.worker.vitals import process_name
from tests.running import Scripted, accept, connecting, eventually, sender, working
from tests.world import add_accounts, drained, rows, transaction


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no report be cut off, however busy this machine is."""
    for name in ("worker.report.SOON", "ops.refresh.SOON", "ops.refresh.ANSWER_WITHIN"):
        monkeypatch.setattr(f"mailroom.{name}", timedelta(minutes=1))


PATIENT = pytest.mark.usefixtures("patient")


def seen(connection: Connection) -> tuple[Worker, ...]:
    return counting.count(connection).workers


@pytest.mark.slow
@PATIENT
def test_a_worker_is_seen_and_leaves_when_it_stops(engine: Engine, connection: Connection, direct_url: str) -> None:
    with working(engine, Scripted(), concurrency=3, listen=direct_url):
        eventually(lambda: seen(connection), "it is seen")
        [worker] = seen(connection)
        assert worker.name.startswith(f"{process_name()}/")
        assert (worker.queue, worker.senders, worker.feeding) == ("mailroom", 3, False)
        assert worker.version.startswith("0.")
        eventually(lambda: reading.read(connection), "somebody counts")
    assert seen(connection) == ()


@PATIENT
def test_of_two_workers_both_are_seen_and_one_counts(engine: Engine, connection: Connection) -> None:
    with working(engine, Scripted()), working(engine, Scripted()):
        eventually(lambda: len(seen(connection)) == 2, "both are seen")
        eventually(lambda: reading.read(connection), "somebody counts")
        [(wait,)] = rows(connection, "SELECT extract(epoch FROM due_at - clock_timestamp()) FROM readings")
        assert wait > 0


def report(engine: Engine) -> Report:
    return Report(engine, [sender(engine, Scripted())], queue="mailroom")


@PATIENT
def test_it_reports_every_fifteen_seconds(engine: Engine, connection: Connection) -> None:
    own = report(engine)
    assert own.step(100.0) == 115.0
    first = seen(connection)[0]
    assert own.step(114.9) == 115.0
    assert seen(connection)[0] == first
    assert own.step(115.0) == 130.0
    again = seen(connection)[0]
    assert again.seen_at > first.seen_at
    assert again.started_at == first.started_at


@PATIENT
def test_a_report_and_the_count_are_one_statement(engine: Engine, connection: Connection) -> None:
    own = report(engine)
    statements: list[str] = []
    event.listen(engine, "before_cursor_execute", lambda _c, _cu, statement, *_: statements.append(statement))
    for moment in (0, 15, 30):  # of all but the first it is not the turn to count
        own.step(moment)
    assert len(statements) == 3
    assert [worker.name for worker in seen(connection)] == [own.name]
    assert reading.read(connection) is not None


@PATIENT
def test_after_a_failure_the_two_are_apart_until_both_are_well(
    engine: Engine, connection: Connection, caplog: pytest.LogCaptureFixture
) -> None:
    """Whoever cannot count is seen all the same, and does not try both ways each time."""
    connection.execute(text("ALTER FUNCTION reading_lanes RENAME TO gone"))
    own = report(engine)
    own.step(0)
    first = rows(connection, "SELECT seen_at FROM workers")
    statements: list[str] = []
    event.listen(engine, "before_cursor_execute", lambda _c, _cu, statement, *_: statements.append(statement))
    connection.execute(text("UPDATE readings SET due_at = now()"))
    own.step(15)
    assert rows(connection, "SELECT seen_at FROM workers") > first
    assert [sum(name in one for one in statements) for name in (".worker_seen(", ".reading_refresh(")] == [1, 1]
    assert [record.message for record in caplog.records] == [
        "the count for the fleet failed, trying again: UndefinedFunction"
    ]
    connection.execute(text("ALTER FUNCTION gone RENAME TO reading_lanes"))
    connection.execute(text("UPDATE readings SET due_at = now()"))
    own.step(30)
    statements.clear()
    own.step(45)
    assert len(statements) == 1


@PATIENT
@pytest.mark.parametrize(("sweep_at", "due_at"), [(115.0, 115.0), (115.9, 115.9), (116.0, 115.0), (114.9, 115.0)])
def test_it_waits_for_a_sweep_that_comes_a_moment_later(engine: Engine, sweep_at: float, due_at: float) -> None:
    """Who looks for work need not look once more for it."""
    assert report(engine).step(100.0, sweep_at=sweep_at) == due_at


@PATIENT
def test_who_has_not_been_seen_for_a_day_is_forgotten(engine: Engine, connection: Connection) -> None:
    gone, lost, here = report(engine), report(engine), report(engine)
    for own in (gone, lost):
        own.step(0)
    for own, hours in ((gone, 25), (lost, 23)):
        ago = text("UPDATE workers SET seen_at = now() - make_interval(hours => :hours) WHERE name = :name")
        connection.execute(ago, {"hours": hours, "name": own.name})
    here.step(0)
    assert {worker.name for worker in seen(connection)} == {lost.name, here.name}


@PATIENT
def test_who_was_seen_before_the_clock_was_set_back_is_seen_again(engine: Engine, connection: Connection) -> None:
    dead, alive = report(engine), report(engine)
    for own in (dead, alive):
        own.step(0)
    connection.execute(text("UPDATE workers SET seen_at = now() + interval '2 hours', started_at = seen_at"))
    alive.step(15)
    [worker] = seen(connection)
    assert worker.name == alive.name
    assert worker.started_at <= worker.seen_at


@PATIENT
def test_two_who_forget_at_once_hinder_nobody(engine: Engine, connection: Connection) -> None:
    own, other = report(engine), report(engine)
    for each in (own, other):
        each.step(0)
    connection.execute(text("UPDATE workers SET seen_at = now() - interval '2 days'"))
    with transaction(engine) as holding:
        holding.execute(text("SELECT FROM workers WHERE name = :n FOR UPDATE"), {"n": other.name})
        own.step(15)
    assert {worker.name for worker in seen(connection)} == {own.name, other.name}


@PATIENT
def test_a_sender_that_has_jobs_is_busy(engine: Engine, connection: Connection) -> None:
    """What is told is told while its call is under way."""
    sends = Scripted()
    own = sender(engine, sends)
    told = Report(engine, [own, sender(engine, sends)], queue="mailroom")

    def tell(mails: Sequence[Mail]) -> Sequence[Outcome]:
        told.step(0)
        return accept(mails)

    sends.answers = [tell]
    add_accounts(connection, 1)
    assert own.work_claim()
    assert [(worker.busy, worker.senders) for worker in seen(connection)] == [(1, 2)]
    assert not own.is_busy


@PATIENT
def test_what_the_role_may_not_is_said_once_and_mails_leave(
    engine: Engine, connection: Connection, caplog: pytest.LogCaptureFixture
) -> None:
    connection.execute(text("DROP FUNCTION worker_seen"))
    add_accounts(connection, 3)
    own = report(engine)
    own.step(0)
    own.step(15)
    assert [record.message.split(":")[0] for record in caplog.records] == [
        "the report of this worker failed, trying again"
    ]
    with working(engine, Scripted()):
        eventually(lambda: drained(connection), "all has left")


@PATIENT
def test_a_first_count_that_fails_is_said_once(
    engine: Engine, connection: Connection, caplog: pytest.LogCaptureFixture
) -> None:
    """There is no reading yet that could tell."""
    connection.execute(text("DROP FUNCTION reading_lanes"))
    own = report(engine)
    for moment in (0, 15, 30):
        own.step(moment)
    connection.execute(text("UPDATE readings SET due_at = now()"))
    own.step(45)
    assert [record.message for record in caplog.records] == [
        "the count for the fleet failed, trying again: UndefinedFunction"
    ]


# What a statement of a report may take: the longest are those that count.
LONGEST = timedelta(seconds=2)


@pytest.mark.slow
@pytest.mark.parametrize("table", ["workers", "readings", "minutes", "jobs", "ses_account"])
def test_what_somebody_has_locked_does_not_hold_up_who_looks_for_work(engine: Engine, url: str, table: str) -> None:
    """Neither for recoveries where nothing is heard, nor for a stop."""
    bounds: list[timedelta] = []

    def note(connection: Connection, *_: object) -> None:
        driver = connection.connection.driver_connection
        assert isinstance(driver, BoundedConnection)
        bounds.append(driver.answer_within or timedelta.max)

    with connecting(url, answer_within=timedelta(minutes=2)) as patient, transaction(engine) as other:
        other.execute(text(f"LOCK TABLE {table}"))
        event.listen(patient, "before_cursor_execute", note)
        began = time.monotonic()
        report(patient).step(0)
        assert time.monotonic() - began < 60  # half of what one would take that nothing cuts off
    assert max(bounds) <= LONGEST


@PATIENT
def test_a_worker_that_sweeps_seldom_is_seen_all_the_same(engine: Engine, connection: Connection) -> None:
    """The loop comes round for the report as well."""
    with working(engine, Scripted(), sweep_interval=3600) as worker:
        eventually(lambda: seen(connection), "it is seen")
        assert worker._report.step(time.monotonic()) <= time.monotonic() + timedelta(seconds=15).total_seconds()
