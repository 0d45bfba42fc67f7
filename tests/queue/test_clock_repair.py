"""The clock of the database is set back: what waits for a moment that is far ahead then is brought back."""

from dataclasses import replace
from datetime import timedelta

import pytest
from sqlalchemy import Connection, Engine, text

from mailroom import queue
from mailroom.fleet import buckets, pauses
from mailroom.fleet.buckets import Bucket, Granted
from mailroom.queue.claim import MAX_BUSY_WAIT
from mailroom.queue.clock_repair import repair
from mailroom.queue.floors import Floors
from mailroom.ses.classify import REFUSALS
from mailroom.simulator import Simulator
from tests.claiming import claim, enqueue_recovery, look, waiting
from tests.kinds import LANES
from tests.rating import let_pass, ours, tell_account
from tests.running import eventually, limits, transport, working
from tests.world import add_accounts, count_sent, drained, misplaced, rows

LATER = text("UPDATE jobs SET due_at = now() + :ahead, attempt = :attempt WHERE token = :token")


@pytest.mark.slow
@pytest.mark.early
def test_what_waits_for_the_time_before_a_clock_was_set_back_is_brought_back(
    engine: Engine, simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    sends = transport(simulator, monkeypatch)
    with engine.connect() as connection:
        add_accounts(connection, 12)
        lost = claim(connection, batch_limit=2, lease=timedelta(seconds=1)).batches[0]
        connection.execute(
            text(
                "UPDATE batches SET claimed_at = claimed_at + interval '10 minutes',"
                " lease_until = lease_until + interval '10 minutes'"
            )
        )
        connection.execute(text("UPDATE jobs SET due_at = due_at + interval '10 minutes'"))
        connection.execute(text("UPDATE jobs SET attempt = 1 WHERE token = (SELECT max(token) FROM jobs)"))
        with working(engine, sends, sweep_interval=0.3):
            eventually(lambda: count_sent(connection) >= 9, "what was never tried leaves at once")
            eventually(lambda: drained(connection), "what was tried, and what was lost")
        unconfirmed = rows(connection, "SELECT token FROM deliveries WHERE outcome = 'unconfirmed' ORDER BY token")
        assert [row.token for row in unconfirmed] == sorted(job.token for job in lost.jobs)
        assert misplaced(connection) == []


def test_what_may_be_that_far_ahead_stays_where_it_is(engine: Engine) -> None:
    usual = limits()
    with engine.connect() as connection:
        add_accounts(connection, 4)
        for token, seconds, attempt in ((1, 29, 0), (2, 110, 1)):
            connection.execute(LATER, {"token": token, "ahead": timedelta(seconds=seconds), "attempt": attempt})
        connection.execute(text("UPDATE jobs SET due_at = 'infinity' WHERE token = 3"))
        assert claim(connection, batch_limit=1).taken == 1
        before = rows(connection, "SELECT * FROM jobs WHERE due_at < 'infinity' ORDER BY token")
        view = queue.look(
            connection, queue="mailroom", batch_limit=9, batch_timeout=timedelta(0), floors=Floors(), lanes=LANES
        )
        assert not view.ahead
        assert repair(connection, usual, LANES) == 0
        assert rows(connection, "SELECT * FROM jobs WHERE due_at < 'infinity' ORDER BY token") == before
        longer = limits(resend_after=timedelta(hours=2))
        connection.execute(LATER, {"token": 2, "ahead": timedelta(hours=1), "attempt": 1})
        assert (repair(connection, longer, LANES), repair(connection, usual, LANES)) == (0, 1)


def test_a_job_that_waits_for_who_has_locked_its_account_is_not_of_a_time_before(engine: Engine) -> None:
    """It would be tried again each second, and each time the log would say that the clock was set back."""
    with engine.connect() as connection, engine.connect() as holder:
        enqueue_recovery(connection)
        connection.execute(text("UPDATE tokens SET created_at = created_at - interval '10 minutes'"))
        with holder.execution_options(isolation_level="READ COMMITTED").begin():
            holder.execute(text("SELECT FROM accounts FOR UPDATE"))
            assert claim(connection).busy == 1
            [(_, attempt, wait)] = waiting(connection)
            assert (attempt, wait) == (0, MAX_BUSY_WAIT.total_seconds())
            assert not look(connection).ahead
            assert repair(connection, limits(), LANES) == 0


@pytest.mark.parametrize("until", ["claimed_at + interval '60 days'", "'infinity'"])
def test_a_lease_that_somebody_has_set_ends_at_once(engine: Engine, until: str) -> None:
    """It is longer than any lease is. If it began anew, it would be no nearer to its end."""
    with engine.connect() as connection:
        add_accounts(connection, 1)
        assert claim(connection).taken == 1
        connection.execute(text(f"UPDATE batches SET lease_until = {until}"))  # noqa: S608 - the tests' own words
        assert repair(connection, limits(), LANES) == 1
        assert rows(connection, "SELECT lease_until <= clock_timestamp() FROM batches") == [(True,)]


@pytest.mark.parametrize(("heard", "seconds"), [(False, 5), (True, 60)])
def test_what_was_tried_waits_for_the_events_that_may_prove_it(engine: Engine, *, heard: bool, seconds: int) -> None:
    """Also where the moments of the feed are those of the time before, and it looks as if it were silent."""
    with engine.connect() as connection:
        add_accounts(connection, 1)
        if heard:
            connection.execute(text("UPDATE feed SET heard_at = now() + interval '10 minutes'"))
        connection.execute(LATER, {"token": 1, "ahead": timedelta(minutes=10), "attempt": 1})
        assert repair(connection, limits(resend_after_heard=timedelta(minutes=1)), LANES) == 1
        [wait] = connection.execute(text("SELECT extract(epoch FROM due_at - clock_timestamp()) FROM jobs")).scalars()
        assert seconds - 5 < wait <= seconds


def test_moments_are_brought_back_some_at_a_time_beside_others_that_do(engine: Engine) -> None:
    with engine.connect() as connection, engine.connect() as other:
        add_accounts(connection, 25)
        connection.execute(text("UPDATE jobs SET due_at = now() + interval '10 minutes'"))
        with other.execution_options(isolation_level="READ COMMITTED").begin():
            assert repair(other, limits(), LANES, most=10) == 10
            assert [repair(connection, limits(), LANES, most=10) for _ in range(3)] == [10, 5, 0]


@pytest.mark.parametrize("ahead", [timedelta(minutes=10), timedelta(days=400)])
def test_a_pause_is_tried_though_the_clock_was_set_back(engine: Engine, ahead: timedelta) -> None:
    with engine.connect() as connection:
        add_accounts(connection, 1)
        pauses.open_pause(connection, "account", code="X", reason="x")
        connection.execute(text("UPDATE pauses SET probe_at = probe_at + :ahead"), {"ahead": ahead})
        pauses.open_pause(connection, "queue:other", code="X", reason="by hand", probed=False)
        assert repair(connection, limits(), LANES) == 1
        assert pauses.probe(connection, queue="mailroom", lanes=LANES, refusals=REFUSALS) == "account"
        assert repair(connection, limits(), LANES) == 0


# What a bucket, and what is known of the account, have of it


def set_back(connection: Connection, seconds: float) -> None:
    """Let the clock have been set back: the moments that are kept were written before."""
    let_pass(connection, -seconds)


def test_a_bucket_fills_from_now_on(conn: Connection) -> None:
    tell_account(conn, 10)
    let_pass(conn, 3600)
    assert take(conn).count == 4
    set_back(conn, 600)
    assert take(conn).count == 0
    let_pass(conn, 0.3)
    filled = take(conn)
    assert 2 <= filled.count <= 4
    more = take(conn)
    assert more.count <= 1 + ours(10) * (more.granted_at - filled.granted_at).total_seconds()  # no more than ever


def test_the_rate_creeps_back_from_now_on_and_can_be_cut_again(conn: Connection) -> None:
    tell_account(conn, 1000)
    assert buckets.slow_down(conn) == pytest.approx(0.7)
    set_back(conn, 600)
    assert buckets.slow_down(conn) == pytest.approx(0.49)
    set_back(conn, 600)
    granted = take(conn)
    assert granted.wait >= timedelta(0)
    let_pass(conn, 0.1)
    assert take(conn).count >= 40  # half of the rate
    let_pass(conn, 20)
    take(conn)
    let_pass(conn, 0.1)
    assert take(conn).count >= 89  # and then all of it


def test_what_comes_back_is_not_more_than_what_was_taken(conn: Connection) -> None:
    tell_account(conn, 10)
    let_pass(conn, 3600)
    granted = take(conn)
    before_it = replace(granted, granted_at=granted.granted_at + timedelta(minutes=10))
    buckets.return_unused(conn, Bucket.MAILS, before_it, granted.count)
    again = take(conn)
    assert again.count <= granted.count
    assert rows(conn, "SELECT granted FROM permits WHERE bucket = 'mails'") == [(again.count,)]


@pytest.mark.parametrize(
    ("due_at", "asks"),
    [
        ("now() + interval '10 minutes'", True),
        ("now() + interval '90 seconds'", True),
        ("now() + interval '50 seconds'", False),
        ("now()", True),
        ("'infinity'", False),  # an operator's word
    ],
)
def test_the_account_is_asked_for_no_later_than_ever(conn: Connection, due_at: str, asks: bool) -> None:
    tell_account(conn, 10)
    conn.execute(text(f"UPDATE ses_account SET refresh_due_at = {due_at}, fetched_at = now() + interval '10 minutes'"))  # noqa: S608
    refresh = buckets.claim_refresh(conn)
    assert (refresh.granted_before is not None) == asks
    assert refresh.due_in <= buckets.REFRESH_EVERY
    if asks:
        assert rows(conn, "SELECT FROM ses_account WHERE fetched_at > clock_timestamp()") == []


def take(connection: Connection) -> Granted:
    return buckets.take(connection, Bucket.MAILS, 1_000_000, own_rate=None, urgent=True)
