"""Only who holds a batch settles it: what comes late is on record, and decides nothing."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import Connection, Engine, text

from mailroom import queue
from mailroom.outcome import Deferred, Outcome, Rejected, Sent, Unconfirmed
from tests.claiming import (
    claim,
    enqueue,
    log,
    run_out,
    settle,
    take,
    tokens_of,
    verdicts,
    waited,
    waiting,
)
from tests.world import misplaced, rows, transaction, until_somebody_waits

THROUGH_PGBOUNCER = True


def test_a_worker_past_its_lease_cannot_settle(conn: Connection) -> None:
    tokens = enqueue(conn, 3)
    batch = take(conn)
    run_out(conn)
    queue.rescue(conn)

    owned = settle(conn, batch, Sent("m-0"), Rejected("MessageRejected", "no"), Unconfirmed("Timeout", "no answer"))

    assert not owned
    assert log(conn)[3:] == [(tokens[0], "sent", 0, True), (tokens[1], "rejected", 0, True)]
    assert [(token, attempt) for token, attempt, _ in waiting(conn)] == [(token, 1) for token in tokens]
    assert misplaced(conn) == []


def test_a_late_acceptance_is_not_sent_again(conn: Connection) -> None:
    [token] = enqueue(conn)
    batch = take(conn)
    run_out(conn)
    queue.rescue(conn)
    settle(conn, batch, Sent("m-late"))
    settle(conn, batch, Sent("m-late"))
    waited(conn)

    claimed = claim(conn)

    assert not claimed.batches
    assert [(job.outcome, job.error_code) for job in claimed.finished] == [("sent", "AcceptedLate")]
    assert log(conn) == [(token, "unconfirmed", 0, False), (token, "sent", 0, True), (token, "sent", 1, False)]
    [final] = rows(conn, "SELECT message_id, batch FROM deliveries WHERE NOT late AND outcome = 'sent'")
    assert tuple(final) == ("m-late", batch.id)
    assert misplaced(conn) == []


def test_an_acceptance_that_comes_while_the_job_is_out_again_counts_at_the_next_claim(conn: Connection) -> None:
    enqueue(conn)
    first = take(conn)
    run_out(conn)
    queue.rescue(conn)
    waited(conn)
    second = take(conn)
    settle(conn, first, Sent("m-late"))
    assert settle(conn, second, Deferred("Throttling", "slow down", charged=False))
    waited(conn)
    assert [job.error_code for job in claim(conn).finished] == ["AcceptedLate"]


def test_a_mail_that_two_lost_batches_sent_is_on_record_with_both_answers(conn: Connection) -> None:
    [token] = enqueue(conn)
    lost = []
    for _ in range(2):
        lost.append(take(conn))
        run_out(conn)
        queue.rescue(conn)
        waited(conn)
    for batch, message in zip(lost, ("m-first", "m-second"), strict=True):
        assert not settle(conn, batch, Sent(message))
    found = rows(conn, "SELECT token, message_id FROM deliveries WHERE outcome = 'sent' AND late ORDER BY id")
    assert [tuple(row) for row in found] == [(token, "m-first"), (token, "m-second")]


def test_batches_are_settled_together_each_behind_its_own_fence(conn: Connection) -> None:
    tokens = enqueue(conn, 8)
    mine, lost, unsent, last = claim(conn, batch_limit=2, job_limit=8).batches
    run_out(conn, lost)
    queue.rescue(conn)
    answers: list[Outcome] = [Sent("m"), Deferred("MailboxFull", "later", charged=True)]
    closing = [(batch, verdicts(batch, answers)) for batch in (mine, lost)] + [(unsent, []), (last, [])]

    assert queue.settle(conn, closing) == {mine.fence, unsent.fence, last.fence}
    assert queue.settle(conn, closing) == set()

    assert [entry for entry in log(conn) if entry[0] in tokens_of(mine)] == [
        (tokens[0], "sent", 0, False),
        (tokens[1], "deferred", 0, False),
    ]
    assert [entry for entry in log(conn) if entry[0] in tokens_of(lost)] == [
        (tokens[2], "unconfirmed", 0, False),
        (tokens[3], "unconfirmed", 0, False),
        (tokens[2], "sent", 0, True),
        (tokens[3], "deferred", 0, True),
    ]
    assert {token: attempt for token, attempt, _ in waiting(conn)} == {
        **dict.fromkeys(tokens[1:4], 1),
        **dict.fromkeys(tokens[4:], 0),
    }
    assert misplaced(conn) == []


def test_a_job_that_is_out_again_is_settled_by_its_own_batch(conn: Connection) -> None:
    tokens = enqueue(conn, 2)
    first = take(conn)
    run_out(conn)
    queue.rescue(conn)
    waited(conn)
    again = take(conn)
    assert tokens_of(first) == tokens_of(again) == tokens
    late: list[Outcome] = [Sent("m-late"), Deferred("MailboxFull", "later", charged=True)]

    assert queue.settle(conn, [(first, verdicts(first, late)), (again, [])]) == {again.fence}

    assert waiting(conn) == [(token, 1, -60) for token in tokens]  # as the second batch had them
    assert misplaced(conn) == []


def test_whatever_an_answer_holds_is_stored_or_replaced(conn: Connection) -> None:
    odd = ["NULL", "", "{a,b}", 'a"b\\', "\\x00", "a\nb\tc", "caf\u00e9 \u2026 \U0001f4e7", "nul\0", "half \ud83d"]
    stored = [*odd[:-2], "nul?", "half ?"]
    enqueue(conn, len(odd))
    told = [Rejected(code, reason) for code, reason in zip(odd, reversed(odd), strict=True)]
    assert settle(conn, take(conn), *told)
    found = rows(conn, "SELECT error_code, error FROM deliveries ORDER BY token")
    assert [tuple(row) for row in found] == list(zip(stored, reversed(stored), strict=True))


def test_a_job_that_somebody_made_by_hand_meanwhile_keeps_no_batch_from_settling(conn: Connection) -> None:
    token, other = enqueue(conn, 2)
    batch = take(conn)
    conn.execute(
        text(
            "INSERT INTO jobs (token, due_at, action, priority, queue)"
            " VALUES (:token, now(), 'activation', 1, 'mailroom')"
        ),
        {"token": token},
    )
    later = Deferred("MailboxFull", "later", charged=True)
    assert settle(conn, batch, later, later)
    assert [(row[0], row[1]) for row in waiting(conn)] == [(token, 0), (other, 1)]
    assert misplaced(conn) == []


def test_a_batch_is_settled_once_in_a_call(conn: Connection) -> None:
    enqueue(conn, 1)
    batch = take(conn)
    with pytest.raises(ValueError, match="twice"):
        queue.settle(conn, [(batch, []), (batch, [])])


def test_a_late_release_decides_nothing(conn: Connection) -> None:
    [token] = enqueue(conn)
    batch = take(conn)
    run_out(conn)
    queue.rescue(conn)
    assert not queue.settle(conn, [(batch, [])])
    assert log(conn) == [(token, "unconfirmed", 0, False)]
    assert waiting(conn) == [(token, 1, 5)]


@pytest.mark.parametrize("commits", [True, False])
def test_of_two_settlements_at_the_same_moment_one_wins(engine: Engine, commits: bool) -> None:
    with transaction(engine) as first, engine.connect() as second, ThreadPoolExecutor(1) as thread:
        tokens = enqueue(first, 2)
        batch = take(first)
        first.commit()
        assert settle(first, batch, Sent("m-0"))
        other = thread.submit(settle, second, batch, Sent("m-0"))
        until_somebody_waits(engine)
        first.commit() if commits else first.rollback()
        assert other.result(timeout=30) is not commits
        decided = [row for row in log(second) if not row[3]]
        assert decided == [(tokens[0], "sent", 0, False)]
        assert [token for token, *_ in waiting(second)] == [tokens[1]]
        assert misplaced(second) == []


def test_a_settlement_that_meets_a_rescue_comes_second(engine: Engine) -> None:
    with transaction(engine) as rescuer, engine.connect() as worker, ThreadPoolExecutor(1) as thread:
        [token] = enqueue(rescuer)
        batch = take(rescuer)
        run_out(rescuer)
        rescuer.commit()
        assert len(queue.rescue(rescuer)) == 1
        settled = thread.submit(settle, worker, batch, Sent("m-0"))
        until_somebody_waits(engine)
        rescuer.commit()
        assert settled.result(timeout=30) is False
        assert log(worker) == [(token, "unconfirmed", 0, False), (token, "sent", 0, True)]
        assert misplaced(worker) == []


def test_a_rescue_passes_over_a_batch_that_is_being_settled(engine: Engine) -> None:
    with transaction(engine) as worker, transaction(engine, lock_timeout="30s") as rescuer:
        [token] = enqueue(worker)
        batch = take(worker)
        run_out(worker)
        worker.commit()
        assert settle(worker, batch, Sent("m-0"))
        assert queue.rescue(rescuer) == []
        worker.commit()
        assert queue.rescue(rescuer) == []
        assert log(rescuer) == [(token, "sent", 0, False)]
