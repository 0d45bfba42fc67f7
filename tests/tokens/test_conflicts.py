"""At SERIALIZABLE and REPEATABLE READ, who consumes beside others is told to try again, and loses no guess by that."""

from collections.abc import Iterator

import psycopg
import pytest
from sqlalchemy import Engine, text
from sqlalchemy.exc import DBAPIError

from mailroom.db.engine import connect_engine
from mailroom.errors import TokenConflictError, TokenError
from mailroom.job import Action
from tests.tokens.signed import consume
from tests.tokens.test_guesses import GUESSES, counted, wrong
from tests.world import add_accounts, transaction


@pytest.fixture
def application(url: str) -> Iterator[Engine]:
    engine = connect_engine(url, pool_size=2, isolation_level="SERIALIZABLE")
    yield engine
    engine.dispose()


def try_beside_a_sign_up(application: Engine, engine: Engine, mailed: tuple[str, Action, str], number: int = 0) -> None:
    """Consume in a transaction that has read what somebody else adds to, who has read what it changes."""
    with application.begin() as connection:
        connection.execute(text("SELECT count(*) FROM tokens"))
        with transaction(engine, "SERIALIZABLE") as other:
            other.execute(text("SELECT count(*) FROM tokens"))
            add_accounts(other, 1, prefix=f"new{number}n")
            other.commit()
        consume(connection, mailed)


def test_a_conflict_is_told_from_a_token_that_is_not_good_with_its_cause(
    application: Engine, engine: Engine, recovery: tuple[str, Action, str]
) -> None:
    with pytest.raises(TokenConflictError, match="try again") as conflict:
        try_beside_a_sign_up(application, engine, recovery)
    assert isinstance(conflict.value, TokenError)
    cause = conflict.value.__cause__
    assert isinstance(cause, DBAPIError)
    assert isinstance(cause.orig, psycopg.errors.SerializationFailure)


def test_conflicts_cost_no_guess(application: Engine, engine: Engine, recovery: tuple[str, Action, str]) -> None:
    for number in range(GUESSES + 1):
        with pytest.raises(TokenConflictError):
            try_beside_a_sign_up(application, engine, recovery, number)
    assert counted(engine) == [0]
    with application.begin() as connection:
        assert consume(connection, recovery)
    assert counted(engine) == [1]


def test_a_wrong_code_costs_one_though_others_were_in_the_way(
    application: Engine, engine: Engine, recovery: tuple[str, Action, str]
) -> None:
    token, action, code = recovery
    for number in range(GUESSES + 1):
        with pytest.raises(TokenError):
            try_beside_a_sign_up(application, engine, (token, action, wrong(code)), number)
    assert counted(engine) == [GUESSES]


@pytest.mark.parametrize("level", ["REPEATABLE READ", "SERIALIZABLE"])
def test_an_account_that_somebody_has_changed_since_the_snapshot_is_a_conflict(
    engine: Engine, recovery: tuple[str, Action, str], level: str
) -> None:
    with engine.connect() as other, engine.connect().execution_options(isolation_level=level) as connection:
        connection.execute(text("SELECT"))
        connection.execute(text("SELECT count(*) FROM actions"))
        other.execute(text("UPDATE accounts SET login = 'another'"))
        with pytest.raises(TokenConflictError):
            consume(connection, recovery)
        connection.rollback()
        assert consume(connection, recovery)
        connection.commit()


def test_what_sql_alone_is_told_is_the_error_itself(engine: Engine, recovery: tuple[str, Action, str]) -> None:
    given = {"code": recovery[2]}
    call = text("SELECT account FROM consume_token((SELECT secret FROM tokens), 'password_recovery', :code)")
    with transaction(engine, "REPEATABLE READ") as connection, engine.connect() as other:
        connection.execute(text("SELECT count(*) FROM tokens"))
        other.execute(text("UPDATE accounts SET login = 'another'"))
        with pytest.raises(DBAPIError, match="could not serialize access"):
            connection.execute(call, given)
        connection.rollback()
        assert len(connection.execute(call, given).all()) == 1
