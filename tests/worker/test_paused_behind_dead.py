"""A pause ends though its mails lie behind more dead rows than a statement can pass."""

from collections.abc import Iterator
from datetime import timedelta

import pytest
from sqlalchemy import Connection, Engine, text

from mailroom.fleet import pauses
from mailroom.simulator import Simulator
from mailroom.worker.sweep import Swept, sweep
from tests.running import eventually, shared, transport, working
from tests.trouble import hurried_engine, let_statements_take, many_dead_jobs
from tests.world import add_accounts, count, count_sent

pytestmark = [pytest.mark.slow, pytest.mark.early]


@pytest.fixture
def anew(url: str) -> Iterator[Engine]:
    with hurried_engine(url, pool_size=6) as anew:
        yield anew


def pause(connection: Connection, scope: str, code: str) -> None:
    assert pauses.open_pause(connection, scope, code=code, reason="until a probe", probe_after=timedelta(0))


@pytest.mark.parametrize(("scope", "code"), [("account", "ExpiredToken"), ("activation", "MessageRejected")])
def test_a_pause_is_probed_behind_more_dead_rows_than_a_statement_can_pass(
    engine: Engine, anew: Engine, simulator: Simulator, monkeypatch: pytest.MonkeyPatch, scope: str, code: str
) -> None:
    sends = transport(simulator, monkeypatch)
    with engine.connect() as connection:
        with many_dead_jobs(engine, connection) as walk:
            add_accounts(connection, 20, prefix="rest")
            pause(connection, scope, code)
            let_statements_take(connection, walk / 3)
            with working(anew, sends, sweep_interval=0.5, concurrency=2):
                eventually(lambda: count_sent(connection) == 20, "the pause ends, and all is sent")
            assert count(connection, "pauses") == 0
        connection.execute(text("VACUUM jobs"))


def test_a_sweep_probes_there_and_sends_what_is_not_paused(
    engine: Engine, anew: Engine, simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    sends = transport(simulator, monkeypatch)
    with engine.connect() as connection:
        with many_dead_jobs(engine, connection) as walk:
            add_accounts(connection, 5, prefix="rest")
            pause(connection, "activation", "TemplateNotFound")
            let_statements_take(connection, walk / 3)
            swept = sweep(shared(anew, sends), name="test", max_time=timedelta(seconds=30))
            assert (swept, count_sent(connection)) == (Swept.DRAINED, 5)
        connection.execute(text("VACUUM jobs"))
