"""One error, whatever happens at the same moment."""

from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest
from sqlalchemy import Connection, Engine, create_engine, text
from sqlalchemy.exc import DBAPIError

from mailroom.errors import TokenError
from mailroom.job import Action
from tests.servers import Server
from tests.tokens.signed import activation_of, consume, signed, wait_until_blocked
from tests.world import add_accounts, ask_recovery, rows

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
        connection.execute(text(f"SET {setting} = 0"))  # what comes now may take its time
        assert_usable(connection)


@pytest.mark.parametrize("level", LEVELS)
def test_who_gives_up_on_what_follows_from_a_token_has_not_consumed_it(
    url: str, engine: Engine, good: tuple[str, Action, str], level: str
) -> None:
    suppress(engine)
    with engine.connect().execution_options(isolation_level=level) as connection:
        connection.execute(text("SET lock_timeout = '200ms'"))
        assert isinstance(beside(url, connection, good, before="SELECT FROM suppressions FOR UPDATE"), TokenError)
        assert_usable(connection)
    assert_consumed_once(engine, good)


@pytest.mark.parametrize("level", ["REPEATABLE READ", "SERIALIZABLE"])
def test_who_sees_less_than_what_follows_from_a_token_has_not_consumed_it(
    url: str, engine: Engine, good: tuple[str, Action, str], level: str
) -> None:
    suppress(engine)
    with engine.connect().execution_options(isolation_level=level) as connection:
        bounces = "UPDATE suppressions SET bounced_at = now()"
        assert isinstance(beside(url, connection, good, before=bounces, then=""), TokenError)
        assert_usable(connection)
    assert_consumed_once(engine, good)


@pytest.mark.parametrize("level", LEVELS)
def test_a_newer_one_that_was_consumed_since_the_snapshot_ends_an_older(engine: Engine, level: str) -> None:
    with engine.connect() as other, engine.connect().execution_options(isolation_level=level) as connection:
        [account] = add_accounts(other, 1, status="active")
        older, newer = (signed(other, ask_recovery(other, account)) for _ in range(2))
        rows(connection, "SELECT")
        assert consume(other, newer) == account
        with pytest.raises(TokenError):
            consume(connection, older)
        assert_usable(connection)


FAILING = """
CREATE TABLE profiles (account bigint PRIMARY KEY, name text NOT NULL);
CREATE FUNCTION welcome() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO profiles (account) VALUES (NEW.account);
    RETURN NULL;
END $$;
CREATE TRIGGER welcome AFTER UPDATE ON tokens FOR EACH ROW EXECUTE FUNCTION welcome();
"""


def test_an_error_of_the_applications_own_trigger_is_the_cause(engine: Engine, good: tuple[str, Action, str]) -> None:
    with engine.connect().execution_options(isolation_level="READ COMMITTED") as connection:
        connection.execute(text(FAILING))
        with pytest.raises(TokenError) as error:
            consume(connection, good)
        assert "profiles" in str(error.value.__cause__)
        connection.execute(text("DROP TRIGGER welcome ON tokens"))
        connection.commit()
    assert_consumed_once(engine, good)


def suppress(engine: Engine) -> None:
    """Addresses that have bounced: a consumed token proves that they are there."""
    with engine.begin() as connection:
        hashed = "INSERT INTO suppressions (address_hash, bounced_at) SELECT token_address_hash(email), now()"
        connection.execute(text(hashed + " FROM accounts"))


def assert_consumed_once(engine: Engine, good: tuple[str, Action, str]) -> None:
    with engine.connect().execution_options(isolation_level="READ COMMITTED") as connection:
        assert rows(connection, "SELECT FROM tokens WHERE consumed_at IS NOT NULL") == []
        consume(connection, good)
        with pytest.raises(TokenError):
            consume(connection, good)


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


@pytest.mark.parametrize("error", [ConnectionResetError, TimeoutError, OSError])
def test_a_way_to_the_database_that_fails_is_a_token_error(
    url: str, recovery: tuple[str, Action, str], error: type[OSError]
) -> None:
    """asyncpg, and what applications connect with themselves, tell of it as the operating system does."""
    with psycopg.connect(url) as only:
        there = [only]

        def connect() -> psycopg.Connection:
            if not there:
                raise error
            return there.pop()

        engine = create_engine("postgresql+psycopg://", creator=connect)
        with engine.connect() as connection:
            connection.execute(text("SELECT 1"))
            with pytest.raises(TokenError) as refusal:
                consume(connection, recovery)
            assert isinstance(refusal.value.__cause__, error)
            assert rows(connection, "SELECT 1") == [(1,)]
