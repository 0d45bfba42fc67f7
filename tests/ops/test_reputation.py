"""The account's own rates: what counts, what is warned of, what is paused, and when that ends."""

import logging
from typing import Any

import pytest
from sqlalchemy import Connection, Engine, text

from mailroom.fleet import pauses
from mailroom.job import Priority
from mailroom.ops import counting, feedback, reputation
from mailroom.ops.maintenance import Maintenance
from mailroom.queue.lanes import priority_scope
from tests import plans
from tests.claiming import claim, enqueue, enqueue_recovery, take, tokens_of
from tests.telling import BOUNCED, came_back, went_out

BULK, NORMAL = (priority_scope(priority) for priority in (Priority.BULK, Priority.NORMAL))
ABUSE = ("complaint", "abuse", "")


def paused(connection: Connection) -> dict[str, str]:
    """Review the rates; return what is paused then, and with which code."""
    reputation.review(connection)
    return {pause.scope: pause.code for pause in pauses.read(connection)}


# What counts


@pytest.mark.parametrize(
    ("told", "counts"),
    [
        (BOUNCED, (1, 0)),
        (("bounce", "Permanent", "Suppressed"), (1, 0)),
        (("bounce", "Permanent", "OnAccountSuppressionList"), (0, 0)),
        (("bounce", "Transient", "General"), (0, 0)),
        (("bounce", "Undetermined", "Undetermined"), (0, 0)),
        (ABUSE, (0, 1)),
        (("complaint", "", ""), (0, 1)),
        (("complaint", "", "OnAccountSuppressionList"), (0, 0)),
        (("complaint", "not-spam", ""), (0, 0)),
        (("complaint", "auth-failure", ""), (0, 0)),
        (("delivery", "", ""), (0, 0)),
    ],
)
def test_only_what_counts_at_aws_counts(conn: Connection, told: tuple[str, str, str], counts: tuple[int, int]) -> None:
    """Trap 12: SES's list as a bounce and as a complaint."""
    came_back(conn, 1, told, newest=went_out(conn, 10))
    for found in reputation.read(conn).values():
        assert (found.mails, found.bounces, found.complaints) == (10, *counts)


def test_a_message_counts_once_and_one_that_nobody_sent_never(conn: Connection) -> None:
    newest = went_out(conn, 10)
    for ago in ("1 s", "2 s", "3 s"):
        came_back(conn, 2, BOUNCED, newest=newest, ago=ago)
    came_back(conn, 5, BOUNCED, newest=newest + 100)
    assert reputation.read(conn)["newest"].bounces == 2


def test_mails_of_a_day_and_the_newest_thousand_are_counted_apart(conn: Connection) -> None:
    came_back(conn, 7, BOUNCED, newest=went_out(conn, 100, ago="25 hours"), ago="24 hours")
    came_back(conn, 5, BOUNCED, newest=went_out(conn, 600, ago="23 hours"), ago="22 hours")
    went_out(conn, 50, outcome="cancelled")
    came_back(conn, 3, BOUNCED, newest=went_out(conn, 500))
    found = reputation.read(conn)
    assert (found["newest"].mails, found["newest"].bounces) == (1000, 8)
    assert (found["day"].mails, found["day"].bounces) == (1100, 8)
    assert found["newest"].bounce_rate == 0.008


def test_what_bounces_is_counted_though_the_clock_was_ahead_when_its_mail_left(conn: Connection) -> None:
    came_back(conn, 100, BOUNCED, newest=went_out(conn, 1_000, ago="-3 hours"))
    assert {period: found.bounces for period, found in reputation.read(conn).items()} == {"newest": 100, "day": 100}


def test_mails_that_were_taken_back_never_were_out(conn: Connection) -> None:
    went_out(conn, 10)
    conn.execute(text("UPDATE deliveries SET retried_at = now() WHERE token = 1"))
    assert reputation.read(conn)["newest"].mails == 9


# What is paused


def test_one_bounce_of_ten_proves_nothing(conn: Connection) -> None:
    """Trap 23."""
    came_back(conn, 1, BOUNCED, newest=went_out(conn, 10))
    assert paused(conn) == {}
    came_back(conn, 999, BOUNCED, newest=went_out(conn, 989))
    assert (paused(conn), feedback.read_warnings(conn)) == ({}, {})


@pytest.mark.parametrize(
    ("told", "number", "scopes"),
    [
        (BOUNCED, 49, set()),
        (BOUNCED, 50, {BULK}),
        (BOUNCED, 79, {BULK}),
        (BOUNCED, 80, {BULK, NORMAL}),
        (BOUNCED, 1000, {BULK, NORMAL}),
        (ABUSE, 1, set()),
        (ABUSE, 2, {BULK}),
        (ABUSE, 3, {BULK}),
        (ABUSE, 4, {BULK, NORMAL}),
    ],
)
def test_each_line_pauses_what_is_less_urgent(
    conn: Connection, told: tuple[str, str, str], number: int, scopes: set[str]
) -> None:
    came_back(conn, number, told, newest=went_out(conn, 1000))
    code = "BounceRate" if told == BOUNCED else "ComplaintRate"
    assert paused(conn) == dict.fromkeys(scopes, code)


def test_a_complaint_in_a_thousand_mails_is_counted_over_the_day(conn: Connection) -> None:
    newest = went_out(conn, 3000)
    came_back(conn, 1, ABUSE, newest=newest)
    came_back(conn, 2, ABUSE, newest=newest - 2000)
    assert paused(conn) == {BULK: "ComplaintRate"}


def test_urgent_mail_leaves_whatever_the_rate_and_the_others_wait(conn: Connection) -> None:
    came_back(conn, 1000, BOUNCED, newest=went_out(conn, 1000))
    enqueue(conn, 60, prefix="bulk")
    enqueue(conn, 2)
    urgent = enqueue_recovery(conn)
    assert paused(conn).keys() == {BULK, NORMAL}
    assert tokens_of(take(conn)) == [urgent]
    conn.execute(text("UPDATE jobs SET priority = 3 WHERE priority = 1"))
    assert not claim(conn).batches


def test_a_pause_says_the_figure_and_the_lines_of_aws(conn: Connection) -> None:
    came_back(conn, 51, BOUNCED, newest=went_out(conn, 1000))
    paused(conn)
    [pause] = pauses.read(conn)
    assert pause.reason == (
        "5.10 % of 1000 mails (the newest) bounced for good: AWS reviews an account at 5 %, and may stop it at 10 %"
    )
    assert pause.probe_at is None


def test_it_ends_by_itself_when_the_rate_is_lower(conn: Connection) -> None:
    came_back(conn, 85, BOUNCED, newest=went_out(conn, 1000, ago="25 hours"), ago="24 hours")
    assert paused(conn).keys() == {BULK, NORMAL}
    went_out(conn, 10)
    assert paused(conn).keys() == {BULK, NORMAL}
    went_out(conn, 930)
    assert paused(conn).keys() == {BULK}
    went_out(conn, 30)
    assert paused(conn) == {}


def test_a_feed_that_is_silent_ends_no_pause_and_one_that_is_heard_again_does(conn: Connection) -> None:
    """Where nobody tells of bounces there seem to be none."""
    came_back(conn, 100, BOUNCED, newest=went_out(conn, 1_000, ago="30 minutes"), ago="29 minutes")
    assert paused(conn) == {BULK: "BounceRate", NORMAL: "BounceRate"}
    conn.execute(text("UPDATE feed SET polled_at = now(), heard_at = now() - interval '25 minutes'"))
    went_out(conn, 3_000, ago="20 minutes")
    assert paused(conn) == {BULK: "BounceRate", NORMAL: "BounceRate"}
    conn.execute(text("UPDATE feed SET heard_at = now()"))
    assert paused(conn) == {}


def test_a_feed_that_is_silent_keeps_nothing_from_being_paused(conn: Connection) -> None:
    came_back(conn, 100, BOUNCED, newest=went_out(conn, 1_000, ago="30 minutes"), ago="29 minutes")
    conn.execute(text("UPDATE feed SET heard_at = now() - interval '40 minutes'"))
    assert paused(conn) == {BULK: "BounceRate", NORMAL: "BounceRate"}


def test_what_a_person_ended_begins_again_only_for_later_mails_and_a_thousand_of_them(conn: Connection) -> None:
    came_back(conn, 60, BOUNCED, newest=went_out(conn, 1000, ago="1 hour"))
    assert paused(conn).keys() == {BULK}
    assert pauses.close_pause(conn, BULK, by_hand=True)
    assert paused(conn) == {}
    came_back(conn, 999, BOUNCED, newest=went_out(conn, 999))
    assert paused(conn).keys() == {NORMAL}  # which nobody ended
    came_back(conn, 1, BOUNCED, newest=went_out(conn, 1))
    assert paused(conn).keys() == {BULK, NORMAL}


def test_what_a_person_paused_stays_paused(conn: Connection) -> None:
    pauses.open_pause(conn, BULK, code=pauses.BY_HAND, reason="a list", probed=False)
    assert paused(conn) == {BULK: "ByHand"}
    came_back(conn, 80, BOUNCED, newest=went_out(conn, 1000))
    assert paused(conn) == {BULK: "ByHand", NORMAL: "BounceRate"}
    pauses.open_pause(conn, NORMAL, code=pauses.BY_HAND, reason="wait", probed=False)
    went_out(conn, 1000)
    assert paused(conn) == {BULK: "ByHand", NORMAL: "ByHand"}


def test_no_mail_that_goes_through_ends_it(conn: Connection) -> None:
    came_back(conn, 80, BOUNCED, newest=went_out(conn, 1000))
    assert paused(conn).keys() == {BULK, NORMAL}
    assert not pauses.close_pause(conn, NORMAL)


def test_a_worker_reviews_each_minute_and_says_so(engine: Engine, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    with engine.connect() as connection:
        came_back(connection, 50, BOUNCED, newest=went_out(connection, 1000))
        work = Maintenance(engine, queue="mailroom", prune_after=None)
        work.step(0.0)
        work.step(60.0)
        [opened] = [message for message in caplog.messages if message.startswith("paused scope")]
        assert opened.startswith("paused scope=priority:2 code=BounceRate reason='5.00 % of 1000 mails")
        [warned] = [message for message in caplog.messages if "warning code=BounceRate" in message]
        assert "5.00% of 1000 mails bounced for good" in warned
        went_out(connection, 2000)
        work.step(120.0)
    assert caplog.messages[-2:] == ["resumed scope=priority:2", "warning over code=BounceRate"]


# What is warned of


@pytest.mark.parametrize(
    ("told", "number", "code"),
    [(BOUNCED, 19, None), (BOUNCED, 20, "BounceRate"), (ABUSE, 0, None), (ABUSE, 1, "ComplaintRate")],
)
def test_it_is_warned_of_before_anything_is_paused(
    conn: Connection, told: tuple[str, str, str], number: int, code: str | None
) -> None:
    came_back(conn, number, told, newest=went_out(conn, 1000))
    assert list(feedback.read_warnings(conn)) == ([] if code is None else [code])
    assert paused(conn) == {}


@pytest.mark.parametrize(
    ("heard", "polled", "sent", "silent"),
    [
        (None, None, "11 minutes", False),  # nobody listens
        (None, "20 minutes", "11 minutes", True),
        (None, "20 minutes", "9 minutes", False),
        ("15 minutes", "1 s", "11 minutes", True),
        ("15 minutes", "1 s", "16 minutes", False),
        ("5 minutes", "1 s", "11 minutes", False),
    ],
)
def test_a_feed_that_falls_silent_while_mails_go_out_is_warned_of(
    conn: Connection, heard: str | None, polled: str | None, sent: str, silent: bool
) -> None:
    """Trap 22."""
    went_out(conn, 1, ago=sent)
    conn.execute(
        text(
            "UPDATE feed SET heard_at = now() - CAST(:heard AS interval), polled_at = now() - CAST(:polled AS interval)"
        ),
        {"heard": heard, "polled": polled},
    )
    warned = feedback.read_warnings(conn)
    assert list(warned) == (["FeedSilent"] if silent else [])
    assert warned == feedback.warnings(counting.count(conn).feedback)


# What it costs

FILL = (
    "INSERT INTO deliveries (token, action, outcome, attempt, message_id, created_at)"
    " SELECT n, 'activation', 'sent', 0, 'm' || n, now() - (20000 - n) * interval '1 minute'"
    " FROM generate_series(1, 20000) AS n",
    "INSERT INTO events (message_id, token, kind, at, type)"
    " SELECT 'm' || n, n, CAST(CASE n % 50 WHEN 0 THEN 'bounce' ELSE 'delivery' END AS event_kind),"
    "        now() - (20000 - n) * interval '1 minute', CASE n % 50 WHEN 0 THEN 'Permanent' ELSE '' END"
    " FROM generate_series(1, 20000) AS n",
)


@pytest.mark.slow
@pytest.mark.parametrize("analyzed", [True, False])
def test_it_reads_the_newest_by_index_whatever_there_is(engine: Engine, analyzed: bool) -> None:
    plans.watch(engine)
    with engine.connect() as connection, plans.explained(engine) as found:
        for statement in (*FILL, *(("VACUUM ANALYZE",) if analyzed else ())):
            connection.execute(text(statement))
        read: Any = reputation.read(connection)
    assert (read["newest"].mails, read["newest"].bounces) == (1000, 20)
    [plan] = found
    assert plan.scans("deliveries") == {"all of deliveries_pkey", "deliveries_token_idx"}
    assert plan.scans("events") == {"events_reputation_idx"}
