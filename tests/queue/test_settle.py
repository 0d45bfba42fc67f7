"""What a settlement does to each job of a batch."""

from dataclasses import replace
from datetime import timedelta

import pytest
from sqlalchemy import Connection, text

from mailroom import queue
from mailroom.outcome import Deferred, Outcome, Rejected, Sent, Unconfirmed
from mailroom.queue.verdict import MAX_ATTEMPTS, Again
from tests.claiming import (
    enqueue,
    log,
    run_out,
    settle,
    take,
    verdicts,
    waited,
    waiting,
)
from tests.world import misplaced, rows

THROUGH_PGBOUNCER = True


def test_every_job_gets_the_outcome_at_its_position(conn: Connection) -> None:
    tokens = enqueue(conn, 6)
    batch = take(conn)
    owned = settle(
        conn,
        batch,
        Sent("m-0"),
        Rejected("MessageRejected", "no such mailbox"),
        Deferred("MailboxFull", "later", charged=True),
        Deferred("Throttling", "slow down", charged=False),
        Unconfirmed("Timeout", "no answer"),
        Unconfirmed("FAILED", "but", "m-5"),
    )

    assert owned
    written = rows(
        conn, "SELECT token, account, batch, outcome, message_id, error_code, error FROM deliveries ORDER BY id"
    )
    accounts = [job.account for job in batch.jobs]
    assert [tuple(row) for row in written] == [
        (tokens[0], accounts[0], batch.id, "sent", "m-0", None, None),
        (tokens[1], accounts[1], batch.id, "rejected", None, "MessageRejected", "no such mailbox"),
        (tokens[2], accounts[2], batch.id, "deferred", None, "MailboxFull", "later"),
        (tokens[3], accounts[3], batch.id, "deferred", None, "Throttling", "slow down"),
        (tokens[4], accounts[4], batch.id, "unconfirmed", None, "Timeout", "no answer"),
        (tokens[5], accounts[5], batch.id, "unconfirmed", "m-5", "FAILED", "but"),
    ]
    assert waiting(conn) == [(tokens[2], 1, 2), (tokens[3], 0, 10), (tokens[4], 1, 5), (tokens[5], 1, 5)]
    assert (rows(conn, "SELECT FROM batches"), misplaced(conn)) == ([], [])


@pytest.mark.parametrize(
    ("outcome", "trace"),
    [
        (Deferred("MailboxFull", "later", charged=True), ["failed"]),
        (Unconfirmed("Timeout", "no answer"), ["unconfirmed", "failed"]),
    ],
)
def test_a_job_whose_attempts_are_used_up_fails(conn: Connection, outcome: Outcome, trace: list[str]) -> None:
    [token] = enqueue(conn)
    conn.execute(text("UPDATE jobs SET attempt = :last"), {"last": MAX_ATTEMPTS - 1})
    settle(conn, take(conn), outcome)
    assert log(conn) == [(token, name, MAX_ATTEMPTS - 1, False) for name in trace]
    assert (waiting(conn), misplaced(conn)) == ([], [])


def test_jobs_of_which_nothing_is_said_go_back_as_they_were(conn: Connection) -> None:
    tokens = enqueue(conn, 60)
    conn.execute(text("UPDATE jobs SET attempt = 3 WHERE token = :token"), {"token": tokens[2]})
    before = rows(conn, "SELECT * FROM jobs ORDER BY token")
    settle(conn, take(conn), Sent("m-0"), Sent("m-1"))
    assert rows(conn, "SELECT * FROM jobs ORDER BY token") == before[2:]
    assert misplaced(conn) == []


def test_a_released_batch_is_as_if_it_had_never_been_claimed(conn: Connection) -> None:
    enqueue(conn, 60)
    before = rows(conn, "SELECT * FROM jobs ORDER BY token")
    assert queue.settle(conn, [(take(conn), [])])
    assert rows(conn, "SELECT * FROM jobs ORDER BY token") == before
    assert log(conn) == []


def test_a_settlement_told_twice_is_recorded_once(conn: Connection) -> None:
    tokens = enqueue(conn, 2)
    batch = take(conn)
    answers = (Sent("m-0"), Deferred("MailboxFull", "later", charged=True))
    assert settle(conn, batch, *answers)
    assert not settle(conn, batch, *answers)
    assert log(conn) == [(tokens[0], "sent", 0, False), (tokens[1], "deferred", 0, False)]
    assert waiting(conn) == [(tokens[1], 1, 2)]


def test_a_settlement_told_twice_does_not_touch_the_next_attempt(conn: Connection) -> None:
    [token] = enqueue(conn)
    batch = take(conn)
    settle(conn, batch, Deferred("MailboxFull", "later", charged=True))
    waited(conn)
    again = take(conn)
    assert not settle(conn, batch, Deferred("MailboxFull", "later", charged=True))
    assert settle(conn, again, Sent("m-1"))
    assert log(conn) == [(token, "deferred", 0, False), (token, "sent", 1, False)]


def test_words_that_a_text_cannot_hold_do_not_keep_a_batch_from_settling(conn: Connection) -> None:
    enqueue(conn, 2)
    assert settle(conn, take(conn), Rejected("Odd\0", "a\0b"), Rejected("Odd", "half a pair: \ud800"))
    assert [row.outcome for row in rows(conn, "SELECT outcome FROM deliveries")] == ["rejected", "rejected"]


@pytest.mark.parametrize("after", [timedelta(microseconds=1), timedelta(microseconds=99), timedelta(days=30)])
def test_a_job_may_come_again_after_any_time(conn: Connection, after: timedelta) -> None:
    """Chance takes a share of the wait off, and may leave next to nothing of it: what was accepted is on record."""
    tokens = enqueue(conn, 2)
    batch = take(conn)
    first, second = verdicts(batch, [Sent("m-0"), Deferred("MailboxFull", "later", charged=True)])
    assert queue.settle(conn, [(batch, [first, replace(second, again=Again(1, after))])]) == {batch.fence}
    assert log(conn) == [(tokens[0], "sent", 0, False), (tokens[1], "deferred", 0, False)]
    assert rows(conn, "SELECT due_at - now() AS after FROM jobs") == [(after,)]


LIFE = """
SELECT token, extract(epoch FROM due_at - now()) AS due, claimed_at >= now() AS claimed, call_ms
  FROM deliveries ORDER BY id
"""


def test_it_is_kept_when_each_mail_was_due_and_claimed_and_how_long_its_call_took(conn: Connection) -> None:
    first, second, third = enqueue(conn, 3)
    waited(conn, 300, token=second)
    batch = take(conn)
    assert [job.token for job in batch.jobs] == [second, first, third]
    took = [
        replace(verdict, call_ms=ms)
        for verdict, ms in zip(verdicts(batch, [Sent("m")] * 3), (143, 7, None), strict=True)
    ]
    assert queue.settle(conn, [(batch, took)])
    assert rows(conn, LIFE) == [(second, -300, True, 143), (first, -60, True, 7), (third, -60, True, None)]


def test_a_worker_of_the_release_before_says_nothing_of_its_calls(conn: Connection) -> None:
    """And what it claimed before the migration does not have when each of its jobs was due: then the oldest counts."""
    first, second = enqueue(conn, 2)
    waited(conn, 300, token=second)
    batch = take(conn)
    conn.execute(text("UPDATE batches SET due_ats = NULL"))
    arrays = (
        "'{1,2}', '{1,1}', '{0,0}', '{sent,sent}', '{a,b}', '{NULL,NULL}', '{NULL,NULL}', '{}', '{}', '{}', '{}', false"
    )
    old = f"SELECT * FROM settle(ARRAY[:id], ARRAY[CAST(:fence AS uuid)], 'activation', ARRAY[:a, :b], {arrays})"  # noqa: S608
    binds = {"id": batch.id, "fence": batch.fence, "a": first, "b": second}
    assert conn.execute(text(old), binds).one().owned == [batch.fence]
    assert sorted(rows(conn, LIFE)) == [(first, -300, True, None), (second, -300, True, None)]


def test_a_rescue_keeps_when_what_was_lost_was_due_and_claimed(conn: Connection) -> None:
    first, second = enqueue(conn, 2)
    waited(conn, 300, token=second)
    take(conn)
    run_out(conn)
    queue.rescue(conn)
    assert sorted(rows(conn, LIFE)) == [(first, -60, True, None), (second, -300, True, None)]
