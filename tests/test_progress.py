"""One step that cannot be done, or not at once, keeps no other from being done; nothing spins meanwhile."""

import contextlib
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import Connection, Engine, event, text
from sqlalchemy.exc import DBAPIError

from mailroom.finding import Level
from mailroom.ops import maintenance, refresh, status
from mailroom.ops.doctor import examine
from mailroom.ops.maintenance import Maintenance
from mailroom.outcome import Sent
from mailroom.queue import by_hand, events
from mailroom.queue.feed import ResendWait
from mailroom.queue.floors import Floors
from mailroom.queue.rescue import Rescue
from mailroom.simulator import Simulator
from mailroom.worker.scan import Scan
from mailroom.worker.sweep import sweep
from tests import running
from tests.claiming import claim, settle_alike, take
from tests.kinds import LANES
from tests.ops.aging import AGED, age, everything, lose_jobs, mail, prune
from tests.running import PATIENCE_SECONDS, Scripted, connecting, eventually, limits, transport, working
from tests.telling import RENDERING_FAILURE, of
from tests.trouble import (
    hurried_engine,
    let_statements_take,
    many_dead_jobs,
    set_for_all,
    slow_down_rows,
    statements,
)
from tests.world import add_accounts, ask_recovery, count, count_sent, misplaced, rows

# How steps get smaller is ours; what it answers to, a statement that is cut off or killed, is the same in each version.
EACH_SERVER = False

END_OTHERS = (
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
    " WHERE pid <> pg_backend_pid() AND datname = current_database()"
)
RESCUE = ".rescue("
LOOK = ".look("
KINDS = ".action_list("  # what a worker begins with


def lose_batches(connection: Connection, batches: int) -> None:
    """Let so many batches of one job each have outlived their lease."""
    add_accounts(connection, batches, prefix="lost")
    for _ in range(batches):
        assert claim(connection, batch_limit=1, lease=timedelta(0)).batches


@pytest.fixture
def anew(engine: Engine, url: str) -> Iterator[Engine]:
    """An engine whose sessions begin when the test first uses it, with what was set for the database until then."""
    with hurried_engine(url, pool_size=6) as anew:
        yield anew


@pytest.mark.slow
def test_a_lost_batch_that_somebody_holds_stops_nothing(
    engine: Engine, simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    sends = transport(simulator, monkeypatch)
    with engine.connect() as connection, engine.connect() as holder, statements(engine) as seen:
        lose_batches(connection, 2)
        with holder.execution_options(isolation_level="READ COMMITTED").begin():
            holder.execute(text("SELECT FROM batches ORDER BY id LIMIT 1 FOR UPDATE"))
            began = time.monotonic()
            with working(engine, sends, sweep_interval=0.5):
                add_accounts(connection, 5)
                eventually(lambda: count_sent(connection) >= 5, "the others leave")
                eventually(lambda: count(connection, "batches") == 1, "the other batch is given back")
                eventually(lambda: sum(LOOK in one for one in seen) > 10, "it looks on")
            looks, rescues = (sum(what in one for one in seen) for what in (LOOK, RESCUE))
            assert rescues <= looks + 1
            assert looks <= 20 + 4 * (time.monotonic() - began), "it spins"
    with engine.connect() as connection:
        assert misplaced(connection) == []


@pytest.mark.slow
@pytest.mark.early
def test_mails_leave_though_rescues_fail_and_these_get_smaller_until_they_do_not(
    engine: Engine,
    anew: Engine,
    simulator: Simulator,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")
    sends = transport(simulator, monkeypatch)
    with engine.connect() as connection:
        lose_batches(connection, 30)
        slow_down_rows(connection, "INSERT", "deliveries", 0.1, when="NEW.error_code = 'LeaseExpired'")
        let_statements_take(connection, timedelta(seconds=1))
        with working(anew, sends, sweep_interval=0.5):
            add_accounts(connection, 5)
            eventually(lambda: count_sent(connection) >= 5, "new mails leave")
            eventually(lambda: count(connection, "batches WHERE worker = 'test'") == 0, "all is given back")
        assert misplaced(connection) == []
    assert caplog.text.count("rescue failed, trying with less") == 1


@pytest.mark.slow
def test_a_batch_that_can_never_be_given_back_keeps_no_other(
    engine: Engine, simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    sends = transport(simulator, monkeypatch)
    with engine.connect() as connection:
        lose_batches(connection, 5)
        [first] = rows(connection, "SELECT tokens[1] AS token FROM batches ORDER BY id LIMIT 1")
        connection.execute(
            text(f"ALTER TABLE deliveries ADD CONSTRAINT never CHECK (token <> {first.token}) NOT VALID")
        )
        with working(engine, sends, sweep_interval=0.2):
            add_accounts(connection, 5)
            eventually(lambda: count_sent(connection) >= 5, "new mails leave")
            eventually(lambda: count(connection, "batches WHERE worker = 'test'") == 1, "the others are given back")
        assert misplaced(connection) == []


@pytest.mark.slow
def test_rescues_that_are_all_refused_at_once_do_not_spin(
    engine: Engine, simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where somebody has taken a right away. They go on until it is there again."""
    sends = transport(simulator, monkeypatch)
    with engine.connect() as connection, statements(engine) as seen:
        lose_batches(connection, 3)
        connection.execute(
            text("CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'no'; END $$")
        )
        connection.execute(text("CREATE TRIGGER refuse BEFORE DELETE ON batches EXECUTE FUNCTION refuse()"))
        with working(engine, sends):
            eventually(lambda: sum(RESCUE in one for one in seen) > 18, "it has tried")
            before, began = len(seen), time.monotonic()
            eventually(lambda: time.monotonic() > began + 3, "three seconds")
            assert sum(RESCUE in one for one in seen[before:]) <= 4
            connection.execute(text("DROP TRIGGER refuse ON batches"))
            eventually(lambda: count(connection, "batches") == 0, "they are given back")
        assert misplaced(connection) == []


def lose_connection_at(engine: Engine, other: Connection, *what: str) -> None:
    """Let the server end each session that is about to call one of these functions."""

    def end(conn: Connection, cursor: Any, statement: str, *_: object) -> None:
        if any(each in statement for each in what):
            pid = cursor.connection.info.backend_pid
            other.execute(text("SELECT pg_terminate_backend(:pid, 60000)"), {"pid": pid})

    event.listen(engine, "before_cursor_execute", end)


def test_a_connection_that_is_lost_as_it_is_asked_whether_events_come_holds_up_no_rescue(
    engine: Engine, url: str
) -> None:
    """Nor does it end the worker: SQLAlchemy refuses a lost connection with an error of its own."""
    with connecting(url) as own, engine.connect() as connection:
        lose_batches(connection, 2)
        lose_connection_at(own, connection, ".feed_state(")
        rescue = Rescue(ResendWait(limits(resend_after_heard=timedelta(minutes=1))))
        with own.connect() as working:
            assert rescue.step(working)
        assert count(connection, "batches") == 0
        assert misplaced(connection) == []


def test_a_look_whose_connection_is_lost_says_so_though_a_sender_doubts_at_that_moment(
    engine: Engine, url: str
) -> None:
    with connecting(url) as own, engine.connect() as connection, own.connect() as working:
        scan = Scan(limits(), Floors())
        scan.doubt()  # so that pages are looked at first
        lose_connection_at(own, connection, LOOK)
        event.listen(own, "before_cursor_execute", lambda *given: scan.doubt() if LOOK in given[2] else None)
        with pytest.raises(DBAPIError) as lost:
            scan.look_from_start(working, LANES, lambda: True)
        assert lost.value.connection_invalidated


@contextlib.contextmanager
def settling(sends: Scripted, engine: Engine, batches: int) -> Iterator[None]:
    """Have one sender claim so many batches of ten, send them, and settle them meanwhile."""
    with engine.connect() as connection:
        add_accounts(connection, 10 * batches)
    sender = running.sender(engine, sends, clock=sends.clock)
    sender.size.batches = batches
    with ThreadPoolExecutor(1) as thread:
        work = thread.submit(sender.work_claim)
        try:
            yield
        finally:
            found = work.result(PATIENCE_SECONDS)
    assert found is not None
    assert found.taken == 10 * batches


@pytest.mark.slow
@pytest.mark.early
def test_a_settlement_that_takes_too_long_gets_smaller_until_it_does_not(
    engine: Engine, anew: Engine, connection: Connection, caplog: pytest.LogCaptureFixture
) -> None:
    """Of all batches of a claim: SES has accepted their mails, and they would go out again."""
    slow_down_rows(connection, "INSERT", "deliveries", 0.02)
    let_statements_take(connection, timedelta(seconds=1))
    with settling(Scripted(), anew, 20):
        eventually(lambda: count_sent(connection) == 200, "all is settled")
    assert count(connection, "deliveries") == 200
    assert misplaced(connection) == []
    assert caplog.text.count("not settled yet") == 1


@pytest.mark.slow
def test_a_batch_that_cannot_be_settled_keeps_no_other_of_its_claim(engine: Engine, connection: Connection) -> None:
    connection.execute(text("ALTER TABLE deliveries ADD CONSTRAINT never CHECK (token <> 1) NOT VALID"))
    with settling(Scripted(), engine, 7):
        eventually(lambda: count_sent(connection) == 60, "the others are settled")
        assert count(connection, "batches") == 1
        connection.execute(text("ALTER TABLE deliveries DROP CONSTRAINT never"))
    assert count_sent(connection) == 70
    assert misplaced(connection) == []


@pytest.mark.slow
def test_a_batch_that_is_refused_for_its_values_takes_no_answers_along(
    engine: Engine, connection: Connection, caplog: pytest.LogCaptureFixture
) -> None:
    """As where a trigger of the application's copies the log into a column that is too short."""
    caplog.set_level("INFO")
    connection.execute(text("CREATE TABLE copies (token varchar(1))"))
    connection.execute(
        text(
            "CREATE FUNCTION copy() RETURNS trigger LANGUAGE plpgsql AS"
            " $$ BEGIN INSERT INTO copies VALUES (CASE NEW.token WHEN 1 THEN 'too long' END); RETURN NULL; END $$"
        )
    )
    connection.execute(text("CREATE TRIGGER copy AFTER INSERT ON deliveries FOR EACH ROW EXECUTE FUNCTION copy()"))
    with pytest.raises(DBAPIError, match="value too long"), settling(Scripted(), engine, 7):
        pass
    assert count_sent(connection) == 60
    assert sum(message.startswith("batch id=") for message in caplog.messages) == 6
    assert misplaced(connection) == []


@pytest.mark.slow
@pytest.mark.early
def test_a_sweep_takes_back_fewer_mails_at_a_time_where_more_are_cut_off(
    engine: Engine, connection: Connection, hurried: Engine
) -> None:
    add_accounts(connection, 50)
    batch = take(connection)
    assert settle_alike(connection, batch, Sent("m"))
    connection.execute(text("UPDATE deliveries SET message_id = 'm' || token"))
    events.absorb(
        connection,
        [of(batch, RENDERING_FAILURE, f"m{job.token}", job=place, site=None) for place, job in enumerate(batch.jobs)],
    )
    slow_down_rows(connection, "UPDATE", "deliveries", 0.05)
    sweep(running.shared(hurried, Scripted()), name="sweep", max_time=timedelta(seconds=0))
    assert count(connection, "deliveries WHERE retried_at IS NOT NULL") > 0
    assert misplaced(connection) == []


@pytest.mark.slow
@pytest.mark.early
def test_behind_more_dead_rows_than_a_statement_can_pass_everything_leaves(
    engine: Engine,
    anew: Engine,
    simulator: Simulator,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The rest of an import, an hour old, behind what of it is done; and what is new, a recovery too."""
    caplog.set_level("INFO")
    sends = transport(simulator, monkeypatch)
    with engine.connect() as connection:
        [account] = add_accounts(connection, 1, status="active", prefix="active")
        with many_dead_jobs(engine, connection) as walk:
            add_accounts(connection, 20, prefix="rest")
            connection.execute(text("UPDATE jobs SET due_at = now() - interval '1 hour'"))
            let_statements_take(connection, walk / 3)
            with working(anew, sends, sweep_interval=0.5, concurrency=2):
                ask_recovery(connection, account)
                eventually(lambda: count(connection, "deliveries WHERE action = 'password_recovery'") == 1, "it leaves")
                eventually(lambda: count_sent(connection) == 21, "the rest of the import leaves")
                add_accounts(connection, 5, prefix="new")
                eventually(lambda: count_sent(connection) == 26, "new ones leave")
                assert caplog.text.count("stepping over what is dead") == 1
        connection.execute(text("VACUUM jobs"))
        with working(anew, sends, sweep_interval=0.5):
            add_accounts(connection, 5, prefix="then")
            eventually(lambda: count_sent(connection) == 31, "and afterwards")
        assert misplaced(connection) == []


@pytest.mark.slow
@pytest.mark.early
def test_what_committed_late_is_found_though_no_look_from_the_beginning_succeeds(
    engine: Engine, anew: Engine, simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    sends = transport(simulator, monkeypatch)
    with engine.connect() as connection, many_dead_jobs(engine, connection) as walk:
        let_statements_take(connection, walk / 3)
        with working(anew, sends, sweep_interval=0.3):
            add_accounts(connection, 3)
            eventually(lambda: count_sent(connection) == 3, "what is new leaves")
            [late] = add_accounts(connection, 1, prefix="late")
            connection.execute(
                text("UPDATE jobs SET due_at = now() - interval '2 hours' WHERE token = :late"), {"late": late}
            )
            eventually(lambda: count_sent(connection) == 4, "a later walk finds it")


@pytest.mark.slow
@pytest.mark.early
def test_an_outage_is_over_when_what_failed_works_again(
    engine: Engine,
    anew: Engine,
    simulator: Simulator,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A table that takes no more rows lets every look succeed."""
    caplog.set_level("INFO")
    sends = transport(simulator, monkeypatch)
    with engine.connect() as connection, statements(anew) as seen:
        add_accounts(connection, 5)
        connection.execute(text("ALTER TABLE batches ADD CONSTRAINT full_disk CHECK (false) NOT VALID"))
        with working(anew, sends, sweep_interval=0.2):
            eventually(lambda: sum(".claim(" in one for one in seen) > 3, "it has tried some times")
            assert caplog.text.count("database error") == 1
            assert "database back" not in caplog.text
            connection.execute(text("ALTER TABLE batches DROP CONSTRAINT full_disk"))
            eventually(lambda: count_sent(connection) == 5, "all is sent")
            eventually(lambda: "database back" in caplog.text, "it says so")
        assert caplog.text.count("database error") == caplog.text.count("database back") == 1


# Where a step takes longer than a statement may


@pytest.fixture
def hurried(engine: Engine, url: str) -> Iterator[Engine]:
    """An engine whose statements may take a second, begun when it is first used."""
    with engine.connect() as connection:
        let_statements_take(connection, timedelta(seconds=1))
    with hurried_engine(url, pool_size=2) as hurried:
        yield hurried


@pytest.mark.slow
@pytest.mark.early
def test_a_prune_that_is_cut_off_goes_on_in_smaller_steps(
    engine: Engine, connection: Connection, hurried: Engine
) -> None:
    mail(connection, 24)
    age(connection, 91)
    slow_down_rows(connection, "DELETE", "tokens", 0.1)
    assert prune(hurried) == (24, 24)


@pytest.mark.slow
@pytest.mark.early
def test_a_worker_prunes_and_reconciles_in_smaller_steps_where_larger_ones_are_cut_off(
    engine: Engine, connection: Connection, hurried: Engine
) -> None:
    mail(connection, 20)
    age(connection, 91)
    slow_down_rows(connection, "DELETE", "tokens", 0.1)
    work = Maintenance(hurried, queue="mailroom", prune_after=AGED, scan_limit=32)
    for hour in range(48):
        work.step(hour * 3_600.0)
        if not count(connection, "deliveries"):
            break
    assert everything(connection) == (0, 0, 0)
    connection.execute(text("DROP FUNCTION slowly CASCADE"))
    slow_down_rows(connection, "INSERT", "jobs", 0.1)
    lost = lose_jobs(connection, "activation", count=24)
    for minute in range(1_000, 1_060):
        work.step(minute * 60.0)
        if count(connection, "jobs") == len(lost):
            break
    assert (count(connection, "jobs"), misplaced(connection)) == (24, [])


@pytest.mark.slow
@pytest.mark.early
def test_a_sweep_and_a_full_reconcile_take_smaller_steps_too(
    engine: Engine, connection: Connection, hurried: Engine
) -> None:
    slow_down_rows(connection, "INSERT", "jobs", 0.1)
    lose_jobs(connection, "activation", count=24)
    assert maintenance.reconcile_newest(hurried, queue="mailroom").enqueued
    assert sum(len(step.enqueued) for step in maintenance.reconcile_all(hurried, queue="mailroom")) > 0
    assert (count(connection, "jobs"), misplaced(connection)) == (24, [])


@pytest.mark.slow
@pytest.mark.early
def test_what_a_person_does_to_jobs_is_done_in_smaller_steps_too(
    engine: Engine, connection: Connection, hurried: Engine
) -> None:
    add_accounts(connection, 60)
    connection.execute(text("UPDATE jobs SET due_at = 'infinity'"))
    slow_down_rows(connection, "UPDATE", "jobs", 0.03)
    also = "CREATE TRIGGER slowly BEFORE INSERT ON deliveries FOR EACH ROW EXECUTE FUNCTION slowly()"
    connection.execute(text(also))
    with hurried.connect() as person:
        assert len(by_hand.release(person, range(61))) == 60
        assert len(by_hand.drop(person, range(61))) == 60
        assert len(by_hand.retry(person, range(61), queue="mailroom").put_back) == 60
    assert misplaced(connection) == []


@pytest.mark.slow
@pytest.mark.early
def test_warnings_are_told_though_how_long_jobs_wait_cannot_be_read(
    engine: Engine, connection: Connection, url: str, caplog: pytest.LogCaptureFixture
) -> None:
    with many_dead_jobs(engine, connection) as walk:
        for share in (3, 3, 6, 12):  # perhaps the machine was busier when the walk was timed, or is now
            let_statements_take(connection, walk / share)
            with hurried_engine(url, pool_size=2) as hurried:
                Maintenance(hurried, queue="mailroom", prune_after=None).step(0)
            if "warning code=QueueUnread" in caplog.text:
                break
    assert "warning code=NoAutovacuum" in caplog.text
    assert "warning code=QueueUnread" in caplog.text


@pytest.mark.slow
@pytest.mark.early
def test_who_asks_is_told_all_but_what_cannot_be_read(engine: Engine, connection: Connection, url: str) -> None:
    """Beside an old snapshot: what somebody counted before is more than nothing, and what is wrong is told."""
    add_accounts(connection, 3, prefix="counted")
    assert refresh.refresh(engine) is not None
    connection.execute(text("UPDATE readings SET read_at = now() - interval '5 minutes'"))
    with many_dead_jobs(engine, connection) as walk:
        for share in (3, 3, 6, 12):
            let_statements_take(connection, walk / share)
            with hurried_engine(url, pool_size=1) as hurried:
                findings = examine(hurried, listening="", channel="token_insert", queue="mailroom")
                found = [each for each in findings if each.check == "queue"]
                with hurried.connect().execution_options(isolation_level="REPEATABLE READ") as snapshot:
                    told, warned = status.counted(snapshot)
                    assert snapshot.scalar(text("SELECT 1")) == 1
            if warned:
                break
    assert {each.message.split(":")[0] for each in found} >= {"NoAutovacuum", "QueueUnread"}
    assert {each.level for each in found} == {Level.WARNING}
    assert sum(lane.due for lane in told.lanes) == 3
    assert warned.keys() == {"NoReading", "QueueUnread"}


@pytest.mark.slow
def test_connections_that_are_of_no_use_are_left_whatever_their_error_is_called(
    engine: Engine, anew: Engine, simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They were made while another role was theirs; what was mended since only new ones have."""
    with engine.connect() as connection, statements(anew) as seen:
        set_for_all(connection, "role", "pg_monitor")
        add_accounts(connection, 1)
        with working(anew, transport(simulator, monkeypatch), sweep_interval=0.2):
            eventually(lambda: sum(KINDS in one for one in seen) > 1, "it has tried")
            set_for_all(connection, "role", "none")
            eventually(lambda: count_sent(connection) == 1, "it is sent")
