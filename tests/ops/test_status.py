"""The status agrees with the database."""

from datetime import timedelta

import pytest
from sqlalchemy import Connection, text

from mailroom.job import Priority
from mailroom.ops import status
from mailroom.ops.status import InFlight, Waiting
from tests.claiming import claim, waited
from tests.kinds import ACTIVATION, RECOVERY
from tests.world import add_accounts, ask_recovery


def deliver(connection: Connection, outcome: str, *, age: str = "0", late: bool = False, times: int = 1) -> None:
    connection.execute(
        text(
            "INSERT INTO deliveries (token, action, outcome, attempt, late, created_at)"
            " SELECT n, 'activation', CAST(:outcome AS delivery_outcome), 0, :late, now() - CAST(:age AS interval)"
            " FROM generate_series(1, :times) AS n"
        ),
        {"outcome": outcome, "age": age, "late": late, "times": times},
    )


def test_nothing_is_nothing(conn: Connection) -> None:
    found = status.read(conn)
    assert found.waiting == ()
    assert found.in_flight == InFlight(0, 0, 0)
    assert found.outcomes == {"hour": {}, "day": {}}


def test_what_waits_is_told_by_queue_priority_and_action(conn: Connection) -> None:
    add_accounts(conn, 3)
    add_accounts(conn, 51, prefix="many")
    for account in add_accounts(conn, 2, status="active", prefix="active"):
        ask_recovery(conn, account)
    conn.execute(text("SET LOCAL mailroom.queue = 'news'"))
    add_accounts(conn, 1, prefix="news")
    waited(conn, 0)
    lanes = [(row.queue, row.priority, row.action, row.jobs, row.due) for row in status.read(conn).waiting]
    assert lanes == [
        ("mailroom", Priority.URGENT, RECOVERY, 2, 2),
        ("mailroom", Priority.NORMAL, ACTIVATION, 3, 3),
        ("mailroom", Priority.BULK, ACTIVATION, 51, 51),
        ("news", Priority.NORMAL, ACTIVATION, 1, 1),
    ]


def test_the_oldest_is_the_one_that_has_been_due_longest(conn: Connection) -> None:
    add_accounts(conn, 3)
    first = "(SELECT min(token) FROM jobs)"
    conn.execute(text("UPDATE jobs SET due_at = now() + interval '1 hour'"))
    [later] = status.read(conn).waiting
    assert later == Waiting("mailroom", Priority.NORMAL, ACTIVATION, jobs=3, due=0, oldest_seconds=0, later=3)
    conn.execute(text(f"UPDATE jobs SET due_at = now() - interval '90 seconds' WHERE token > {first}"))  # noqa: S608
    conn.execute(text(f"UPDATE jobs SET due_at = now() - interval '120 seconds' WHERE token = {first} + 1"))  # noqa: S608
    [due] = status.read(conn).waiting
    assert (due.jobs, due.due, due.oldest_seconds) == (3, 2, 120)


def test_what_is_in_flight_is_no_longer_waiting(conn: Connection) -> None:
    add_accounts(conn, 5)
    waited(conn, 0)
    assert claim(conn, batch_limit=2, lease=timedelta(minutes=1)).batches
    assert claim(conn, batch_limit=2, lease=timedelta(minutes=1)).batches
    assert claim(conn, batch_limit=2, lease=timedelta(minutes=-1)).batches
    found = status.read(conn)
    assert found.waiting == ()
    assert found.in_flight == InFlight(batches=3, jobs=5, overdue=1)


@pytest.mark.parametrize("outcome", ["sent", "rejected", "failed", "expired", "cancelled", "deferred", "unconfirmed"])
def test_outcomes_are_counted_by_the_hour_and_the_day(conn: Connection, outcome: str) -> None:
    deliver(conn, outcome, times=2)
    deliver(conn, outcome, age="59 minutes")
    deliver(conn, outcome, age="61 minutes", times=3)
    deliver(conn, outcome, age="23 hours 59 minutes")
    deliver(conn, outcome, age="24 hours 1 minute", times=5)
    assert status.read(conn).outcomes == {"hour": {outcome: 3}, "day": {outcome: 7}}


def test_late_answers_are_counted_apart(conn: Connection) -> None:
    deliver(conn, "sent")
    deliver(conn, "sent", late=True, times=2)
    deliver(conn, "rejected", late=True)
    assert status.read(conn).outcomes["hour"] == {"late": 3, "sent": 1}
