"""Tokens that nothing would ever mail are found."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import DBAPIError, IntegrityError

from mailroom.db import functions
from mailroom.ops import maintenance
from mailroom.ops.maintenance import Reconciled
from mailroom.outcome import Deferred, Outcome, Rejected, Sent, Unconfirmed
from tests.claiming import claim, settle_alike, take
from tests.ops.aging import age, lose_jobs
from tests.running import eventually
from tests.world import add_accounts, ask_recovery, count, misplaced, rows, transaction, until_somebody_waits

THROUGH_PGBOUNCER = True


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
    with pytest.raises(IntegrityError, match="expires_at"):  # what triggers fill in, it brings with it
        ask_recovery(connection, account)
    replicated = (
        "INSERT INTO tokens (action, account, expires_at, address_hash)"
        " SELECT 'password_recovery', id, now() + interval '1 hour', token_address_hash(email) FROM accounts"
        " RETURNING id"
    )
    [(token,)] = rows(connection, replicated)
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


@pytest.mark.parametrize(
    "refusing",
    [
        "ALTER TABLE jobs ADD CHECK (token <> {token}) NOT VALID",
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'not this one'; END $$;"
        " CREATE CONSTRAINT TRIGGER refuse AFTER INSERT ON jobs DEFERRABLE INITIALLY DEFERRED"
        " FOR EACH ROW WHEN (NEW.token = {token}) EXECUTE FUNCTION refuse()",
    ],
    ids=["check", "commit"],
)
def test_one_that_may_not_be_enqueued_holds_up_no_others(engine: Engine, connection: Connection, refusing: str) -> None:
    lost = lose_jobs(connection, "activation", count=60)
    connection.execute(text(refusing.format(token=lost[7])))
    others = tuple(token for token in lost if token != lost[7])
    assert maintenance.reconcile(engine, queue="mailroom") == Reconciled(others, None)
    assert rows(connection, "SELECT DISTINCT priority FROM jobs") == [(2,)]
    assert misplaced(connection) == [(lost[7], 0)]
    assert maintenance.reconcile(engine, queue="mailroom") == Reconciled((), None)


# Refuses all but one in fifty, and counts in a sequence, which no rollback takes back, how often somebody inserts.
MOST_ARE_REFUSED = """
CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'not this one'; END $$;
CREATE TRIGGER refuse BEFORE INSERT ON jobs FOR EACH ROW WHEN (NEW.token % 50 <> 0) EXECUTE FUNCTION refuse();
CREATE SEQUENCE tried;
CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM nextval('tried'); RETURN NULL; END $$;
CREATE TRIGGER note BEFORE INSERT ON jobs FOR EACH STATEMENT EXECUTE FUNCTION note();
"""
MAX_TRIES = 256


def tried(connection: Connection) -> int:
    return int(rows(connection, "SELECT CASE WHEN is_called THEN last_value ELSE 0 END AS n FROM tried")[0].n)


def test_where_most_may_not_be_enqueued_each_look_tries_some_and_whoever_goes_on_comes_to_all(
    engine: Engine, connection: Connection
) -> None:
    """Each try is a subtransaction, and all that one statement makes are in the way of others."""
    good = [token for token in lose_jobs(connection, "activation", count=700) if token % 50 == 0]
    connection.execute(text(MOST_ARE_REFUSED))
    found: list[int] = []
    below, looks = None, 0
    while looks == 0 or below is not None:
        before = tried(connection)
        step = maintenance.reconcile(engine, queue="mailroom", below=below)
        assert tried(connection) - before <= MAX_TRIES
        found, below, looks = [*found, *step.enqueued], step.below, looks + 1
        assert looks < 10
    assert sorted(found) == good
    assert [row.token for row in rows(connection, "SELECT token FROM jobs ORDER BY token")] == good


def test_who_looks_at_the_newest_alone_begins_with_others_each_time(engine: Engine, connection: Connection) -> None:
    """As a sweep from cron does, where there is no worker."""
    good = [token for token in lose_jobs(connection, "activation", count=700) if token % 50 == 0]
    connection.execute(text(MOST_ARE_REFUSED))
    found: list[int] = []
    for _ in range(80):
        found += maintenance.reconcile_newest(engine, queue="mailroom").enqueued
        if len(found) == len(good):
            break
    assert sorted(found) == good


def test_who_enqueues_nothing_at_all_waits_for_who_has_the_table(engine: Engine, connection: Connection) -> None:
    """What each would meet is tried once, and not for each."""
    lose_jobs(connection, "activation", count=40)
    with transaction(engine) as holder:
        holder.execute(text("LOCK TABLE jobs IN SHARE MODE"))
        with pytest.raises(DBAPIError, match="lock timeout"):
            maintenance.reconcile(engine, queue="mailroom")
    assert len(maintenance.reconcile(engine, queue="mailroom").enqueued) == 40


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
    """The second one waits before it looks: its snapshot has what became of the job that the first one made."""
    lost = lose_jobs(connection, "activation", count=2)
    second: list[Reconciled] = []
    thread = threading.Thread(target=lambda: second.append(maintenance.reconcile(engine, queue="mailroom")))
    with engine.connect().execution_options(isolation_level="READ COMMITTED") as first, first.begin():
        first.execute(text("LOCK TABLE locks IN SHARE UPDATE EXCLUSIVE MODE"))
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


@pytest.mark.parametrize("level", ["REPEATABLE READ", "SERIALIZABLE"])
def test_where_its_second_statement_would_see_what_was_before_the_lock_it_refuses(engine: Engine, level: str) -> None:
    given = {"queue": "mailroom", "below": None, "horizon": None, "scan_limit": 10}
    with (
        engine.connect().execution_options(isolation_level=level) as caller,
        pytest.raises(DBAPIError, match="needs READ COMMITTED"),
    ):
        functions.call(caller, "reconcile", given)


def test_a_job_that_somebody_makes_by_hand_at_that_moment_is_in_nobodys_way(
    engine: Engine, connection: Connection
) -> None:
    [lost] = lose_jobs(connection, "activation")
    made = (
        "INSERT INTO jobs (token, due_at, action, priority, queue) VALUES (:lost, now(), 'activation', 1, 'mailroom')"
    )
    with transaction(engine) as somebody, ThreadPoolExecutor(1) as thread:
        somebody.execute(text(made), {"lost": lost})
        found = thread.submit(maintenance.reconcile, engine, queue="mailroom")
        until_somebody_waits(engine)
        somebody.commit()
        assert found.result(timeout=60) == Reconciled((), None)
    assert misplaced(connection) == []
