"""What senders do with permits that end, and without any."""

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import Engine, event, text

from mailroom.fleet.blocks import FleetPermits
from mailroom.fleet.permits import NoLimit, Permit
from mailroom.simulator import Fault, Simulator
from mailroom.worker.sender import Work
from tests.fleet.permitting import account, granted, permits, sender
from tests.kinds import ACTIVATION
from tests.running import Scripted, eventually, transport, working
from tests.world import add_accounts, count, drained, misplaced, rows


def test_a_batch_whose_permit_has_run_out_takes_another(engine: Engine) -> None:
    """As where every statement takes a tenth of a second: what is claimed in vain would be claimed so for ever."""
    account(engine, 1000)
    sends = Scripted()
    works = sender(engine, sends, permits(engine, lambda: 0.0))  # held since long before now
    before = granted(engine)
    with engine.connect() as connection:
        add_accounts(connection, 5)
    assert works.work_claim() == Work(5, full=False)
    assert sends.calls == [(ACTIVATION, 5)]
    assert granted(engine) - before >= 10


class RunOut(NoLimit):
    """Permits that are void when they come, and no others."""

    def take(self, wanted: int, *, per_call: int | None = None, urgent_waits: Callable[[], bool]) -> Permit:
        return Permit(wanted, until=0.0)

    def take_again(self, permit: Permit, count: int, until: float, *, wait: Callable[[float], bool]) -> bool:
        return False


def test_a_batch_that_gets_no_other_permit_is_given_back(engine: Engine) -> None:
    sends = Scripted()
    works = sender(engine, sends, RunOut())
    with engine.connect() as connection:
        add_accounts(connection, 5)
        assert works.work_claim() == Work(5, full=False)
        assert count(connection, "jobs WHERE attempt = 0") == 5
        assert misplaced(connection) == []
    assert sends.calls == []


@pytest.mark.slow
def test_a_throttle_answer_slows_the_fleet_down(
    engine: Engine, simulator: Simulator, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    account(engine, 100)
    simulator.faults.add(Fault(operation="SendEmail", error="TooManyRequestsException", times=1))
    given = FleetPermits(engine, mail_rate=None, bulk_rate=1)
    with engine.connect() as connection:
        add_accounts(connection, 1)
        with working(engine, transport(simulator, monkeypatch), permits=given):
            eventually(lambda: "slows down to 70 %" in caplog.text, "the fleet slows down")
            connection.execute(text("UPDATE jobs SET due_at = now()"))
            eventually(lambda: drained(connection), "the mail is sent after all")
        [row] = rows(connection, "SELECT slowdown FROM permits WHERE bucket = 'mails'")
        assert row.slowdown == pytest.approx(0.7)
        assert count(connection, "deliveries WHERE attempt > 0") == 0


@pytest.mark.slow
@pytest.mark.early
def test_when_the_quota_is_gone_nothing_spins_and_work_resumes_by_itself(
    engine: Engine, simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    account(engine, -1, daily=100, sent=100)
    statements: list[str] = []
    with engine.connect() as connection:
        add_accounts(connection, 20)
        event.listen(engine, "before_cursor_execute", lambda *given: statements.append(given[2]))
        given = FleetPermits(engine, mail_rate=None, bulk_rate=None)
        with working(engine, transport(simulator, monkeypatch), concurrency=4, sweep_interval=1, permits=given):
            eventually(lambda: any(".permits_take(" in one for one in statements), "it has asked")
            asked = sum(".permits_take(" in one for one in statements)
            eventually(lambda: sum(".look(" in one for one in statements) > 12, "it looks on")
            assert sum(".permits_take(" in one for one in statements) <= asked + 8
            assert simulator.ledger.counts().mails == 0
            account(engine, -1, daily=200, sent=100)
            given._mails._ask_again_at = 0.0  # as if the minute were over
            eventually(lambda: drained(connection), "all is sent")


@pytest.mark.slow
def test_each_call_of_a_search_waits_for_its_permits(
    engine: Engine, simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ten are refused whole, then their first half. The halves that are not refused leave no doubt of the others."""
    bulk_rate = 2.0
    account(engine, 1000)
    simulator.faults.add(Fault(operation="SendBulkEmail", error="BadRequestException", times=2))
    given = FleetPermits(engine, mail_rate=None, bulk_rate=bulk_rate)
    before, began = granted(engine), datetime.now(UTC)
    with engine.connect() as connection:
        add_accounts(connection, 10)
        with working(engine, transport(simulator, monkeypatch), permits=given, lease=timedelta(minutes=5)):
            eventually(lambda: drained(connection), "all is sent")
        assert count(connection, "deliveries WHERE outcome = 'sent' AND attempt = 0") == 10
        [calls] = rows(connection, "SELECT granted FROM permits WHERE bucket = 'bulk_calls'")
    requests = simulator.ledger.requests
    sizes = [request.entries or 1 for request in requests]
    assert sizes == [10, 5, 2, 1, 1, 1, 2, 1, 1, 1]
    bulk = [request.received_at for request in requests if request.operation == "SendBulkEmail"]
    burst = 1  # of what there was when it began
    assert (bulk[-1] - began).total_seconds() > (len(bulk) - burst) / bulk_rate
    assert calls.granted >= len(bulk)
    assert granted(engine) - before >= sum(sizes)


@pytest.mark.slow
def test_a_search_that_gets_no_permit_ends_in_time_and_the_rest_waits(
    engine: Engine, simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No bulk call is left for five, nor then for two of the others; the last three need none."""
    account(engine, 1000)
    simulator.faults.add(Fault(operation="SendBulkEmail", error="BadRequestException"))
    ahead = timedelta(seconds=30)  # so long before the end of the lease no permit is waited for any more
    given = FleetPermits(engine, mail_rate=None, bulk_rate=0.01, clock=lambda: time.monotonic() + ahead.total_seconds())
    sends = transport(simulator, monkeypatch)
    within = sends.max_call_time + ahead + timedelta(seconds=1)
    with engine.connect() as connection:
        add_accounts(connection, 10)
        with working(engine, sends, permits=given, lease=within):
            eventually(lambda: count(connection, "deliveries") >= 10, "the search is over")
        first = rows(connection, "SELECT error_code FROM deliveries WHERE attempt = 0 ORDER BY token")
        assert [row.error_code for row in first] == ["OutOfTime"] * 7 + [None] * 3
        assert misplaced(connection) == []
    assert [request.operation for request in simulator.ledger.requests].count("SendBulkEmail") == 1


@pytest.mark.slow
def test_a_search_that_waits_for_a_permit_hears_a_stop(
    engine: Engine, simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or whoever supervises the process would kill it, and what the search has sent would be sent again."""
    account(engine, 1000)
    simulator.faults.add(Fault(operation="SendBulkEmail", error="BadRequestException", times=2))
    given = FleetPermits(engine, mail_rate=None, bulk_rate=0.01)
    with engine.connect() as connection:
        add_accounts(connection, 10)
        with working(engine, transport(simulator, monkeypatch), permits=given, lease=timedelta(minutes=5)) as worker:
            eventually(lambda: simulator.ledger.requests, "the search begins")
            began = time.monotonic()
            worker.stop()
        assert time.monotonic() - began < 5
        assert misplaced(connection) == []
        assert count(connection, "batches") == 0
        assert count(connection, "jobs WHERE attempt > 0") == 0  # for a stop no mail is at fault
