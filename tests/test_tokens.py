"""Tokens in mails: what verifies, what does not, and that each is good for once only."""

import base64
import hashlib
import hmac
import string
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any

import psycopg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection, Engine, event, text
from sqlalchemy.exc import DBAPIError

from mailroom import tokens
from mailroom.db.engine import connect_engine
from mailroom.errors import TokenError
from mailroom.job import Action
from tests.servers import Server
from tests.world import KEY, add_accounts, ask_recovery, rows

ALPHABET = string.ascii_letters + string.digits + "-_"
ORIGINAL = "Qg84W2nmW8ClkDGZBdoC7UXM0BakAhmlBmR4emc4JJji0aMHLqfdM07rn1sHN8tvGk9go-hsKJMwvtqdGm5Cjw"
SECRET = bytes(range(32))
OTHER_KEY = bytes(32)

actions = st.sampled_from(Action)
secrets = st.binary(min_size=32, max_size=32)
codes = st.from_regex(r"[0-9]{5}", fullmatch=True)


def refused(token: str, *, action: Action = Action.ACTIVATION, key: bytes = KEY, code: str | None = None) -> bool:
    try:
        tokens.verify(token, action=action, key=key, code=code)
    except TokenError as error:
        return str(error) == str(TokenError())
    return False


def other(character: str) -> str:
    return ALPHABET[(ALPHABET.index(character) + 1) % len(ALPHABET)]


# The wire format


def test_a_token_of_the_original_verifies() -> None:
    secret = tokens.verify(ORIGINAL, action=Action.ACTIVATION, key=KEY)

    assert secret == base64.urlsafe_b64decode(ORIGINAL + "==")[:32]
    assert tokens.sign(secret, action=Action.ACTIVATION, key=KEY) == ORIGINAL


@pytest.mark.parametrize(
    ("action", "message"),
    [(Action.ACTIVATION, b"/activate" + SECRET), (Action.PASSWORD_RECOVERY, b"/recover" + SECRET + b"01234")],
)
def test_a_token_is_the_secret_and_its_hmac_in_base64url(action: Action, message: bytes) -> None:
    mac = hmac.new(KEY, message, hashlib.sha256).digest()

    token = tokens.sign(SECRET, action=action, key=KEY, code="01234")

    assert token == base64.urlsafe_b64encode(SECRET + mac).decode().rstrip("=")
    assert len(token) == 86


@settings(deadline=None)
@given(secret=secrets, key=secrets, action=actions, code=codes)
def test_what_was_signed_verifies(secret: bytes, key: bytes, action: Action, code: str) -> None:
    token = tokens.sign(secret, action=action, key=key, code=code)

    assert tokens.verify(token, action=action, key=key, code=code) == secret
    assert set(token) <= set(ALPHABET)


@settings(deadline=None)
@given(token=st.text(), action=actions, code=st.none() | st.text())
def test_whatever_else_comes_is_refused(token: str, action: Action, code: str | None) -> None:
    assert refused(token, action=action, code=code)


@pytest.mark.parametrize("action", Action)
def test_a_token_with_one_character_changed_is_refused(action: Action) -> None:
    token = tokens.sign(SECRET, action=action, key=KEY, code="01234")

    accepted = [
        place
        for place, character in enumerate(token)
        if not refused(token[:place] + other(character) + token[place + 1 :], action=action, code="01234")
    ]

    assert accepted == []


@pytest.mark.parametrize(
    "spelling",
    [
        "",
        ORIGINAL[:-1],
        ORIGINAL[1:],
        ORIGINAL[:43],
        ORIGINAL + "A",
        ORIGINAL + "=",
        ORIGINAL + "==",
        ORIGINAL[:-2] + "==",
        ORIGINAL + "\n",
        " " + ORIGINAL,
        ORIGINAL[:-1] + "\n",
        ORIGINAL[:40] + " " + ORIGINAL[41:],
        ORIGINAL.replace("Q", "\N{FULLWIDTH LATIN CAPITAL LETTER Q}"),
        ORIGINAL.replace("-", "\N{HYPHEN}"),
        ORIGINAL.swapcase(),
    ],
)
def test_a_token_of_another_shape_is_refused(spelling: str) -> None:
    assert refused(spelling)


def test_only_one_spelling_of_the_last_character_verifies() -> None:
    """64 bytes leave four bits of the 86th character over, so a lenient decoder reads sixteen spellings as one."""
    alike = [
        ORIGINAL[:-1] + last
        for last in ALPHABET
        if base64.urlsafe_b64decode(ORIGINAL[:-1] + last + "==") == base64.urlsafe_b64decode(ORIGINAL + "==")
    ]

    assert len(alike) == 16
    assert [spelling for spelling in alike if not refused(spelling)] == [ORIGINAL]


@pytest.mark.parametrize(
    ("secret", "url", "plain"), [(b"\xff" * 32, "_", "/"), (b"\xfb\xef\xbe" * 10 + b"\xfb\xef", "-", "+")]
)
def test_the_other_base64_alphabet_is_refused(secret: bytes, url: str, plain: str) -> None:
    token = tokens.sign(secret, action=Action.ACTIVATION, key=KEY)

    assert url in token
    assert refused(token.replace(url, plain))
    assert refused(token.replace(url, plain, 1))


def test_a_token_of_another_action_is_refused() -> None:
    activation = tokens.sign(SECRET, action=Action.ACTIVATION, key=KEY)
    recovery = tokens.sign(SECRET, action=Action.PASSWORD_RECOVERY, key=KEY, code="01234")

    assert refused(activation, action=Action.PASSWORD_RECOVERY, code="01234")
    assert refused(recovery, action=Action.ACTIVATION)


def test_a_token_of_another_key_is_refused() -> None:
    assert refused(ORIGINAL, key=OTHER_KEY)


@pytest.mark.parametrize(
    "code",
    [
        None,
        "",
        "01235",
        "1234",
        "001234",
        "01234 ",
        "01234\n",
        "+1234",
        "\N{ARABIC-INDIC DIGIT ZERO}1234",
        "\N{FULLWIDTH DIGIT ZERO}1234",
        "\N{SUPERSCRIPT TWO}1234",
        "0123\x00",
    ],
)
def test_a_recovery_with_another_code_is_refused(code: str | None) -> None:
    recovery = tokens.sign(SECRET, action=Action.PASSWORD_RECOVERY, key=KEY, code="01234")

    assert refused(recovery, action=Action.PASSWORD_RECOVERY, code=code)


@pytest.mark.parametrize("code", [None, "1234", "123456", "\N{ARABIC-INDIC DIGIT ZERO}1234", "1234x"])
def test_a_recovery_is_not_signed_without_five_digits(code: str | None) -> None:
    with pytest.raises(ValueError, match="five ASCII digits"):
        tokens.sign(SECRET, action=Action.PASSWORD_RECOVERY, key=KEY, code=code)


@pytest.mark.parametrize("length", [0, 31, 33, 64])
def test_secrets_and_keys_are_32_bytes(length: int) -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        tokens.sign(bytes(length), action=Action.ACTIVATION, key=KEY)
    with pytest.raises(ValueError, match="32 bytes"):
        tokens.sign(SECRET, action=Action.ACTIVATION, key=bytes(length))
    with pytest.raises(ValueError, match="32 bytes"):
        tokens.verify(ORIGINAL, action=Action.ACTIVATION, key=bytes(length))


def test_an_empty_key_makes_nobodys_token_good() -> None:
    """A key that was never set is the one key that everybody knows."""
    forged = base64.urlsafe_b64encode(SECRET + hmac.digest(b"", b"/activate" + SECRET, "sha256")).decode().rstrip("=")

    with pytest.raises(ValueError, match="32 bytes"):
        tokens.verify(forged, action=Action.ACTIVATION, key=b"")


@settings(deadline=None)
@given(keys=st.lists(secrets, min_size=1, max_size=4), which=st.integers(0, 3))
def test_any_of_several_keys_may_have_signed(keys: list[bytes], which: int) -> None:
    signer = keys[which % len(keys)]
    token = tokens.sign(SECRET, action=Action.ACTIVATION, key=signer)

    assert tokens.verify(token, action=Action.ACTIVATION, key=keys) == SECRET
    others = [key for key in keys if key != signer]
    if others:
        with pytest.raises(TokenError):
            tokens.verify(token, action=Action.ACTIVATION, key=others)


def test_all_keys_are_compared_whichever_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    compared = []
    compare = hmac.compare_digest

    def counting(one: bytes, other: bytes) -> bool:
        compared.append(other)
        return compare(one, other)

    monkeypatch.setattr(hmac, "compare_digest", counting)
    for keys in ((KEY, OTHER_KEY, SECRET), (OTHER_KEY, SECRET, KEY)):
        tokens.verify(ORIGINAL, action=Action.ACTIVATION, key=keys)
    assert len(compared) == 6


@pytest.mark.parametrize("keys", [(), (KEY, b""), (b"", KEY), (KEY, KEY[:31])])
def test_each_of_several_keys_is_32_bytes_and_there_is_one(keys: tuple[bytes, ...]) -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        tokens.verify(ORIGINAL, action=Action.ACTIVATION, key=keys)


# Consuming


def signed(connection: Connection, token: int, *, code: str | None = None) -> tuple[str, Action, str]:
    """Return what the mail of a token holds: the signed token, its action and its code."""
    [row] = rows(connection, "SELECT action, secret, code FROM tokens WHERE id = :token", token=token)
    action = Action(row.action)
    return tokens.sign(row.secret, action=action, key=KEY, code=code or row.code), action, code or row.code


def consume(connection: Connection, mailed: tuple[str, Action, str]) -> int:
    token, action, code = mailed
    return tokens.consume(connection, token, action=action, key=KEY, code=code)


def activation_of(connection: Connection, account: int) -> int:
    [row] = rows(
        connection, "SELECT id FROM tokens WHERE account = :account AND action = 'activation'", account=account
    )
    return int(row.id)


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

    assert tokens.consume(conn, token, action=action, key=keys, code=code) == account
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
    assert tokens.consume(conn, token, action=action, key=KEY) == first

    token, action, _ = signed(conn, activation_of(conn, second))
    assert tokens.consume(conn, token, action=action, key=KEY, code="no\x00code") == second


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
        tokens.consume(conn, token, action=Action.ACTIVATION, key=KEY)
    with pytest.raises(TokenError):
        tokens.consume(conn, token, action=action, key=OTHER_KEY, code=code)

    assert tokens.consume(conn, token, action=action, key=KEY, code=code) == account


def test_sql_alone_consumes_a_recovery_only_with_its_code(conn: Connection) -> None:
    [account] = add_accounts(conn, 1, status="active")
    ask_recovery(conn, account)
    [(secret, code)] = rows(conn, "SELECT secret, code FROM tokens")
    call = "SELECT consume_token(:secret, 'password_recovery', :code)"

    assert rows(conn, "SELECT consume_token(:secret, 'password_recovery')", secret=secret) == [(None,)]
    assert rows(conn, call, secret=secret, code=code + "0") == [(None,)]
    assert rows(conn, call, secret=secret, code=code) == [(account,)]
    assert rows(conn, call, secret=secret, code=code) == [(None,)]


@pytest.fixture
def crowd(url: str) -> Iterator[Engine]:
    engine = connect_engine(url, pool_size=50)
    yield engine
    engine.dispose()


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


def wait_until_blocked(watcher: psycopg.Connection, process: int | None = None) -> None:
    """Return once a server process of the database waits for a lock, asking PostgreSQL again until it says so."""
    watcher.execute("SET statement_timeout = '30s'")
    blocked = (
        "SELECT FROM pg_stat_activity WHERE datname = current_database() AND cardinality(pg_blocking_pids(pid)) > 0"
    )
    which = "" if process is None else f" AND pid = {process}"
    wait = f"WHILE NOT EXISTS ({blocked}{which}) LOOP PERFORM pg_sleep(0.01), pg_stat_clear_snapshot(); END LOOP"
    watcher.execute(f"DO $$ BEGIN {wait}; END $$".encode())


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


def test_a_token_of_before_proves_the_address_there_is(conn: Connection) -> None:
    [account] = add_accounts(conn, 1)
    conn.execute(text("UPDATE tokens SET address_hash = NULL"))
    conn.execute(text("UPDATE accounts SET email = 'new@example.com'"))

    assert consume(conn, signed(conn, activation_of(conn, account))) == account


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
    call = "SELECT consume_token(:secret, CAST(:action AS token_action), :code)"
    assert rows(conn, call, secret=secret, action=action, code=code) == [(None,)]

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


# One error, whatever happens at the same moment

LEVELS = ("AUTOCOMMIT", "READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE")


@pytest.fixture(params=["activation", "password_recovery"])
def good(request: pytest.FixtureRequest, engine: Engine) -> tuple[str, Action, str]:
    """What the mail of a good token holds, committed."""
    with engine.connect() as connection:
        if request.param == "activation":
            return signed(connection, activation_of(connection, add_accounts(connection, 1)[0]))
        return signed(connection, ask_recovery(connection, add_accounts(connection, 1, status="active")[0]))


def beside(
    url: str, connection: Connection, mailed: tuple[str, Action, str], *, before: str, then: str | None = None
) -> object:
    """Consume while another transaction has done something; when it is waited for, that commits. What came of it."""
    rows(connection, "SELECT")  # a snapshot, where it is the transaction's
    with (
        psycopg.connect(url) as other,
        psycopg.connect(url, autocommit=True) as watcher,
        ThreadPoolExecutor(1) as thread,
    ):
        other.execute(before.encode())
        answer = thread.submit(consume, connection, mailed)
        if then is None:
            return answer.exception(timeout=60)
        # The one who counts the guess, on a connection of its own, may be the one that waits.
        wait_until_blocked(watcher)
        if then:
            other.execute(then.encode())
        other.commit()
        return answer.exception(timeout=60)


def assert_usable(connection: Connection) -> None:
    connection.execute(text("INSERT INTO accounts (email, login) VALUES ('next@example.com', 'next')"))
    connection.commit()


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize(
    ("before", "then"),
    [
        ("DELETE FROM accounts", ""),
        ("SELECT FROM accounts FOR UPDATE", "DELETE FROM accounts"),
        ("UPDATE accounts SET email = 'new@example.com'", ""),
        ("SELECT FROM accounts FOR UPDATE", "UPDATE tokens SET consumed_at = now()"),
    ],
)
def test_what_others_commit_meanwhile_is_a_token_error(
    url: str, engine: Engine, good: tuple[str, Action, str], level: str, before: str, then: str
) -> None:
    with engine.connect().execution_options(isolation_level=level) as connection:
        assert isinstance(beside(url, connection, good, before=before, then=then), TokenError)
        assert_usable(connection)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("setting", ["lock_timeout", "statement_timeout"])
def test_a_time_out_is_a_token_error(
    url: str, engine: Engine, good: tuple[str, Action, str], level: str, setting: str
) -> None:
    with engine.connect().execution_options(isolation_level=level) as connection:
        connection.execute(text(f"SET {setting} = '200ms'"))
        assert isinstance(beside(url, connection, good, before="SELECT FROM accounts FOR UPDATE"), TokenError)
        assert_usable(connection)


def test_a_deadlock_is_a_token_error(url: str, engine: Engine) -> None:
    """Whoever marks a token by hand locks it before its account."""
    with engine.connect() as connection:
        [account] = add_accounts(connection, 1)
        mailed = signed(connection, activation_of(connection, account))
    with engine.connect().execution_options(isolation_level="READ COMMITTED") as connection:
        connection.execute(text("SET deadlock_timeout = '10ms'"))
        connection.execute(text("SELECT FROM accounts FOR NO KEY UPDATE"))
        with (
            psycopg.connect(url) as other,
            psycopg.connect(url, autocommit=True) as watcher,
            ThreadPoolExecutor(1) as thread,
        ):
            other.execute("SET deadlock_timeout = '1h'")
            process = other.info.backend_pid
            other.execute("SELECT FROM tokens FOR UPDATE")
            waiting = thread.submit(other.execute, "SELECT FROM accounts FOR UPDATE")
            wait_until_blocked(watcher, process)
            with pytest.raises(TokenError):
                consume(connection, mailed)
            assert_usable(connection)
            waiting.result(timeout=30)


@pytest.mark.parametrize("level", ["READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"])
def test_of_two_who_consume_at_once_one_succeeds(
    url: str, engine: Engine, good: tuple[str, Action, str], level: str
) -> None:
    with (
        engine.connect().execution_options(isolation_level=level) as one,
        engine.connect().execution_options(isolation_level=level) as other,
        psycopg.connect(url, autocommit=True) as watcher,
        ThreadPoolExecutor(1) as thread,
    ):
        for each in (one, other):
            rows(each, "SELECT")
        assert consume(one, good)
        answer = thread.submit(consume, other, good)
        wait_until_blocked(watcher, other.connection.dbapi_connection.info.backend_pid)  # type: ignore[union-attr]
        one.commit()
        assert isinstance(answer.exception(timeout=60), TokenError)
        if level != "SERIALIZABLE":  # where it has read what the other wrote, and may only go on to read
            assert_usable(other)
        assert rows(other, "SELECT 1") == [(1,)]


@pytest.mark.parametrize(
    "broken",
    [
        "ALTER FUNCTION consume_token RENAME TO another",
        "REVOKE EXECUTE ON FUNCTION guesses_left FROM PUBLIC; DROP FUNCTION guesses_left CASCADE",
    ],
)
def test_whatever_the_database_refuses_is_a_token_error_with_its_cause(
    engine: Engine, application: Engine, recovery: tuple[str, Action, str], broken: str
) -> None:
    with engine.connect() as owner:
        owner.execute(text(broken))
    with application.connect() as connection:
        with pytest.raises(TokenError) as refusal:
            consume(connection, recovery)
        assert isinstance(refusal.value.__cause__, DBAPIError)
        assert_usable(connection)


def test_a_connection_that_is_gone_is_a_token_error(engine: Engine, good: tuple[str, Action, str]) -> None:
    with engine.connect() as other, engine.connect().execution_options(isolation_level="READ COMMITTED") as connection:
        process = connection.connection.dbapi_connection.info.backend_pid  # type: ignore[union-attr]  # psycopg's own
        connection.execute(text("SELECT 1"))
        other.execute(text("SELECT pg_terminate_backend(:process, 30000)"), {"process": process})
        with pytest.raises(TokenError):
            consume(connection, good)


def test_a_database_without_a_connection_to_spare_is_a_token_error(
    server: Server, application: Engine, recovery: tuple[str, Action, str]
) -> None:
    """The guess is counted on a second one."""
    with application.connect() as connection:
        connection.execute(text("SELECT 1"))
        server.execute(f"ALTER DATABASE {connection.scalar(text('SELECT current_database()'))} ALLOW_CONNECTIONS false")
        with pytest.raises(TokenError):
            consume(connection, recovery)


# Guesses at a recovery's code

GUESSES = 5


def wrong(code: str) -> str:
    return f"{(int(code) + 1) % 100_000:05}"


@pytest.fixture
def recovery(engine: Engine) -> tuple[str, Action, str]:
    """What the mail of a recovery holds, committed."""
    with engine.connect() as connection:
        [account] = add_accounts(connection, 1, status="active")
        return signed(connection, ask_recovery(connection, account))


@pytest.fixture
def application(url: str) -> Iterator[Engine]:
    """An application's engine: transactions, and as it happens one connection only, which is taken when it guesses."""
    engine = connect_engine(url, isolation_level="READ COMMITTED")
    yield engine
    engine.dispose()


def guess(application: Engine, mailed: tuple[str, Action, str]) -> int | None:
    """Consume as an application does, whose transaction is rolled back by the error."""
    try:
        with application.begin() as connection:
            return consume(connection, mailed)
    except TokenError:
        return None


def counted(engine: Engine) -> list[int]:
    with engine.connect() as connection:
        return [row.made for row in rows(connection, "SELECT made FROM guesses ORDER BY token")]


def test_a_code_can_be_guessed_at_five_times_though_each_transaction_is_rolled_back(
    application: Engine, recovery: tuple[str, Action, str]
) -> None:
    token, action, code = recovery
    assert [guess(application, (token, action, wrong(code))) for _ in range(GUESSES)] == [None] * GUESSES

    assert guess(application, recovery) is None  # right, and too late
    assert counted(application) == [GUESSES]


def test_the_fifth_guess_may_be_the_right_one(application: Engine, recovery: tuple[str, Action, str]) -> None:
    token, action, code = recovery
    for _ in range(GUESSES - 1):
        assert guess(application, (token, action, wrong(code))) is None

    assert guess(application, recovery) is not None


def test_a_guess_at_one_token_is_none_at_another(application: Engine, recovery: tuple[str, Action, str]) -> None:
    with application.begin() as connection:
        [(account,)] = rows(connection, "SELECT id FROM accounts")
        other_recovery = signed(connection, ask_recovery(connection, account))
    for _ in range(GUESSES + 1):
        guess(application, (recovery[0], recovery[1], wrong(recovery[2])))

    assert guess(application, recovery) is None
    assert guess(application, other_recovery) == account


def test_who_knows_the_secret_and_not_the_key_has_no_more_guesses(
    application: Engine, recovery: tuple[str, Action, str]
) -> None:
    forged = recovery[0][:-4] + "AAAA"
    for _ in range(GUESSES):
        assert guess(application, (forged, recovery[1], recovery[2])) is None

    assert guess(application, recovery) is None


def test_of_fifty_guesses_at_once_five_are_compared(crowd: Engine) -> None:
    """All of them right, and then taken back by their callers: so each that is compared is seen to succeed."""
    with crowd.connect() as connection:
        [account] = add_accounts(connection, 1, status="active")
        mailed = signed(connection, ask_recovery(connection, account))
    everybody = Barrier(50)

    def call(_: int) -> int | None:
        with crowd.connect().execution_options(isolation_level="READ COMMITTED") as connection:
            everybody.wait()
            try:
                return consume(connection, mailed)
            except TokenError:
                return None
            finally:
                connection.rollback()

    with ThreadPoolExecutor(50) as threads:
        answers = list(threads.map(call, range(50)))

    assert sorted(answers, key=str) == [account] * GUESSES + [None] * 45
    assert counted(crowd) == [GUESSES]


def connections_made(engine: Engine, act: Callable[[], object]) -> int:
    """Count the connections that the engine makes meanwhile, for its pool or beside it."""
    made = []

    def count(*_: object) -> None:
        made.append(1)

    event.listen(engine, "connect", count)
    act()
    event.remove(engine, "connect", count)
    return len(made)


def test_only_a_guess_at_a_good_token_costs_a_connection(
    application: Engine, recovery: tuple[str, Action, str]
) -> None:
    """Or anybody could have them made, with tokens made up."""
    token, action, code = recovery
    made_up = tokens.sign(SECRET, action=action, key=KEY, code=code)
    no_code = (token, action, "1234")
    with application.begin() as connection:
        [account] = add_accounts(connection, 1, prefix="new")
        activation = signed(connection, activation_of(connection, account))

    assert connections_made(application, lambda: guess(application, (made_up, action, code))) == 0
    assert connections_made(application, lambda: guess(application, ("x" * 86, action, code))) == 0
    assert connections_made(application, lambda: guess(application, no_code)) == 0
    assert connections_made(application, lambda: guess(application, activation)) == 0
    assert counted(application) == []
    assert connections_made(application, lambda: guess(application, (token, action, wrong(code)))) == 1
    assert connections_made(application, lambda: guess(application, recovery)) == 1
    assert connections_made(application, lambda: guess(application, recovery)) == 0  # consumed


def test_a_transaction_that_has_used_the_token_does_not_wait_for_itself(
    application: Engine, recovery: tuple[str, Action, str]
) -> None:
    with application.begin() as connection:
        account = consume(connection, recovery)
        with pytest.raises(TokenError):
            consume(connection, recovery)
        connection.execute(text("UPDATE accounts SET login = 'new' WHERE id = :account"), {"account": account})


def test_a_transaction_with_an_older_snapshot_consumes(engine: Engine, recovery: tuple[str, Action, str]) -> None:
    with engine.connect().execution_options(isolation_level="REPEATABLE READ") as connection:
        [(account,)] = rows(connection, "SELECT id FROM accounts")
        assert consume(connection, recovery) == account
        connection.commit()


def test_consuming_a_recovery_beside_the_deletion_of_its_account_does_not_deadlock(
    url: str, engine: Engine, recovery: tuple[str, Action, str]
) -> None:
    [(secret,)] = rows_of(engine, "SELECT secret FROM tokens")
    call = text("SELECT consume_token(:secret, 'password_recovery', :code)")
    with (
        psycopg.connect(url) as deleter,
        psycopg.connect(url, autocommit=True) as watcher,
        engine.connect() as consumer,
        ThreadPoolExecutor(1) as thread,
    ):
        deleter.execute("SELECT FROM accounts FOR UPDATE")
        process = consumer.connection.dbapi_connection.info.backend_pid  # type: ignore[union-attr]  # psycopg's own
        answer = thread.submit(consumer.scalar, call, {"secret": secret, "code": recovery[2]})
        wait_until_blocked(watcher, process)
        deleter.execute("DELETE FROM accounts")
        deleter.commit()
        assert answer.result(timeout=30) is None
    assert counted(engine) == []


def rows_of(engine: Engine, sql: str) -> list[tuple[object, ...]]:
    with engine.connect() as connection:
        return [tuple(row) for row in rows(connection, sql)]


def test_sql_alone_counts_guesses_too(conn: Connection) -> None:
    """As long as the caller commits: a savepoint that is rolled back stands for one that does not."""
    [account] = add_accounts(conn, 1, status="active")
    ask_recovery(conn, account)
    [(secret, code)] = rows(conn, "SELECT secret, code FROM tokens")
    call = "SELECT consume_token(:secret, 'password_recovery', :code)"
    for _ in range(GUESSES - 1):
        assert rows(conn, call, secret=secret, code=wrong(code)) == [(None,)]
    with conn.begin_nested() as savepoint:
        assert rows(conn, call, secret=secret, code=wrong(code)) == [(None,)]
        savepoint.rollback()
    with conn.begin_nested() as savepoint:
        assert rows(conn, call, secret=secret, code=code) == [(account,)]
        savepoint.rollback()

    assert rows(conn, call, secret=secret, code=wrong(code)) == [(None,)]
    assert rows(conn, "SELECT guesses_left(:secret)", secret=secret) == [(0,)]
    assert rows(conn, call, secret=secret, code=code) == [(None,)]


def test_the_guesses_go_with_their_token(conn: Connection) -> None:
    [account] = add_accounts(conn, 1, status="active")
    consume(conn, signed(conn, ask_recovery(conn, account)))
    assert rows(conn, "SELECT made FROM guesses") == [(1,)]

    conn.execute(text("DELETE FROM accounts"))
    assert rows(conn, "SELECT FROM guesses") == []


@pytest.mark.parametrize("odd", [None, 7, b"x" * 86, ["x"]])
def test_what_a_form_may_hold_instead_of_a_token_is_a_token_error(conn: Connection, odd: Any) -> None:
    with pytest.raises(TokenError):
        tokens.consume(conn, odd, action=Action.ACTIVATION, key=KEY)
    with pytest.raises(TokenError):
        tokens.consume(conn, "x" * 86, action=Action.PASSWORD_RECOVERY, key=KEY, code=odd)
