"""The buckets in PostgreSQL: how many permits there are, for whom, and what throttling and the quota do to them."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import datetime, timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection, Engine, text

from mailroom.fleet import buckets
from mailroom.fleet.buckets import (
    CAPACITY,
    HOLD,
    LONG_HOLD,
    RECOVERY_PER_SECOND,
    UNKNOWN_RATE,
    Bucket,
    Granted,
)
from tests.rating import excess, let_pass, ours, tell_account
from tests.running import eventually
from tests.world import rows

THROUGH_PGBOUNCER = True
ENOUGH = 1_000_000
WAITING = "SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"


def take(
    connection: Connection, wanted: int = ENOUGH, *, own_rate: float | None = None, urgent: bool = True
) -> Granted:
    return buckets.take(connection, Bucket.MAILS, wanted, own_rate=own_rate, urgent=urgent)


def fill(connection: Connection) -> None:
    let_pass(connection, 3600)


def test_a_bucket_holds_half_a_second_of_the_default_share(conn: Connection) -> None:
    tell_account(conn, 1000)
    fill(conn)
    assert take(conn).count == 450
    assert pace(conn) == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize(
    ("max_send_rate", "own_rate", "per_second"),
    [
        (100, None, 90),
        (100, 50, 50),
        (100, 100, 100),
        (100, 500, 100),
        (-1, 20, 20),
        (-1, None, None),
        (0.5, None, 0.45),
    ],
)
def test_settings_lower_what_the_account_allows(
    conn: Connection, max_send_rate: float, own_rate: float | None, per_second: float | None
) -> None:
    tell_account(conn, max_send_rate)
    assert take(conn, 0, own_rate=own_rate).per_second == (per_second and pytest.approx(per_second))


def test_before_the_account_is_known_it_is_taken_for_the_smallest(conn: Connection) -> None:
    conn.execute(text("UPDATE ses_account SET fetched_at = NULL, max_send_rate = NULL, max_24_hour_send = NULL"))
    fill(conn)
    granted = take(conn)
    assert (granted.count, granted.per_second) == (1, UNKNOWN_RATE)
    assert take(conn, 0, own_rate=30).per_second == 30  # whoever may not ask says it


def test_without_limits_all_that_is_wanted_is_granted(conn: Connection) -> None:
    tell_account(conn, -1)
    assert take(conn, urgent=False).count == ENOUGH
    assert take(conn).wait == timedelta(0)


@pytest.mark.slow
@pytest.mark.parametrize("max_send_rate", [0.5, 1, 2.3, 14])
def test_whoever_comes_when_told_gets_the_whole_rate(conn: Connection, max_send_rate: float) -> None:
    tell_account(conn, max_send_rate)
    fill(conn)
    taken, passed, began = 0, 0.0, clock(conn)
    while passed < 40:
        granted = take(conn, urgent=False)
        taken += granted.count
        if not granted.count:
            wait = granted.wait.total_seconds() + 0.001
            let_pass(conn, wait)
            passed += wait
    rate, most = ours(max_send_rate), passed + (clock(conn) - began)  # what is told to wait passes, and time itself
    assert 0.95 * rate * passed - 1 <= taken <= rate * most + max(1, rate * CAPACITY.total_seconds())


def clock(connection: Connection) -> float:
    found: datetime = connection.execute(text("SELECT clock_timestamp()")).scalar_one()
    return found.timestamp()


STEP = st.tuples(
    st.floats(0, 0.3),
    st.sampled_from([1, 5, 20, ENOUGH]),
    st.sampled_from([0.0, 0.3, 1.0]),
    st.sampled_from([0.1, 0.35, 0.5]),
    st.sampled_from([0.0, 0.5, 0.99]),
)


@pytest.mark.slow
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(max_send_rate=st.sampled_from([0.5, 1.0, 3.0, 14.0, 100.0]), steps=st.lists(STEP, min_size=3, max_size=25))
def test_whatever_comes_back_and_when_the_bound_holds_for_what_is_used(
    conn: Connection, max_send_rate: float, steps: list[tuple[float, int, float, float, float]]
) -> None:
    """Blocks are taken, and a share of each comes back, some time later. Time is let pass, and passes.

    What may be held for long is used at once, later, or at the last moment.
    """
    with conn.begin_nested() as nested:
        tell_account(conn, max_send_rate)
        fill(conn)
        passed = 0.0
        used: list[float] = []
        held: list[tuple[float, Granted, int, float]] = []
        for pause, wanted, share, hold, late in steps:
            let_pass(conn, pause)
            passed += pause
            for due in [block for block in held if block[0] <= passed]:
                held.remove(due)
                granted, unused, taken_at = due[1:]
                shift = timedelta(seconds=passed - taken_at)
                moved = replace(granted, granted_at=granted.granted_at - shift)
                buckets.return_unused(conn, Bucket.MAILS, moved, unused)
            granted = take(conn, wanted)
            unused = int(granted.count * share)
            held_for = late * LONG_HOLD.total_seconds() if granted.hold == LONG_HOLD else 0.0
            used += [granted.granted_at.timestamp() + passed + held_for] * (granted.count - unused)
            if unused:
                held.append((passed + hold, granted, unused, passed))
        rate = ours(max_send_rate)
        if used:
            assert excess(sorted(used), rate, max(1, rate * CAPACITY.total_seconds())) < 1e-3
        nested.rollback()


def test_of_a_full_bucket_half_can_be_held_for_long(conn: Connection) -> None:
    tell_account(conn, 100)
    fill(conn)
    assert take(conn, 20).hold == LONG_HOLD
    assert take(conn, 20).hold == HOLD  # that would be more than half
    let_pass(conn, 2)
    assert take(conn, 20).hold == LONG_HOLD
    let_pass(conn, 0.3)
    assert take(conn).count == 45 - 20


def test_what_comes_back_at_once_can_be_taken_again(conn: Connection) -> None:
    tell_account(conn, 10)
    fill(conn)
    granted = take(conn)
    assert granted.count == 4  # of 4.5
    buckets.return_unused(conn, Bucket.MAILS, granted, 4)
    assert take(conn).count == 4
    assert rows(conn, "SELECT granted FROM permits WHERE bucket = 'mails'") == [(4,)]


def test_bulk_mail_leaves_a_reserve_to_urgent_mail(conn: Connection) -> None:
    tell_account(conn, 1000)
    fill(conn)
    taken = take(conn, urgent=False)
    assert taken.count == 360
    refused = take(conn, urgent=False)
    assert refused.count <= 900 * seconds_between(taken, refused) + 1  # what came since
    assert take(conn).count >= 90


def test_where_one_permit_is_all_that_fits_it_is_for_everybody(conn: Connection) -> None:
    tell_account(conn, 1)
    fill(conn)
    assert take(conn, urgent=False).count == 1


def test_the_last_of_the_quota_is_for_urgent_mail(conn: Connection) -> None:
    tell_account(conn, -1, daily=1000, sent=900)
    assert take(conn, urgent=False).count == 50
    refused = take(conn, urgent=False)
    assert refused.count == 0
    urgent = take(conn, 20)
    assert (urgent.count, urgent.only_urgent) == (20, True)
    buckets.return_unused(conn, Bucket.MAILS, urgent, 5)
    assert take(conn).count == 35  # 1000 - 900 - 50 - 15


def test_a_quota_that_is_used_up_waits_for_the_next_answer_of_ses(conn: Connection) -> None:
    conn.execute(text("UPDATE ses_account SET refresh_due_at = clock_timestamp() + interval '40 seconds'"))
    tell_account(conn, 14, daily=1000, sent=1000)
    fill(conn)
    refused = take(conn)
    assert refused.count == 0
    [row] = rows(conn, "SELECT refresh_due_at FROM ses_account")
    assert abs(refused.granted_at + refused.wait - row.refresh_due_at) < timedelta(milliseconds=1)
    tell_account(conn, 14, daily=1000, sent=800)
    assert take(conn).count == 6


def test_what_ses_said_of_the_quota_long_ago_counts_no_longer(conn: Connection) -> None:
    tell_account(conn, -1, daily=10, sent=10)
    assert take(conn, 5).count == 0
    conn.execute(text("UPDATE ses_account SET fetched_at = fetched_at - :long"), {"long": buckets.QUOTA_STALE_AFTER})
    assert take(conn, 5).count == 5


def test_what_was_granted_before_ses_was_asked_is_not_counted_twice(conn: Connection) -> None:
    tell_account(conn, -1, daily=1000)
    assert take(conn, 100).count == 100
    conn.execute(text("UPDATE ses_account SET refresh_due_at = now()"))
    granted_before = buckets.claim_refresh(conn).granted_before
    assert granted_before == 100
    assert take(conn, 50).count == 50  # while SES answers
    tell_account(conn, -1, daily=1000, sent=100, granted_before=granted_before)
    assert take(conn).count == 850


def seconds_between(earlier: Granted, later: Granted) -> float:
    return (later.granted_at - earlier.granted_at).total_seconds()


def pace(connection: Connection) -> float:
    """The share of the rate that counts now, seen by what a bucket of 900 a second makes of a tenth of a second.

    Where the machine stood still meanwhile it may be full, which tells nothing: then it is looked once more.
    """
    while True:
        emptied = take(connection)
        let_pass(connection, 0.1)
        filled = take(connection)
        seconds = 0.1 + seconds_between(emptied, filled)
        if seconds < CAPACITY.total_seconds():
            return filled.count / 900 / seconds


def crept_back(connection: Connection) -> float:
    """What share of the rate there should be by now, once it was cut to 70 %."""
    [row] = rows(
        connection,
        "SELECT extract(epoch FROM clock_timestamp() - throttled_at) AS seconds FROM permits WHERE bucket = 'mails'",
    )
    return min(1.0, 0.7 + RECOVERY_PER_SECOND * float(row.seconds))


def assert_it_creeps_back(connection: Connection) -> float:
    """The rate is what it should be, however long the look at it takes; return it."""
    least = crept_back(connection)
    found = pace(connection)
    assert least - 0.06 <= found <= crept_back(connection) + 0.06
    return found


def test_a_throttle_answer_cuts_the_rate_and_it_creeps_back(conn: Connection) -> None:
    tell_account(conn, 1000)
    fill(conn)
    assert take(conn, 1).count == 1  # the rest is in the bucket, and not in the time since
    before = clock(conn)
    assert buckets.slow_down(conn) == pytest.approx(0.7)
    emptied = take(conn)
    assert emptied.count <= 900 * (emptied.granted_at.timestamp() - before)  # of 315; the clock goes on
    assert_it_creeps_back(conn)
    let_pass(conn, 2)
    assert assert_it_creeps_back(conn) > 0.7
    let_pass(conn, 10)
    assert assert_it_creeps_back(conn) == pytest.approx(1, abs=0.06)


def test_throttle_answers_of_one_moment_cut_it_once(conn: Connection) -> None:
    tell_account(conn, 1000)
    before = clock(conn)
    cuts = [buckets.slow_down(conn) for _ in range(2)]
    assert cuts[0] == pytest.approx(0.7)
    assert cuts[1] is None or clock(conn) - before > 1  # where the machine stood still


def test_throttled_again_and_again_it_never_stands_still(conn: Connection) -> None:
    tell_account(conn, 14)
    for _ in range(30):
        left = buckets.slow_down(conn)
        let_pass(conn, 1.001)
    assert left is not None
    assert left >= buckets.MIN_RATE_FACTOR
    let_pass(conn, 1 / (ours(14) * buckets.MIN_RATE_FACTOR))
    assert take(conn).count >= 1


def test_bulk_calls_are_counted_apart(conn: Connection) -> None:
    tell_account(conn, 14, daily=10, sent=10)
    fill(conn)
    assert buckets.take(conn, Bucket.BULK_CALLS, 5, own_rate=0.001, urgent=True).count == 1
    assert buckets.take(conn, Bucket.BULK_CALLS, 5, own_rate=0.001, urgent=True).count == 0


def test_the_clock_is_read_after_the_lock(engine: Engine) -> None:
    with engine.connect() as connection, engine.connect() as watcher, ThreadPoolExecutor() as pool:
        tell_account(connection, 1000)
        fill(connection)
        with engine.connect().execution_options(isolation_level="READ COMMITTED") as holder:
            holder.execute(text("SELECT FROM permits WHERE bucket = 'mails' FOR UPDATE"))
            taken = pool.submit(take, connection)
            eventually(lambda: rows(watcher, WAITING), "it waits for the lock")
            held_until = clock(holder)
            holder.rollback()
        assert taken.result().granted_at.timestamp() >= held_until


@pytest.mark.alone
def test_many_takers_together_stay_below_the_bound_and_use_the_rate(engine: Engine) -> None:
    with engine.connect() as connection:
        tell_account(connection, 200)
        fill(connection)
    stop = threading.Event()

    def taker(number: int) -> list[float]:
        used: list[float] = []
        with engine.connect() as connection:
            while not stop.wait(0.002 * number):
                granted = take(connection, 1 + number * 3, urgent=number % 2 == 0)
                used += [granted.granted_at.timestamp()] * granted.count
        return used

    with ThreadPoolExecutor(8) as pool:
        began = time.monotonic()
        takers = [pool.submit(taker, number) for number in range(8)]
        stop.wait(2)
        stop.set()
        seconds = time.monotonic() - began
        used = sorted(moment for one in takers for moment in one.result())
    rate = ours(200)
    assert excess(used, rate, rate * CAPACITY.total_seconds()) < 1e-3
    assert len(used) > 0.95 * rate * seconds


def test_of_permits_that_are_counted_no_more_nothing_is_taken_off(conn: Connection) -> None:
    """As where a backup was restored meanwhile: the quota would seem to have more room than there is."""
    tell_account(conn, 10)
    fill(conn)
    granted = take(conn, 4)
    conn.execute(text("UPDATE permits SET granted = 1"))
    buckets.return_unused(conn, Bucket.MAILS, granted, granted.count)
    assert conn.scalar(text("SELECT granted FROM permits WHERE bucket = 'mails'")) == 0


def test_one_of_many_asks_for_the_account(engine: Engine) -> None:
    with engine.connect() as connection:
        connection.execute(text("UPDATE ses_account SET refresh_due_at = '-infinity'"))

    def claim(_: int) -> int | None:
        with engine.connect() as connection:
            return buckets.claim_refresh(connection).granted_before

    with ThreadPoolExecutor(8) as pool:
        claimed = [granted for granted in pool.map(claim, range(16)) if granted is not None]
    assert claimed == [0]


def test_what_comes_back_late_is_worth_less(conn: Connection) -> None:
    """Were it not, those who took and those who got what came back would have more together than the bucket holds."""
    tell_account(conn, 10)
    fill(conn)
    held = take(conn)
    let_pass(conn, 0.4)
    at_the_end_of_its_time = replace(held, granted_at=held.granted_at - timedelta(seconds=0.4))
    used = take(conn)
    buckets.return_unused(conn, Bucket.MAILS, at_the_end_of_its_time, held.count)
    last = take(conn)
    assert (held.count, used.count) == (4, 4)
    assert 4 + 4 + last.count <= 9 * (CAPACITY.total_seconds() + 0.4 + seconds_between(held, last))
