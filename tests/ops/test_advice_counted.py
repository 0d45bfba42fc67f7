"""What is counted on a database is what is advised: from rows to the first sentence."""

from datetime import UTC, datetime, timedelta

from sqlalchemy import Connection, text

from mailroom.fleet import pauses
from mailroom.ops import counting
from mailroom.ops.advice import Advice, advise
from mailroom.ops.forecast import forecast
from mailroom.queue import lanes
from tests.claiming import enqueue, enqueue_recovery, run_out, take, waited
from tests.kinds import ACTIVATION
from tests.ops.readings import BULK, NORMAL, URGENT

SEEN = (
    "SELECT worker_seen(:name, 'mailroom', '0.2.0', 4, :busy, true, false, interval '1 day');"
    " UPDATE workers SET seen_at = seen_at - CAST(:ago AS interval) WHERE name = :name"
)


def a_worker(connection: Connection, *, ago: str = "0 s", busy: int = 0, name: str = "web1/7") -> None:
    for statement in SEEN.split(";"):
        binds = {"name": name, "busy": busy, "ago": ago}
        connection.execute(text(statement), {each: binds[each] for each in binds if f":{each}" in statement})
    connection.execute(text("UPDATE ses_account SET fetched_at = now()"))  # each minute a worker asks


def told(connection: Connection) -> Advice:
    found = counting.count(connection)
    now: datetime = connection.scalar(text("SELECT clock_timestamp()")) or datetime.now(UTC)
    return advise(found, [], now=now)


def codes(advice: Advice) -> list[str]:
    return [need.code for need in advice.needs]


def test_an_idle_fleet_is_fine(conn: Connection) -> None:
    a_worker(conn)
    found = told(conn)
    assert found.sentence == "No mail was asked for in the last ten minutes; nothing waits; nothing needs you."


def test_a_recovery_that_nobody_takes_needs_a_worker(conn: Connection) -> None:
    enqueue_recovery(conn)
    a_worker(conn, ago="3 minutes")
    found = told(conn)
    assert codes(found) == ["NoWorker"]
    assert found.sentence.startswith("No mail leaves: no worker takes the queue mailroom; start one: `mailroom worker`")
    seen = "the last, web1/7, was seen 3 min ago; due: 1 password recovery; the oldest for 60 s"
    assert found.needs[0].why.startswith(seen)


def test_a_recovery_that_is_late_though_somebody_works_says_why(conn: Connection) -> None:
    enqueue_recovery(conn)
    waited(conn, 90)
    a_worker(conn, busy=4)
    found = told(conn)
    assert codes(found) == ["OldJob0"]
    assert found.needs[0].why == "all senders are in calls: 4 of 4 senders busy"


def test_a_pause_that_is_made_and_ended_comes_and_goes(conn: Connection) -> None:
    a_worker(conn)
    enqueue_recovery(conn)
    waited(conn, 1)
    pauses.open_pause(conn, "password_recovery", code=pauses.BY_HAND, reason="we move house", probed=False)
    found = told(conn)
    assert codes(found) == ["Paused"]
    assert found.sentence.startswith("Password recoveries do not leave: password_recovery has been paused for ")
    assert "(we move house); somebody paused it: `mailroom resume password_recovery`" in found.sentence
    assert pauses.close_pause(conn, "password_recovery", by_hand=True)
    assert codes(told(conn)) == []


def test_a_worker_that_died_in_a_call_is_told_by_its_batch(conn: Connection) -> None:
    enqueue(conn)
    take(conn)
    run_out(conn)
    conn.execute(text("UPDATE batches SET lease_until = lease_until - interval '2 minutes'"))
    a_worker(conn)
    assert codes(told(conn)) == ["OverdueBatch"]


def test_the_lanes_that_are_counted_are_those_that_are_foreseen(conn: Connection) -> None:
    a_worker(conn)
    enqueue(conn, 60)
    enqueue_recovery(conn)
    found = counting.count(conn)
    when = forecast(found, [], rate_limit=10.0, now=found.read_at)
    urgent, bulk = ("mailroom", URGENT, "password_recovery"), ("mailroom", BULK, ACTIVATION)
    assert when.keys() == {urgent, bulk}
    assert (when[urgent].at_granted, when[bulk].at_granted) == tuple(
        found.read_at + timedelta(seconds=jobs / 10) for jobs in (1, 61)
    )
    scope = lanes.priority_scope(BULK)
    pauses.open_pause(conn, scope, code=pauses.BY_HAND, reason="", probed=False)
    found = counting.count(conn)
    assert forecast(found, [], rate_limit=10.0, now=found.read_at)[bulk].left_out == {"paused": 60}
    assert ("mailroom", NORMAL, ACTIVATION) not in when
