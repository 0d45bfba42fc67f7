"""What nobody's lock, clock, queue or flood may do to evidence."""

from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import Connection, Engine, text

from mailroom.event import Event, EventKind
from mailroom.ops import reputation, suppressions
from mailroom.outcome import Sent
from mailroom.queue import feed, late_acceptances
from mailroom.queue.events import Absorbed, absorb, site
from mailroom.queue.late_acceptances import Applied
from tests.claiming import claim, enqueue, enqueue_recovery, run_out, settle, take
from tests.telling import BOUNCE, COMPLAINT, DELIVERY, HARD, NOW, RENDERING_FAILURE, SEND, look_again, of, tell_of
from tests.world import misplaced, rows, transaction


def take_back(connection: Connection) -> list[feed.TakenBack]:
    return feed.take_back(connection, queue="mailroom")


def paused(connection: Connection) -> set[str]:
    return {row.scope for row in rows(connection, "SELECT scope FROM pauses")}


@pytest.mark.parametrize("amended", [False, True])
def test_a_mail_comes_back_to_the_queue_and_the_priority_that_it_left(connection: Connection, *, amended: bool) -> None:
    """Whoever reads the event may work on another queue; and bulk must not come back past a pause of bulk."""
    enqueue(connection, 60)
    connection.execute(
        text("UPDATE jobs SET queue = 'eu', attempt = CASE WHEN :last THEN 5 ELSE 0 END"), {"last": amended}
    )
    batch = take(connection, queue="eu")
    if amended:
        run_out(connection)
        connection.execute(text("SELECT * FROM rescue(10, 0, 6, interval '0')"))
        tell_of(connection, batch, SEND, "m-1")
        assert late_acceptances.apply(connection) == Applied(freed=0, amended=1)
        connection.execute(text("UPDATE deliveries SET attempt = 0 WHERE outcome = 'sent'"))
    else:
        assert settle(connection, batch, *[Sent(f"m-{n}") for n in range(1, 51)])
    tell_of(connection, batch, RENDERING_FAILURE, "m-1")
    assert len(take_back(connection)) == 1
    [back] = rows(connection, "SELECT queue, priority FROM jobs WHERE token = :token", token=batch.jobs[0].token)
    assert (back.queue, back.priority) == ("eu", 1 if amended else 2)  # what was lost comes back as normal


def test_new_evidence_comes_before_what_is_looked_at_again(connection: Connection) -> None:
    """A template that breaks must be seen, however many failures of another there were in the last hour."""
    absorb(connection, [Event(RENDERING_FAILURE, f"of-others-{n}", NOW) for n in range(600)])
    enqueue_recovery(connection)
    batch = take(connection)
    assert settle(connection, batch, Sent("m-1"))
    for _ in range(2):
        take_back(connection)
    look_again(connection)
    tell_of(connection, batch, RENDERING_FAILURE, "m-1")
    assert [mail.token for mail in take_back(connection)] == [batch.jobs[0].token]
    assert paused(connection) == {"password_recovery"}


def test_what_nobody_knew_for_a_week_is_asked_no_more(connection: Connection) -> None:
    absorb(connection, [Event(RENDERING_FAILURE, "of-others", NOW)])
    look_again(connection, hours=24 * 8)
    take_back(connection)
    assert rows(connection, "SELECT kind FROM events WHERE look_at IS NOT NULL") == []
    assert len(rows(connection, "SELECT FROM events")) == 1


def test_a_bounce_of_an_address_that_nobody_can_tell_is_asked_for_no_more(connection: Connection) -> None:
    """Its account is gone, and SES named several addresses: such an event must not stand before all others for ever."""
    enqueue(connection)
    batch = take(connection)
    assert settle(connection, batch, Sent("m-1"))
    connection.execute(text("DELETE FROM accounts"))
    tell_of(connection, batch, BOUNCE, "m-1", address=None, **HARD)
    assert rows(connection, "SELECT kind, look_at FROM events") == [("bounce", None)]


def test_a_failure_without_tags_is_matched_though_the_clock_of_ses_is_ahead(connection: Connection) -> None:
    enqueue(connection)
    batch = take(connection)
    assert settle(connection, batch, Sent("m-1"))
    absorb(connection, [Event(RENDERING_FAILURE, "m-1", NOW + timedelta(hours=1))])
    assert [mail.token for mail in take_back(connection)] == [batch.jobs[0].token]


def test_a_failure_without_tags_is_matched_though_the_clock_was_behind_when_its_mail_left(
    connection: Connection,
) -> None:
    """A machine that had slept, and was told the time between the mail and what SES says of it."""
    enqueue(connection)
    batch = take(connection)
    assert settle(connection, batch, Sent("m-1"))
    connection.execute(text("UPDATE deliveries SET created_at = created_at - interval '1 day'"))
    absorb(connection, [Event(RENDERING_FAILURE, "m-1", NOW)])
    assert [mail.token for mail in take_back(connection)] == [batch.jobs[0].token]


READ = text("SELECT seq_tup_read + idx_tup_fetch FROM pg_stat_xact_user_tables WHERE relname = 'events'")


def test_a_template_that_broke_while_nobody_read_the_events_makes_no_look_longer_than_another(engine: Engine) -> None:
    """A step of some hundreds is taken with each event that comes, and must not read all of the others each time."""
    with engine.connect() as connection:
        connection.execute(
            text(
                "INSERT INTO events (message_id, kind, at, token, absorbed_at, look_at)"
                " SELECT 'm-' || n, 'rendering_failure', now(), 1000000 + n, now() - interval '30 minutes',"
                "        now() + CASE n % 2 WHEN 0 THEN interval '-1 second' ELSE interval '10 minutes' END"
                "   FROM generate_series(1, 60000) AS n"
            )
        )
        connection.execute(text("VACUUM ANALYZE events"))
    with transaction(engine) as connection:
        before = connection.scalar(READ)
        assert take_back(connection) == []
        assert connection.scalar(READ) - before < 25_000
        connection.rollback()


TOLD_EACH_MINUTE = """
    INSERT INTO events (message_id, kind, at, token, address_hash, type, subtype)
    SELECT 'm-' || n, CAST(:kind AS event_kind), now() - n * interval '1 minute', 1000000 + n,
           (SELECT address_hash FROM tokens), 'Transient', 'ContentRejected'
      FROM generate_series(1, 20000) AS n
"""


@pytest.mark.parametrize("kind", [DELIVERY, BOUNCE])
def test_a_mailbox_that_is_mailed_each_minute_makes_no_review_longer_than_another(
    engine: Engine, kind: EventKind
) -> None:
    with engine.connect() as connection:
        enqueue(connection)
        batch = take(connection)
        assert settle(connection, batch, Sent("m-1"))
        tell_of(connection, batch, BOUNCE, "m-1", **HARD)
        connection.execute(text(TOLD_EACH_MINUTE), {"kind": kind})
        connection.execute(text("VACUUM ANALYZE events"))
    with transaction(engine) as connection:
        before = connection.scalar(READ)
        tell_of(connection, batch, DELIVERY, "m-1", seconds=1)
        assert connection.scalar(READ) - before < 5_000
        assert rows(connection, "SELECT reason FROM suppressions") == [(None,)]
        connection.rollback()


TOLD_BEFORE = """
    INSERT INTO events (message_id, kind, at, token, address_hash, type, subtype)
    SELECT 'm-' || n, CAST(:kind AS event_kind), now() - interval '1 day' - n * interval '1 minute', 1000000 + n,
           (SELECT address_hash FROM tokens), :type, 'ContentRejected'
      FROM generate_series(1, 1001) AS n
"""


@pytest.mark.parametrize(
    ("kind", "before", "said", "reason"),
    [(BOUNCE, "Transient", HARD, "bounce"), (COMPLAINT, "not-spam", {"type": "abuse", "subtype": ""}, "complaint")],
)
def test_of_a_mailbox_of_which_much_was_told_what_is_newest_counts(
    connection: Connection, kind: EventKind, before: str, said: dict[str, str], reason: str
) -> None:
    enqueue(connection)
    batch = take(connection)
    assert settle(connection, batch, Sent("m-0"))
    connection.execute(text(TOLD_BEFORE), {"kind": kind, "type": before})
    tell_of(connection, batch, kind, "m-0", **said)
    found = rows(connection, "SELECT reason, type, subtype FROM suppressions")
    assert found == [(reason, said["type"], said["subtype"])]


def test_a_look_that_is_put_off_too_far_is_found_beside_any_number_of_others(connection: Connection) -> None:
    """As when the clock was set back, while a template is broken."""
    connection.execute(
        text(
            "INSERT INTO events (message_id, kind, at, token, absorbed_at, look_at)"
            " SELECT 'm-' || n, 'rendering_failure', now(), 1000000 + n, now() - interval '30 minutes',"
            "        now() + CASE n WHEN 0 THEN interval '1 day' ELSE interval '10 minutes' END"
            "   FROM generate_series(0, 10000) AS n"
        )
    )
    take_back(connection)
    [row] = rows(connection, "SELECT look_at - now() AS ahead FROM events WHERE message_id = 'm-0'")
    assert row.ahead < timedelta(hours=1)


def test_one_that_somebody_has_locked_is_passed_over(engine: Engine) -> None:
    with engine.connect() as connection:
        connection.execute(
            text(
                "INSERT INTO events (message_id, kind, at, token, look_at)"
                " VALUES ('m', 'rendering_failure', now(), 1, now() + interval '1 day')"
            )
        )
    with transaction(engine) as holder, transaction(engine, lock_timeout="5s") as sweeper:
        holder.execute(text("SELECT FROM events FOR UPDATE"))
        assert take_back(sweeper) == []


def test_a_failure_of_a_wrong_date_makes_nobody_read_more_of_the_log_than_sqs_remembers(
    connection: Connection,
) -> None:
    connection.execute(
        text(
            "INSERT INTO deliveries (token, action, outcome, attempt, message_id, created_at)"
            " SELECT 1000000 + n, 'activation', 'sent', 0, 'm-' || n, now() - interval '40 days'"
            "   FROM generate_series(1, 10001) AS n"
        )
    )
    absorb(connection, [Event(RENDERING_FAILURE, f"m-{n}", datetime(2011, 1, 2, tzinfo=UTC)) for n in (1, 10_001)])
    assert [mail.token for mail in take_back(connection)] == [1_010_001]


def test_an_application_that_does_not_commit_holds_up_no_event(engine: Engine, connection: Connection) -> None:
    """Its transaction has consumed a token, and with it a lock on what is known of the address."""
    enqueue(connection, 2)
    batch = take(connection)
    assert settle(connection, batch, Sent("m-1"), Sent("m-2"))
    tell_of(connection, batch, BOUNCE, "m-1", **HARD)
    home = site(connection)
    with engine.connect().execution_options(isolation_level="READ COMMITTED") as application:
        application.execute(text("UPDATE tokens SET consumed_at = now() WHERE id = :id"), {"id": batch.jobs[0].token})
        connection.execute(text("SET statement_timeout = '15s'"))
        told = [
            of(batch, BOUNCE, "m-1", site=home, seconds=1, **HARD),
            of(batch, BOUNCE, "m-2", job=1, site=home, **HARD),
        ]
        assert absorb(connection, told) == Absorbed(2, 0, 0, 0)
        assert len(rows(connection, "SELECT FROM suppressions")) == 1
        application.rollback()
    look_again(connection)
    take_back(connection)
    assert [row.reason for row in rows(connection, "SELECT reason FROM suppressions")] == ["bounce", "bounce"]
    assert rows(connection, "SELECT FROM events WHERE look_at IS NOT NULL") == []


@pytest.mark.slow
def test_an_application_that_holds_many_addresses_holds_up_no_other(engine: Engine, connection: Connection) -> None:
    """More than one sweep waits for. Of the others each is looked at in its turn."""
    enqueue(connection, 40)
    batch = take(connection, batch_limit=40)
    assert settle(connection, batch, *[Sent(f"m-{job}") for job in range(40)])
    home = site(connection)
    told = [of(batch, BOUNCE, f"m-{job}", job=job, site=home, **HARD) for job in range(40)]
    absorb(connection, told[:12])
    with engine.connect().execution_options(isolation_level="READ COMMITTED") as application:
        application.execute(text("SELECT FROM suppressions FOR UPDATE"))
        absorb(connection, told[12:])
        look_again(connection)
        take_back(connection)
        take_back(connection)
        assert len(rows(connection, "SELECT FROM events WHERE look_at IS NOT NULL")) == 12
        application.rollback()


def test_a_token_that_is_consumed_while_its_bounce_is_absorbed_lifts_it(engine: Engine, connection: Connection) -> None:
    enqueue(connection)
    batch = take(connection)
    assert settle(connection, batch, Sent("m-1"))
    with engine.connect().execution_options(isolation_level="READ COMMITTED") as application:
        application.execute(text("UPDATE tokens SET consumed_at = clock_timestamp()"))
        tell_of(connection, batch, BOUNCE, "m-1", seconds=-60, **HARD)
        application.commit()
    assert rows(connection, "SELECT reason FROM suppressions") == [("bounce",)]
    look_again(connection)
    take_back(connection)
    assert rows(connection, "SELECT reason FROM suppressions") == [(None,)]


@pytest.mark.parametrize("ahead", [timedelta(minutes=5), timedelta(days=60_000)])
def test_a_bounce_of_the_future_can_be_released_and_lifted(connection: Connection, ahead: timedelta) -> None:
    enqueue(connection, 2)
    batch = take(connection)
    assert settle(connection, batch, Sent("m-1"), Sent("m-2"))
    seconds = (datetime.now(UTC) + ahead - NOW).total_seconds()  # NOW was when these tests were read
    for job in (0, 1):
        tell_of(connection, batch, BOUNCE, f"m-{job + 1}", job=job, seconds=seconds, **HARD)
    suppressions.release(connection, batch.jobs[0].email)
    connection.execute(text("UPDATE tokens SET consumed_at = now() WHERE id = :id"), {"id": batch.jobs[1].token})
    assert [row.reason for row in rows(connection, "SELECT reason FROM suppressions")] == [None, None]


def test_who_is_added_after_a_release_of_the_future_is_suppressed(connection: Connection) -> None:
    suppressions.release(connection, "ada@example.com")
    connection.execute(text("UPDATE suppressions SET released_at = now() + interval '1 hour'"))
    suppressions.add(connection, "ada@example.com")
    assert rows(connection, "SELECT reason FROM suppressions") == [("added",)]


@pytest.mark.parametrize("ahead", [timedelta(hours=1), timedelta(days=3_650)])
@pytest.mark.parametrize("by", ["a token that came back", "a delivery and a release"])
def test_what_was_lifted_by_a_clock_that_was_ahead_is_suppressed_by_what_bounces_after_it_was_set_back(
    connection: Connection, by: str, ahead: timedelta
) -> None:
    enqueue(connection)
    batch = take(connection)
    assert settle(connection, batch, Sent("m-1"))
    seconds = (datetime.now(UTC) - NOW).total_seconds()
    tell_of(connection, batch, BOUNCE, "m-1", seconds=seconds - 60, **HARD)
    if by == "a token that came back":
        connection.execute(text("UPDATE tokens SET consumed_at = clock_timestamp()"))
        connection.execute(text("UPDATE tokens SET consumed_at = consumed_at + :ahead"), {"ahead": ahead})
    else:
        tell_of(connection, batch, DELIVERY, "m-1", seconds=seconds - 30)
        suppressions.release(connection, batch.jobs[0].email)
    connection.execute(
        text("UPDATE suppressions SET lifted_at = lifted_at + :ahead, released_at = released_at + :ahead"),
        {"ahead": ahead},
    )
    assert rows(connection, "SELECT reason FROM suppressions") == [(None,)]
    tell_of(connection, batch, SEND, "m-1")
    connection.execute(text("SELECT suppression_review(ARRAY(SELECT address_hash FROM suppressions))"))
    assert rows(connection, "SELECT reason FROM suppressions") == [(None,)]

    tell_of(connection, batch, BOUNCE, "m-1", seconds=seconds + 60, **HARD)
    assert rows(connection, "SELECT reason FROM suppressions") == [("bounce",)]
    connection.execute(text("SELECT suppression_review(ARRAY(SELECT address_hash FROM suppressions))"))
    assert rows(connection, "SELECT reason FROM suppressions") == [("bounce",)]


def test_a_rate_that_cannot_be_counted_ends_no_pause(connection: Connection) -> None:
    connection.execute(
        text("INSERT INTO pauses (scope, code, reason) VALUES ('priority:2', 'BounceRate', 'nine of a hundred')")
    )
    reputation.review(connection)
    assert paused(connection) == {"priority:2"}


def test_mails_that_never_went_out_are_not_counted_against_a_limit(connection: Connection) -> None:
    token = enqueue_recovery(connection)
    for attempt in range(3):
        batch = take(connection)
        assert settle(connection, batch, Sent(f"m-{attempt}"))
        tell_of(connection, batch, RENDERING_FAILURE, f"m-{attempt}")
        take_back(connection)
        connection.execute(text("SELECT pause_close('password_recovery', true)"))
    connection.execute(
        text("INSERT INTO tokens (action, account) SELECT action, account FROM tokens WHERE id = :id"), {"id": token}
    )
    assert len(take(connection).jobs) == 1
    assert misplaced(connection) == []


def test_a_pause_is_opened_by_when_a_mail_was_sent_and_not_by_the_clock_of_ses(connection: Connection) -> None:
    enqueue(connection)
    connection.execute(
        text("INSERT INTO resumptions (scope, resumed_at) VALUES ('activation', now() - interval '1 second')")
    )
    batch = take(connection)
    assert settle(connection, batch, Sent("m-1"))
    tell_of(connection, batch, RENDERING_FAILURE, "m-1", seconds=-60)
    take_back(connection)
    assert paused(connection) == {"activation"}


@pytest.mark.parametrize("settled", ["before", "after"])
def test_a_mail_of_a_template_that_was_replaced_since_pauses_nothing(connection: Connection, settled: str) -> None:
    """What is read late says nothing of the template that is used now; that one is paused for its own mails."""
    enqueue(connection)
    batch = take(connection)
    if settled == "before":
        assert settle(connection, batch, Sent("m-1"))
    connection.execute(text("SELECT template_use('activation', 'activationv2', true)"))
    if settled == "after":
        assert settle(connection, batch, Sent("m-1"))
    tell_of(connection, batch, RENDERING_FAILURE, "m-1")
    assert len(take_back(connection)) == 1
    assert paused(connection) == set()
    again = take(connection)
    assert settle(connection, again, Sent("m-2"))
    tell_of(connection, again, RENDERING_FAILURE, "m-2")
    assert len(take_back(connection)) == 1
    assert paused(connection) == {"activation"}
    assert misplaced(connection) == []


def test_what_changes_of_a_kind_besides_its_template_hides_no_failure(connection: Connection) -> None:
    enqueue(connection)
    batch = take(connection)
    assert settle(connection, batch, Sent("m-1"))
    connection.execute(text("UPDATE actions SET per_day = 7, template = template"))
    tell_of(connection, batch, RENDERING_FAILURE, "m-1")
    take_back(connection)
    assert paused(connection) == {"activation"}


def test_what_has_no_events_of_its_own_makes_no_feed_silent(connection: Connection) -> None:
    """What a claim ends as sent, since its event came; and lines of `collect`, which no event is ever of."""
    enqueue(connection, 2)
    batch = take(connection)
    run_out(connection)
    connection.execute(text("SELECT * FROM rescue(10, 0, 6, interval '0')"))
    for job in (0, 1):
        tell_of(connection, batch, DELIVERY, f"m-{job}", job=job)
    assert [job.error_code for job in claim(connection).finished] == ["AcceptedLate"] * 2
    connection.execute(text("UPDATE feed SET heard_at = now() - interval '1 hour'"))
    connection.execute(text("UPDATE deliveries SET created_at = now() - interval '11 minutes'"))
    assert feed.state(connection).live


# A clock that was ahead, and was set back


@pytest.mark.parametrize("ahead", [timedelta(minutes=10), timedelta(days=3_650)])
def test_a_failure_is_looked_at_again_though_its_look_was_put_off_by_a_clock_that_was_ahead(
    connection: Connection, ahead: timedelta
) -> None:
    """It was told before the answer came, and once in the time when the clock was ahead."""
    enqueue(connection)
    batch = take(connection)
    tell_of(connection, batch, RENDERING_FAILURE, "m-1")
    assert take_back(connection) == []
    connection.execute(text("UPDATE events SET look_at = look_at + :ahead"), {"ahead": ahead})
    assert settle(connection, batch, Sent("m-1"))
    assert [mail.token for mail in take_back(connection)] == [batch.jobs[0].token]
    assert misplaced(connection) == []


def test_what_was_put_off_by_a_clock_that_was_right_stays_so(connection: Connection) -> None:
    absorb(connection, [Event(RENDERING_FAILURE, "of-others", NOW), Event(RENDERING_FAILURE, "of-nobody", NOW)])
    connection.execute(
        text(
            "UPDATE events SET absorbed_at = CASE message_id WHEN 'of-others' THEN now() - interval '2 days'"
            " ELSE '-infinity' END, look_at = now() + interval '23 hours'"
        )
    )
    take_back(connection)
    assert len(rows(connection, "SELECT FROM events WHERE look_at > now() + interval '22 hours'")) == 2


@pytest.mark.parametrize("ahead", [timedelta(minutes=10), timedelta(days=3_650)])
def test_a_pause_that_was_ended_by_a_clock_that_was_ahead_can_begin_again(
    connection: Connection, ahead: timedelta
) -> None:
    connection.execute(
        text("INSERT INTO resumptions (scope, resumed_at) VALUES ('activation', now() + :ahead)"), {"ahead": ahead}
    )
    take_back(connection)
    enqueue(connection)
    batch = take(connection)
    assert settle(connection, batch, Sent("m-1"))
    tell_of(connection, batch, RENDERING_FAILURE, "m-1")
    take_back(connection)
    assert paused(connection) == {"activation"}


@pytest.mark.parametrize("heard", [timedelta(0), timedelta(hours=1)])
def test_a_pause_for_a_mail_of_the_time_when_the_clock_was_ahead_can_be_ended(
    connection: Connection, heard: timedelta
) -> None:
    enqueue(connection)
    batch = take(connection)
    assert settle(connection, batch, Sent("m-1"))
    connection.execute(text("UPDATE deliveries SET created_at = created_at + interval '1 hour'"))
    tell_of(connection, batch, RENDERING_FAILURE, "m-1")
    take_back(connection)
    assert paused(connection) == {"activation"}
    connection.execute(text("SELECT pause_close('activation', true)"))
    connection.execute(text("UPDATE events SET look_at = now(), absorbed_at = absorbed_at + :heard"), {"heard": heard})
    take_back(connection)
    assert paused(connection) == set()


def test_a_person_who_ended_a_pause_by_a_clock_that_was_ahead_ends_no_other_for_ever(connection: Connection) -> None:
    connection.execute(text("UPDATE feed SET polled_at = now()"))
    connection.execute(
        text("INSERT INTO resumptions (scope, resumed_at) VALUES ('priority:2', now() + interval '1 year')")
    )
    reputation.review(connection)
    assert rows(connection, "SELECT FROM resumptions WHERE resumed_at > clock_timestamp()") == []


@pytest.mark.parametrize("ahead", [timedelta(hours=1), timedelta(days=3_650)])
def test_a_feed_that_was_heard_by_a_clock_that_was_ahead_is_not_taken_to_be_heard_until_then(
    connection: Connection, ahead: timedelta
) -> None:
    enqueue(connection)
    batch = take(connection)
    assert settle(connection, batch, Sent("m-1"))
    tell_of(connection, batch, SEND, "m-1")
    connection.execute(
        text("UPDATE feed SET heard_at = heard_at + :ahead, polled_at = polled_at + :ahead"), {"ahead": ahead}
    )
    connection.execute(text("UPDATE deliveries SET created_at = now() - interval '11 minutes'"))
    assert (feed.state(connection).live, feed.state(connection).silent) == (False, True)

    absorb(connection, [])  # it is read, and from then on it counts how long nothing is heard
    assert (feed.state(connection).live, feed.state(connection).silent) == (True, False)
    connection.execute(text("UPDATE feed SET heard_at = heard_at - interval '12 minutes'"))
    assert feed.state(connection).silent
