"""What a claim takes, when a batch leaves, and who wins when two of them meet."""

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

from sqlalchemy import Connection, Engine, text

from mailroom import queue
from mailroom.job import Priority
from mailroom.outcome import Deferred
from mailroom.queue.claim import ClaimedRow
from mailroom.queue.floors import Floors
from mailroom.queue.look import View
from tests.claiming import (
    LEASE,
    batch_of,
    claim,
    enqueue,
    enqueue_recovery,
    look,
    settle,
    take,
    tokens_of,
    waited,
    waiting,
)
from tests.kinds import ACTIVATION
from tests.world import add_accounts, misplaced, rows, transaction

THROUGH_PGBOUNCER = True

TIMEOUT = timedelta(seconds=5)

# Claim: what is taken


def test_a_row_is_read_in_the_order_of_its_columns(connection: Connection) -> None:
    columns = "SELECT unnest(proargnames[pronargs + 1:]) FROM pg_proc WHERE proname = 'claim' AND prokind = 'f'"
    assert tuple(name for (name,) in rows(connection, columns)) == ClaimedRow._fields


def test_a_row_shows_nothing_but_its_token() -> None:
    assert repr(ClaimedRow._make(f"{name}!" for name in ClaimedRow._fields)) == "ClaimedRow(token=token!)"


def test_nothing_waits_nothing_is_claimed(conn: Connection) -> None:
    assert claim(conn).taken == 0
    assert rows(conn, "SELECT FROM batches") == []


def test_a_claim_brings_all_that_a_mail_needs_as_it_is_now(conn: Connection) -> None:
    [account] = add_accounts(conn, 1)
    waited(conn)
    conn.execute(text("UPDATE accounts SET email = 'User1@Example.com', login = 'new, name'"))  # the same mailbox

    [job] = take(conn).jobs

    [token] = rows(conn, "SELECT id, secret, code FROM tokens")
    assert (job.token, job.account, job.action, job.attempt) == (token.id, account, ACTIVATION, 0)
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
        (ACTIVATION, Priority.NORMAL, 2),
        (ACTIVATION, Priority.BULK, 50),
        (ACTIVATION, Priority.BULK, 1),
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


# Claims at once


def test_a_job_that_somebody_holds_is_passed_over(engine: Engine) -> None:
    with transaction(engine) as holder, transaction(engine, lock_timeout="30s") as claimer:
        tokens = enqueue(holder, 3)
        holder.commit()
        holder.execute(text("SELECT FROM jobs WHERE token = :token FOR UPDATE"), {"token": tokens[0]})
        assert tokens_of(take(claimer)) == tokens[1:]


def test_an_urgent_job_that_somebody_holds_does_not_keep_the_rest(engine: Engine) -> None:
    with transaction(engine) as holder, transaction(engine, lock_timeout="30s") as claimer:
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


def test_a_claim_is_kept_in_a_crash_whatever_was_set_since_the_worker_began(conn: Connection) -> None:
    """By a reload of the server's configuration, or by another client of a pooler, who leaves it behind."""
    enqueue(conn)
    conn.execute(text("SET LOCAL synchronous_commit = off"))
    assert rows(conn, "SHOW synchronous_commit") == [("off",)]
    take(conn)
    assert rows(conn, "SHOW synchronous_commit") == [("on",)]
    conn.execute(text("SET LOCAL synchronous_commit = remote_apply"))
    assert not claim(conn).batches
    assert rows(conn, "SHOW synchronous_commit") == [("remote_apply",)]
