"""Pages of jobs and of the record: complete, in order, and no row lost or repeated, whatever happens between two."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from psycopg.errors import QueryCanceled
from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

from mailroom.db.bounded import bounded
from mailroom.job import Position, Priority
from mailroom.ops import browse, causes, counting, jobs, walk
from mailroom.ops.browse import Page, Place
from mailroom.ops.jobs import Filters
from tests.claiming import claim, enqueue
from tests.kinds import ACTIVATION, RECOVERY
from tests.world import add_accounts, ask_recovery, rows

QUEUE = "mailroom"
LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)


def write(connection: Connection, statement: str, **binds: Any) -> None:
    connection.execute(text(statement), binds)


def wait(connection: Connection, count: int, *, first: int = 1, earlier: timedelta = timedelta(0)) -> None:
    """Let so many activations wait, seven of them due at each moment, of tokens that are gone."""
    write(
        connection,
        "INSERT INTO jobs (token, due_at, action, priority, queue)"
        " SELECT n, timestamptz '2026-01-01' + n / 7 * interval '1 second' - CAST(:earlier AS interval), 'activation',"
        " 1, 'mailroom' FROM generate_series(CAST(:first AS bigint), :last) AS n",
        first=first,
        last=first + count - 1,
        earlier=earlier,
    )


def deliver(connection: Connection, count: int = 1, **given: Any) -> None:
    """Put so many attempts on record."""
    usual = {"token": 1, "account": 1, "outcome": "sent", "code": None, "age": "0 s", "late": False, "fence": None}
    write(
        connection,
        "INSERT INTO deliveries (token, account, batch, action, outcome, attempt, error_code, created_at, late, fence)"
        " SELECT CAST(:token AS bigint), :account, 7, 'activation', CAST(:outcome AS delivery_outcome), 0, :code,"
        " clock_timestamp() - CAST(:age AS interval), :late, CAST(:fence AS uuid) FROM generate_series(1, :count)",
        count=count,
        **usual | given,
    )


def all_pages(page: Callable[[Place | None], Page], between: Callable[[], None] = lambda: None) -> list[int]:
    found, place, number = [], None, 0
    while True:
        shown = page(place)
        found += [row.token for row in shown.rows]
        if shown.next is None:
            return found
        place, number = shown.next, number + 1
        assert number < 100
        between()


def in_lane(connection: Connection, **how: Any) -> Callable[[Place | None], Page]:
    return lambda after: browse.lane(connection, QUEUE, Priority.NORMAL, ACTIVATION, after=after, limit=10, **how)


# A lane


def test_a_lane_is_shown_as_it_will_leave_page_by_page(conn: Connection) -> None:
    wait(conn, 75)
    write(conn, "UPDATE jobs SET due_at = 'infinity' WHERE token = 5")
    write(conn, "UPDATE jobs SET priority = 2 WHERE token = 6")
    found = all_pages(in_lane(conn))
    assert found == [
        r.token for r in rows(conn, "SELECT token FROM jobs WHERE token NOT IN (5, 6) ORDER BY due_at, token")
    ]


def test_what_leaves_and_what_comes_between_two_pages_neither_hides_a_job_nor_shows_one_twice(conn: Connection) -> None:
    wait(conn, 75)
    shown = iter(range(1, 1_000))

    def between() -> None:
        """What was shown first is sent, and older ones come in."""
        write(conn, "DELETE FROM jobs WHERE token = :token", token=next(shown))
        wait(conn, 1, first=1_000 + next(shown), earlier=timedelta(hours=1))

    assert all_pages(in_lane(conn), between) == list(range(1, 76))


def test_a_page_of_a_lane_says_whose_jobs_they_are(conn: Connection) -> None:
    tokens = enqueue(conn, 2)
    page = browse.lane(conn, QUEUE, Priority.NORMAL, ACTIVATION)
    accounts = [r.account for r in rows(conn, "SELECT account FROM tokens ORDER BY id")]
    assert [(row.token, row.account, row.state, row.attempt) for row in page.rows] == [
        (token, account, "waiting", 0) for token, account in zip(tokens, accounts, strict=True)
    ]
    assert page.next is None


def test_a_page_that_is_just_full_has_no_next_one(conn: Connection) -> None:
    wait(conn, 10)
    assert in_lane(conn)(None).next is None
    wait(conn, 1, first=11)
    assert in_lane(conn)(None).next == Place(datetime(2026, 1, 1, 0, 0, 1, tzinfo=UTC), 10)


def test_a_lane_may_be_shown_from_a_place_on(conn: Connection) -> None:
    wait(conn, 75)
    start = Position(datetime(2026, 1, 1, 0, 0, 3, tzinfo=UTC), 24)
    assert all_pages(in_lane(conn, start=start)) == list(range(25, 76))


def test_a_reading_knows_from_where_on_a_lane_need_be_walked(conn: Connection) -> None:
    """Where nothing has been due for a minute, with a minute to spare: something may commit late."""
    wait(conn, 30)
    write(conn, "UPDATE jobs SET due_at = '2026-01-01 UTC'")
    write(conn, "DELETE FROM jobs WHERE token <= 4")
    found = counting.count(conn)

    def place(priority: Priority, action: str, now: datetime = found.read_at) -> Position | None:
        return causes.nothing_due_before(found, QUEUE, priority, action, now=now)

    start = place(Priority.NORMAL, ACTIVATION)
    assert start == Position(datetime(2026, 1, 1, tzinfo=UTC), 4)
    assert all_pages(in_lane(conn, start=start)) == list(range(5, 31))
    recently = Position(found.read_at - timedelta(minutes=1), 0)
    assert place(Priority.URGENT, RECOVERY) == recently
    write(conn, "UPDATE jobs SET due_at = now() - interval '50 s'")
    found = counting.count(conn)
    assert place(Priority.NORMAL, ACTIVATION) == Position(found.read_at - timedelta(seconds=110), 0)
    assert place(Priority.NORMAL, ACTIVATION, found.read_at + timedelta(hours=1)) is None, "much may be there by now"


# Held and in flight


def test_what_is_held_is_shown_by_token_with_when_it_was_tried(conn: Connection) -> None:
    wait(conn, 25)
    write(conn, "UPDATE jobs SET due_at = 'infinity' WHERE token > 5")
    deliver(conn, token=6, outcome="unconfirmed", age="1 hour")
    first = browse.held(conn, limit=10)
    assert [row.token for row in first.rows] == list(range(6, 16))
    assert first.rows[0].at is not None
    assert (first.rows[1].at, first.rows[1].state, first.rows[1].queue) == (None, "held", QUEUE)
    assert all_pages(lambda after: browse.held(conn, after=after, limit=10)) == list(range(6, 26))


def test_what_is_in_flight_is_shown_by_token(conn: Connection) -> None:
    tokens = enqueue(conn, 25)
    assert claim(conn, batch_limit=4, job_limit=25).batches
    assert all_pages(lambda after: browse.flight(conn, after=after, limit=10)) == tokens


# The record


def test_the_record_is_shown_the_newest_first(conn: Connection) -> None:
    for token in range(1, 26):
        deliver(conn, token=token)
    assert all_pages(lambda before: browse.record(conn, before=before, limit=10)) == list(range(25, 0, -1))
    assert browse.record(conn).looked_back_to is None


def test_of_the_record_only_what_is_asked_for_is_shown(conn: Connection) -> None:
    deliver(conn, token=1, outcome="rejected", code="MessageRejected", age="2 hours")
    deliver(conn, token=2, outcome="rejected", code="MessageRejected")
    deliver(conn, token=3, outcome="failed", code="FAILED")
    deliver(conn, token=4)
    now: datetime = conn.scalar(text("SELECT clock_timestamp()"))

    def tokens(**filters: Any) -> list[int]:
        return [row.token for row in browse.record(conn, **filters).rows]

    assert tokens(outcome="rejected") == [2, 1]
    assert tokens(code="FAILED") == [3]
    assert tokens(since=now - timedelta(hours=1)) == [4, 3, 2]
    assert tokens(outcome="rejected", since=now - timedelta(hours=1)) == [2]
    assert tokens(outcome="expired") == []


def test_a_look_that_stops_says_how_far_it_came_and_goes_on_from_there(
    conn: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(browse, "SCAN_LIMIT", 10)
    deliver(conn, token=1, outcome="failed", age="1 hour")
    deliver(conn, 35)
    deliver(conn, token=3, outcome="failed")
    deliver(conn, 5)
    first = browse.record(conn, outcome="failed", limit=2)
    assert [row.token for row in first.rows] == [3]
    assert first.next is not None
    assert (first.looked_back_to is None, first.looked_back_to) == (False, first.next.at)
    rest = browse.record(conn, outcome="failed", before=first.next, limit=2)
    assert [row.token for row in rest.rows] == [1]
    assert (rest.next, rest.looked_back_to) == (None, None)


def test_a_search_of_the_record_loses_nothing_between_its_looks(
    conn: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(browse, "SCAN_LIMIT", 7)
    for token in range(1, 101):
        deliver(conn, token=token, outcome="failed" if token % 3 else "sent")
    found = all_pages(lambda before: browse.record(conn, outcome="failed", before=before, limit=4))
    assert found == [token for token in range(100, 0, -1) if token % 3]


# Unconfirmed


FENCES = [f"00000000-0000-4000-8000-00000000000{n}" for n in range(10)]


def unclear(connection: Connection, token: int, **given: Any) -> None:
    deliver(connection, token=token, outcome="unconfirmed", code="ReadTimeout", **{"fence": FENCES[0]} | given)


def ended(connection: Connection) -> dict[int | None, str]:
    return {row.token: row.ended for row in browse.unconfirmed(connection, since=LONG_AGO).rows}


def test_of_each_unconfirmed_mail_it_says_whether_it_went_out_again(conn: Connection) -> None:
    for token in range(1, 10):
        unclear(conn, token)
    wait(conn, 2, first=1)
    write(conn, "UPDATE jobs SET due_at = 'infinity' WHERE token = 2")
    write(
        conn,
        "INSERT INTO batches (queue, worker, action, priority, due_at, tokens, attempts, lease_until)"
        " VALUES ('mailroom', 'w', 'activation', 1, now(), '{3}', '{1}', now())",
    )
    deliver(conn, token=4, fence=FENCES[1])
    deliver(conn, token=5, fence=FENCES[1])
    deliver(conn, token=5, fence=FENCES[0], late=True)
    deliver(conn, token=6, fence=FENCES[0], late=True)
    deliver(conn, token=7, fence=FENCES[0], code="AcceptedLate")
    deliver(conn, token=8, outcome="failed")
    write(
        conn,
        "INSERT INTO events (message_id, kind, at, token, fence) VALUES ('m', 'reject', now(), 9, CAST(:f AS uuid))",
        f=FENCES[0],
    )
    assert ended(conn) == {
        1: "waiting",
        2: "held",
        3: "in flight",
        4: "sent again",
        5: "twice",
        6: "once",
        7: "once",
        8: "given up",
        9: "never",
    }


def test_unconfirmed_mails_are_shown_the_newest_first_page_by_page_also_of_one_moment(conn: Connection) -> None:
    for token in range(1, 26):
        unclear(conn, token)
    write(conn, "UPDATE deliveries SET created_at = timestamptz '2026-01-01' + token / 7 * interval '1 s'")
    found, place = [], None
    while True:
        page = browse.unconfirmed(conn, since=LONG_AGO, before=place, limit=4)
        found += [row.token for row in page.rows]
        place = page.next
        if place is None:
            break
    assert found == list(range(25, 0, -1))
    since = datetime(2026, 1, 1, 0, 0, 3, tzinfo=UTC)
    assert [row.token for row in browse.unconfirmed(conn, since=since).rows] == [25, 24, 23, 22, 21]


# Floods


def test_who_is_flooded_is_told_by_account_the_worst_first(conn: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    deliver(conn, 9, account=7, outcome="cancelled", code="TooMany", age="2 days")
    deliver(conn, 2, account=5, outcome="cancelled", code="Superseded")
    deliver(conn, 3, account=6, outcome="cancelled", code="TooMany")
    deliver(conn, 4, account=8, outcome="cancelled", code="TokenConsumed")
    since: datetime = conn.scalar(text("SELECT now() - interval '1 day'"))
    found = browse.flooded(conn, since=since)
    assert [(each.account, each.mails) for each in found.accounts] == [(6, 3), (5, 2)]
    assert found.looked_back_to is None
    monkeypatch.setattr(browse, "FLOOD_SCAN_LIMIT", 6)
    found = browse.flooded(conn, since=since)
    assert [(each.account, each.mails) for each in found.accounts] == [(6, 2)]
    assert found.looked_back_to is not None
    assert browse.flooded(conn, since=since, limit=1).accounts[0].account == 6


# All that wait


FILTERS = [
    Filters(),
    Filters(queue="news"),
    Filters(since=timedelta(hours=30)),
    Filters(until=timedelta(hours=30)),
    Filters(queue="mailroom", since=timedelta(hours=40), until=timedelta(hours=20)),
    Filters(held=True),
]


@pytest.mark.parametrize("filters", FILTERS, ids=repr)
def test_a_walk_finds_what_a_look_at_all_jobs_finds(
    conn: Connection, filters: Filters, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the lanes are, with many jobs of one moment, and pages much shorter than the lanes."""
    monkeypatch.setattr(walk, "STRETCH", 5)
    enqueue(conn, 12, prefix="early")
    assert claim(conn, batch_limit=5, job_limit=12).batches
    for account in add_accounts(conn, 30, status="active", prefix="active"):
        ask_recovery(conn, account)
    add_accounts(conn, 70, prefix="many")
    write(conn, "UPDATE jobs SET due_at = date_trunc('hour', now()) - token % 9 * interval '6 hours'")
    write(conn, "UPDATE jobs SET queue = 'news' WHERE token % 4 = 0")
    write(conn, "UPDATE jobs SET priority = 3 WHERE token % 11 = 0")
    write(conn, "UPDATE jobs SET due_at = 'infinity' WHERE token % 13 = 0")
    found = list(jobs.find(conn, filters))
    held_by_token = sorted((each for each in found if each.state == "held"), key=lambda each: each.token)
    found = [*(each for each in found if each.state != "held"), *held_by_token]
    for limit in (None, 1, 7, 60):
        expected = found[:limit]
        assert list(walk.find(conn, filters, limit=limit)) == expected
        assert expected


def test_a_walk_by_key_or_on_record_asks_the_other_way(conn: Connection) -> None:
    token, *_ = enqueue(conn, 3)
    deliver(conn, token=token, outcome="deferred")
    for filters in (Filters(tokens=(token,)), Filters(account=1), Filters(outcomes=("deferred",))):
        assert list(walk.find(conn, filters)) == list(jobs.find(conn, filters))


# Bounds


def test_a_page_that_takes_too_long_is_cut_off_and_the_connection_goes_on(conn: Connection) -> None:
    nested = conn.begin_nested()
    with pytest.raises(DBAPIError) as failed, bounded(conn, timedelta(milliseconds=100)):
        conn.execute(text("SELECT pg_sleep(30)"))
    assert isinstance(failed.value.orig, QueryCanceled)
    nested.rollback()
    assert conn.scalar(text("SELECT 1")) == 1
    driver: Any = conn.connection.driver_connection
    assert driver.answer_within is None


def test_recoveries_have_a_lane_of_their_own(conn: Connection) -> None:
    token = ask_recovery(conn, add_accounts(conn, 1, status="active")[0])
    assert [row.token for row in browse.lane(conn, QUEUE, Priority.URGENT, RECOVERY).rows] == [token]
    assert browse.lane(conn, "no such queue", Priority.URGENT, RECOVERY) == Page((), None)
