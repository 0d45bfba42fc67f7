"""Between two probes comes what is not paused, however long they take."""

from datetime import timedelta

import pytest
from sqlalchemy import Connection, Engine, text

from mailroom.fleet import pauses
from mailroom.mail.transport import Transport
from mailroom.simulator import Fault, Simulator
from mailroom.worker.sweep import sweep
from tests.running import eventually, shared, transport, working
from tests.world import add_accounts, ask_recovery, count, misplaced

EACH_SERVER = False

pytestmark = pytest.mark.slow

RECOVERED = "deliveries WHERE action = 'password_recovery' AND outcome = 'sent'"


@pytest.fixture
def slow(engine: Engine, simulator: Simulator, monkeypatch: pytest.MonkeyPatch) -> Transport:
    """Activations are refused after longer than the longest wait between two probes. Nothing is urgent."""
    monkeypatch.setattr(pauses, "MAX_REFUSAL_PROBE_WAIT", timedelta(seconds=0.5))
    simulator.faults.add(
        Fault(template="activationv1", error="MessageRejected", status=400, latency_ms=1_000, times=None)
    )
    with engine.connect() as connection:
        connection.execute(text("UPDATE actions SET priority = 1"))
        add_accounts(connection, 10, prefix="bad")
        assert pauses.open_pause(
            connection, "activation", code="MessageRejected", reason="refused", probe_after=timedelta(0)
        )
    return transport(simulator, monkeypatch)


def wait_unpaused(connection: Connection) -> None:
    for account in add_accounts(connection, 3, status="active", prefix="active"):
        ask_recovery(connection, account)


def test_a_lone_sender_whose_probes_take_long_sends_what_is_not_paused(engine: Engine, slow: Transport) -> None:
    with engine.connect() as connection:
        with working(engine, slow, sweep_interval=0.3):
            eventually(lambda: count(connection, "pauses WHERE probes > 1"), "it probes")
            wait_unpaused(connection)
            probes = count(connection, "generate_series(1, (SELECT probes FROM pauses))")
            eventually(lambda: count(connection, RECOVERED) == 3, "they are sent", seconds=20)
            eventually(lambda: count(connection, f"pauses WHERE probes > {probes + 1}"), "it probes on")
        assert misplaced(connection) == []


def test_a_sweep_whose_probes_take_long_sends_what_is_not_paused(engine: Engine, slow: Transport) -> None:
    with engine.connect() as connection:
        wait_unpaused(connection)
        sweep(shared(engine, slow), name="test", max_time=timedelta(seconds=12))
        assert count(connection, RECOVERED) == 3
        assert count(connection, "pauses WHERE probes > 1") == 1
