"""Claim, settle, release, rescue and look: what each does to a job, and who wins when two of them meet."""

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection, Engine, text

from mailroom import queue
from mailroom.job import Action, Priority
from mailroom.outcome import Deferred, Outcome, Rejected, Sent, Unconfirmed
from mailroom.queue.floors import Floors
from mailroom.queue.lanes import LANES
from mailroom.queue.look import View
from mailroom.queue.verdict import GRACE, MAX_ATTEMPTS
from tests.claiming import (
    LEASE,
    NOTHING,
    batch_of,
    claim,
    enqueue,
    enqueue_recovery,
    log,
    look,
    run_out,
    settle,
    take,
    tokens_of,
    verdicts,
    waited,
    waiting,
)
from tests.world import add_accounts, misplaced, rows, transaction, until_somebody_waits

THROUGH_PGBOUNCER = True

TIMEOUT = timedelta(seconds=5)


# Claim: what is taken


def test_nothing_waits_nothing_is_claimed(conn: Connection) -> None:
    assert claim(conn).taken == 0
    assert rows(conn, "SELECT FROM batches") == []


def test_a_claim_brings_all_that_a_mail_needs_as_it_is_now(conn: Connection) -> None:
    [account] = add_accounts(conn, 1)
    waited(conn)
    conn.execute(text("UPDATE accounts SET email = 'User1@Example.com', login = 'new, name'"))  # the same mailbox

    [job] = take(conn).jobs

    [token] = rows(conn, "SELECT id, secret, code FROM tokens")
    assert (job.token, job.account, job.action, job.attempt) == (token.id, account, Action.ACTIVATION, 0)
    assert (job.email, job.login, job.secret, job.code) == ("User1@Example.com", "new, name", token.secret, token.code)


def test_a_claim_moves_jobs_into_a_batch_with_a_lease(conn: Connection) -> None:
    tokens = enqueue(conn, 3)
    batch = take(conn, batch_limit=3)

    [row] = rows(conn, "SELECT *, lease_until - claimed_at AS lease FROM batches")
    assert (row.id, row.tokens, row.attempts, row.worker) == (batch.id, tokens, [0, 0, 0], "test")
    assert abs(row.lease - LEASE) < timedelta(seconds=1)
    assert (waiting(conn), misplaced(conn)) == ([], [])


def test_a_lease_begins_with_the_claim_and_not_with_its_transaction(conn: Connection) -> None:
    enqueue(conn)
    [before] = rows(conn, "SELECT clock_timestamp() AS now, clock_timestamp() > now() AS later")
    take(conn)
    [batch] = rows(conn, "SELECT lease_until FROM batches")
    assert before.later
    assert batch.lease_until >= before.now + LEASE


def test_the_longest_waiting_leave_first_and_no_more_than_the_limit(conn: Connection) -> None:
    tokens = enqueue(conn, 7)
    waited(conn, 90, token=tokens[5])
    floors = Floors()
    taken = [tokens_of(take(conn, batch_limit=3, floors=floors)) for _ in range(3)]
    assert taken == [[tokens[5], tokens[0], tokens[1]], [tokens[2], tokens[3], tokens[4]], [tokens[6]]]


def test_a_batch_holds_one_action_and_one_priority(conn: Connection) -> None:
    enqueue(conn, 51, prefix="bulk")
    normal = enqueue(conn, 2)
    recovery = enqueue_recovery(conn)
    activation_in_a_hurry = enqueue(conn, 1, prefix="hurry")
    conn.execute(text("UPDATE jobs SET priority = 0 WHERE token = :t"), {"t": activation_in_a_hurry[0]})

    batches = [take(conn) for _ in range(5)]

    assert sorted(tokens_of(batch) for batch in batches[:2]) == sorted([[recovery], activation_in_a_hurry])
    assert tokens_of(batches[2]) == normal
    assert [(batch.action, batch.priority, len(batch.jobs)) for batch in batches[2:]] == [
        (Action.ACTIVATION, Priority.NORMAL, 2),
        (Action.ACTIVATION, Priority.BULK, 50),
        (Action.ACTIVATION, Priority.BULK, 1),
    ]


def test_one_recovery_leaves_before_a_thousand_that_waited_longer(conn: Connection) -> None:
    enqueue(conn, 1000)
    recovery = enqueue_recovery(conn)
    waited(conn, 1, token=recovery)
    assert tokens_of(take(conn)) == [recovery]


def test_of_two_actions_alike_in_priority_the_longer_waiting_leaves_first(conn: Connection) -> None:
    activation, recovery = enqueue(conn)[0], enqueue_recovery(conn)
    conn.execute(text("UPDATE jobs SET priority = 1"))
    waited(conn, 61, token=recovery)
    assert [tokens_of(take(conn)) for _ in range(2)] == [[recovery], [activation]]


def test_queues_are_apart(conn: Connection) -> None:
    conn.execute(text("SET LOCAL mailroom.queue = 'other'"))
    tokens = enqueue(conn)
    assert claim(conn).taken == 0
    assert look(conn) == View(ready=0, next=None, rescuable=False, probeable=False)
    batch = take(conn, queue="other")
    assert tokens_of(batch) == tokens
    queue.settle(conn, [(batch, [])])
    assert claim(conn).taken == 0
    assert tokens_of(take(conn, queue="other")) == tokens


def test_a_job_is_not_claimed_before_it_is_due(conn: Connection) -> None:
    tokens = enqueue(conn, 2)
    waited(conn, -0.001, token=tokens[0])
    assert tokens_of(take(conn)) == [tokens[1]]
    assert claim(conn).taken == 0
    waited(conn, 0, token=tokens[0])
    assert tokens_of(take(conn)) == [tokens[0]]


# Claim: when a batch leaves


def test_a_lone_job_waits_for_others_until_the_batch_timeout(conn: Connection) -> None:
    tokens = enqueue(conn)
    waited(conn, 4.999)
    assert claim(conn, batch_timeout=TIMEOUT).taken == 0
    waited(conn, 5)
    assert tokens_of(take(conn, batch_timeout=TIMEOUT)) == tokens


def test_the_oldest_takes_the_younger_along(conn: Connection) -> None:
    tokens = enqueue(conn, 3)
    waited(conn, 1)
    waited(conn, 5, token=tokens[1])
    assert sorted(tokens_of(take(conn, batch_timeout=TIMEOUT))) == tokens


def test_a_full_batch_leaves_at_once(conn: Connection) -> None:
    tokens = enqueue(conn, 4)
    waited(conn, 0)
    assert claim(conn, batch_timeout=TIMEOUT, batch_limit=5).taken == 0
    assert tokens_of(take(conn, batch_timeout=TIMEOUT, batch_limit=4)) == tokens


def test_an_urgent_job_never_waits(conn: Connection) -> None:
    recovery = enqueue_recovery(conn)
    waited(conn, 0)
    assert tokens_of(take(conn, batch_timeout=TIMEOUT)) == [recovery]


def test_a_job_that_comes_back_does_not_wait_again(conn: Connection) -> None:
    tokens = enqueue(conn)
    settle(conn, take(conn), Deferred("MailboxFull", "try later", charged=True))
    waited(conn, 0)
    assert tokens_of(take(conn, batch_timeout=TIMEOUT)) == tokens


def test_a_claim_may_open_several_batches_each_with_the_jobs_that_come_next(conn: Connection) -> None:
    tokens = enqueue(conn, 25)
    claimed = claim(conn, batch_limit=10, job_limit=23)
    assert [tokens_of(batch) for batch in claimed.batches] == [tokens[:10], tokens[10:20], tokens[20:23]]
    held = rows(conn, "SELECT id, tokens FROM batches ORDER BY id")
    assert [tuple(row) for row in held] == [(batch.id, tokens_of(batch)) for batch in claimed.batches]
    assert misplaced(conn) == []


def test_of_several_batches_one_that_still_fills_stays(conn: Connection) -> None:
    tokens = enqueue(conn, 25)
    waited(conn, 0)
    floors = Floors()
    claimed = claim(conn, batch_limit=10, job_limit=50, batch_timeout=TIMEOUT, floors=floors)
    assert [tokens_of(batch) for batch in claimed.batches] == [tokens[:10], tokens[10:20]]
    assert claim(conn, batch_limit=10, job_limit=50, batch_timeout=TIMEOUT, floors=floors).taken == 0
    waited(conn, 5, token=tokens[24])
    assert sorted(tokens_of(take(conn, batch_limit=10, job_limit=50, batch_timeout=TIMEOUT))) == tokens[20:]


def test_of_recoveries_one_batch_is_claimed_at_a_time(conn: Connection) -> None:
    recoveries = [enqueue_recovery(conn, prefix=f"urgent{number}") for number in range(3)]
    waited(conn, 0)
    assert [tokens_of(take(conn, batch_limit=2, job_limit=8, batch_timeout=TIMEOUT)) for _ in range(2)] == [
        recoveries[:2],
        recoveries[2:],
    ]


def test_of_several_batches_one_of_jobs_that_come_back_does_not_wait(conn: Connection) -> None:
    tokens = enqueue(conn, 3)
    conn.execute(text("UPDATE jobs SET attempt = 1 WHERE token = :last"), {"last": tokens[-1]})
    waited(conn, 0)
    assert [tokens_of(batch) for batch in claim(conn, batch_limit=2, job_limit=8, batch_timeout=TIMEOUT).batches] == [
        tokens[:2],
        tokens[2:],
    ]


def test_of_recoveries_a_claim_locks_no_more_than_it_takes(engine: Engine) -> None:
    """Else another claim would pass over the rest, and its floor with it."""
    with transaction(engine) as busy, engine.connect() as connection:
        recoveries = [enqueue_recovery(connection, prefix=f"urgent{number}") for number in range(6)]
        assert tokens_of(take(busy, batch_limit=2, job_limit=8)) == recoveries[:2]
        assert tokens_of(take(connection, batch_limit=2, job_limit=8)) == recoveries[2:4]


def test_what_is_over_leaves_its_batch_and_no_empty_batch_is_opened(conn: Connection) -> None:
    tokens = enqueue(conn, 6)
    conn.execute(text("UPDATE tokens SET consumed_at = now() WHERE id = ANY(:some)"), {"some": tokens[1:4]})
    claimed = claim(conn, batch_limit=2, job_limit=6)
    assert [tokens_of(batch) for batch in claimed.batches] == [[tokens[0], tokens[4]], tokens[5:]]
    assert [job.token for job in claimed.finished] == tokens[1:4]
    assert misplaced(conn) == []


def test_a_batch_that_still_fills_does_not_keep_a_full_one_of_less_priority(conn: Connection) -> None:
    bulk = enqueue(conn, 51, prefix="bulk")
    enqueue(conn)
    waited(conn, 0)
    assert tokens_of(take(conn, batch_timeout=TIMEOUT)) == bulk[:50]


# Claim: who is asked not to be mailed


@pytest.mark.parametrize(
    ("change", "outcome", "code"),
    [
        ("DELETE FROM tokens", "cancelled", "TokenGone"),
        ("DELETE FROM accounts", "cancelled", "TokenGone"),
        ("UPDATE tokens SET consumed_at = now()", "cancelled", "TokenConsumed"),
        ("UPDATE accounts SET status = 'suspended'", "cancelled", "AccountStatus"),
    ],
)
@pytest.mark.parametrize("action", Action)
def test_a_mail_that_nobody_wants_any_more_is_not_sent(
    conn: Connection, action: Action, change: str, outcome: str, code: str
) -> None:
    token = enqueue(conn)[0] if action is Action.ACTIVATION else enqueue_recovery(conn)
    conn.execute(text(change))

    claimed = claim(conn)

    assert not claimed.batches
    assert [(job.token, job.action, job.outcome, job.error_code) for job in claimed.finished] == [
        (token, action, outcome, code)
    ]
    [row] = rows(conn, "SELECT token, action, outcome, error_code, late, batch FROM deliveries")
    assert tuple(row) == (token, action, outcome, code, False, None)
    assert (waiting(conn), rows(conn, "SELECT FROM batches"), misplaced(conn)) == ([], [], [])


@pytest.mark.parametrize("status", ["active", "suspended"])
def test_an_activation_is_for_a_provisioned_account(conn: Connection, status: str) -> None:
    enqueue(conn)
    conn.execute(text("UPDATE accounts SET status = CAST(:status AS account_status)"), {"status": status})
    assert [job.error_code for job in claim(conn).finished] == ["AccountStatus"]


@pytest.mark.parametrize("status", ["provisioned", "suspended"])
def test_a_recovery_is_for_an_active_account(conn: Connection, status: str) -> None:
    enqueue_recovery(conn)
    conn.execute(text("UPDATE accounts SET status = CAST(:status AS account_status)"), {"status": status})
    assert [job.error_code for job in claim(conn).finished] == ["AccountStatus"]


def test_a_recovery_that_ran_out_while_it_waited_is_expired(conn: Connection) -> None:
    token = enqueue_recovery(conn)
    conn.execute(text("UPDATE tokens SET expires_at = now()"))
    claimed = claim(conn)
    assert not claimed.batches
    assert [(job.outcome, job.error_code) for job in claimed.finished] == [("expired", "TokenExpired")]
    assert log(conn) == [(token, "expired", 0, False)]
    assert misplaced(conn) == []


def test_those_that_are_over_do_not_keep_the_others(conn: Connection) -> None:
    tokens = enqueue(conn, 4)
    conn.execute(text("UPDATE tokens SET consumed_at = now() WHERE id = :id"), {"id": tokens[1]})
    conn.execute(text("DELETE FROM tokens WHERE id = :id"), {"id": tokens[3]})

    claimed = claim(conn)

    [batch] = claimed.batches
    assert tokens_of(batch) == [tokens[0], tokens[2]]
    assert [job.token for job in claimed.finished] == [tokens[1], tokens[3]]
    assert misplaced(conn) == []


LIFE = timedelta(minutes=15)


@pytest.mark.parametrize(
    ("left", "renewed"),
    [
        (timedelta(minutes=-600), True),
        (timedelta(0), True),
        (LIFE / 2 - timedelta(seconds=1), True),
        (LIFE / 2 + timedelta(seconds=1), False),
    ],
)
def test_a_late_activation_gets_its_life_back(conn: Connection, left: timedelta, renewed: bool) -> None:
    tokens = enqueue(conn)
    conn.execute(text("UPDATE tokens SET expires_at = now() + :left"), {"left": left})
    assert tokens_of(take(conn)) == tokens
    [row] = rows(conn, "SELECT expires_at - now() AS left FROM tokens")
    assert row.left == (LIFE if renewed else left)


def test_a_mail_for_an_address_that_is_no_more_is_not_sent(conn: Connection) -> None:
    """The token proves the address that it was made for: whoever has the new one did not ask for it."""
    enqueue(conn, 2)
    conn.execute(text("UPDATE accounts SET email = 'other@example.com' WHERE email LIKE '%1@%'"))
    conn.execute(text("UPDATE accounts SET email = upper(email) WHERE email LIKE '%2@%'"))  # the same mailbox
    found = claim(conn)
    assert [len(batch.jobs) for batch in found.batches] == [1]
    assert [job.error_code for job in found.finished] == ["AddressChanged"]
    assert misplaced(conn) == []


def test_a_token_of_before_proves_the_address_that_it_is_mailed_to(conn: Connection) -> None:
    [token] = enqueue(conn)
    conn.execute(text("UPDATE tokens SET address_hash = NULL"))
    assert tokens_of(take(conn)) == [token]
    [row] = rows(conn, "SELECT address_hash = token_address_hash(email) AS same FROM tokens, accounts")
    assert row.same


def test_an_activation_older_than_one_that_was_consumed_is_not_sent(conn: Connection) -> None:
    [older] = enqueue(conn)
    newer = "INSERT INTO tokens (action, account, consumed_at) SELECT 'activation', account, now() FROM tokens"
    conn.execute(text(newer))
    conn.execute(text("UPDATE accounts SET status = 'provisioned', activated_at = now()"))
    conn.execute(text("DELETE FROM jobs WHERE token <> :older"), {"older": older})
    found = claim(conn)
    assert (found.batches, [job.error_code for job in found.finished]) == ((), ["Superseded"])


def test_one_older_than_another_that_nobody_consumed_is(conn: Connection) -> None:
    [older] = enqueue(conn)
    conn.execute(text("INSERT INTO tokens (action, account) SELECT 'activation', account FROM tokens"))
    conn.execute(text("UPDATE accounts SET status = 'provisioned', activated_at = now()"))
    waited(conn)
    assert tokens_of(take(conn))[0] == older


def test_a_recovery_is_not_extended(conn: Connection) -> None:
    enqueue_recovery(conn)
    conn.execute(text("UPDATE tokens SET expires_at = now() + interval '1 second'"))
    take(conn)
    [row] = rows(conn, "SELECT expires_at - now() AS left FROM tokens")
    assert row.left == timedelta(seconds=1)


def test_a_late_activation_whose_token_somebody_has_locked_waits_and_is_never_mailed_dead(engine: Engine) -> None:
    with transaction(engine) as setup:
        tokens = enqueue(setup, 2)
        setup.execute(text("UPDATE tokens SET expires_at = now()"))
        setup.commit()
    with transaction(engine) as holder, transaction(engine, lock_timeout="1s") as claimer:
        holder.execute(text("SELECT FROM tokens WHERE id = :id FOR UPDATE"), {"id": tokens[0]})
        assert tokens_of(take(claimer)) == [tokens[1]]
        assert waiting(claimer) == [(tokens[0], 0, 1)]
        assert misplaced(claimer) == []
        claimer.commit()
        holder.commit()
        waited(claimer)
        assert tokens_of(take(claimer)) == [tokens[0]]
        assert rows(claimer, "SELECT FROM tokens WHERE expires_at < now()") == []


# Claims at once


def test_a_job_that_somebody_holds_is_passed_over(engine: Engine) -> None:
    with transaction(engine) as holder, transaction(engine, lock_timeout="1s") as claimer:
        tokens = enqueue(holder, 3)
        holder.commit()
        holder.execute(text("SELECT FROM jobs WHERE token = :token FOR UPDATE"), {"token": tokens[0]})
        assert tokens_of(take(claimer)) == tokens[1:]


def test_an_urgent_job_that_somebody_holds_does_not_keep_the_rest(engine: Engine) -> None:
    with transaction(engine) as holder, transaction(engine, lock_timeout="1s") as claimer:
        recovery, tokens = enqueue_recovery(holder), enqueue(holder, 3)
        holder.commit()
        holder.execute(text("SELECT FROM jobs WHERE token = :token FOR UPDATE"), {"token": recovery})
        assert tokens_of(take(claimer)) == tokens


def test_claims_at_the_same_moment_take_different_jobs(engine: Engine) -> None:
    with transaction(engine) as setup:
        tokens = enqueue(setup, 400)
        setup.commit()

    def drain() -> list[list[int]]:
        taken = []
        with engine.connect() as connection:
            while rows(connection, "SELECT token FROM jobs LIMIT 1"):
                if batch := batch_of(claim(connection, batch_limit=7)):
                    taken.append(tokens_of(batch))
        return taken

    with ThreadPoolExecutor(6) as threads:
        drained = [threads.submit(drain) for _ in range(6)]
    batches = [batch for one in drained for batch in one.result()]

    assert sorted(token for batch in batches for token in batch) == tokens
    assert max(len(batch) for batch in batches) <= 7
    with engine.connect() as connection:
        assert misplaced(connection) == []


# Settle


def test_every_job_gets_the_outcome_at_its_position(conn: Connection) -> None:
    tokens = enqueue(conn, 5)
    batch = take(conn)
    owned = settle(
        conn,
        batch,
        Sent("m-0"),
        Rejected("MessageRejected", "no such mailbox"),
        Deferred("MailboxFull", "later", charged=True),
        Deferred("Throttling", "slow down", charged=False),
        Unconfirmed("Timeout", "no answer"),
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
    ]
    assert waiting(conn) == [(tokens[2], 1, 2), (tokens[3], 0, 10), (tokens[4], 1, 5)]
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


# The fence


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
    with transaction(engine) as worker, transaction(engine, lock_timeout="1s") as rescuer:
        [token] = enqueue(worker)
        batch = take(worker)
        run_out(worker)
        worker.commit()
        assert settle(worker, batch, Sent("m-0"))
        assert queue.rescue(rescuer) == []
        worker.commit()
        assert queue.rescue(rescuer) == []
        assert log(rescuer) == [(token, "sent", 0, False)]


# Rescue


def test_a_rescued_job_may_be_out_is_charged_and_waits_out_the_grace(conn: Connection) -> None:
    tokens = enqueue(conn, 2)
    batch = take(conn)
    run_out(conn)

    rescued = queue.rescue(conn)

    assert [(one.batch, one.worker, one.action, one.token, one.attempt, one.failed) for one in rescued] == [
        (batch.id, "test", Action.ACTIVATION, token, 0, False) for token in tokens
    ]
    assert log(conn) == [(token, "unconfirmed", 0, False) for token in tokens]
    assert waiting(conn) == [(token, 1, GRACE.total_seconds()) for token in tokens]
    [row] = rows(conn, "SELECT DISTINCT batch, error_code, account IS NULL AS nobody FROM deliveries")
    assert tuple(row) == (batch.id, "LeaseExpired", False)
    assert (rows(conn, "SELECT FROM batches"), misplaced(conn)) == ([], [])


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
    with transaction(engine) as first, transaction(engine, lock_timeout="1s") as second:
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


# Look

a_job = st.tuples(
    st.sampled_from(Priority),
    st.sampled_from(Action),
    st.integers(-8, 8),  # due so many seconds from now
    st.sampled_from([0, 0, 1]),
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(a_job, max_size=7), st.integers(1, 4), st.integers(0, 5))
def test_a_look_foretells_what_a_claim_does(
    conn: Connection, jobs: list[tuple[Priority, Action, int, int]], limit: int, timeout_seconds: int
) -> None:
    timeout = timedelta(seconds=timeout_seconds)
    with conn.begin_nested() as savepoint:
        for token, (priority, action, seconds, attempt) in enumerate(jobs, start=1):
            conn.execute(
                text(
                    "INSERT INTO jobs (token, due_at, action, priority, attempt, queue) VALUES"
                    " (:token, now() + make_interval(secs => :s), CAST(:a AS token_action), :p, :attempt, 'mailroom')"
                ),
                {"token": token, "s": seconds, "a": action.value, "p": priority.value, "attempt": attempt},
            )
        seen = look(conn, batch_limit=limit, batch_timeout=timeout)
        assert (seen.ready > 0) == would_claim(conn, limit=limit, timeout=timeout)
        assert seen.ready == sum(would_claim(conn, limit=limit, timeout=timeout, lane=lane) for lane in LANES)
        if seen.ready == 0 and jobs:
            assert seen.next is not None
            assert not would_claim(conn, limit=limit, timeout=timeout, later=seen.next - timedelta(microseconds=1))
            assert would_claim(conn, limit=limit, timeout=timeout, later=seen.next)
        savepoint.rollback()


def would_claim(
    connection: Connection,
    *,
    limit: int,
    timeout: timedelta,
    later: timedelta = NOTHING,
    lane: tuple[Priority, Action] | None = None,
) -> bool:
    """Tell whether a claim would take anything that much later, if only this lane's jobs were there."""
    with connection.begin_nested() as savepoint:
        connection.execute(text("UPDATE jobs SET due_at = due_at - :later"), {"later": later})
        if lane is not None:
            connection.execute(
                text("DELETE FROM jobs WHERE NOT (priority = :p AND action = CAST(:a AS token_action))"),
                {"p": lane[0].value, "a": lane[1].value},
            )
        taken = claim(connection, batch_limit=limit, batch_timeout=timeout).taken > 0
        savepoint.rollback()
    return taken


def test_a_job_that_is_put_off_for_ever_does_not_blind_a_look(conn: Connection) -> None:
    enqueue(conn)
    conn.execute(text("UPDATE jobs SET due_at = 'infinity'"))
    assert look(conn) == View(ready=0, next=None, rescuable=False, probeable=False)
    enqueue_recovery(conn)
    conn.execute(text("UPDATE jobs SET due_at = 'infinity' WHERE action = 'activation'"))
    assert look(conn).ready == 1
