"""Mails that may or may not be out: sent again one by one, after a while, or held until somebody decides."""

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from sqlalchemy import Engine, text

from mailroom import queue
from mailroom.outcome import Sent, Unconfirmed
from mailroom.queue.late_acceptances import Applied, apply
from mailroom.queue.verdict import GRACE, judge
from mailroom.simulator import Fault, Simulator
from tests.claiming import NOTHING, batch_of, claim, look, take
from tests.running import eventually, transport, working
from tests.world import add_accounts, count, drained, misplaced

HELD = "jobs WHERE due_at = 'infinity'"


@pytest.mark.slow
def test_they_are_sent_again_one_by_one_with_the_same_token(
    engine: Engine, simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    simulator.faults.add(Fault(accept_then="drop"))
    sends = transport(simulator, monkeypatch)
    with engine.connect() as connection, working(engine, sends, sweep_interval=0.2, resend_after=timedelta(0)):
        add_accounts(connection, 4)
        eventually(lambda: count(connection, "deliveries WHERE outcome = 'unconfirmed'") == 4, "nobody knows")
        connection.execute(text("UPDATE jobs SET due_at = now()"))
        eventually(lambda: drained(connection), "all is sent again")
        assert misplaced(connection) == []
    assert [request.operation for request in simulator.ledger.requests] == ["SendBulkEmail"] + ["SendEmail"] * 4
    links = [mail.variables["secret"] for mail in simulator.ledger.mails]
    assert sorted(links[:4]) == sorted(links[4:])


@pytest.mark.slow
def test_they_can_be_held_until_somebody_decides(
    engine: Engine, simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    simulator.faults.add(Fault(accept_then="drop"))
    sends = transport(simulator, monkeypatch)
    with engine.connect() as connection, working(engine, sends, sweep_interval=0.1, resend_after=None):
        add_accounts(connection, 4)
        eventually(lambda: count(connection, HELD) == 4, "they are held")
        assert misplaced(connection) == []
        add_accounts(connection, 2, prefix="other")
        eventually(lambda: simulator.ledger.counts().mails == 6, "the others leave")
        assert count(connection, HELD) == 4
        connection.execute(text("UPDATE jobs SET due_at = now()"))
        eventually(lambda: drained(connection), "once released they leave")
    assert simulator.ledger.counts().mails == 10


def test_a_lost_batch_can_be_held_as_well(engine: Engine) -> None:
    with engine.connect() as connection:
        add_accounts(connection, 3)
        take(connection, lease=NOTHING)
        assert len(queue.rescue(connection, resend_after=None)) == 3
        assert count(connection, HELD) == 3
        assert misplaced(connection) == []


def test_an_answer_that_comes_after_all_ends_the_hold(engine: Engine) -> None:
    with engine.connect() as connection:
        add_accounts(connection, 3)
        batch = take(connection, lease=NOTHING)
        assert batch is not None
        queue.rescue(connection, resend_after=None)
        answers = [judge(Sent("m"), attempt=0, jitter=0), *[judge(Unconfirmed("x", "y"), attempt=0, jitter=0)] * 2]
        assert not queue.settle(connection, [(batch, answers)])
        assert count(connection, HELD) == 3  # a settlement decides nothing
        assert apply(connection) == Applied(freed=1, amended=0)
        assert count(connection, HELD) == 2
        assert batch_of(claim(connection, lease=NOTHING)) is None
        assert count(connection, "deliveries WHERE outcome = 'sent' AND NOT late") == 1
        assert misplaced(connection) == []


def test_an_answer_that_crosses_the_hold_ends_it_too(
    engine: Engine, simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The settlement waits for a rescue that it did not see: the job that is held then is not held for ever."""
    with (
        engine.connect().execution_options(isolation_level="READ COMMITTED") as rescuer,
        engine.connect() as connection,
        ThreadPoolExecutor(1) as pool,
    ):
        add_accounts(connection, 2)
        batch = take(connection, lease=NOTHING)
        assert batch is not None
        assert len(queue.rescue(rescuer, resend_after=None)) == 2
        verdicts = [judge(Sent("m"), attempt=0, jitter=0)] * 2
        with engine.connect() as worker:
            settled = pool.submit(queue.settle, worker, [(batch, verdicts)])
            eventually(lambda: count(connection, "pg_locks WHERE NOT granted"), "it waits for the rescue")
            rescuer.commit()
            assert settled.result() == set()
        with working(engine, transport(simulator, monkeypatch), sweep_interval=0.1, resend_after=None):
            eventually(lambda: drained(connection), "they are over")
        assert count(connection, "deliveries WHERE outcome = 'sent' AND NOT late") == 2
        assert misplaced(connection) == []
    assert simulator.ledger.counts().mails == 0


def test_the_wait_is_a_setting_and_never_shorter_than_the_backoff() -> None:
    nobody_knows = Unconfirmed("ReadTimeoutError", "no answer")
    for after, expected in ((GRACE, GRACE), (timedelta(minutes=5), timedelta(minutes=5)), (timedelta(0), 2)):
        again = judge(nobody_knows, attempt=0, jitter=0, resend_after=after).again
        assert again is not None
        assert again.after == (expected if isinstance(expected, timedelta) else timedelta(seconds=expected))
    held = judge(nobody_knows, attempt=0, jitter=0, resend_after=None).again
    assert held is not None
    assert held.after is None


def test_a_job_that_is_held_is_due_never(engine: Engine) -> None:
    with engine.connect() as connection:
        add_accounts(connection, 1)
        connection.execute(text("UPDATE jobs SET due_at = 'infinity', attempt = 1"))
        view = look(connection)
        assert (view.ready, view.next) == (0, None)
        assert count(connection, HELD) == 1
