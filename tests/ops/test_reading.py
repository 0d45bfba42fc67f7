"""A reading: one process counts for all, at a bounded cost, and what it cannot count leaves what was counted before."""

import json
import re
import threading
from dataclasses import fields, replace
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import Connection, Engine, event, text

from mailroom.db import functions
from mailroom.job import Position, Priority
from mailroom.ops import causes, counting, minutes, reading, refresh, status
from mailroom.ops.reading import Lane, Reading
from mailroom.outcome import Sent, Unconfirmed
from mailroom.queue import late_acceptances
from tests.claiming import claim, enqueue, settle_alike, take, waited
from tests.kinds import ACTIVATION, RECOVERY
from tests.world import add_accounts, ask_recovery, rows, transaction

# What a reading may take as mailroom has it; every other one here may take as long as it needs.
CUT_OFF_AFTER = timedelta(seconds=2)


def due(connection: Connection) -> None:
    """Let the next reading be due."""
    connection.execute(text("UPDATE readings SET due_at = now()"))


def read_again(engine: Engine) -> Reading:
    with engine.connect() as connection:
        due(connection)
    found = refresh.refresh(engine)
    assert found is not None
    return found


def aged(connection: Connection, age: str) -> None:
    connection.execute(text("UPDATE readings SET read_at = now() - CAST(:age AS interval)"), {"age": age})


# What is counted


def test_lanes_are_told_by_what_is_due_due_later_and_held(conn: Connection) -> None:
    for account in add_accounts(conn, 2, status="active", prefix="active"):
        ask_recovery(conn, account)
    add_accounts(conn, 5)
    waited(conn, 0)
    conn.execute(text("UPDATE jobs SET due_at = now() - interval '90 s' WHERE priority = 0"))
    first = "(SELECT min(token) FROM jobs WHERE priority = 1)"
    conn.execute(text(f"UPDATE jobs SET due_at = now() + interval '1 hour' WHERE token = {first}"))  # noqa: S608
    conn.execute(text(f"UPDATE jobs SET due_at = 'infinity' WHERE token = {first} + 1"))  # noqa: S608
    conn.execute(text("SET LOCAL mailroom.queue = 'aaa'"))
    add_accounts(conn, 1, prefix="other")
    conn.execute(text("UPDATE jobs SET due_at = now() WHERE queue = 'aaa'"))
    found = counting.count(conn)
    heads = (
        "SELECT DISTINCT ON (queue, priority) due_at, token FROM jobs WHERE due_at <= now()"
        " ORDER BY queue, priority, due_at, token"
    )
    assert [lane.head for lane in found.lanes] == [Position(*row) for row in rows(conn, heads)]
    assert tuple(replace(lane, head=None) for lane in found.lanes) == (
        Lane("aaa", Priority.NORMAL, ACTIVATION, 1, 0, 0, capped=False, oldest_seconds=0),
        Lane("mailroom", Priority.URGENT, RECOVERY, 2, 0, 0, capped=False, oldest_seconds=90),
        Lane("mailroom", Priority.NORMAL, ACTIVATION, 3, 1, 1, capped=False, oldest_seconds=0),
    )
    assert found.jobs_estimate == 8
    assert found.health.waited_seconds == {Priority.URGENT: 90, Priority.NORMAL: 0}
    assert set(found.warnings) >= {"OldJob0"}


@pytest.mark.parametrize("known", [[], ["b"], ["a", "b", "d"], ["c", "e"], ["", "zz"]])
def test_every_queue_is_found_whichever_were_known_before(conn: Connection, known: list[str]) -> None:
    for queue in "abcd":
        conn.execute(text(f"SET LOCAL mailroom.queue = '{queue}'"))
        add_accounts(conn, 2, prefix=queue)
    waited(conn, 0)
    lanes = functions.call(conn, "reading_lanes", {"most": 10, "known": known})
    assert [(lane.queue, lane.due) for lane in lanes] == [(queue, 2) for queue in "abcd"]


@pytest.mark.slow
def test_a_lane_is_counted_up_to_ten_thousand_and_estimated_beyond(engine: Engine, connection: Connection) -> None:
    add_accounts(connection, 10_000)
    [lane] = counting.count(connection).lanes
    assert (lane.due, lane.capped) == (10_000, False)
    add_accounts(connection, 500, prefix="more")
    connection.execute(text("VACUUM ANALYZE jobs"))
    found = counting.count(connection)
    [lane] = found.lanes
    assert (lane.due, lane.capped) == (10_001, True)
    assert found.jobs_estimate >= 10_001
    [waiting] = status.of(found).waiting
    assert (waiting.jobs, waiting.capped) == (10_001, True)


def test_what_is_in_flight_is_told_with_its_age(conn: Connection) -> None:
    enqueue(conn, 5)
    claim(conn, batch_limit=3, lease=timedelta(seconds=-30))
    claim(conn, batch_limit=2)
    conn.execute(
        text(
            "UPDATE batches SET claimed_at = now() - interval '40 s', lease_until = now() - interval '10 s'"
            " WHERE id = (SELECT min(id) FROM batches)"
        )
    )
    flight = counting.count(conn).flight
    assert (flight.batches, flight.jobs, flight.overdue, flight.overdue_seconds, flight.oldest_seconds) == (
        2,
        5,
        1,
        10,
        40,
    )


def test_what_ses_allows_and_what_is_used_of_it_is_told(conn: Connection) -> None:
    conn.execute(text("UPDATE permits SET granted = 150, slowdown = 0.7 WHERE bucket = 'mails'"))
    conn.execute(text("UPDATE ses_account SET fetched_at = now(), max_send_rate = 14, granted_before = 100"))
    found = counting.count(conn)
    assert (found.buckets["mails"].granted, found.buckets["mails"].slowdown) == (150, 0.7)
    assert (found.account.max_send_rate, found.account.granted_since, found.account.seen_at) == (14, 50, found.read_at)


def test_mails_that_may_be_out_are_counted_and_those_that_were_sent_again(conn: Connection) -> None:
    enqueue(conn, 3)
    settle_alike(conn, take(conn), Unconfirmed("Timeout", "no answer"))
    waited(conn)
    again = take(conn, batch_limit=2)
    settle_alike(conn, again, Sent("m"))
    waited(conn)
    settle_alike(conn, take(conn), Unconfirmed("Timeout", "no answer"))
    found = counting.count(conn)
    assert (found.unconfirmed_day, found.sent_again_day) == (3, 2)


def test_a_mail_of_which_the_answer_came_late_was_not_sent_again(connection: Connection) -> None:
    enqueue(connection, 1)
    lost = take(connection)
    connection.execute(text("UPDATE batches SET lease_until = clock_timestamp() - interval '1 second'"))
    functions.call(
        connection,
        "rescue",
        {"batch_limit": 10, "passed_over": 0, "max_attempts": 6, "resend_after": timedelta(0)},
    )
    settle_alike(connection, lost, Sent("m"))
    late_acceptances.apply(connection)
    assert not claim(connection).batches
    found = counting.count(connection)
    assert (found.unconfirmed_day, found.sent_again_day) == (1, 0)
    assert rows(connection, "SELECT outcome, late FROM deliveries ORDER BY id") == [
        ("unconfirmed", False),
        ("sent", True),
        ("sent", False),
    ]


# Whose turn it is


def test_what_is_kept_is_what_was_counted(engine: Engine) -> None:
    with engine.connect() as connection:
        enqueue(connection, 3)
        take(connection, batch_limit=1)
        found = refresh.refresh(engine)
        kept = reading.read(connection)
    assert found is not None
    assert kept is not None
    assert replace(kept, age_seconds=0) == replace(found, age_seconds=0)
    assert list(found.outcomes) == ["hour", "day"]
    assert found.seconds > 0
    assert found.age_seconds < 30


def test_of_all_who_try_at_once_one_counts_and_the_next_in_fifteen_seconds(engine: Engine) -> None:
    start, found = threading.Barrier(8), []

    def count() -> None:
        start.wait()
        found.append(refresh.refresh(engine))

    threads = [threading.Thread(target=count) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len([one for one in found if one is not None]) == 1
    assert refresh.refresh(engine) is None
    with engine.connect() as connection:
        [(wait,)] = rows(connection, "SELECT extract(epoch FROM due_at - read_at) FROM readings")
    assert 13 < wait <= 14 + refresh.LONGEST.total_seconds()


def test_whoever_has_the_turn_keeps_nobody_waiting(engine: Engine) -> None:
    with transaction(engine) as other:
        other.execute(text("SELECT FROM readings FOR UPDATE"))
        assert refresh.refresh(engine) is None


def slow_down(connection: Connection, name: str, seconds: float) -> None:
    """Let a function of ours take so much longer."""
    [(body,)] = rows(connection, "SELECT pg_get_functiondef(oid) FROM pg_proc WHERE proname = :name", name=name)
    slower = body.replace("\nBEGIN\n", f"\nBEGIN\nPERFORM pg_sleep({seconds});\n", 1)
    assert slower != body
    connection.exec_driver_sql(slower.replace("%", "%%"))


@pytest.mark.slow
@pytest.mark.parametrize(("takes", "wait"), [(0.2, 20), (1, 50)])
def test_a_reading_that_takes_long_comes_seldom_but_not_too_seldom(
    engine: Engine, connection: Connection, takes: float, wait: float
) -> None:
    slow_down(connection, "health", takes)
    found = read_again(engine)
    [(due_at,)] = rows(connection, "SELECT due_at FROM readings")
    assert found.seconds >= takes
    assert wait <= (due_at - found.read_at).total_seconds() <= 60


def test_who_comes_every_fifteen_seconds_counts_each_time(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """By its own clock, which may be a moment ahead of what was the turn before."""
    monkeypatch.setattr(refresh, "MAX_SHARE", 1.0)  # however slow this machine is
    assert refresh.refresh(engine) is not None
    with engine.connect() as connection:
        back = {"ago": refresh.EVERY - timedelta(milliseconds=100)}
        connection.execute(text("UPDATE readings SET due_at = due_at - CAST(:ago AS interval)"), back)
    assert refresh.refresh(engine) is not None


def test_a_worker_of_the_release_before_still_counts_and_reads(engine: Engine) -> None:
    """It takes the turn and keeps what it has counted, each by a function of its own, and reads what it knows."""
    read_again(engine)
    with engine.connect() as connection:
        due(connection)
        [(found,)] = rows(connection, "SELECT found FROM readings")
        assert found.keys() >= {each.name for each in fields(Reading)} - {"age_seconds"}
        turn = {"every": refresh.EVERY, "longest": refresh.LONGEST}
        assert [functions.call(connection, "reading_take", turn).one().taken for _ in range(2)] == [True, False]
        counted = {"read_at": datetime.now(UTC), "counted": json.dumps(found | {"seconds": 7}), "failure": ""}
        functions.call(connection, "reading_keep", counted | {"due_after": refresh.EVERY})
        kept = reading.read(connection)
        assert kept is not None
        assert kept.seconds == 7


def test_to_count_is_one_statement_and_not_to_have_the_turn_another(engine: Engine) -> None:
    """Who is idle asks little else."""
    asked: list[str] = []
    event.listen(engine, "before_cursor_execute", lambda _c, _cu, statement, *_: asked.append(statement))
    assert [refresh.count_if_due(engine) for _ in range(2)] == [True, False]
    assert len(asked) == 2


@pytest.mark.slow
def test_what_cannot_be_counted_leaves_the_last_reading_and_says_so(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    with engine.connect() as connection:
        enqueue(connection, 1)
    before = read_again(engine)
    with transaction(engine) as other, engine.connect() as connection:
        other.execute(text("LOCK TABLE jobs"))
        with monkeypatch.context() as hurried:
            hurried.setattr(refresh, "ANSWER_WITHIN", CUT_OFF_AFTER)
            found = read_again(engine)
        assert (found.failure, found.lanes, found.read_at) == ("QueryCanceled", before.lanes, before.read_at)
        assert found.failed_at is not None
        other.rollback()
        after = read_again(engine)
    assert (after.failure, after.failed_at) == ("", None)
    assert after.read_at > before.read_at


@pytest.mark.slow
def test_a_reading_of_which_each_part_is_slow_is_cut_off_all_the_same(
    engine: Engine, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who counts also looks for work."""
    read_again(engine)
    for slow in ("reading_unconfirmed", "feed_state", "health"):
        [(body,)] = rows(connection, f"SELECT pg_get_functiondef(oid) FROM pg_proc WHERE proname = '{slow}'")  # noqa: S608
        connection.exec_driver_sql(body.replace("RETURN QUERY", "PERFORM pg_sleep(0.9); RETURN QUERY", 1))
    monkeypatch.setattr(refresh, "ANSWER_WITHIN", CUT_OFF_AFTER)
    assert read_again(engine).failure == "QueryCanceled"


def test_a_reading_that_took_long_for_its_minutes_is_not_late_before_its_turn(
    engine: Engine, connection: Connection
) -> None:
    """It comes again as seldom as all of it took long. Who took it to be late would say that no worker is there."""
    slow_down(connection, "minutes_recompute", 0.6)
    found = read_again(engine)
    [(due_at,)] = rows(connection, "SELECT due_at FROM readings")
    assert due_at - found.read_at > timedelta(seconds=45)
    assert causes.as_of(found, due_at) == found.read_at


@pytest.mark.slow
def test_minutes_that_are_too_many_for_a_slow_machine_are_counted_one_by_one(
    engine: Engine, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One takes a second, all of them six, of four that there are."""
    monkeypatch.setattr(refresh, "ANSWER_WITHIN", timedelta(seconds=4))
    connection.execute(
        text(
            "INSERT INTO deliveries (action, outcome, attempt, created_at) SELECT 'activation', 'sent', 0,"
            " clock_timestamp() - n * interval '1 minute' FROM generate_series(1, 30) AS n"
        )
    )
    connection.execute(text("UPDATE readings SET minutes_until = now() - interval '20 minutes'"))
    slow = "BEGIN PERFORM pg_sleep(0.3); RETURN NEW; END"
    connection.execute(text(f"CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS '{slow}'"))
    connection.execute(text("CREATE TRIGGER slow BEFORE INSERT ON minutes FOR EACH ROW EXECUTE FUNCTION slow()"))
    assert read_again(engine).failure == ""
    assert rows(connection, "SELECT minutes_until > now() - interval '20 minutes' FROM readings") == [(True,)]


def test_whoever_is_held_up_in_the_midst_of_counting_has_the_turn_until_it_ends(engine: Engine) -> None:
    """So none that is older than what is kept comes later. If it dies over it, the next one counts."""
    read_again(engine)
    with engine.connect() as connection, transaction(engine) as other:
        due(connection)
        binds = {**minutes.arguments(minutes.STEP), **counting.arguments(refresh.REACH), "catching_up": refresh.EVERY}
        binds |= {"every": refresh.EVERY, "max_share": 1.0, "longest": refresh.EVERY, "longest_due": refresh.EVERY}
        assert functions.call(other, "reading_refresh", binds).one().taken
        assert refresh.refresh(engine) is None
        other.rollback()
        assert refresh.refresh(engine) is not None


@pytest.mark.parametrize("column", ["due_at", "read_at"])
def test_a_clock_that_was_set_back_keeps_nobody_from_counting(engine: Engine, column: str) -> None:
    read_again(engine)
    with engine.connect() as connection:
        connection.execute(text("UPDATE readings SET due_at = now()"))
        connection.execute(text(f"UPDATE readings SET {column} = now() + interval '1 day'"))  # noqa: S608
    found = refresh.refresh(engine)
    assert found is not None
    assert found.failure == ""
    assert found.age_seconds < 30
    with engine.connect() as connection:
        assert rows(
            connection, "SELECT FROM readings WHERE read_at <= clock_timestamp() AND due_at < now() + interval '2 min'"
        )


# How old it may be


@pytest.mark.parametrize("form", [1, 2])
def test_a_reading_of_another_release_is_not_read(engine: Engine, connection: Connection, form: int) -> None:
    """And ends nobody who meets it: the thread that looks for work does."""
    read_again(engine)
    connection.execute(text("UPDATE readings SET found = json_build_object('format', CAST(:f AS int))"), {"f": form})
    assert reading.read(connection) is None
    assert read_again(engine).failure == ""


def test_the_status_is_what_the_fleet_counted_unless_that_is_old(engine: Engine, connection: Connection) -> None:
    enqueue(connection, 2)
    read_again(engine)
    enqueue(connection, 3, prefix="since")
    assert [row.jobs for row in status.read(connection).waiting] == [2]
    aged(connection, "61 seconds")  # where cron sweeps each minute, that is as it should be
    found = status.read(connection)
    assert [row.jobs for row in found.waiting] == [5]
    assert found.age_seconds == 0
    assert "NoReading" not in found.warnings
    aged(connection, "100 seconds")
    found = status.read(connection)
    assert re.match(r"nobody has counted for 1\d\d s: is there a worker\?", found.warnings["NoReading"])


def test_a_reading_of_before_the_clock_was_set_back_is_not_of_now(engine: Engine, connection: Connection) -> None:
    """Its fleet may have died since; until its moment comes again it would be news."""
    read_again(engine)
    aged(connection, "-2 hours")
    enqueue(connection, 3)
    found = status.read(connection)
    assert [row.jobs for row in found.waiting] == [3]
    assert "NoReading" in found.warnings


def test_nobody_misses_what_never_was_or_has_long_been_taken_away(engine: Engine, connection: Connection) -> None:
    assert "NoReading" not in status.read(connection).warnings
    read_again(engine)
    assert "NoReading" not in status.read(connection).warnings
    aged(connection, "2 days")
    assert "NoReading" not in status.read(connection).warnings


KEEP_RATES = text("""
UPDATE readings
   SET read_at = now() + CAST(:ahead AS interval),
       found = CAST(jsonb_set(CAST(found AS jsonb), '{feedback,reputation}',
                              '{"newest": {"mails": 77, "bounces": 0, "complaints": 0,
                                           "bounce_rate": 0, "complaint_rate": 0}}') AS json)
""")


@pytest.mark.parametrize(("ahead", "mails"), [("0 s", 77), ("-1 minute", 1), ("365 days", 1)])
def test_the_rates_are_counted_once_a_minute(engine: Engine, ahead: str, mails: int) -> None:
    """They are a walk over a hundred thousand attempts."""
    read_again(engine)
    with transaction(engine) as connection:  # in which it is one moment
        connection.execute(text("INSERT INTO deliveries (action, outcome, attempt) VALUES ('activation', 'sent', 0)"))
        connection.execute(KEEP_RATES, {"ahead": ahead})
        assert counting.count(connection).feedback.reputation["newest"].mails == mails
