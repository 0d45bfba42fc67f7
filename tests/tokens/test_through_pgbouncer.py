"""Consuming behind PgBouncer: who has a connection to the server must not wait for a second one."""

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest
from sqlalchemy import event

from mailroom.db.engine import connect_engine
from mailroom.errors import TokenError
from mailroom.job import Action
from tests.tokens.signed import consume

THROUGH_PGBOUNCER = True

# As many as PgBouncer has connections to the server for (tests/pgbouncer.py).
CALLERS = 5


@pytest.mark.slow
@pytest.mark.parametrize("level", ["READ COMMITTED", "SERIALIZABLE"])
def test_guesses_at_once_do_not_wait_for_each_other(url: str, recovery: tuple[str, Action, str], level: str) -> None:
    """Each has asked how many are left before any is counted."""
    token, action, code = recovery
    mailed = token, action, f"{(int(code) + 1) % 100_000:05}"
    engine = connect_engine(url, pool_size=CALLERS, isolation_level=level)
    everybody = Barrier(CALLERS)

    @event.listens_for(engine, "after_cursor_execute")
    def wait(*given: object) -> None:
        if "guesses_left" in str(given[2]):
            everybody.wait(30)

    def guess(_: int) -> None:
        with pytest.raises(TokenError), engine.begin() as connection:
            consume(connection, mailed)

    with ThreadPoolExecutor(CALLERS) as threads:
        for guessed in [threads.submit(guess, each) for each in range(CALLERS)]:
            guessed.result(timeout=30)
    with engine.begin() as connection:
        assert connection.exec_driver_sql("SELECT made FROM guesses").scalar_one() == CALLERS
    engine.dispose()
