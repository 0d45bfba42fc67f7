"""Guesses at a recovery's code are counted, and soon there are none left."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from threading import Barrier
from typing import Any

import psycopg
import pytest
from sqlalchemy import Connection, Engine, event, text

from mailroom import tokens
from mailroom.db.engine import connect_engine
from mailroom.errors import TokenError
from mailroom.job import Action
from mailroom.ops import grants
from tests.kinds import ACTIVATION, RECOVERY, sign
from tests.roles import a_role
from tests.servers import Server
from tests.tokens.signed import SECRET, activation_of, consume, signed, wait_until_blocked
from tests.world import KEY, add_accounts, ask_recovery, rows, transaction

GUESSES = 5


def wrong(code: str) -> str:
    return f"{(int(code) + 1) % 100_000:05}"


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


@pytest.mark.slow
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


def guess_later(application: Engine, mailed: tuple[str, Action, str]) -> int | None:
    """Consume in a transaction that has begun."""
    try:
        with application.begin() as connection:
            connection.execute(text("SELECT"))
            return consume(connection, mailed)
    except TokenError:
        return None


def test_a_guess_that_comes_first_in_its_transaction_costs_no_connection(
    application: Engine, recovery: tuple[str, Action, str]
) -> None:
    token, action, code = recovery
    assert counted(application) == []
    assert connections_made(application, lambda: guess(application, (token, action, wrong(code)))) == 0
    assert counted(application) == [1]
    assert connections_made(application, lambda: guess(application, recovery)) == 0
    assert counted(application) == [2]


@pytest.mark.parametrize("level", ["REPEATABLE READ", "SERIALIZABLE"])
@pytest.mark.parametrize("of_engine", [True, False])
def test_that_is_so_at_every_level_which_stays_what_it_was(
    url: str, engine: Engine, recovery: tuple[str, Action, str], level: str, of_engine: bool
) -> None:
    token, action, code = recovery
    own = connect_engine(url, isolation_level=level if of_engine else "READ COMMITTED")
    told = []

    def guess_there(mailed: tuple[str, Action, str]) -> None:
        with own.connect() as connection:
            if not of_engine:
                connection.execution_options(isolation_level=level)
            with suppress(TokenError):
                consume(connection, mailed)
            told.append(connection.scalar(text("SHOW transaction_isolation")))
            connection.rollback()

    guess_there((token, action, wrong(code)))  # its first connection
    assert connections_made(own, lambda: guess_there((token, action, wrong(code)))) == 0
    assert connections_made(own, lambda: guess_there(recovery)) == 0
    own.dispose()
    assert (counted(engine), told) == ([3], [level.lower()] * 3)


def test_who_signs_up_while_a_guess_is_counted_does_not_cost_a_good_code(
    url: str, engine: Engine, recovery: tuple[str, Action, str]
) -> None:
    """At SERIALIZABLE, what was read before is what others may not change; each refusal would take one more guess."""
    application = connect_engine(url, pool_size=2, isolation_level="SERIALIZABLE")

    @event.listens_for(application, "after_cursor_execute")
    def sign_up(*given: Any) -> None:
        if "guesses_left" in given[2]:
            with transaction(engine, "SERIALIZABLE") as other:
                other.execute(text("SELECT count(*) FROM tokens"))
                add_accounts(other, 1, prefix="new")
                other.commit()

    with application.begin() as connection:
        assert consume(connection, recovery)
    application.dispose()


@pytest.mark.parametrize("level", [None, "SERIALIZABLE"])
def test_an_application_that_asks_something_as_each_transaction_begins_consumes(
    application: Engine, recovery: tuple[str, Action, str], level: str | None
) -> None:
    """As for row-level security of its own, whose tenant it sets."""
    application = application.execution_options(isolation_level=level) if level else application
    event.listen(application, "begin", lambda own: own.execute(text("SELECT set_config('shop.tenant', '1', true)")))
    with application.connect() as connection:
        assert consume(connection, recovery)
        connection.commit()
    assert counted(application) == [1]


def test_only_a_guess_at_a_good_token_costs_a_connection(
    application: Engine, recovery: tuple[str, Action, str]
) -> None:
    """Or anybody could have them made, with tokens made up."""
    guess = guess_later
    token, action, code = recovery
    made_up = sign(SECRET, action=action, key=KEY, code=code)
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


def test_an_engine_that_streams_its_results_consumes(
    application: Engine, engine: Engine, recovery: tuple[str, Action, str]
) -> None:
    """SQLAlchemy makes a cursor on the server then for whatever it is told, also for a savepoint."""
    token, action, code = recovery
    streaming = application.execution_options(stream_results=True)
    assert guess(streaming, (token, action, wrong(code))) is None
    with streaming.begin() as connection:
        consume(connection, recovery)
        assert connection.get_execution_options()["stream_results"]
    assert counted(engine) == [2]
    with application.begin() as connection:
        with pytest.raises(TokenError):
            consume(connection, recovery)
        assert "stream_results" not in connection.get_execution_options(), "it would win over that of a statement"


@pytest.mark.parametrize("scope", ["LOCAL", "SESSION"])
def test_a_guess_is_counted_as_the_role_that_the_caller_acts_as(
    server: Server, url: str, engine: Engine, recovery: tuple[str, Action, str], scope: str
) -> None:
    """Who logs in may have no right but to become another."""
    with a_role(server) as (shop, as_shop), a_role(server, "NOINHERIT") as (pool, log_in):
        as_shop(url)
        server.execute(f"GRANT {shop} TO {pool}")
        with engine.connect() as connection:
            for statement in grants.statements(connection, "app", shop):
                connection.exec_driver_sql(statement)
        application = connect_engine(log_in(url), isolation_level="READ COMMITTED")
        try:
            with application.begin() as connection:
                connection.execute(text(f"SET {scope} ROLE {shop}"))
                consume(connection, recovery)
        finally:
            application.dispose()
    assert counted(engine) == [1]


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


def test_who_waits_no_longer_than_a_moment_consumes_nothing_and_goes_on(
    engine: Engine, recovery: tuple[str, Action, str]
) -> None:
    call = text("SELECT account FROM consume_token((SELECT secret FROM tokens), 'password_recovery', :code)")
    with transaction(engine) as other, transaction(engine, lock_timeout="50ms") as mine:
        other.execute(text("SELECT FROM accounts FOR UPDATE"))
        assert mine.execute(call, {"code": recovery[2]}).all() == []
        other.rollback()
        assert len(mine.execute(call, {"code": recovery[2]}).all()) == 1
        mine.rollback()


@pytest.mark.slow
def test_a_guess_beside_one_that_never_ends_is_not_counted_and_waits_no_longer_for_it(
    engine: Engine, recovery: tuple[str, Action, str]
) -> None:
    """As where somebody counts beside a transaction of its own, and PostgreSQL sees no deadlock."""
    guess = text("SELECT count_guess((SELECT secret FROM tokens))")
    with transaction(engine) as first, engine.connect() as second:
        assert first.scalar(guess) is True
        second.execute(text("SET statement_timeout = '30s'"))
        assert second.scalar(guess) is None


def test_sql_alone_counts_guesses_too(conn: Connection) -> None:
    """As long as the caller commits: a savepoint that is rolled back stands for one that does not."""
    [account] = add_accounts(conn, 1, status="active")
    ask_recovery(conn, account)
    [(secret, code)] = rows(conn, "SELECT secret, code FROM tokens")
    call = "SELECT account FROM consume_token(:secret, 'password_recovery', :code)"
    for _ in range(GUESSES - 1):
        assert rows(conn, call, secret=secret, code=wrong(code)) == []
    with conn.begin_nested() as savepoint:
        assert rows(conn, call, secret=secret, code=wrong(code)) == []
        savepoint.rollback()
    with conn.begin_nested() as savepoint:
        assert rows(conn, call, secret=secret, code=code) == [(account,)]
        savepoint.rollback()

    assert rows(conn, call, secret=secret, code=wrong(code)) == []
    assert rows(conn, "SELECT guesses_left(:secret)", secret=secret) == [(0,)]
    assert rows(conn, call, secret=secret, code=code) == []


def test_the_guesses_go_with_their_token(conn: Connection) -> None:
    [account] = add_accounts(conn, 1, status="active")
    consume(conn, signed(conn, ask_recovery(conn, account)))
    assert rows(conn, "SELECT made FROM guesses") == [(1,)]

    conn.execute(text("DELETE FROM accounts"))
    assert rows(conn, "SELECT FROM guesses") == []


@pytest.mark.parametrize("odd", [None, 7, b"x" * 86, ["x"]])
def test_what_a_form_may_hold_instead_of_a_token_is_a_token_error(conn: Connection, odd: Any) -> None:
    with pytest.raises(TokenError):
        tokens.consume(conn, odd, action=ACTIVATION, key=KEY)
    with pytest.raises(TokenError):
        tokens.consume(conn, "x" * 86, action=RECOVERY, key=KEY, code=odd)


def test_a_guess_counts_though_only_the_callers_transaction_makes_it_possible(
    application: Engine, engine: Engine, recovery: tuple[str, Action, str]
) -> None:
    """Nobody else sees an account that fits, and all of it is rolled back; the guesses are not."""
    link, action, code = recovery
    with engine.connect() as connection:
        connection.execute(text("UPDATE accounts SET status = 'suspended'"))
    for _ in range(GUESSES):
        with application.connect() as connection:
            connection.execute(text("UPDATE accounts SET status = 'active'"))
            with pytest.raises(TokenError):
                consume(connection, (link, action, wrong(code)))
            connection.rollback()
    assert counted(engine) == [GUESSES]
    with application.connect() as connection:
        connection.execute(text("UPDATE accounts SET status = 'active'"))
        with pytest.raises(TokenError):
            consume(connection, recovery)


def test_a_caller_that_does_not_say_whether_it_counted_has_not(conn: Connection) -> None:
    [account] = add_accounts(conn, 1, status="active")
    ask_recovery(conn, account)
    [(secret, code)] = rows(conn, "SELECT secret, code FROM tokens")
    call = "SELECT account FROM consume_token(:secret, 'password_recovery', :code, CAST(NULL AS boolean))"
    for _ in range(GUESSES):
        assert rows(conn, call, secret=secret, code=wrong(code)) == []
    assert rows(conn, call, secret=secret, code=code) == []
