"""Evidence of what became of mails: entered once, of what is known here alone, and believed whenever it comes."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from itertools import permutations
from uuid import uuid4

import pytest
from sqlalchemy import Connection, Engine, text

from mailroom import queue
from mailroom.event import Event, EventKind
from mailroom.outcome import Sent, Unconfirmed
from mailroom.queue import by_hand, feed, late_acceptances
from mailroom.queue.events import Absorbed, absorb, site
from tests.claiming import claim, enqueue, log, run_out, settle, take, waited
from tests.telling import (
    BOUNCE,
    COMPLAINT,
    DELAY,
    DELIVERY,
    HARD,
    NOW,
    REJECT,
    RENDERING_FAILURE,
    SEND,
    look_again,
    of,
    tell_of,
)
from tests.world import misplaced, rows

THROUGH_PGBOUNCER = True
ACCEPTING = [SEND, DELIVERY, BOUNCE, COMPLAINT, DELAY]


def rescue(connection: Connection, *, hold: bool) -> None:
    run_out(connection)
    queue.rescue(connection, resend_after=None if hold else timedelta(0))


def sweep(connection: Connection) -> None:
    feed.take_back(connection, queue="mailroom")
    late_acceptances.apply(connection)


def kept(connection: Connection) -> list[tuple[str, str]]:
    query = "SELECT message_id, kind FROM events WHERE kind <> 'accepted' ORDER BY message_id, kind"
    return [(row.message_id, row.kind) for row in rows(connection, query)]


# Once


def test_the_same_event_eight_times_from_two_consumers_is_one_row(engine: Engine, connection: Connection) -> None:
    """Trap 1."""
    enqueue(connection, 20)
    batch = take(connection)
    home = site(connection)
    told = [of(batch, kind, f"m-{job}", job=job, site=home) for job in range(20) for kind in (SEND, DELIVERY)] * 8

    def consume(events: list[Event]) -> int:
        with engine.connect() as own:
            return sum(absorb(own, events[start : start + 7]).added for start in range(0, len(events), 7))

    with ThreadPoolExecutor(2) as threads:
        added = list(threads.map(consume, [told, list(reversed(told))]))
    assert sum(added) == 40
    assert len(kept(connection)) == 40
    assert sorted(log(connection)) == [(job.token, "sent", 0, True) for job in batch.jobs]


def test_of_an_answer_on_record_an_event_makes_no_second(connection: Connection) -> None:
    enqueue(connection)
    batch = take(connection)
    assert settle(connection, batch, Sent("m-1"))
    tell_of(connection, batch, SEND, "m-1")
    assert log(connection) == [(batch.jobs[0].token, "sent", 0, False)]


# Whatever came first


@pytest.mark.parametrize("hold", [False, True])
@pytest.mark.parametrize("end", ["answer", "time-out", "rescue"])
@pytest.mark.parametrize("kind", ACCEPTING)
def test_an_event_before_the_answer_is_believed_however_the_call_ends(
    connection: Connection, kind: EventKind, end: str, hold: bool
) -> None:
    """Trap 2, and rule 12: each of them proves it, also where the others are lost."""
    [token] = enqueue(connection)
    batch = take(connection)
    tell_of(connection, batch, kind, "m-1")
    if end == "rescue":
        rescue(connection, hold=hold)
    else:
        assert settle(connection, batch, Sent("m-1") if end == "answer" else Unconfirmed("Timeout", "no answer"))
    if hold and end == "time-out":
        connection.execute(text("UPDATE jobs SET due_at = 'infinity'"))
    sweep(connection)
    connection.execute(text("UPDATE jobs SET due_at = now() WHERE due_at < 'infinity'"))
    assert claim(connection).batches == ()
    decided = "outcome = 'sent' AND NOT late"
    assert rows(connection, f"SELECT token FROM deliveries WHERE {decided}") == [(token,)]  # noqa: S608
    assert misplaced(connection) == []


@pytest.mark.parametrize("order", list(permutations([COMPLAINT, DELIVERY, BOUNCE])))
def test_events_are_kept_in_whatever_order_they_come(connection: Connection, order: list[EventKind]) -> None:
    """Trap 4."""
    enqueue(connection)
    batch = take(connection)
    assert settle(connection, batch, Sent("m-1"))
    for kind in order:
        assert tell_of(connection, batch, kind, "m-1") == Absorbed(1, 0, 0, 0)
    assert {kind for _, kind in kept(connection)} == {"complaint", "delivery", "bounce"}


def test_an_event_of_a_deleted_account_is_kept_and_its_job_ends_as_sent(connection: Connection) -> None:
    [token] = enqueue(connection)
    batch = take(connection)
    rescue(connection, hold=False)
    connection.execute(text("DELETE FROM accounts"))
    assert tell_of(connection, batch, SEND, "m-1") == Absorbed(1, 0, 0, 0)
    assert [(job.token, job.outcome) for job in claim(connection).finished] == [(token, "sent")]


# Of whom


def test_what_is_of_another_site_changes_nothing_and_is_counted(connection: Connection) -> None:
    """Traps 3 and 21."""
    enqueue(connection)
    batch = take(connection)
    assert settle(connection, batch, Sent("m-1"))
    foreign = [of(batch, kind, "m-1", site=uuid4()) for kind in EventKind]
    assert absorb(connection, foreign) == Absorbed(0, 0, len(EventKind), 0)
    sweep(connection)
    assert kept(connection) == []
    assert len(log(connection)) == 1
    assert rows(connection, "SELECT elsewhere, heard_at FROM feed") == [(len(EventKind), None)]


@pytest.mark.parametrize("wrong", ["token", "fence"])
def test_what_no_batch_here_was_for_is_not_believed(connection: Connection, wrong: str) -> None:
    enqueue(connection)
    batch = take(connection)
    rescue(connection, hold=True)
    event = of(batch, SEND, "m-1", site=site(connection))
    event = replace(event, token=999) if wrong == "token" else replace(event, fence=uuid4())
    assert absorb(connection, [event]) == Absorbed(0, 0, 0, 1)
    sweep(connection)
    assert claim(connection).taken == 0
    assert kept(connection) == []


def test_what_has_no_tags_is_known_by_another_event_of_its_message(connection: Connection) -> None:
    enqueue(connection)
    batch = take(connection)
    nameless = Event(DELAY, "m-1", NOW)
    assert absorb(connection, [nameless]) == Absorbed(0, 0, 0, 1)
    tell_of(connection, batch, SEND, "m-1")
    assert absorb(connection, [nameless]) == Absorbed(1, 0, 0, 0)
    assert rows(connection, "SELECT DISTINCT token FROM events") == [(batch.jobs[0].token,)]


def test_no_address_is_kept(connection: Connection) -> None:
    enqueue(connection, prefix="canary")
    batch = take(connection)
    for kind in EventKind:
        tell_of(connection, batch, kind, "m-1")
    for table in ("events", "suppressions", "feed", "deliveries"):
        assert rows(connection, f"SELECT FROM {table} AS one WHERE CAST(one AS text) LIKE '%canary%'") == []


# What never went out


@pytest.mark.parametrize("first", ["send", "failure", "answer last"])
def test_a_mail_that_failed_to_render_comes_back_once_with_an_attempt_charged(
    connection: Connection, first: str
) -> None:
    """Trap 5."""
    [token] = enqueue(connection)
    batch = take(connection)
    if first == "answer last":
        tell_of(connection, batch, RENDERING_FAILURE, "m-1")
        sweep(connection)
        assert settle(connection, batch, Sent("m-1"))
    else:
        assert settle(connection, batch, Sent("m-1"))
        for kind in [SEND, RENDERING_FAILURE] if first == "send" else [RENDERING_FAILURE, SEND]:
            tell_of(connection, batch, kind, "m-1")
    look_again(connection)
    sweep(connection)
    assert rows(connection, "SELECT token, attempt FROM jobs") == [(token, 1)]
    assert rows(connection, "SELECT scope, code, probe_at FROM pauses") == [("activation", "RenderingFailure", None)]
    assert claim(connection).taken == 0
    assert misplaced(connection) == []

    connection.execute(text("SELECT pause_close('activation', true)"))
    again = take(connection)
    assert settle(connection, again, Sent("m-2"))
    for _ in range(2):
        tell_of(connection, batch, RENDERING_FAILURE, "m-1", seconds=-1)
        look_again(connection, hours=2)
        sweep(connection)
    assert rows(connection, "SELECT FROM jobs UNION ALL SELECT FROM pauses") == []
    assert misplaced(connection) == []


BY_HAND = (
    "INSERT INTO jobs (token, due_at, action, priority, attempt, queue) VALUES (:t, now(), :action, 1, 1, 'mailroom')"
)


def test_a_job_that_somebody_made_by_hand_keeps_no_mail_from_being_taken_back(connection: Connection) -> None:
    [token] = enqueue(connection)
    batch = take(connection)
    assert settle(connection, batch, Sent("m-1"))
    connection.execute(text(BY_HAND), {"t": token, "action": batch.action})
    tell_of(connection, batch, RENDERING_FAILURE, "m-1")
    sweep(connection)
    assert rows(connection, "SELECT token FROM jobs") == [(token,)]
    assert misplaced(connection) == []


def test_a_pause_by_hand_keeps_what_a_person_said(connection: Connection) -> None:
    enqueue(connection)
    batch = take(connection)
    assert settle(connection, batch, Sent("m-1"))
    connection.execute(text("SELECT pause_open('activation', 'ByHand', 'a holiday', NULL)"))
    tell_of(connection, batch, RENDERING_FAILURE, "m-1")
    sweep(connection)
    assert rows(connection, "SELECT code, reason, probe_at FROM pauses") == [("ByHand", "a holiday", None)]


def test_what_was_rejected_in_one_call_and_accepted_in_another_is_sent(connection: Connection) -> None:
    """A failover has lost the second claim, so that of this there is its answer alone."""
    [token] = enqueue(connection)
    first = take(connection)
    rescue(connection, hold=False)
    waited(connection)
    second = take(connection)
    connection.execute(text("DELETE FROM batches"))
    connection.execute(text(BY_HAND), {"t": token, "action": first.action})
    assert not settle(connection, second, Sent("m-2"))
    tell_of(connection, first, REJECT, "m-1")
    sweep(connection)
    assert [job.error_code for job in claim(connection).finished] == ["AcceptedLate"]
    assert misplaced(connection) == []


def test_of_a_token_with_no_attempt_left_the_mail_that_failed_to_render_has_failed(connection: Connection) -> None:
    [token] = enqueue(connection)
    connection.execute(text("UPDATE jobs SET attempt = 5"))
    batch = take(connection)
    assert settle(connection, batch, Sent("m-1"))
    tell_of(connection, batch, RENDERING_FAILURE, "m-1")
    assert [(mail.token, mail.outcome) for mail in feed.take_back(connection, queue="mailroom")] == [(token, "failed")]
    assert misplaced(connection) == []
    assert by_hand.retry(connection, [token], queue="mailroom").put_back == [token]


def test_a_failure_without_tags_is_matched_by_its_message(connection: Connection) -> None:
    [token] = enqueue(connection)
    batch = take(connection)
    assert absorb(connection, [Event(RENDERING_FAILURE, "m-1", NOW)]) == Absorbed(1, 0, 0, 1)
    sweep(connection)
    assert settle(connection, batch, Sent("m-1"))
    look_again(connection)
    sweep(connection)
    assert rows(connection, "SELECT token, attempt FROM jobs") == [(token, 1)]
    assert misplaced(connection) == []


@pytest.mark.parametrize("end", ["sent", "waiting", "held"])
def test_what_is_rejected_for_its_content_is_rejected_for_good(connection: Connection, end: str) -> None:
    [token] = enqueue(connection)
    batch = take(connection)
    if end == "sent":
        assert settle(connection, batch, Sent("m-1"))
    else:
        rescue(connection, hold=end == "held")
    tell_of(connection, batch, SEND, "m-1")
    tell_of(connection, batch, REJECT, "m-1")
    sweep(connection)
    decided = "NOT late AND retried_at IS NULL AND outcome NOT IN ('deferred', 'unconfirmed')"
    found = rows(connection, f"SELECT token, outcome, error_code FROM deliveries WHERE {decided}")  # noqa: S608
    assert found == [(token, "rejected", "Reject")]
    assert misplaced(connection) == []


def test_what_is_rejected_in_two_calls_ends_once(connection: Connection) -> None:
    [token] = enqueue(connection)
    batches = []
    for _ in range(2):
        batches.append(take(connection))
        rescue(connection, hold=False)
        waited(connection)
    for place, batch in enumerate(batches):
        tell_of(connection, batch, REJECT, f"m-{place}")
    sweep(connection)
    assert rows(connection, "SELECT token FROM deliveries WHERE outcome = 'rejected'") == [(token,)]
    assert misplaced(connection) == []


@pytest.mark.parametrize("by", ["release", "retry"])
def test_a_mail_taken_out_by_hand_and_in_flight_again_is_not_taken_back(connection: Connection, by: str) -> None:
    """Trap 6."""
    [token] = enqueue(connection)
    if by == "retry":
        connection.execute(text("UPDATE jobs SET attempt = 5"))
    first = take(connection)
    rescue(connection, hold=True)
    if by == "retry":
        assert rows(connection, "SELECT FROM deliveries WHERE outcome = 'failed'")
        assert by_hand.retry(connection, [token], queue="mailroom").put_back == [token]
    else:
        assert by_hand.release(connection, [token]) == [token]
    waited(connection)
    second = take(connection)
    tell_of(connection, first, RENDERING_FAILURE, "m-1")
    sweep(connection)
    assert settle(connection, second, Sent("m-2"))
    look_again(connection)
    sweep(connection)
    standing = "SELECT message_id FROM deliveries WHERE outcome = 'sent' AND retried_at IS NULL"
    assert rows(connection, standing) == [("m-2",)]
    assert misplaced(connection) == []


def test_a_claim_that_began_before_the_failure_came_is_corrected(engine: Engine, connection: Connection) -> None:
    """It ends the job as accepted, of a snapshot that does not have the failure; the sweep looks until that is past."""
    [token] = enqueue(connection)
    batch = take(connection)
    rescue(connection, hold=False)
    tell_of(connection, batch, SEND, "m-1")
    with engine.connect().execution_options(isolation_level="READ COMMITTED") as slow:
        assert [job.error_code for job in claim(slow).finished] == ["AcceptedLate"]
        tell_of(connection, batch, RENDERING_FAILURE, "m-1")
        sweep(connection)
        slow.commit()
    look_again(connection)
    sweep(connection)
    assert rows(connection, "SELECT token FROM jobs") == [(token,)]
    assert misplaced(connection) == []


def test_two_sweeps_at_once_take_a_mail_back_once(engine: Engine, connection: Connection) -> None:
    [token] = enqueue(connection)
    batch = take(connection)
    assert settle(connection, batch, Sent("m-1"))
    tell_of(connection, batch, RENDERING_FAILURE, "m-1")
    with engine.connect().execution_options(isolation_level="READ COMMITTED") as first, engine.connect() as second:
        assert [mail.token for mail in feed.take_back(first, queue="mailroom")] == [token]
        assert feed.take_back(second, queue="mailroom") == []
        first.commit()
    look_again(connection)
    assert feed.take_back(connection, queue="mailroom") == []
    assert misplaced(connection) == []


# How long an unconfirmed mail waits


def test_a_feed_that_is_heard_is_live_and_one_that_falls_silent_is_not(connection: Connection) -> None:
    """Trap 22: nothing is heard for ten minutes while mails go out."""
    assert (feed.state(connection).live, feed.state(connection).silent) == (False, False)
    enqueue(connection)
    batch = take(connection)
    assert settle(connection, batch, Sent("m-1"))
    tell_of(connection, batch, SEND, "m-1")
    assert (feed.state(connection).live, feed.state(connection).silent) == (True, False)

    connection.execute(text("UPDATE feed SET heard_at = heard_at - interval '1 hour'"))
    assert feed.state(connection).live  # the one mail is new: its events may be on their way
    connection.execute(text("UPDATE deliveries SET created_at = created_at - interval '11 minutes'"))
    assert (feed.state(connection).live, feed.state(connection).silent) == (False, True)


# History


def test_evidence_is_forgotten_with_its_token_and_no_sooner(connection: Connection) -> None:
    enqueue(connection, 2)
    batch = take(connection)
    assert settle(connection, batch, Sent("m-1"), Unconfirmed("Timeout", "no answer"))
    for job, kind in ((0, SEND), (0, BOUNCE), (1, RENDERING_FAILURE)):
        tell_of(connection, batch, kind, f"m-{job + 1}", job=job, **(HARD if kind is BOUNCE else {}))
    absorb(connection, [Event(RENDERING_FAILURE, "m-unknown", NOW)])
    for table, column in (("deliveries", "created_at"), ("tokens", "expires_at"), ("events", "absorbed_at")):
        connection.execute(text(f"UPDATE {table} SET {column} = {column} - interval '90 days'"))  # noqa: S608
    connection.execute(text("SELECT prune('30 days', 0, 1000)"))
    assert kept(connection) == [("m-2", "rendering_failure")]
