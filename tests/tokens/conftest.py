"""A mailed recovery, and an application's engines."""

from collections.abc import Iterator

import pytest
from sqlalchemy import Engine

from mailroom.db.engine import connect_engine
from mailroom.job import Action
from tests.tokens.signed import signed
from tests.world import add_accounts, ask_recovery


@pytest.fixture
def crowd(url: str) -> Iterator[Engine]:
    engine = connect_engine(url, pool_size=50)
    yield engine
    engine.dispose()


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
