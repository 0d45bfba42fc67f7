"""Minutes agree with the log, whoever counts them, and whatever is recorded or changed after they have closed.

A test that is one transaction has one moment, `now()`: what it writes is of the minute of that, also where another has
begun since.
"""

from datetime import timedelta
from math import inf

import pytest
from sqlalchemy import Connection, Engine, text

from mailroom.job import Priority
from mailroom.ops import counting, minutes, status
from mailroom.ops.minutes import WAIT_BOUNDS, Minute, quantile
from mailroom.outcome import Sent
from tests.claiming import enqueue, settle_alike, take
from tests.kinds import ACTIVATION
from tests.world import recompute_minutes, rows, transaction

DAY = timedelta(days=1)


def deliver(connection: Connection, outcome: str, ago: str, **more: object) -> None:
    """Let an attempt have been recorded so long before the minute of now() began; it had waited 2 s."""
    usual = {"code": None, "late": False, "back": False, "waited": 2.0, "times": 1}
    connection.execute(
        text(
            "INSERT INTO deliveries"
            " (action, queue, priority, outcome, attempt, error_code, late, retried_at, created_at, due_at, claimed_at)"
            " SELECT 'activation', 'mailroom', 1, CAST(:outcome AS delivery_outcome), 0, :code, :late,"
            " CASE WHEN :back THEN now() END, at, at - make_interval(secs => :waited), at"
            " FROM (SELECT date_trunc('minute', now()) - CAST(:ago AS interval) AS at) AS moment,"
            " generate_series(1, :times)"
        ),
        {"outcome": outcome, "ago": ago, **usual, **more},
    )


def count_all(connection: Connection) -> list[Minute]:
    while not recompute_minutes(connection):
        pass
    return minutes.read(connection, since=DAY)


def reopen(connection: Connection, so_many: int = 1) -> None:
    """Let the last minutes before that of now() have closed since the last count."""
    connection.execute(
        text("UPDATE readings SET minutes_until = date_trunc('minute', now()) - :n * interval '1 minute'"),
        {"n": so_many},
    )


def told(found: list[Minute]) -> list[tuple[str, str, int]]:
    return [(one.outcome, one.code, one.mails) for one in found]


def test_a_minute_has_a_row_for_each_kind_of_end(conn: Connection) -> None:
    for outcome, code, times in (("sent", None, 3), ("deferred", "Throttled", 2), ("deferred", "Busy", 1)):
        deliver(conn, outcome, "30 seconds", code=code, times=times)
    deliver(conn, "sent", "20 seconds", late=True)
    deliver(conn, "sent", "10 seconds", back=True)
    deliver(conn, "sent", "-1 hour")
    found = count_all(conn)
    assert sorted(told(found)) == [
        ("deferred", "Busy", 1),
        ("deferred", "Throttled", 2),
        ("late", "", 1),
        ("sent", "", 3),
        ("taken_back", "", 1),
    ]
    sent = next(one for one in found if one.outcome == "sent")
    late = next(one for one in found if one.outcome == "late")
    assert (sent.action, sent.priority, sent.queue) == (ACTIVATION, Priority.NORMAL, "mailroom")
    assert (late.priority, late.queue, sum(late.waits)) == (None, "", 0)
    assert quantile(sent.waits, 0.5) == 2.5


def test_the_minute_that_goes_on_is_not_counted_before_it_has_closed(conn: Connection) -> None:
    deliver(conn, "sent", "0 seconds")
    found = count_all(conn)
    [(closed,)] = rows(conn, "SELECT minutes_until > now() FROM readings")  # where it was the last moment of a minute
    assert told(found) == ([("sent", "", 1)] if closed else [])


@pytest.mark.parametrize(
    ("waited", "bucket"), [(-3, 0), (0, 0), (0.004, 0), (0.006, 1), (0.99, 7), (59, 12), (90_000, 17)]
)
def test_waits_are_counted_by_bucket(conn: Connection, waited: float, bucket: int) -> None:
    deliver(conn, "sent", "30 seconds", waited=waited, times=2)
    [found] = count_all(conn)
    assert found.waits == tuple(2 if place == bucket else 0 for place in range(len(WAIT_BOUNDS) + 1))


def test_what_never_had_a_moment_is_counted_without_a_wait(conn: Connection) -> None:
    deliver(conn, "sent", "30 seconds")
    conn.execute(text("UPDATE deliveries SET due_at = '-infinity'"))
    deliver(conn, "sent", "40 seconds")
    conn.execute(text("UPDATE deliveries SET claimed_at = NULL WHERE due_at > '-infinity'"))
    [found] = count_all(conn)
    assert (found.mails, sum(found.waits)) == (2, 0)


@pytest.mark.parametrize("ago", ["90 seconds", "10 minutes 30 seconds", "1 hour 30 seconds"])
def test_what_is_recorded_or_changed_later_is_seen(conn: Connection, ago: str) -> None:
    """A commit may come late; and what has been accepted may be taken back."""
    count_all(conn)
    deliver(conn, "sent", ago)
    reopen(conn)
    assert told(count_all(conn)) == [("sent", "", 1)]
    conn.execute(text("UPDATE deliveries SET retried_at = now()"))
    reopen(conn)
    assert told(count_all(conn)) == [("taken_back", "", 1)]


def test_counting_again_changes_nothing(conn: Connection) -> None:
    for minute in range(0, 300, 7):
        deliver(conn, "sent", f"{minute} minutes 30 seconds", times=2)
    found = count_all(conn)
    assert sum(one.mails for one in found) == 86
    for gap in (1, 2, 3, 9, 11, 59, 61, 90):
        reopen(conn, gap)
        assert count_all(conn) == found


def test_two_who_count_at_once_count_once(engine: Engine, connection: Connection) -> None:
    """Whoever comes second waits for nobody, and leaves it to the first."""
    deliver(connection, "sent", "30 seconds", times=100)
    count_all(connection)
    reopen(connection)
    connection.execute(text("SET statement_timeout = '1min'"))
    with transaction(engine) as other:
        assert recompute_minutes(other)
        assert recompute_minutes(connection)
        other.commit()
    assert sum(one.mails for one in count_all(connection)) == 100


def test_a_gap_is_made_up_for_but_no_further_than_a_day(conn: Connection) -> None:
    deliver(conn, "sent", "23 hours")
    deliver(conn, "sent", "25 hours")
    conn.execute(text("UPDATE readings SET minutes_until = now() - interval '30 days'"))
    assert sum(one.mails for one in count_all(conn)) == 1
    assert rows(conn, "SELECT sum(mails) AS mails FROM minutes") == [(1,)]


def test_a_clock_that_was_set_back_loses_no_minute(conn: Connection) -> None:
    count_all(conn)
    deliver(conn, "sent", "30 seconds")
    conn.execute(text("UPDATE readings SET minutes_until = now() + interval '1 day'"))
    conn.execute(
        text("INSERT INTO minutes VALUES (now() + interval '1 hour', '', 1, 'activation', 'sent', '', 1, '{}')")
    )
    assert told(count_all(conn)) == [("sent", "", 1)]
    counted = "minutes_until BETWEEN date_trunc('minute', now()) AND clock_timestamp()"
    assert rows(conn, f"SELECT {counted} FROM readings") == [(True,)]  # noqa: S608


def test_a_clock_that_was_a_month_ahead_for_a_while_leaves_the_outcomes_of_the_day(conn: Connection) -> None:
    """What is older than a week was forgotten then, and that was all there is."""
    deliver(conn, "sent", "3 hours", times=5)
    count_all(conn)
    conn.execute(text("DELETE FROM minutes"))
    conn.execute(text("UPDATE readings SET minutes_until = minutes_until + interval '30 days'"))
    count_all(conn)
    assert status.of(counting.count(conn)).outcomes["day"] == {"sent": 5}


def test_old_minutes_are_forgotten(conn: Connection) -> None:
    insert = "INSERT INTO minutes SELECT now() - n * interval '23 hours', '', 1, 'activation', 'sent', '', 1, '{}'"
    conn.execute(text(f"{insert} FROM generate_series(5, 10) AS n"))
    count_all(conn)
    assert rows(conn, "SELECT count(*) FROM minutes") == [(3,)]


def test_the_outcomes_of_an_hour_and_a_day_are_the_same_with_minutes_and_without(conn: Connection) -> None:
    for ago in ("10 seconds", "59 minutes", "62 minutes", "23 hours 59 minutes", "25 hours"):
        deliver(conn, "sent", ago)
        deliver(conn, "deferred", ago, code="Throttled")
        deliver(conn, "sent", ago, late=True)
    settled = {"deferred": 2, "late": 2, "sent": 2}, {"deferred": 4, "late": 4, "sent": 4}
    without = status.of(counting.count(conn)).outcomes
    count_all(conn)
    assert counting.count(conn).outcomes == without == {"hour": settled[0], "day": settled[1]}


def test_what_was_sent_can_be_told_afterwards(connection: Connection) -> None:
    """Of each mail of a batch when it was due, and when it was claimed."""
    enqueue(connection, 2)
    connection.execute(text("UPDATE jobs SET due_at = due_at - interval '1 hour' WHERE token = 1"))
    settle_alike(connection, take(connection), Sent("m"))
    found = rows(
        connection,
        "SELECT token, round(extract(epoch FROM claimed_at - due_at)) AS waited, claimed_at <= at AS ordered"
        " FROM attempts ORDER BY token",
    )
    assert [(row.token, int(row.waited) // 60, row.ordered) for row in found] == [(1, 61, True), (2, 1, True)]


def test_a_quantile_is_the_bound_of_its_bucket() -> None:
    nothing = (0,) * (len(WAIT_BOUNDS) + 1)
    assert quantile(nothing, 0.5) is None
    waits = (90, 0, 9, *nothing[3:-1], 1)
    assert [quantile(waits, share) for share in (0, 0.5, 0.9, 0.95, 0.99, 1)] == [
        0.005,
        0.005,
        0.005,
        0.025,
        0.025,
        inf,
    ]
