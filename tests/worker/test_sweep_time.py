"""A sweep ends when its time is up, whatever there is to do."""

import time
from collections.abc import Sequence
from datetime import timedelta
from importlib import import_module

import pytest
from sqlalchemy import Connection, Engine

from mailroom.mail.transport import Mail
from mailroom.outcome import Outcome
from mailroom.simulator import Simulator
from mailroom.worker.sweep import Swept, sweep
from tests.claiming import enqueue, run_out, take
from tests.running import Scripted, shared, transport
from tests.worker.test_given_back import unheard
from tests.world import count, misplaced


def test_what_was_lost_is_given_back_no_longer_than_the_sweep_may_last(
    engine: Engine, connection: Connection, simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is due yet, and all the same it is not said that all is done."""
    monkeypatch.setattr(import_module("mailroom.queue.rescue"), "RESCUED_BATCHES", 1)  # not the function
    for number in range(3):
        enqueue(connection, prefix=f"lost{number}")
        take(connection)
    run_out(connection)
    process = shared(engine, transport(simulator, monkeypatch))

    assert sweep(process, name="test", max_time=timedelta(0)) is Swept.LEFT
    assert count(connection, "batches") == 2
    assert sweep(process, name="test", max_time=timedelta(minutes=1)) is Swept.DRAINED
    assert count(connection, "batches") == 0
    assert misplaced(connection) == []


@pytest.mark.slow
def test_a_fault_that_is_met_as_the_time_ends_is_told_all_the_same(engine: Engine, connection: Connection) -> None:
    """No mail left, and each comes again later: it is not that all is done."""
    ends = time.monotonic() + 3

    def hangs(mails: Sequence[Mail]) -> Sequence[Outcome]:
        time.sleep(max(0, ends - time.monotonic()))
        return unheard(mails)

    enqueue(connection)
    sends = Scripted()
    sends.answers = [hangs]
    swept = sweep(shared(engine, sends), name="test", max_time=timedelta(seconds=ends - time.monotonic()))
    assert sends.calls
    assert swept is Swept.REFUSED
    assert misplaced(connection) == []
