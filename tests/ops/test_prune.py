"""What has long been over is forgotten, without mailing it again."""

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import DBAPIError

from mailroom.errors import TokenError
from mailroom.ops import maintenance
from mailroom.ops.maintenance import Reconciled
from mailroom.outcome import Deferred, Rejected, Sent, Unconfirmed
from mailroom.queue import by_hand
from tests.claiming import claim, settle_alike, take
from tests.ops.aging import AGED, age, everything, mail, prune
from tests.running import eventually
from tests.tokens.signed import consume, signed
from tests.world import add_accounts, ask_recovery, count, misplaced, rows

THROUGH_PGBOUNCER = True


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


@pytest.mark.slow
@pytest.mark.parametrize("deferred", ["", "DEFERRABLE INITIALLY DEFERRED"])
def test_a_token_that_a_table_of_the_applications_needs_stays_and_the_others_go(
    engine: Engine, connection: Connection, deferred: str
) -> None:
    tokens = mail(connection, 9)
    age(connection, 100)
    connection.execute(text(f"CREATE TABLE invitations (token bigint REFERENCES tokens {deferred})"))
    connection.execute(text("INSERT INTO invitations VALUES (:token)"), {"token": tokens[4]})
    assert prune(engine) == (8, 8)
    assert [row.id for row in rows(connection, "SELECT id FROM tokens")] == [tokens[4]]
    assert misplaced(connection) == []
    with pytest.raises(DBAPIError, match="invitations"):
        prune(engine)


def test_where_most_tokens_are_needed_the_others_go_bit_by_bit(engine: Engine, connection: Connection) -> None:
    mail(connection, 50)
    mail(connection, 50, prefix="more")
    age(connection, 100)
    connection.execute(text("CREATE TABLE invitations (token bigint REFERENCES tokens)"))
    connection.execute(text("INSERT INTO invitations SELECT id FROM tokens WHERE id % 10 <> 0"))
    forgotten: list[int] = []
    with pytest.raises(DBAPIError, match="invitations"):
        forgotten.extend(prune(engine)[1] for _ in range(11))  # each time some, or it fails
    assert 0 < sum(forgotten) <= 10
    assert misplaced(connection) == []


def test_whoever_holds_the_lock_of_reconcile_keeps_it_no_longer_than_a_moment(
    engine: Engine, connection: Connection
) -> None:
    with engine.connect().execution_options(isolation_level="READ COMMITTED") as other, other.begin():
        other.execute(text("LOCK TABLE locks IN SHARE UPDATE EXCLUSIVE MODE"))
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


def test_what_a_consumed_token_has_ended_stays_so(engine: Engine, connection: Connection) -> None:
    """Nothing else says that an older link is dead than the token that was consumed."""
    connection.execute(text("UPDATE actions SET life = '30 days' WHERE name = 'password_recovery'"))
    [account] = add_accounts(connection, 1, status="active")
    older, newer = (signed(connection, recover(connection, account)) for _ in range(2))
    consume(connection, newer)
    age(connection, 10)
    assert prune(engine, timedelta(days=1)) == (0, 0)
    with pytest.raises(TokenError):
        consume(connection, older)
    age(connection, 30)
    assert prune(engine, timedelta(days=1)) == (2, 2)


def test_what_was_consumed_goes_beside_others_that_stay(engine: Engine, connection: Connection) -> None:
    connection.execute(text("UPDATE actions SET life = '30 days' WHERE name = 'password_recovery'"))
    accounts = add_accounts(connection, 2, status="active")
    used, unused = (recover(connection, account) for account in accounts)
    consume(connection, signed(connection, used))
    newer = recover(connection, accounts[0])
    age(connection, 10)
    assert prune(engine, timedelta(days=1)) == (1, 1)
    assert [row.id for row in rows(connection, "SELECT id FROM tokens ORDER BY id")] == [unused, newer]


def recover(connection: Connection, account: int) -> int:
    """Have a recovery mailed; return its token."""
    token = ask_recovery(connection, account)
    assert settle_alike(connection, take(connection), Sent("m"))
    return token


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


def test_what_was_logged_while_the_clock_was_ahead_hides_nothing_old(engine: Engine, connection: Connection) -> None:
    ahead = mail(connection, 20, prefix="ahead")
    connection.execute(text("UPDATE deliveries SET created_at = created_at + interval '1 year'"))
    old = mail(connection, 5)
    aged = "UPDATE deliveries SET created_at = created_at - interval '91 days' WHERE token = ANY (:old)"
    connection.execute(text(aged), {"old": old})
    connection.execute(text("UPDATE tokens SET expires_at = expires_at - interval '91 days'"))
    after: int | None = 0
    while after is not None:
        after = maintenance.prune(connection, older_than=AGED, after=after, scan_limit=10).after
    assert [row.token for row in rows(connection, "SELECT token FROM deliveries ORDER BY token")] == ahead
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
