"""Batches whose lease ran out are given back, once."""

from sqlalchemy import Connection, Engine, text

from mailroom import queue
from mailroom.outcome import Unconfirmed
from mailroom.queue.verdict import GRACE, MAX_ATTEMPTS
from tests.claiming import (
    claim,
    enqueue,
    log,
    look,
    run_out,
    settle,
    take,
    tokens_of,
    waited,
    waiting,
)
from tests.kinds import ACTIVATION
from tests.world import misplaced, rows, transaction

THROUGH_PGBOUNCER = True


def test_a_rescued_job_may_be_out_is_charged_and_waits_out_the_grace(conn: Connection) -> None:
    tokens = enqueue(conn, 2)
    batch = take(conn)
    run_out(conn)

    rescued = queue.rescue(conn)

    assert [(one.batch, one.worker, one.action, one.token, one.attempt, one.failed) for one in rescued] == [
        (batch.id, "test", ACTIVATION, token, 0, False) for token in tokens
    ]
    assert log(conn) == [(token, "unconfirmed", 0, False) for token in tokens]
    assert waiting(conn) == [(token, 1, GRACE.total_seconds()) for token in tokens]
    [row] = rows(conn, "SELECT DISTINCT batch, error_code, account IS NULL AS nobody FROM deliveries")
    assert tuple(row) == (batch.id, "LeaseExpired", False)
    assert (rows(conn, "SELECT FROM batches"), misplaced(conn)) == ([], [])


def test_a_job_that_somebody_made_by_hand_meanwhile_keeps_no_batch_from_being_rescued(conn: Connection) -> None:
    token, other = enqueue(conn, 2)
    take(conn)
    made = "INSERT INTO jobs (token, due_at, action, priority, queue) VALUES (:token, now(), :action, 1, 'mailroom')"
    conn.execute(text(made), {"token": token, "action": ACTIVATION})
    run_out(conn)
    assert [one.token for one in queue.rescue(conn)] == [token, other]
    assert [(row[0], row[1]) for row in waiting(conn)] == [(token, 0), (other, 1)]
    assert misplaced(conn) == []


def test_a_rescued_job_does_not_wait_behind_a_backlog_of_bulk(conn: Connection) -> None:
    enqueue(conn, 60)
    lost = {job.token for job in take(conn, batch_limit=5).jobs}
    run_out(conn)
    queue.rescue(conn)
    conn.execute(text("UPDATE jobs SET due_at = now() WHERE attempt > 0"))
    assert {job.token for job in take(conn).jobs} == lost
    assert misplaced(conn) == []


def test_a_job_that_is_lost_again_and_again_fails_after_its_last_attempt(conn: Connection) -> None:
    [token] = enqueue(conn)
    for _ in range(MAX_ATTEMPTS):
        waited(conn)
        take(conn)
        run_out(conn)
        queue.rescue(conn)
    assert log(conn) == [
        *((token, "unconfirmed", attempt, False) for attempt in range(MAX_ATTEMPTS)),
        (token, "failed", MAX_ATTEMPTS - 1, False),
    ]
    assert (waiting(conn), misplaced(conn)) == ([], [])


def test_a_job_whose_batch_is_lost_once_is_no_suspect_though_ses_did_not_answer_before(conn: Connection) -> None:
    tokens = enqueue(conn, 2)
    assert settle(conn, take(conn), *[Unconfirmed("ReadTimeoutError", "no answer")] * 2)
    waited(conn)
    take(conn)
    run_out(conn)
    queue.rescue(conn)
    waited(conn)
    assert tokens_of(take(conn)) == tokens


def test_only_leases_that_ran_out_are_rescued(conn: Connection) -> None:
    tokens = enqueue(conn, 2)
    held = take(conn, batch_limit=1)
    assert not look(conn).rescuable
    run_out(conn)
    take(conn, batch_limit=1)
    assert look(conn).rescuable
    assert [one.batch for one in queue.rescue(conn)] == [held.id]
    assert not look(conn).rescuable
    assert queue.rescue(conn) == []
    assert [token for token, *_ in waiting(conn)] == tokens[:1]


def test_a_job_is_rescued_though_its_account_is_gone(conn: Connection) -> None:
    [token] = enqueue(conn)
    take(conn)
    conn.execute(text("DELETE FROM accounts"))
    run_out(conn)
    assert [one.token for one in queue.rescue(conn)] == [token]
    waited(conn)
    assert [job.error_code for job in claim(conn).finished] == ["TokenGone"]
    assert misplaced(conn) == []


def test_two_rescues_at_the_same_moment_share_the_batches(engine: Engine) -> None:
    with transaction(engine) as first, transaction(engine, lock_timeout="30s") as second:
        tokens = enqueue(first, 3)
        take(first, batch_limit=1)
        run_out(first)
        first.commit()
        assert [one.token for one in queue.rescue(first)] == tokens[:1]
        late = take(second, batch_limit=1)
        second.execute(text("UPDATE batches SET lease_until = claimed_at WHERE id = :id"), {"id": late.id})
        assert [one.token for one in queue.rescue(second)] == tokens[1:2]
        second.commit()
        first.commit()
        assert log(first) == [(token, "unconfirmed", 0, False) for token in tokens[:2]]
        assert misplaced(first) == []
