"""What a process holds of the fleet's permits, who is served with them, and how it learns what SES allows."""

import time
from collections.abc import Callable, Sequence
from datetime import timedelta

import pytest
from sqlalchemy import Engine, event, text

from mailroom import ses
from mailroom.errors import TransportError
from mailroom.fleet.account_refresh import AccountRefresh
from mailroom.fleet.blocks import FleetPermits
from mailroom.fleet.buckets import HOLD
from mailroom.fleet.permits import ASK_AGAIN, NO_LIMIT, NoLimit, Permit, Permits
from mailroom.job import Action, SesAccount
from mailroom.mail.transport import Mail
from mailroom.outcome import Outcome
from mailroom.simulator import Fault, Simulator
from mailroom.worker.claim_size import INTENDED, MAX_SENDING
from mailroom.worker.sender import Sender, Work
from tests import running
from tests.rating import let_pass, tell_account
from tests.running import Scripted, accept, aws, eventually, transport, working
from tests.trouble import statements
from tests.world import add_accounts, ask_recovery, count, drained, misplaced, rows

CLAIM_REFRESH = "-- Take over asking SES"


class Clock:
    """A monotonic clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.now = time.monotonic() + 1e6  # far ahead, so that for the sender nothing runs out

    def __call__(self) -> float:
        return self.now


def nobody_urgent() -> bool:
    return False


def account(engine: Engine, max_send_rate: float, *, daily: float = -1, sent: float = 0) -> None:
    """Let SES have said this, and the buckets be full."""
    with engine.connect() as connection:
        tell_account(connection, max_send_rate, daily=daily, sent=sent)
        let_pass(connection, 3600)


def granted(engine: Engine) -> int:
    with engine.connect() as connection:
        [row] = rows(connection, "SELECT granted FROM permits WHERE bucket = 'mails'")
        return int(row.granted)


@pytest.fixture
def clock() -> Clock:
    return Clock()


def permits(engine: Engine, clock: Callable[[], float], *, bulk_rate: float | None = None) -> FleetPermits:
    return FleetPermits(engine, mail_rate=None, bulk_rate=bulk_rate, clock=clock)


def sender(engine: Engine, sends: Scripted, given: Permits, *, batch_limit: int = 10) -> Sender:
    return running.sender(engine, sends, permits=given, clock=sends.clock, batch_limit=batch_limit)


def test_a_block_serves_several_claims_and_its_size_follows_what_is_used(engine: Engine, clock: Clock) -> None:
    account(engine, -1)
    held = permits(engine, clock)
    taken = []
    for _ in range(15):  # all at once: the next block is twice as large
        held.take(10, urgent_waits=nobody_urgent)
        taken.append(granted(engine))
    assert sorted(set(taken)) == [10, 30, 70, 150]
    clock.now += HOLD.total_seconds()
    held.take(10, urgent_waits=nobody_urgent)
    assert granted(engine) == 230  # as many as were used of the last


def test_what_was_held_too_long_is_not_used(engine: Engine, clock: Clock) -> None:
    account(engine, 1000)
    held = permits(engine, clock)
    first = held.take(10, urgent_waits=nobody_urgent)
    assert first is not None
    first.keep([1])
    clock.now += HOLD.total_seconds()
    again = held.take(1, urgent_waits=nobody_urgent)
    assert again is not None
    assert again.until > first.until
    first.keep([1])  # too late to be of use to anybody
    assert [held.take(50, urgent_waits=nobody_urgent) is not None for _ in range(2)] == [True, True]
    assert granted(engine) >= 12


def test_a_claim_that_finds_nothing_gives_everything_back(engine: Engine, clock: Clock) -> None:
    account(engine, 1000)
    assert sender(engine, Scripted(), permits(engine, clock, bulk_rate=1)).work_claim() == Work(0, full=False)
    assert granted(engine) == 0


def test_without_a_bulk_call_mails_leave_one_by_one(engine: Engine, clock: Clock) -> None:
    account(engine, 1000)
    sends = Scripted()
    works = sender(engine, sends, permits(engine, clock, bulk_rate=0.01))
    with engine.connect() as connection:
        add_accounts(connection, 20)
        assert [works.work_claim() for _ in range(3)] == [Work(10, full=True), Work(1, full=True), Work(1, full=True)]
    assert [size for _, size in sends.calls] == [10, 1, 1]


def test_a_bulk_call_that_one_mail_did_not_need_is_there_for_the_next(engine: Engine, clock: Clock) -> None:
    account(engine, 1000)
    sends = Scripted()
    works = sender(engine, sends, permits(engine, clock, bulk_rate=0.01))
    with engine.connect() as connection:
        add_accounts(connection, 1)
        works.work_claim()
        add_accounts(connection, 9, prefix="more")
        works.work_claim()
    assert [size for _, size in sends.calls] == [1, 9]


def test_a_claim_takes_no_more_than_is_permitted_and_then_waits(engine: Engine, clock: Clock) -> None:
    account(engine, 10)  # the bucket holds 4.5, and the reserve is 0.9 of them
    sends = Scripted()
    works = sender(engine, sends, permits(engine, clock))
    with engine.connect() as connection:
        add_accounts(connection, 20)
        assert works.work_claim() == Work(3, full=True)
        assert works.work_claim() is None
        assert timedelta(0) < works.permit_wait() <= ASK_AGAIN * 1.2
        assert misplaced(connection) == []
    assert sends.calls == [(Action.ACTIVATION, 3)]


def test_a_recovery_leaves_from_the_reserve(engine: Engine, clock: Clock) -> None:
    account(engine, 10)
    sends = Scripted()
    works = sender(engine, sends, permits(engine, clock))
    with engine.connect() as connection:
        [person] = add_accounts(connection, 1, status="active", prefix="person")
        add_accounts(connection, 20)
        works.work_claim()
        ask_recovery(connection, person)
        work = works.work_claim()
        assert work is not None
        assert work.taken == 1  # however much the reserve has filled up by now
    assert sends.calls[-1] == (Action.PASSWORD_RECOVERY, 1)


def test_a_flood_of_recoveries_leaves_every_fifth_claim_to_others(engine: Engine) -> None:
    sends = Scripted(INTENDED)  # so that a claim is for one batch
    works = sender(engine, sends, NO_LIMIT, batch_limit=1)
    with engine.connect() as connection:
        for person in add_accounts(connection, 40, status="active", prefix="person"):
            ask_recovery(connection, person)
        add_accounts(connection, 20)
    for _ in range(20):
        works.work_claim()
    actions = [action for action, _ in sends.calls]
    assert actions.count(Action.ACTIVATION) == 4
    assert actions[:4] == [Action.PASSWORD_RECOVERY] * 4


def test_the_last_of_the_quota_is_not_for_those_whose_turn_it_is(engine: Engine, clock: Clock) -> None:
    account(engine, -1, daily=1000, sent=960)
    sends = Scripted(INTENDED)
    works = sender(engine, sends, permits(engine, clock), batch_limit=1)
    with engine.connect() as connection:
        for person in add_accounts(connection, 20, status="active", prefix="person"):
            ask_recovery(connection, person)
        add_accounts(connection, 20)
    for _ in range(20):
        works.work_claim()
    assert sends.calls == [(Action.PASSWORD_RECOVERY, 1)] * 20


def test_several_batches_share_a_permit_and_give_back_what_they_do_not_need(engine: Engine, clock: Clock) -> None:
    account(engine, -1)
    sends = Scripted()
    works = sender(engine, sends, permits(engine, clock))
    with engine.connect() as connection:
        add_accounts(connection, 53)
    assert works.work_claim() == Work(10, full=True)
    assert works.work_claim() == Work(20, full=True)
    assert works.work_claim() == Work(23, full=False)
    assert sends.calls == [(Action.ACTIVATION, 10)] * 5 + [(Action.ACTIVATION, 3)]
    assert works.work_claim() == Work(0, full=False)
    assert granted(engine) == 53


def test_no_more_batches_are_claimed_than_are_permitted(engine: Engine, clock: Clock) -> None:
    account(engine, 100)
    sends = Scripted()
    works = sender(engine, sends, permits(engine, clock))
    with engine.connect() as connection:
        add_accounts(connection, 53)
    for _ in range(10):
        works.work_claim()
    mails = [each for _, each in sends.calls]
    assert sum(mails) == granted(engine) < 53
    assert mails[:3] == [10] * 3


def test_a_permit_ends_when_its_mails_or_its_calls_do() -> None:
    assert Permit(1, until=9).ends == 9
    assert Permit(9, until=9, calls=Permit(1, until=5)).ends == 5
    assert Permit(9, until=5, calls=Permit(1, until=9)).ends == 5


def test_permits_of_batches_that_are_given_back_are_not_lost(engine: Engine, clock: Clock) -> None:
    account(engine, -1)
    sends = Scripted()

    def meanwhile(mails: Sequence[Mail]) -> Sequence[Outcome]:
        sends.spent += 2 * MAX_SENDING.total_seconds()
        return accept(mails)

    works = sender(engine, sends, permits(engine, clock, bulk_rate=1000))
    with engine.connect() as connection:
        add_accounts(connection, 83)
        assert [works.work_claim() for _ in range(2)] == [Work(10, full=True), Work(20, full=True)]
        sends.answers = [meanwhile, accept]
        assert works.work_claim() == Work(40, full=True)
        assert len(sends.calls) == 4
        while (work := works.work_claim()) is not None and work.taken:
            pass
        assert sum(mails for _, mails in sends.calls) == 83
        spent = {row.bucket: row.granted for row in rows(connection, "SELECT bucket, granted FROM permits")}
    assert spent == {"mails": 83, "bulk_calls": len(sends.calls)}


def test_mails_that_go_one_by_one_take_no_bulk_calls(engine: Engine, clock: Clock) -> None:
    account(engine, -1)
    sends = Scripted()
    works = sender(engine, sends, permits(engine, clock, bulk_rate=1), batch_limit=1)
    with engine.connect() as connection:
        add_accounts(connection, 7)
    assert [works.work_claim() for _ in range(3)] == [Work(1, full=True), Work(2, full=True), Work(4, full=True)]


def test_what_is_put_back_of_a_void_block_stays_void(engine: Engine, clock: Clock) -> None:
    account(engine, 1000)
    held = permits(engine, clock)
    permit = held.take(100, per_call=10, urgent_waits=nobody_urgent)
    assert permit is not None
    held.throttled()
    permit.keep([10])
    before = granted(engine)
    assert held.take(10, urgent_waits=nobody_urgent) is None or granted(engine) > before


def test_without_bulk_calls_to_spare_the_second_batch_is_a_single_mail(engine: Engine, clock: Clock) -> None:
    account(engine, -1)
    sends = Scripted()
    works = sender(engine, sends, permits(engine, clock, bulk_rate=1))
    with engine.connect() as connection:
        add_accounts(connection, 53)
    for _ in range(3):
        works.work_claim()
    assert [mails for _, mails in sends.calls].count(10) == 1
    assert {mails for _, mails in sends.calls} == {1, 10}


def test_a_batch_whose_permit_has_run_out_takes_another(engine: Engine) -> None:
    """As where every statement takes a tenth of a second: what is claimed in vain would be claimed so for ever."""
    account(engine, 1000)
    sends = Scripted()
    works = sender(engine, sends, permits(engine, lambda: 0.0))  # held since long before now
    before = granted(engine)
    with engine.connect() as connection:
        add_accounts(connection, 5)
    assert works.work_claim() == Work(5, full=False)
    assert sends.calls == [(Action.ACTIVATION, 5)]
    assert granted(engine) - before >= 10


class RunOut(NoLimit):
    """Permits that are void when they come, and no others."""

    def take(self, wanted: int, *, per_call: int | None = None, urgent_waits: Callable[[], bool]) -> Permit:
        return Permit(wanted, until=0.0)

    def take_again(self, permit: Permit, count: int, until: float) -> bool:
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
            eventually(lambda: any("-- Take up to" in one for one in statements), "it has asked")
            asked = sum("-- Take up to" in one for one in statements)
            eventually(lambda: sum("-- Look whether" in one for one in statements) > 12, "it looks on")
            assert sum("-- Take up to" in one for one in statements) <= asked + 8
            assert simulator.ledger.counts().mails == 0
            account(engine, -1, daily=200, sent=100)
            given._mails._ask_again_at = 0.0  # as if the minute were over
            eventually(lambda: drained(connection), "all is sent")


def test_what_ses_says_of_the_account_is_kept(
    engine: Engine, simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in aws(simulator).items():
        monkeypatch.setenv(name, value)
    simulator.account.max_send_rate = 14
    simulator.account.max_24_hour_send = 50_000
    client = ses.connect_to_ask(region=None)
    watch = AccountRefresh(engine, lambda: ses.account(client))
    with engine.connect() as connection:
        connection.execute(text("UPDATE ses_account SET refresh_due_at = '-infinity'"))
        assert watch.refresh()
        assert not watch.refresh()  # for a minute
        [row] = rows(connection, "SELECT * FROM ses_account")
    assert (row.max_send_rate, row.max_24_hour_send, row.sent_last_24_hours) == (14, 50_000, 0)
    assert (row.sending_enabled, row.production_access, row.enforcement) == (True, True, "HEALTHY")


@pytest.mark.parametrize("trouble", ["AccessDeniedException", "ReadTimeoutError"])
def test_an_account_that_may_not_be_asked_for_is_told_once(
    engine: Engine, caplog: pytest.LogCaptureFixture, trouble: str
) -> None:
    def refuse() -> SesAccount:
        raise TransportError(trouble)

    watch = AccountRefresh(engine, refuse)
    for _ in range(3):
        with engine.connect() as connection:
            connection.execute(text("UPDATE ses_account SET refresh_due_at = '-infinity', fetched_at = NULL"))
        assert watch.refresh()
    assert caplog.text.count("account not known") == 1
    assert trouble in caplog.text


def test_a_refusal_of_ses_is_known_by_its_code(simulator: Simulator, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in aws(simulator).items():
        monkeypatch.setenv(name, value)
    simulator.faults.add(Fault(operation="GetAccount", error="BadRequestException", times=1))
    with pytest.raises(TransportError, match="BadRequestException"):
        ses.account(ses.connect_to_ask(region=None))


def test_each_call_of_a_search_waits_for_its_permits(
    engine: Engine, simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ten are refused whole, then their first half. The halves that are not refused leave no doubt of the others."""
    bulk_rate = 2.0
    account(engine, 1000)
    simulator.faults.add(Fault(operation="SendBulkEmail", error="BadRequestException", times=2))
    given = FleetPermits(engine, mail_rate=None, bulk_rate=bulk_rate)
    before = granted(engine)
    with engine.connect() as connection:
        add_accounts(connection, 10)
        with working(engine, transport(simulator, monkeypatch), permits=given):
            eventually(lambda: drained(connection), "all is sent")
        assert count(connection, "deliveries WHERE outcome = 'sent' AND attempt = 0") == 10
    requests = simulator.ledger.requests
    sizes = [request.entries or 1 for request in requests]
    assert sizes == [10, 5, 2, 1, 1, 1, 2, 1, 1, 1]
    bulk = [request.received_at for request in requests if request.operation == "SendBulkEmail"]
    burst = 1
    assert (bulk[-1] - bulk[0]).total_seconds() > (len(bulk) - 1 - burst) / bulk_rate
    assert granted(engine) - before >= sum(sizes)


def test_a_search_that_gets_no_permit_ends_in_time_and_the_rest_waits(
    engine: Engine, simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No bulk call is left for five, nor then for two of the others; the last three need none."""
    account(engine, 1000)
    simulator.faults.add(Fault(operation="SendBulkEmail", error="BadRequestException"))
    given = FleetPermits(engine, mail_rate=None, bulk_rate=0.01)
    sends = transport(simulator, monkeypatch)
    within = sends.max_call_time + timedelta(seconds=1)
    with engine.connect() as connection:
        add_accounts(connection, 10)
        with working(engine, sends, permits=given, lease=within):
            eventually(lambda: count(connection, "deliveries") == 10, "the search is over")
        first = rows(connection, "SELECT error_code FROM deliveries WHERE attempt = 0")
        assert [row.error_code for row in first] == ["OutOfTime"] * 7 + [None] * 3
        assert misplaced(connection) == []
    assert [request.operation for request in simulator.ledger.requests].count("SendBulkEmail") == 1


@pytest.mark.early
def test_an_idle_process_asks_after_its_account_when_that_is_due_and_not_before(engine: Engine) -> None:
    """The others of the fleet wait for that, too: nothing that has a rhythm of its own costs a statement."""
    told = SesAccount(14, 50_000, 0, sending_enabled=True, production_access=True, enforcement="HEALTHY")
    asked: list[float] = []

    def ask() -> SesAccount:
        asked.append(time.monotonic())
        return told

    with engine.connect() as connection:
        tell_account(connection, 14)
        connection.execute(text("UPDATE ses_account SET refresh_due_at = clock_timestamp() + interval '6 seconds'"))
    with statements(engine) as seen, AccountRefresh(engine, ask).running():
        assert [CLAIM_REFRESH in one for one in seen] == [True]
        eventually(lambda: asked, "it asks when it is due")
        assert [CLAIM_REFRESH in one for one in seen].count(True) == 2
