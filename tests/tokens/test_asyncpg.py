"""Consuming on a connection of asyncpg, whose errors are not all of SQLAlchemy's making."""

import asyncio

import pytest
from psycopg.conninfo import conninfo_to_dict
from sqlalchemy import Connection, event, text
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from mailroom import tokens
from mailroom.errors import TokenError
from mailroom.job import Action
from tests.tokens.test_guesses import wrong
from tests.world import KEY, rows

asyncpg = pytest.importorskip("asyncpg", reason="in the environment of the benchmarks")


def engine_of(url: str) -> AsyncEngine:
    """Return an engine on the same database: asyncpg has names of its own for what libpq is told."""
    given = conninfo_to_dict(url)
    names = {"host": "host", "port": "port", "user": "user", "password": "password", "dbname": "database"}
    there = {name: given[libpq] for libpq, name in names.items() if libpq in given}
    return create_async_engine("postgresql+asyncpg://", connect_args=there | {"port": int(given.get("port") or 5432)})


@pytest.mark.parametrize("level", ["READ COMMITTED", "SERIALIZABLE"])
def test_a_recovery_is_consumed_with_its_code(
    url: str, connection: Connection, recovery: tuple[str, Action, str], level: str
) -> None:
    token, action, code = recovery

    async def consume() -> tokens.Account:
        engine = engine_of(url).execution_options(isolation_level=level)
        async with engine.begin() as own:
            with pytest.raises(TokenError):
                await tokens.consume_async(own, token, action=action, key=KEY, code=wrong(code))
            consumed = await tokens.consume_async(own, token, action=action, key=KEY, code=code)
        await engine.dispose()
        return consumed

    assert asyncio.run(consume()).address == "user1@example.com"
    assert rows(connection, "SELECT made FROM guesses") == [(2,)]


@pytest.mark.parametrize("error", [asyncpg.TooManyConnectionsError, asyncpg.InterfaceError, ConnectionResetError])
def test_a_guess_that_finds_no_way_to_the_database_is_a_token_error(
    url: str, recovery: tuple[str, Action, str], error: type[Exception]
) -> None:
    """Before SQLAlchemy 2.1 it is asyncpg's own error, as it is where an application has a hand in connecting."""
    token, action, code = recovery

    def refuse(*_: object) -> None:
        raise error("sorry")

    async def consume() -> list[int]:
        engine = engine_of(url)
        async with engine.begin() as own:
            await own.execute(text("SELECT 1"))
            event.listen(engine.sync_engine, "do_connect", refuse)
            with pytest.raises(TokenError) as refusal:
                await tokens.consume_async(own, token, action=action, key=KEY, code=code)
            assert isinstance(refusal.value.__cause__, error)
            found = await own.scalars(text("SELECT 1"))
        await engine.dispose()
        return list(found)

    assert asyncio.run(consume()) == [1]
