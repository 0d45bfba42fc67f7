"""Consuming a token: once, and by its address alone."""

import hashlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import psycopg
import pytest
from sqlalchemy import Connection, Engine, text

from mailroom import tokens
from mailroom.errors import TokenError
from tests.kinds import ACTIVATION
from tests.tokens.signed import OTHER_KEY, activation_of, consume, signed, wait_until_blocked
from tests.world import KEY, add_accounts, ask_recovery, rows

# Consuming


def test_consuming_an_activation_activates_the_account(conn: Connection) -> None:
    [account] = add_accounts(conn, 1)

    assert consume(conn, signed(conn, activation_of(conn, account))) == account

    [row] = rows(conn, "SELECT status, consumed_at IS NOT NULL AS consumed FROM accounts, tokens")
    assert (row.status, row.consumed) == ("active", True)


def test_consuming_a_recovery_returns_its_account(conn: Connection) -> None:
    [account] = add_accounts(conn, 1, status="active")

    assert consume(conn, signed(conn, ask_recovery(conn, account))) == account


@pytest.mark.parametrize("keys", [(KEY, OTHER_KEY), (OTHER_KEY, KEY)])
def test_a_recovery_is_consumed_with_any_of_several_keys(conn: Connection, keys: tuple[bytes, ...]) -> None:
    [account] = add_accounts(conn, 1, status="active")
    token, action, code = signed(conn, ask_recovery(conn, account))

    assert tokens.consume(conn, token, action=action, key=keys, code=code).id == account
    assert rows(conn, "SELECT made FROM guesses") == [(1,)]


def test_a_key_that_is_none_costs_no_guess(conn: Connection) -> None:
    [account] = add_accounts(conn, 1, status="active")
    token, action, code = signed(conn, ask_recovery(conn, account))

    with pytest.raises(ValueError, match="32 bytes"):
        tokens.consume(conn, token, action=action, key=b"", code=code)
    assert rows(conn, "SELECT FROM guesses") == []


def test_an_activation_needs_no_code_and_ignores_a_given_one(conn: Connection) -> None:
    first, second = add_accounts(conn, 2)
    token, action, _ = signed(conn, activation_of(conn, first))
    assert tokens.consume(conn, token, action=action, key=KEY).id == first

    token, action, _ = signed(conn, activation_of(conn, second))
    assert tokens.consume(conn, token, action=action, key=KEY, code="no\x00code").id == second


def forget(connection: Connection, token: int) -> None:
    connection.execute(text("DELETE FROM tokens WHERE id = :token"), {"token": token})


def expire(connection: Connection, token: int) -> None:
    connection.execute(text("UPDATE tokens SET expires_at = clock_timestamp() WHERE id = :token"), {"token": token})


def use(connection: Connection, token: int) -> None:
    consume(connection, signed(connection, token))


def change_code(connection: Connection, token: int) -> None:
    changed = "UPDATE tokens SET code = lpad(((code::int + 1) % 100000)::text, 5, '0') WHERE id = :token"
    connection.execute(text(changed), {"token": token})


def change_action(connection: Connection, token: int) -> None:
    connection.execute(text("UPDATE tokens SET action = 'activation' WHERE id = :token"), {"token": token})


@pytest.mark.parametrize("spoil", [forget, expire, use, change_code, change_action])
def test_a_spoilt_recovery_is_refused_like_a_forged_one(
    conn: Connection, spoil: Callable[[Connection, int], None]
) -> None:
    [account] = add_accounts(conn, 1, status="active")
    token = ask_recovery(conn, account)
    mailed = signed(conn, token)
    with pytest.raises(TokenError) as forged:
        consume(conn, (mailed[0], mailed[1], "x"))

    spoil(conn, token)

    with pytest.raises(TokenError) as error:
        consume(conn, mailed)
    assert (str(error.value), error.value.__cause__) == (str(forged.value), None)


@pytest.mark.parametrize("spoil", [forget, expire, use])
def test_a_spoilt_activation_is_refused(conn: Connection, spoil: Callable[[Connection, int], None]) -> None:
    [account] = add_accounts(conn, 1)
    token = activation_of(conn, account)
    mailed = signed(conn, token)

    spoil(conn, token)

    with pytest.raises(TokenError):
        consume(conn, mailed)


def test_a_refused_token_is_not_used_up(conn: Connection) -> None:
    [account] = add_accounts(conn, 1, status="active")
    token, action, code = signed(conn, ask_recovery(conn, account))

    with pytest.raises(TokenError):
        tokens.consume(conn, token, action=ACTIVATION, key=KEY)
    with pytest.raises(TokenError):
        tokens.consume(conn, token, action=action, key=OTHER_KEY, code=code)

    assert tokens.consume(conn, token, action=action, key=KEY, code=code).id == account


def test_sql_alone_consumes_a_recovery_only_with_its_code(conn: Connection) -> None:
    [account] = add_accounts(conn, 1, status="active")
    ask_recovery(conn, account)
    [(secret, code)] = rows(conn, "SELECT secret, code FROM tokens")
    conn.execute(text("UPDATE accounts SET reference = 'r-1'"))
    call = "SELECT * FROM consume_token(:secret, 'password_recovery', :code)"

    assert rows(conn, "SELECT * FROM consume_token(:secret, 'password_recovery')", secret=secret) == []
    assert rows(conn, call, secret=secret, code=code + "0") == []
    assert rows(conn, call, secret=secret, code=code) == [(account, "r-1", "user1@example.com")]
    assert rows(conn, call, secret=secret, code=code) == []


def test_of_fifty_callers_at_once_one_consumes_the_token(crowd: Engine) -> None:
    with crowd.connect() as connection:
        [account] = add_accounts(connection, 1)
        mailed = signed(connection, activation_of(connection, account))
    everybody = Barrier(50)

    def call(_: int) -> int | None:
        with crowd.connect() as connection:
            everybody.wait()
            try:
                return consume(connection, mailed)
            except TokenError:
                return None

    with ThreadPoolExecutor(50) as threads:
        answers = list(threads.map(call, range(50)))

    assert sorted(answers, key=str) == [account] + [None] * 49


def test_consuming_beside_the_deletion_of_the_account_does_not_deadlock(url: str, engine: Engine) -> None:
    with engine.connect() as connection:
        [account] = add_accounts(connection, 1)
        mailed = signed(connection, activation_of(connection, account))

    with (
        psycopg.connect(url) as deleter,
        psycopg.connect(url, autocommit=True) as watcher,
        engine.connect() as consumer,
        ThreadPoolExecutor(1) as thread,
    ):
        # A DELETE locks the account, then its tokens. Between the two comes the consumer.
        deleter.execute("SELECT FROM accounts FOR UPDATE")
        process = consumer.connection.dbapi_connection.info.backend_pid  # type: ignore[union-attr]  # psycopg's own
        answer = thread.submit(consume, consumer, mailed)
        wait_until_blocked(watcher, process)
        deleter.execute("DELETE FROM accounts")
        deleter.commit()

        with pytest.raises(TokenError):
            answer.result(timeout=30)


def test_a_token_that_expires_while_its_consumer_waits_is_refused(url: str, engine: Engine) -> None:
    with engine.connect() as connection:
        [account] = add_accounts(connection, 1)
        token = activation_of(connection, account)
        mailed = signed(connection, token)

    with (
        psycopg.connect(url) as holder,
        psycopg.connect(url, autocommit=True) as watcher,
        engine.connect() as consumer,
        ThreadPoolExecutor(1) as thread,
    ):
        holder.execute("SELECT FROM accounts FOR UPDATE")
        process = consumer.connection.dbapi_connection.info.backend_pid  # type: ignore[union-attr]  # psycopg's own
        answer = thread.submit(consume, consumer, mailed)
        wait_until_blocked(watcher, process)
        # Later than the consumer's transaction began, and over when it goes on: a moment that only a clock can tell.
        watcher.execute("UPDATE tokens SET expires_at = clock_timestamp()")
        holder.rollback()

        with pytest.raises(TokenError):
            answer.result(timeout=30)


# A token proves one address


def test_a_token_remembers_the_address_that_it_was_made_for(conn: Connection) -> None:
    [account] = add_accounts(conn, 1, status="active")
    conn.execute(text("UPDATE accounts SET email = 'Jo@Bücher.Example'"))
    given = "INSERT INTO tokens (action, account, address_hash) VALUES ('activation', :account, '\\x00')"
    conn.execute(text(given), {"account": account})
    ask_recovery(conn, account)

    found = [row.address_hash for row in rows(conn, "SELECT address_hash FROM tokens ORDER BY id")]
    assert found == [b"\0", hashlib.sha256(b"jo@xn--bcher-kva.example").digest()[:16]]


@pytest.mark.parametrize(("status", "action"), [("provisioned", "activation"), ("active", "password_recovery")])
def test_a_token_proves_no_other_address(conn: Connection, status: str, action: str) -> None:
    [account] = add_accounts(conn, 1, status=status)
    token = activation_of(conn, account) if action == "activation" else ask_recovery(conn, account)
    mailed = signed(conn, token)

    conn.execute(text("UPDATE accounts SET email = 'eve@example.com'"))
    with pytest.raises(TokenError):
        consume(conn, mailed)

    assert rows(conn, "SELECT status, consumed_at FROM accounts, tokens") == [(status, None)]
    assert rows(conn, "SELECT FROM guesses") == []
    conn.execute(text("UPDATE accounts SET email = 'USER1@example\u3002com'"))  # the same mailbox again
    assert consume(conn, mailed) == account


@pytest.mark.parametrize(
    ("address", "becomes"), [("other@example.com", "provisioned"), ("USER1@example.com", "active")]
)
def test_a_token_whose_mail_went_elsewhere_activates_nothing(conn: Connection, address: str, becomes: str) -> None:
    """It was inserted so by hand; or its kind of mail did not activate when it was made."""
    [account] = add_accounts(conn, 1)
    conn.execute(text("DELETE FROM tokens"))
    insert = "INSERT INTO tokens (action, account, address) VALUES ('activation', :account, :address)"
    conn.execute(text(insert), {"account": account, "address": address})
    consume(conn, signed(conn, activation_of(conn, account)))
    assert rows(conn, "SELECT status FROM accounts") == [(becomes,)]


def test_who_marks_a_token_by_hand_proves_no_other_address_either(conn: Connection) -> None:
    """As an application does that has the right to, and asks for no more than the secret."""
    add_accounts(conn, 2)
    conn.execute(text("UPDATE accounts SET email = 'eve@example.com' WHERE email = 'user1@example.com'"))
    conn.execute(text("UPDATE tokens SET consumed_at = now()"))
    found = rows(conn, "SELECT email, status FROM accounts ORDER BY email")
    assert found == [("eve@example.com", "provisioned"), ("user2@example.com", "active")]


def test_the_address_is_the_one_that_is_there_once_it_can_be_changed_no_more(url: str, engine: Engine) -> None:
    with engine.connect() as connection:
        [account] = add_accounts(connection, 1)
        mailed = signed(connection, activation_of(connection, account))
    with (
        psycopg.connect(url) as changer,
        psycopg.connect(url, autocommit=True) as watcher,
        engine.connect() as consumer,
        ThreadPoolExecutor(1) as thread,
    ):
        changer.execute("UPDATE accounts SET email = 'eve@example.com'")
        process = consumer.connection.dbapi_connection.info.backend_pid  # type: ignore[union-attr]  # psycopg's own
        answer = thread.submit(consume, consumer, mailed)
        wait_until_blocked(watcher, process)
        changer.commit()
        with pytest.raises(TokenError):
            answer.result(timeout=30)


@pytest.mark.parametrize(
    ("action", "status"),
    [
        ("activation", "suspended"),
        ("activation", "active"),
        ("password_recovery", "suspended"),
        ("password_recovery", "provisioned"),
    ],
)
def test_an_account_in_another_status_burns_nothing(conn: Connection, action: str, status: str) -> None:
    needed = "provisioned" if action == "activation" else "active"
    [account] = add_accounts(conn, 1, status=needed)
    token = activation_of(conn, account) if action == "activation" else ask_recovery(conn, account)
    mailed = signed(conn, token)
    conn.execute(text("UPDATE accounts SET status = CAST(:status AS account_status)"), {"status": status})

    with pytest.raises(TokenError):
        consume(conn, mailed)
    [(secret, code)] = rows(conn, "SELECT secret, code FROM tokens")
    call = "SELECT * FROM consume_token(:secret, :action, :code)"
    assert rows(conn, call, secret=secret, action=action, code=code) == []

    assert rows(conn, "SELECT consumed_at FROM tokens") == [(None,)]
    assert rows(conn, "SELECT FROM guesses") == []
    conn.execute(text("UPDATE accounts SET status = CAST(:status AS account_status)"), {"status": needed})
    assert consume(conn, mailed) == account


def test_consuming_one_ends_all_that_are_older(conn: Connection) -> None:
    account, other = add_accounts(conn, 2, status="active")
    oldest, old, used, new = (signed(conn, ask_recovery(conn, account)) for _ in range(4))
    others = signed(conn, ask_recovery(conn, other))

    assert consume(conn, used) == account
    for mailed in (oldest, old):
        with pytest.raises(TokenError):
            consume(conn, mailed)
    assert (consume(conn, others), consume(conn, new)) == (other, account)
