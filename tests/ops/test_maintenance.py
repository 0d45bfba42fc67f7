"""Tokens that nothing would ever mail are found, and what has long been over is forgotten without mailing it again."""

import logging
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import DBAPIError

from mailroom.ops import maintenance
from mailroom.ops.maintenance import Maintenance, Reconciled
from mailroom.outcome import Deferred, Outcome, Rejected, Sent, Unconfirmed
from mailroom.queue import by_hand
from mailroom.simulator import Simulator
from tests.claiming import claim, settle_alike, take
from tests.running import Processes, eventually
from tests.world import add_accounts, ask_recovery, count, misplaced, rows

THROUGH_PGBOUNCER = True
AGED = timedelta(days=90)


def lose_jobs(connection: Connection, what: str, *, count: int = 1) -> list[int]:
    """Insert with the trigger that would make the jobs disabled; return the tokens."""
    before = rows(connection, "SELECT coalesce(max(id), 0) AS id FROM tokens")[0].id
    connection.execute(text("ALTER TABLE tokens DISABLE TRIGGER enqueue_jobs"))
    if what == "activation":
        add_accounts(connection, count, prefix=f"lost{before}n")
    else:
        ask_recovery(connection, add_accounts(connection, 1, status="active", prefix=f"lost{before}n")[0])
    connection.execute(text("ALTER TABLE tokens ENABLE TRIGGER enqueue_jobs"))
    return [row.id for row in rows(connection, "SELECT id FROM tokens WHERE id > :before ORDER BY id", before=before)]


def age(connection: Connection, days: int) -> None:
    """Let everything there is have happened so many days ago."""
    ago = {"ago": timedelta(days=days)}
    connection.execute(text("UPDATE deliveries SET created_at = created_at - :ago"), ago)
    connection.execute(
        text(
            "UPDATE tokens SET created_at = created_at - :ago, expires_at = expires_at - :ago,"
            " consumed_at = consumed_at - :ago"
        ),
        ago,
    )


def mail(connection: Connection, accounts: int, prefix: str = "user") -> list[int]:
    """Have so many activations sent; return the tokens."""
    add_accounts(connection, accounts, prefix=prefix)
    batch = take(connection)
    assert settle_alike(connection, batch, Sent("m"))
    return [job.token for job in batch.jobs]


# Reconcile


@pytest.mark.parametrize(("what", "priority"), [("activation", 1), ("password_recovery", 0)])
def test_a_token_without_a_job_gets_one(engine: Engine, connection: Connection, what: str, priority: int) -> None:
    [lost] = lose_jobs(connection, what)
    assert misplaced(connection) == [(lost, 0)]
    assert maintenance.reconcile(engine, queue="mailroom") == Reconciled((lost,), None)
    [job] = rows(connection, "SELECT token, action, priority, attempt, queue FROM jobs")
    assert job == (lost, what, priority, 0, "mailroom")
    assert misplaced(connection) == []
    assert [job.token for job in take(connection).jobs] == [lost]


def test_many_of_them_are_bulk(engine: Engine, connection: Connection) -> None:
    lose_jobs(connection, "activation", count=51)
    assert len(maintenance.reconcile(engine, queue="mailroom").enqueued) == 51
    assert rows(connection, "SELECT DISTINCT priority FROM jobs") == [(2,)]


def test_whoever_finds_them_takes_them_to_its_own_queue(engine: Engine, connection: Connection) -> None:
    lose_jobs(connection, "activation")
    maintenance.reconcile(engine, queue="news")
    assert rows(connection, "SELECT queue FROM jobs") == [("news",)]


def test_a_session_that_replicates_loses_nothing_for_good(engine: Engine, connection: Connection) -> None:
    [account] = add_accounts(connection, 1, status="active")
    connection.execute(text("SET session_replication_role = replica"))
    token = ask_recovery(connection, account)
    connection.execute(text("RESET session_replication_role"))
    assert maintenance.reconcile(engine, queue="mailroom").enqueued == (token,)


OUTCOMES: list[tuple[Outcome, bool]] = [
    (Sent("m"), False),
    (Rejected("MessageRejected", "no"), False),
    (Deferred("Throttling", "wait", charged=False), False),
    (Deferred("MAILBOX", "wait", charged=True), True),
    (Unconfirmed("ReadTimeoutError", "?"), False),
    (Unconfirmed("ReadTimeoutError", "?"), True),
]


@pytest.mark.parametrize(("outcome", "last"), OUTCOMES)
def test_a_token_with_a_place_is_left_alone(
    engine: Engine, connection: Connection, outcome: Outcome, last: bool
) -> None:
    nothing = Reconciled((), None)
    add_accounts(connection, 2)
    assert maintenance.reconcile(engine, queue="mailroom") == nothing  # waiting
    batch = take(connection)
    assert maintenance.reconcile(engine, queue="mailroom") == nothing  # in flight
    settle_alike(connection, batch, outcome, last=last)
    assert maintenance.reconcile(engine, queue="mailroom") == nothing  # over, or waiting again
    assert misplaced(connection) == []


def test_a_late_answer_is_no_place(engine: Engine, connection: Connection) -> None:
    """A job that vanished behind a late acceptance is found, and the claim closes it without sending it again."""
    add_accounts(connection, 1)
    batch = take(connection)
    connection.execute(text("DELETE FROM batches"))
    assert not settle_alike(connection, batch, Sent("m"))
    assert maintenance.reconcile(engine, queue="mailroom").enqueued == (batch.jobs[0].token,)
    [job] = claim(connection).finished
    assert (job.outcome, job.error_code) == ("sent", "AcceptedLate")


def test_a_consumed_token_needs_no_mail(engine: Engine, connection: Connection) -> None:
    [lost] = lose_jobs(connection, "activation")
    connection.execute(text("UPDATE tokens SET consumed_at = now()"))
    assert maintenance.reconcile(engine, queue="mailroom").enqueued == ()
    assert lost


def test_a_recovery_that_ran_out_is_put_on_record_and_not_mailed(engine: Engine, connection: Connection) -> None:
    lose_jobs(connection, "password_recovery")
    connection.execute(text("UPDATE tokens SET expires_at = now() WHERE action = 'password_recovery'"))
    maintenance.reconcile(engine, queue="mailroom")
    claimed = claim(connection)
    assert (claimed.batches, [job.outcome for job in claimed.finished]) == ((), ["expired"])
    assert misplaced(connection) == []


def test_what_is_older_than_the_horizon_is_left_to_a_person(engine: Engine, connection: Connection) -> None:
    lost = lose_jobs(connection, "activation", count=3)
    age(connection, 8)
    assert maintenance.reconcile(engine, queue="mailroom").enqueued == ()
    assert [found.enqueued for found in maintenance.reconcile_all(engine, queue="mailroom")] == [tuple(lost)]


def test_it_goes_on_from_where_it_ended(engine: Engine, connection: Connection) -> None:
    lost = lose_jobs(connection, "activation", count=25)
    found: list[int] = []
    below = None
    for _ in range(3):
        step = maintenance.reconcile(engine, queue="mailroom", below=below, scan_limit=10)
        assert len(step.enqueued) <= 10
        found, below = [*step.enqueued, *found], step.below
    assert (found, below) == (lost, None)


def test_two_at_once_enqueue_a_token_once_though_the_first_was_sent_meanwhile(
    engine: Engine, connection: Connection
) -> None:
    """The second one waits before it scan_limit: its snapshot has what became of the job that the first one made."""
    lost = lose_jobs(connection, "activation", count=2)
    second: list[Reconciled] = []
    thread = threading.Thread(target=lambda: second.append(maintenance.reconcile(engine, queue="mailroom")))
    with engine.connect().execution_options(isolation_level="READ COMMITTED") as first, first.begin():
        first.execute(maintenance.LOCK)
        thread.start()
        eventually(lambda: count(connection, "pg_locks WHERE NOT granted"), "it waits")
        connection.execute(
            text("INSERT INTO jobs SELECT id, clock_timestamp(), action, 1, 0, 'mailroom' FROM tokens ORDER BY id")
        )
        assert settle_alike(connection, take(connection), Sent("m"))
    thread.join()
    assert second == [Reconciled((), None)]
    assert rows(connection, "SELECT token, outcome FROM deliveries") == [(token, "sent") for token in lost]
    assert misplaced(connection) == []


# Prune


def prune(engine: Engine, older_than: timedelta = AGED) -> tuple[int, int]:
    steps = list(maintenance.prune_all(engine, older_than=older_than))
    return sum(step.deliveries for step in steps), sum(step.tokens for step in steps)


def everything(connection: Connection) -> tuple[int, int, int]:
    return count(connection, "tokens"), count(connection, "jobs"), count(connection, "deliveries")


def test_what_has_long_been_over_is_forgotten_and_never_mailed_again(engine: Engine, connection: Connection) -> None:
    mail(connection, 20)
    age(connection, 91)
    kept = mail(connection, 5, prefix="new")
    assert prune(engine) == (20, 20)
    assert [row.id for row in rows(connection, "SELECT id FROM tokens ORDER BY id")] == kept
    assert misplaced(connection) == []
    assert list(maintenance.reconcile_all(engine, queue="mailroom")) == [Reconciled((), None)]
    assert claim(connection).taken == 0
    assert count(connection, "accounts") == 25


def test_a_token_that_cannot_be_deleted_keeps_its_history_and_is_not_mailed_again(
    engine: Engine, connection: Connection
) -> None:
    """A trigger of somebody else's keeps rows from being deleted, without an error."""
    mail(connection, 2)
    age(connection, 100)
    connection.execute(text("CREATE FUNCTION kept() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'"))
    connection.execute(text("CREATE TRIGGER kept BEFORE DELETE ON tokens FOR EACH ROW EXECUTE FUNCTION kept()"))
    assert prune(engine) == (0, 0)
    assert list(maintenance.reconcile_all(engine, queue="mailroom")) == [Reconciled((), None)]


def test_whoever_holds_the_lock_of_reconcile_keeps_it_no_longer_than_a_moment(
    engine: Engine, connection: Connection
) -> None:
    with engine.connect().execution_options(isolation_level="READ COMMITTED") as other, other.begin():
        other.execute(maintenance.LOCK)
        with pytest.raises(DBAPIError, match="lock timeout"):
            maintenance.reconcile(engine, queue="mailroom")
    assert maintenance.reconcile(engine, queue="mailroom").enqueued == ()


def test_history_is_kept_to_the_day(engine: Engine, connection: Connection) -> None:
    mail(connection, 1)
    age(connection, 89)
    assert prune(engine) == (0, 0)
    assert prune(engine, timedelta(days=88)) == (1, 1)


def test_a_token_that_still_waits_keeps_its_history(engine: Engine, connection: Connection) -> None:
    add_accounts(connection, 1)
    settle_alike(connection, take(connection), Unconfirmed("ReadTimeoutError", "?"))
    age(connection, 91)
    assert prune(engine) == (0, 0)
    connection.execute(text("UPDATE jobs SET due_at = now()"))
    batch = take(connection)
    assert prune(engine) == (0, 0)  # in flight, and just as good
    settle_alike(connection, batch, Sent("m"))
    connection.execute(text("UPDATE tokens SET expires_at = now() - interval '91 days'"))
    assert prune(engine) == (0, 0)  # its newest delivery is new
    age(connection, 91)
    assert prune(engine) == (2, 1)


def test_a_token_that_still_works_stays(engine: Engine, connection: Connection) -> None:
    mail(connection, 2)
    age(connection, 91)
    connection.execute(text("UPDATE tokens SET expires_at = now() + interval '1 day' WHERE id = 1"))
    connection.execute(text("UPDATE tokens SET consumed_at = now() WHERE id = 2"))
    assert prune(engine) == (0, 0)
    assert misplaced(connection) == []


def test_a_token_in_no_place_is_not_forgotten(engine: Engine, connection: Connection) -> None:
    """Its job was lost after an attempt. Nobody has mailed it, and a full reconcile still finds it."""
    add_accounts(connection, 1)
    settle_alike(connection, take(connection), Deferred("MAILBOX", "wait", charged=True))
    connection.execute(text("DELETE FROM jobs"))
    age(connection, 91)
    assert prune(engine) == (0, 0)
    [found] = maintenance.reconcile_all(engine, queue="mailroom")
    assert found.enqueued == (1,)


def test_what_remains_of_deleted_accounts_goes_too(engine: Engine, connection: Connection) -> None:
    mail(connection, 3)
    connection.execute(text("DELETE FROM accounts"))
    add_accounts(connection, 1, prefix="gone")
    settle_alike(connection, take(connection), Deferred("MAILBOX", "wait", charged=True))
    connection.execute(text("DELETE FROM accounts"))
    age(connection, 91)
    assert prune(engine) == (3, 0)
    assert everything(connection) == (0, 1, 1)  # one still waits for the claim to say that its token is gone


def test_a_token_that_somebody_uses_is_skipped_and_nobody_waits(engine: Engine, connection: Connection) -> None:
    mail(connection, 2)
    age(connection, 91)
    with engine.connect().execution_options(isolation_level="READ COMMITTED") as busy, busy.begin():
        busy.execute(text("SELECT FROM tokens WHERE id = 1 FOR UPDATE"))
        assert prune(engine) == (1, 1)
        assert misplaced(connection) == []
    assert prune(engine) == (1, 1)


def test_a_token_that_an_operator_puts_back_at_this_moment_stays(engine: Engine, connection: Connection) -> None:
    add_accounts(connection, 2)
    settle_alike(connection, take(connection), Rejected("MessageRejected", "no"))
    age(connection, 91)
    with engine.connect().execution_options(isolation_level="READ COMMITTED") as operator, operator.begin():
        assert by_hand.retry(operator, [1], queue="mailroom").put_back == [1]
        assert prune(engine) == (1, 1)
    assert prune(engine) == (0, 0)
    assert [row.id for row in rows(connection, "SELECT id FROM tokens")] == [1]
    assert misplaced(connection) == []


def test_what_was_logged_under_no_token_goes_by_its_age(engine: Engine, connection: Connection) -> None:
    log = "INSERT INTO deliveries (action, outcome, attempt, late) VALUES ('activation', 'sent', 0, true)"
    connection.execute(text(log))
    age(connection, 91)
    connection.execute(text(log))
    assert prune(engine) == (1, 0)


def test_a_token_that_came_back_to_life_while_a_prune_looked_stays(engine: Engine, connection: Connection) -> None:
    """What the prune saw is not what it deletes: the row is asked again once it is locked."""
    mail(connection, 2)
    age(connection, 91)
    held_up = (
        "CREATE FUNCTION held_up() RETURNS SETOF away LANGUAGE plpgsql AS"
        " 'BEGIN PERFORM pg_advisory_xact_lock(7); RETURN QUERY SELECT * FROM away; END'"
    )
    for sql in ("ALTER TABLE batches RENAME TO away", held_up, "CREATE VIEW batches AS SELECT * FROM held_up()"):
        connection.execute(text(sql))
    with engine.connect().execution_options(isolation_level="READ COMMITTED") as holder, ThreadPoolExecutor(1) as pool:
        holder.execute(text("SELECT pg_advisory_xact_lock(7)"))
        pruned = pool.submit(prune, engine)
        eventually(lambda: count(connection, "pg_locks WHERE locktype = 'advisory' AND NOT granted"), "it scan_limit")
        connection.execute(text("UPDATE tokens SET expires_at = now() + interval '1 day' WHERE id = 1"))
        holder.rollback()
        assert pruned.result() == (1, 1)
    assert [row.id for row in rows(connection, "SELECT id FROM tokens")] == [1]


def test_it_deletes_a_bounded_number_at_a_time_until_nothing_old_is_left(
    engine: Engine, connection: Connection
) -> None:
    mail(connection, 25)
    age(connection, 91)
    mail(connection, 30, prefix="new")
    deleted: list[int] = []
    after: int | None = 0
    while after is not None:
        step = maintenance.prune(connection, older_than=AGED, after=after, scan_limit=10)
        deleted.append(step.deliveries)
        after = step.after
    assert deleted == [10, 10, 5, 0]
    assert misplaced(connection) == []


def test_prunes_beside_each_other_and_beside_a_reconcile_neither_fail_nor_mail(
    engine: Engine, connection: Connection
) -> None:
    for number in range(8):
        mail(connection, 50, prefix=f"u{number}n")
    age(connection, 91)
    failures: list[BaseException] = []

    def repeat(act: str) -> None:
        try:
            for _ in range(5):
                if act == "prune":
                    list(maintenance.prune_all(engine, older_than=AGED))
                else:
                    found = [step.enqueued for step in maintenance.reconcile_all(engine, queue="mailroom")]
                    assert found == [()]
        except BaseException as error:
            failures.append(error)
            raise

    threads = [threading.Thread(target=repeat, args=(act,)) for act in ("prune", "prune", "prune", "reconcile")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert everything(connection) == (0, 0, 0)


# What a worker does of it


def test_a_worker_finds_lost_tokens_each_minute_and_further_back_each_time(
    engine: Engine, connection: Connection
) -> None:
    lose_jobs(connection, "activation", count=45)
    work = Maintenance(engine, queue="mailroom", prune_after=None, scan_limit=10)
    found = []
    for now in (0.0, 59.9, 60.0, 120.0, 180.0):
        work.step(now)
        found.append(count(connection, "jobs"))
    assert found == [20, 20, 30, 40, 45]
    lose_jobs(connection, "activation")
    work.step(240.0)
    assert (count(connection, "jobs"), misplaced(connection)) == (46, [])


def test_a_worker_prunes_only_if_told_to(engine: Engine, connection: Connection) -> None:
    mail(connection, 3)
    age(connection, 91)
    Maintenance(engine, queue="mailroom", prune_after=None).step(0)
    assert count(connection, "deliveries") == 3
    Maintenance(engine, queue="mailroom", prune_after=AGED).step(0)
    assert everything(connection) == (0, 0, 0)


def test_a_worker_prunes_a_backlog_step_by_step_and_then_hourly(engine: Engine, connection: Connection) -> None:
    mail(connection, 25)
    age(connection, 91)
    work = Maintenance(engine, queue="mailroom", prune_after=AGED, scan_limit=10)
    left = []
    for now in (0.0, 1.0, 5.0, 10.0):
        work.step(now)
        left.append(count(connection, "deliveries"))
    assert left == [15, 15, 5, 0]
    mail(connection, 1, prefix="more")
    age(connection, 91)
    work.step(3609.0)
    assert count(connection, "deliveries") == 1
    work.step(3610.0)
    assert count(connection, "deliveries") == 0


def test_what_the_database_refuses_is_said_once_and_stops_nothing_else(
    engine: Engine, connection: Connection, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    mail(connection, 1)
    age(connection, 91)
    connection.execute(text("CREATE TABLE theirs (token bigint REFERENCES tokens)"))
    connection.execute(text("INSERT INTO theirs SELECT id FROM tokens"))
    with pytest.raises(DBAPIError, match="theirs"):
        prune(engine)
    [lost] = lose_jobs(connection, "activation")
    work = Maintenance(engine, queue="mailroom", prune_after=AGED)
    work.step(0)
    work.step(3600)
    assert rows(connection, "SELECT token FROM jobs") == [(lost,)]
    failed, reconciled = caplog.messages[1], caplog.messages[0]
    assert failed.startswith("prune failed, trying again: ")
    assert reconciled == f"reconciled tokens=1 first={lost}"
    assert len([message for message in caplog.messages if "prune failed" in message]) == 1


def test_a_worker_that_runs_mails_what_was_lost_and_forgets_what_is_old(
    url: str, connection: Connection, simulator: Simulator, processes: Processes
) -> None:
    old = mail(connection, 3)
    age(connection, 91)
    [lost] = lose_jobs(connection, "activation")
    processes.worker("--no-listen", url=url, simulator=simulator, MAILROOM_PRUNE_AFTER="90d")
    eventually(lambda: count(connection, "deliveries WHERE outcome = 'sent'") == 1, "the lost one is sent")
    assert [mail.tags["mailroom_token"] for mail in simulator.ledger.mails] == [str(lost)]
    assert rows(connection, "SELECT id FROM tokens") == [(lost,)]
    assert lost not in old
