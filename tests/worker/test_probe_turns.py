"""Between two probes comes what is not paused, however long they take; and who makes them."""

from datetime import timedelta

import pytest
from sqlalchemy import Connection, Engine, text

from mailroom.fleet import pauses
from mailroom.mail.transport import Transport
from mailroom.simulator import Fault, Simulator
from mailroom.worker.probe_turn import LEFT_TO_OTHERS, ProbeTurn
from mailroom.worker.sweep import sweep
from tests.running import eventually, shared, transport, working
from tests.world import add_accounts, ask_recovery, count, misplaced

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


@pytest.mark.slow
def test_a_lone_sender_whose_probes_take_long_sends_what_is_not_paused(engine: Engine, slow: Transport) -> None:
    with engine.connect() as connection:
        with working(engine, slow, sweep_interval=0.3):
            eventually(lambda: count(connection, "pauses WHERE probes > 1"), "it probes")
            wait_unpaused(connection)
            probes = count(connection, "generate_series(1, (SELECT probes FROM pauses))")
            eventually(lambda: count(connection, RECOVERED) == 3, "they are sent", seconds=20)
            eventually(lambda: count(connection, f"pauses WHERE probes > {probes + 1}"), "it probes on")
        assert misplaced(connection) == []


@pytest.mark.slow
def test_a_sweep_whose_probes_take_long_sends_what_is_not_paused(engine: Engine, slow: Transport) -> None:
    with engine.connect() as connection:
        wait_unpaused(connection)
        sweep(shared(engine, slow), name="test", max_time=timedelta(seconds=12))
        assert count(connection, RECOVERED) == 3
        assert count(connection, "pauses WHERE probes > 1") == 1


def test_who_may_be_at_fault_leaves_each_probe_to_others_for_a_while() -> None:
    now, at_fault = [100.0], [True]
    turn = ProbeTurn(lambda: at_fault[0], clock=lambda: now[0])
    for _ in range(2):
        assert (turn.see(1), turn.take()) == (0, False)
        assert turn.rest == LEFT_TO_OTHERS
        now[0] += LEFT_TO_OTHERS.total_seconds()
        assert turn.rest is None
        assert (turn.see(1), turn.take(), turn.take()) == (1, True, False)
    assert turn.see(1) == 0
    assert turn.see(0) == 0  # another has probed
    now[0] += LEFT_TO_OTHERS.total_seconds()
    assert turn.see(1) == 0
    at_fault[0] = False
    assert (turn.see(1), turn.take()) == (1, True)
