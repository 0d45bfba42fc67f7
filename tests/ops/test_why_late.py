"""Why the mail of one token has not left, or what became of it: on a database, from a few looks by key."""

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import Connection, text

from mailroom.event import EventKind
from mailroom.ops.reading import Reading
from mailroom.ops.why import Why, why_late
from mailroom.queue import events
from tests.claiming import enqueue, enqueue_recovery, run_out, take, waited
from tests.kinds import ACTIVATION
from tests.ops.readings import BULK, NOW, lane, paused, reading, worker
from tests.telling import HARD, of
from tests.world import add_accounts, ask_recovery, rows


def write(connection: Connection, statement: str, **binds: Any) -> None:
    connection.execute(text(statement), binds)


def now_of(connection: Connection) -> datetime:
    found: datetime = connection.scalar(text("SELECT clock_timestamp()"))
    return found


def fleet(connection: Connection, **other: Any) -> Reading:
    """A reading of a fleet that is well, of a moment ago by the clock of this database."""
    later = now_of(connection) - NOW
    found = reading(**other)
    workers = tuple(replace(each, seen_at=each.seen_at + later) for each in found.workers)
    pauses = tuple(replace(each, opened_at=each.opened_at + later) for each in found.pauses)
    account = replace(found.account, seen_at=now_of(connection))
    return replace(found, read_at=found.read_at + later, workers=workers, pauses=pauses, account=account)


def why(connection: Connection, token: int, **other: Any) -> Why:
    return why_late(connection, fleet(connection, **other), token)


def deliver(connection: Connection, token: int, outcome: str, code: str | None = None, age: str = "0 s") -> None:
    write(
        connection,
        "INSERT INTO deliveries (token, account, batch, action, outcome, attempt, error_code, created_at, message_id)"
        " SELECT id, account, 7, action, CAST(:outcome AS delivery_outcome), 0, :code,"
        " clock_timestamp() - CAST(:age AS interval), CASE :outcome WHEN 'sent' THEN 'm' END"
        " FROM tokens WHERE id = :token",
        token=token,
        outcome=outcome,
        code=code,
        age=age,
    )


def finish(connection: Connection, token: int, outcome: str, code: str | None = None) -> None:
    deliver(connection, token, outcome, code)
    write(connection, "DELETE FROM jobs WHERE token = :token", token=token)


# It waits


def test_a_job_that_nothing_keeps_says_for_how_long_it_has_been_due(conn: Connection) -> None:
    token = enqueue_recovery(conn)
    waited(conn, 2)
    found = why(conn, token)
    assert found.code == "Soon"
    assert [step.name for step in found.chain] == [
        *("worker", "pause", "later", "held", "permit", "senders", "claim", "due")
    ]
    waited(conn, 90)
    assert why(conn, token).code == "Unknown"


def test_no_worker_comes_before_all_else(conn: Connection) -> None:
    token = enqueue_recovery(conn)
    found = why(conn, token, workers=(worker(queue="news"),), pauses=(paused("account"),))
    assert (found.code, found.text) == ("NoWorker", "no worker takes the queue mailroom: those that run take news")


def test_a_pause_that_does_not_cover_its_kind_is_ruled_out(conn: Connection) -> None:
    recovery, [activation] = enqueue_recovery(conn), enqueue(conn)
    assert why(conn, recovery, pauses=(paused("activation"),)).code != "Paused"
    assert why(conn, activation, pauses=(paused("activation"),)).code == "Paused"


def test_a_job_that_waits_for_another_try_says_how_the_last_ended(conn: Connection) -> None:
    token = enqueue_recovery(conn)
    deliver(conn, token, "deferred", "TRANSIENT_FAILURE", age="5 minutes")
    write(conn, "UPDATE jobs SET attempt = 1, due_at = clock_timestamp() + interval '40 minutes'")
    found = why(conn, token)
    assert found.code == "Later"
    assert found.text.startswith("it waits 40 min more for its next try: the last, 5")
    assert found.text.endswith("min ago, ended as deferred (TRANSIENT_FAILURE)")
    assert f"jobs retry {token}" in found.cure
    assert [step.name for step in found.chain] == ["worker", "pause", "later", "held"]


def test_a_held_job_says_so_also_where_nobody_works(conn: Connection) -> None:
    token = enqueue_recovery(conn)
    deliver(conn, token, "unconfirmed", "ReadTimeout", age="2 hours")
    write(conn, "UPDATE jobs SET due_at = 'infinity'")
    found = why(conn, token)
    assert found.code == "Held"
    assert found.text == "it is held until a person decides: it may have been sent already (ReadTimeout, 2 h ago)"
    assert f"jobs release {token}" in found.cure
    assert found.since is not None
    assert found.since > timedelta(hours=1)
    both = why(conn, token, workers=())
    assert both.code == "NoWorker"
    assert both.text.endswith(
        "; and then it is held until a person decides: it may have been sent already (ReadTimeout, 2 h ago)"
    )


def test_in_the_midst_of_an_import_it_says_how_many_go_before_it(conn: Connection) -> None:
    tokens = enqueue(conn, 60)
    write(
        conn,
        "UPDATE jobs SET due_at = now() - interval '1 hour'"
        " + (token - (SELECT min(token) FROM jobs)) * interval '1 second'",
    )
    minute = "date_trunc('minute', now()) - interval '1 minute'"
    write(
        conn,
        "INSERT INTO minutes (at, queue, action, priority, outcome, code, mails, waits)"
        f" SELECT {minute}, 'mailroom', 'activation', 2, 'sent', '', 900, '{{}}'",
    )
    found = why(conn, tokens[40], lanes=(lane(due=3), lane(ACTIVATION, BULK, 60, 3600)))
    assert found.code == "Rate"
    assert found.text == "the rate is used: 15.0 of 12.6 mails a second: 43 mails before it take about 3.4 s"


def test_without_a_reading_it_says_what_the_job_itself_tells(conn: Connection) -> None:
    token = enqueue_recovery(conn)
    assert why_late(conn, None, token).code == "NoReading"
    write(conn, "UPDATE jobs SET due_at = 'infinity'")
    assert why_late(conn, None, token).code == "Held"


# It is in flight


def test_a_job_in_a_call_says_since_when_and_with_whom(conn: Connection) -> None:
    token = enqueue_recovery(conn)
    batch = take(conn)
    found = why(conn, token)
    assert found.code == "InCall"
    assert found.text.startswith(f"it is being sent: batch {batch.id} of test, claimed ")
    run_out(conn)
    lost = why(conn, token)
    assert lost.code == "LeaseOut"
    assert lost.text.startswith("whoever was sending it is gone: batch")
    assert lost.cure == ""
    write(conn, "UPDATE batches SET lease_until = clock_timestamp() - interval '2 minutes'")
    assert "`mailroom worker`" in why(conn, token).cure


# It is over


@pytest.mark.parametrize(
    ("outcome", "code", "words", "cure"),
    [
        ("cancelled", "Superseded", "a newer mail of its kind was asked for", ""),
        ("cancelled", "TooMany", "it may be flooded", "`mailroom actions set NAME --per-day NUMBER`"),
        ("cancelled", "Dropped", "somebody dropped it", "`mailroom jobs retry 1` takes that back"),
        ("expired", "TokenExpired", "its token ran out before it could be sent", "ask for another mail"),
        ("suppressed", "SuppressedBounce", "a mail to it bounced for good", "`mailroom suppressions release ADDRESS`"),
        ("rejected", "MessageRejected", "MessageRejected", "`mailroom jobs show 1`"),
        ("failed", "LeaseExpired", "LeaseExpired", "`mailroom jobs retry 1` tries it again"),
    ],
)
def test_a_mail_that_will_not_be_sent_says_why_and_what_helps(
    conn: Connection, outcome: str, code: str, words: str, cure: str
) -> None:
    token = enqueue_recovery(conn)
    finish(conn, token, outcome, code)
    found = why(conn, token)
    assert found.code == code
    assert found.text.startswith(f"it was not sent, and will not be ({outcome}): ")
    assert words in found.text
    assert cure.replace("jobs show 1", f"jobs show {token}").replace("retry 1", f"retry {token}") in found.cure


@pytest.mark.parametrize(
    ("kinds", "code", "words"),
    [
        ([], "Sent", "nothing was heard of it since"),
        ([EventKind.SEND, EventKind.DELIVERY], "Delivered", "the recipient's server took it"),
        ([EventKind.BOUNCE, EventKind.SEND], "Bounced", "it bounced"),
        ([EventKind.COMPLAINT, EventKind.DELIVERY], "Complained", "the recipient complained"),
        ([EventKind.DELIVERY_DELAY], "Delayed", "does not take it yet"),
    ],
)
def test_a_mail_that_was_sent_says_what_was_heard_of_it(
    conn: Connection, kinds: list[EventKind], code: str, words: str
) -> None:
    token = enqueue_recovery(conn)
    batch = take(conn)
    write(conn, "DELETE FROM batches")
    deliver(conn, token, "sent")
    write(conn, "UPDATE deliveries SET fence = CAST(:fence AS uuid)", fence=batch.fence)
    told = [
        of(batch, kind, "m", site=events.site(conn), **(HARD if kind is EventKind.BOUNCE else {})) for kind in kinds
    ]
    events.absorb(conn, told)
    found = why(conn, token)
    assert found.code == code
    assert words in found.text


@pytest.mark.parametrize(
    ("kind", "kind_of_it", "alone"),
    [
        (EventKind.BOUNCE, "Transient", "Bounced"),
        (EventKind.COMPLAINT, "not-spam", "Sent"),
        (EventKind.COMPLAINT, "auth-failure", "Sent"),
    ],
)
def test_what_is_no_bounce_and_no_complaint_is_not_called_so(
    conn: Connection, kind: EventKind, kind_of_it: str, alone: str
) -> None:
    """As of somebody who is away, and answers by himself: it suppresses nobody, and the mail has arrived."""
    token = enqueue_recovery(conn)
    batch = take(conn)
    write(conn, "DELETE FROM batches")
    deliver(conn, token, "sent")
    write(conn, "UPDATE deliveries SET fence = CAST(:fence AS uuid)", fence=batch.fence)
    site = events.site(conn)
    events.absorb(conn, [of(batch, kind, "m", site=site, type=kind_of_it)])
    assert why(conn, token).code == alone
    assert "nothing was heard" not in why(conn, token).text
    events.absorb(conn, [of(batch, EventKind.DELIVERY, "m", site=site)])
    assert why(conn, token).code == "Delivered"


def test_what_has_no_job_and_what_is_not_there_are_told_apart(conn: Connection) -> None:
    write(conn, "SET LOCAL mailroom.triggers = off")
    [account] = add_accounts(conn, 1, status="active")
    token = ask_recovery(conn, account) if not rows(conn, "SELECT FROM jobs") else 0
    write(conn, "DELETE FROM jobs")
    assert why(conn, token).code == "NoJob"
    assert "`mailroom sweep` mails it" in why(conn, token).cure
    gone = why(conn, 4_711)
    assert (gone.code, gone.text) == ("Gone", "nothing is known of token 4711: deleted with its account, or pruned")


def test_a_job_whose_link_is_good_no_more_is_not_said_to_leave(conn: Connection) -> None:
    """Whatever keeps it: the claim ends it, and no worker that is started sends it."""
    token = enqueue_recovery(conn)
    write(conn, "UPDATE tokens SET expires_at = now() - interval '2 hours' WHERE id = :token", token=token)
    found = why(conn, token, workers=(), pauses=(paused("account"),))
    assert (found.code, found.text) == ("TokenExpired", "it will not be sent: its link ended 2 h ago")
    assert "ask for another mail" in found.cure
    write(conn, "UPDATE tokens SET consumed_at = now() WHERE id = :token", token=token)
    assert why(conn, token).code == "TokenConsumed"
    assert why(conn, token).text == "it will not be sent: its token had been used already"


def test_a_job_that_a_newer_one_supersedes_is_not_said_to_leave(conn: Connection) -> None:
    """As where somebody has asked three times: to resume what is paused sends the last of them alone."""
    [account] = add_accounts(conn, 1, status="active")
    older, newest = ask_recovery(conn, account), ask_recovery(conn, account)
    others = enqueue_recovery(conn)
    found = why(conn, older, workers=(), pauses=(paused("account"),))
    assert (found.code, found.cure) == ("Superseded", "see why the newest mail of its account waits")
    assert found.text.startswith("it will not be sent: a newer mail of its kind was asked for")
    assert {why(conn, token, workers=()).code for token in (newest, others)} == {"NoWorker"}
    write(conn, "UPDATE actions SET newest_only = false WHERE name = 'password_recovery'")
    assert why(conn, older, workers=()).code == "NoWorker"


def test_a_job_that_a_newer_one_has_ended_is_not_said_to_leave(conn: Connection) -> None:
    """Where each is mailed, and somebody has used the newer: the claim cancels the older."""
    write(conn, "UPDATE actions SET newest_only = false WHERE name = 'password_recovery'")
    [account] = add_accounts(conn, 1, status="active")
    older, newest = ask_recovery(conn, account), ask_recovery(conn, account)
    assert why(conn, older, pauses=(paused("account"),)).code == "Paused"
    write(conn, "UPDATE tokens SET consumed_at = now() WHERE id = :token", token=newest)
    found = why(conn, older, pauses=(paused("account"),))
    assert (found.code, found.cure, found.text.partition(":")[0]) == ("Superseded", "", "it will not be sent")


@pytest.mark.parametrize(("email", "status"), [("other@example.org", "active"), ("known1@example.com", "suspended")])
def test_a_job_whose_account_has_changed_is_not_said_to_leave(conn: Connection, email: str, status: str) -> None:
    """To resume what is paused sends it not: the claim cancels it."""
    token, other = enqueue_recovery(conn), enqueue_recovery(conn, prefix="other")
    change = "UPDATE accounts SET email = :email, status = CAST(:status AS account_status) WHERE email = :known"
    write(conn, change, email=email, status=status, known="known1@example.com")
    found = why(conn, token, workers=(), pauses=(paused("account"),))
    assert (found.code, found.cure) == ("AccountChanged", "look at the account, then ask for another mail")
    assert found.text.startswith("it will not be sent: its account has ")
    assert why(conn, other, workers=()).code == "NoWorker"


def test_a_link_that_is_renewed_is_waited_for(conn: Connection) -> None:
    [token] = enqueue(conn, 1)
    write(conn, "UPDATE tokens SET expires_at = now() - interval '2 hours' WHERE id = :token", token=token)
    assert why(conn, token).code != "TokenExpired"


def test_a_link_that_was_used_needs_no_mail(conn: Connection) -> None:
    token = enqueue_recovery(conn)
    write(conn, "DELETE FROM jobs WHERE token = :token", token=token)
    write(conn, "UPDATE tokens SET consumed_at = now() WHERE id = :token", token=token)
    found = why(conn, token)
    assert (found.code, found.cure) == ("TokenConsumed", "")
