"""Who may close a batch, and what a late answer proves, also where ids come again after a failover."""

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from sqlalchemy import Connection, Engine, text

from mailroom import queue
from mailroom.job import Batch
from mailroom.outcome import Sent, Unconfirmed
from mailroom.queue import by_hand
from mailroom.queue.late_acceptances import Applied, LateAcceptances, apply
from mailroom.queue.verdict import MAX_ATTEMPTS
from mailroom.simulator import Simulator
from tests.claiming import claim, run_out, settle_alike, take
from tests.running import eventually, transport, working
from tests.telling import SEND, tell_of
from tests.world import add_accounts, drained, misplaced, rows

THROUGH_PGBOUNCER = True
NOTHING = Applied(freed=0, amended=0)


def lose(connection: Connection, *, hold: bool = False) -> None:
    """Let every lease have run out, rescue, and let what came back be due, unless it is held."""
    run_out(connection)
    queue.rescue(connection, resend_after=None if hold else timedelta(0))
    connection.execute(text("UPDATE jobs SET due_at = now() WHERE due_at < 'infinity'"))


def fail_over(connection: Connection, *, losing: tuple[str, ...] = ("accounts", "tokens", "batches")) -> None:
    """Lose what was committed to these tables, and with it that their ids were ever given."""
    for table in (*losing, "jobs", "deliveries"):
        connection.execute(text(f"DELETE FROM {table}"))  # noqa: S608 - the tests' own words
    for table in losing:
        connection.execute(text(f"SELECT setval(pg_get_serial_sequence('{table}', 'id'), 1, false)"))


def log(connection: Connection) -> list[tuple[int | None, str, bool]]:
    return [(row.token, row.outcome, row.late) for row in rows(connection, "SELECT * FROM deliveries ORDER BY id")]


def final(connection: Connection) -> list[tuple[int, str, str | None]]:
    decides = "NOT late AND retried_at IS NULL AND outcome NOT IN ('deferred', 'unconfirmed')"
    found = rows(connection, f"SELECT token, outcome, message_id FROM deliveries WHERE {decides}")  # noqa: S608
    return [tuple(row) for row in found]


def test_a_batch_whose_id_comes_again_is_not_closed_by_the_worker_of_the_first(connection: Connection) -> None:
    add_accounts(connection, 1, prefix="lost")
    first = take(connection)
    fail_over(connection)
    add_accounts(connection, 1, prefix="new")
    second = take(connection)
    assert (first.id, first.jobs[0].token) == (second.id, second.jobs[0].token)

    assert not settle_alike(connection, first, Sent("m-lost"))
    assert misplaced(connection) == []
    assert settle_alike(connection, second, Sent("m-new"))
    assert final(connection) == [(second.jobs[0].token, "sent", "m-new")]


@pytest.mark.parametrize("same_account", [False, True])
def test_a_late_answer_for_a_lost_token_says_nothing_of_another_with_its_id(
    connection: Connection, same_account: bool
) -> None:
    [account] = add_accounts(connection, 1)
    first = take(connection)
    fail_over(connection, losing=("tokens", "batches") if same_account else ("accounts", "tokens", "batches"))
    assert not settle_alike(connection, first, Sent("m-lost"))
    if same_account:
        connection.execute(text("INSERT INTO tokens (action, account) VALUES ('activation', :id)"), {"id": account})
    else:
        add_accounts(connection, 1, prefix="new")
    second = take(connection)
    assert [job.token for job in second.jobs] == [job.token for job in first.jobs]
    assert log(connection) == [(None, "sent", True)]
    assert misplaced(connection) == []


def test_a_late_answer_that_comes_when_the_id_is_taken_says_nothing_either(connection: Connection) -> None:
    add_accounts(connection, 1, prefix="lost")
    first = take(connection)
    fail_over(connection)
    add_accounts(connection, 1, prefix="new")
    assert not settle_alike(connection, first, Sent("m-lost"))
    assert len(take(connection).jobs) == 1


def test_an_acceptance_counts_though_the_claim_was_lost_with_its_attempt(connection: Connection) -> None:
    """The token survives the failover, the claim does not: the job waits as if it had never been tried."""
    add_accounts(connection, 1)
    before = rows(connection, "SELECT * FROM jobs")[0]
    batch = take(connection)
    connection.execute(text("DELETE FROM batches"))
    connection.execute(
        text("INSERT INTO jobs VALUES (:token, :due_at, :action, :priority, :attempt, :queue)"), dict(before._mapping)
    )
    assert not settle_alike(connection, batch, Sent("m-1"))
    found = claim(connection)
    assert (found.batches, [job.error_code for job in found.finished]) == ((), ["AcceptedLate"])
    assert misplaced(connection) == []


def test_only_the_sweep_frees_what_is_held(connection: Connection) -> None:
    add_accounts(connection, 1)
    batch = take(connection)
    lose(connection, hold=True)
    for _ in range(2):
        assert not settle_alike(connection, batch, Sent("m-1"))
    assert claim(connection).taken == 0
    assert apply(connection) == Applied(freed=1, amended=0)
    assert [job.error_code for job in claim(connection).finished] == ["AcceptedLate"]
    assert apply(connection) == NOTHING
    assert final(connection) == [(batch.jobs[0].token, "sent", "m-1")]
    assert misplaced(connection) == []


def fail_at_the_last_attempt(connection: Connection) -> Batch:
    """Let a mail be accepted whose answer comes after its last attempt was given up."""
    add_accounts(connection, 1)
    connection.execute(text("UPDATE jobs SET attempt = :last"), {"last": MAX_ATTEMPTS - 1})
    batch = take(connection)
    lose(connection)
    assert not settle_alike(connection, batch, Sent("m-1"))
    return batch


def test_what_failed_and_was_accepted_was_sent(connection: Connection) -> None:
    token = fail_at_the_last_attempt(connection).jobs[0].token
    assert final(connection) == [(token, "failed", None)]
    assert apply(connection) == Applied(freed=0, amended=1)
    assert final(connection) == [(token, "sent", "m-1")]
    assert apply(connection) == NOTHING
    assert by_hand.retry(connection, [token], queue="mailroom").put_back == []
    assert misplaced(connection) == []


def test_what_had_failed_was_sent_however_long_sqs_kept_what_proves_it(connection: Connection) -> None:
    """Nobody read the queue of events for a while: it keeps them for 14 days, and mails went out."""
    token = fail_at_the_last_attempt(connection).jobs[0].token
    connection.execute(text("UPDATE deliveries SET created_at = created_at - interval '14 days'"))
    assert apply(connection) == Applied(freed=0, amended=1)
    assert final(connection) == [(token, "sent", "m-1")]


def test_two_sweeps_at_once_amend_a_failure_once(engine: Engine, connection: Connection) -> None:
    token = fail_at_the_last_attempt(connection).jobs[0].token
    with (
        engine.connect().execution_options(isolation_level="READ COMMITTED") as first,
        engine.connect() as second,
        ThreadPoolExecutor(1) as thread,
    ):
        assert apply(first).amended == 1
        other = thread.submit(apply, second)
        first.commit()
        assert other.result(timeout=30) == NOTHING
    assert final(connection) == [(token, "sent", "m-1")]
    assert misplaced(connection) == []


def test_a_failure_that_an_operator_has_taken_back_is_left_to_its_new_job(connection: Connection) -> None:
    add_accounts(connection, 1)
    connection.execute(text("UPDATE jobs SET attempt = :last"), {"last": MAX_ATTEMPTS - 1})
    batch = take(connection)
    lose(connection)
    token = batch.jobs[0].token
    assert by_hand.retry(connection, [token], queue="mailroom").put_back == [token]
    assert not settle_alike(connection, batch, Sent("m-1"))
    assert apply(connection) == NOTHING
    assert [job.error_code for job in claim(connection).finished] == ["AcceptedLate"]
    assert misplaced(connection) == []


@pytest.mark.parametrize("told", ["nothing", "an event", "an answer"])
@pytest.mark.parametrize("gone", ["account", "revoked", "consumed"])
def test_what_is_held_ends_when_nobody_could_let_it_be_mailed_any_more(
    connection: Connection, gone: str, told: str
) -> None:
    """Its account was removed, its link revoked or used: nothing is left to decide, and it would be held for ever."""
    account = add_accounts(connection, 1)[0]
    add_accounts(connection, 1, prefix="other")
    batch = take(connection)
    lose(connection, hold=True)
    how = {
        "account": "SELECT remove_account(:account)",
        "revoked": "SELECT revoke_tokens(:account)",
        "consumed": "UPDATE tokens SET consumed_at = now() WHERE account = :account",
    }
    connection.execute(text(how[gone]), {"account": account})
    if told == "an event":
        tell_of(connection, batch, SEND, "m-1")
    elif told == "an answer":
        assert not settle_alike(connection, batch, Sent("m-1"))
    freed = 2 if told == "an answer" else 1
    assert apply(connection) == Applied(freed=freed, amended=0)
    ended = {job.token: job.outcome for job in claim(connection).finished}
    assert ended[batch.jobs[0].token] in {"cancelled", "sent"}
    assert misplaced(connection) == []
    assert apply(connection) == NOTHING


def test_what_nobody_knows_of_late_decides_nothing(connection: Connection) -> None:
    add_accounts(connection, 1)
    batch = take(connection)
    lose(connection, hold=True)
    assert not settle_alike(connection, batch, Unconfirmed("Timeout", "no answer"))
    assert apply(connection) == NOTHING
    assert misplaced(connection) == []


def test_what_is_told_twice_of_tokens_that_are_gone_is_kept_once(connection: Connection) -> None:
    add_accounts(connection, 2)
    batch = take(connection)
    lose(connection)
    connection.execute(text("DELETE FROM accounts"))
    assert not settle_alike(connection, batch, Sent("m-1"))
    assert not settle_alike(connection, batch, Sent("m-1"))
    late = rows(connection, "SELECT token, proof FROM deliveries WHERE late")
    assert [row.token for row in late] == [None, None]
    assert len({bytes(row.proof) for row in late}) == 2


def test_a_mail_bears_the_fence_of_its_batch_and_so_does_the_log(
    engine: Engine, connection: Connection, simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What SES reports of it later names a batch that no other will ever be."""
    with working(engine, transport(simulator, monkeypatch)):
        add_accounts(connection, 3)
        eventually(lambda: drained(connection), "all is sent")
    logged = {(str(row.token), str(row.fence)) for row in rows(connection, "SELECT token, fence FROM deliveries")}
    assert {(mail.tags["mailroom_token"], mail.tags["mailroom_batch"]) for mail in simulator.ledger.mails} == logged


def test_an_acceptance_says_nothing_of_a_later_token_with_its_id(connection: Connection) -> None:
    """Somebody has put the sequence back: the log of the token that is gone stays, and names another now."""
    add_accounts(connection, 1, prefix="gone")
    batch = take(connection)
    lose(connection)
    assert not settle_alike(connection, batch, Sent("m-gone"))
    connection.execute(text("DELETE FROM accounts"))
    connection.execute(text("SELECT setval(pg_get_serial_sequence('tokens', 'id'), 1, false)"))
    add_accounts(connection, 1, prefix="new")
    [job] = take(connection).jobs
    assert job.token == batch.jobs[0].token


def test_who_holds_a_job_keeps_no_other_from_being_believed(engine: Engine, connection: Connection) -> None:
    add_accounts(connection, 3)
    batch = take(connection)
    lose(connection, hold=True)
    assert not settle_alike(connection, batch, Sent("m"))
    with engine.connect().execution_options(isolation_level="READ COMMITTED") as holder:
        holder.execute(text("SELECT FROM jobs WHERE token = :token FOR UPDATE"), {"token": batch.jobs[0].token})
        assert apply(connection, most=1) == Applied(freed=2, amended=0)
        assert apply(connection) == NOTHING
        holder.rollback()
    assert apply(connection) == Applied(freed=1, amended=0)


def test_each_step_looks_at_some_of_what_is_held_however_much_that_is(connection: Connection) -> None:
    add_accounts(connection, 10)
    batch = take(connection)
    lose(connection, hold=True)
    assert not settle_alike(connection, batch, Sent("m"))
    every = LateAcceptances()
    freed = []
    while not every.has_ended:
        freed.append(every.step(connection, most=4).freed)
    assert freed == [4, 4, 2]
    assert every.step(connection, most=4) == NOTHING
    assert every.has_ended  # it began anew, and nothing is held


def test_each_step_looks_at_some_failures_and_at_all_of_one_moment(connection: Connection) -> None:
    add_accounts(connection, 10)
    batch = take(connection)
    lose(connection)
    settle_alike(connection, batch, Sent("m"))
    connection.execute(text("DELETE FROM jobs"))
    connection.execute(
        text(
            "INSERT INTO deliveries (token, account, action, outcome, attempt, created_at)"
            " SELECT id, account, action, 'failed', 5, now() - make_interval(mins => CAST(id % 10 / 5 AS integer))"
            "   FROM tokens"
        )
    )
    every = LateAcceptances()
    amended = []
    while not every.has_ended:
        amended.append(every.step(connection, most=2).amended)
    assert amended == [2, 2, 0]
    assert apply(connection) == Applied(freed=0, amended=6)


def test_each_step_looks_at_all_failures_of_one_moment_though_most_of_them_tell_nothing(connection: Connection) -> None:
    add_accounts(connection, 5)
    batch = take(connection)
    lose(connection)
    settle_alike(connection, batch, Sent("m"))
    newest = batch.jobs[-1].token
    connection.execute(text("DELETE FROM deliveries WHERE token <> :newest"), {"newest": newest})
    connection.execute(text("DELETE FROM jobs"))
    connection.execute(
        text(
            "INSERT INTO deliveries (token, account, action, outcome, attempt, created_at)"
            " SELECT id, account, action, 'failed', 5, now() FROM tokens ORDER BY id"
        )
    )
    every, amended = LateAcceptances(), 0
    while not every.has_ended:
        amended += every.step(connection, most=2).amended
    assert amended == 1
