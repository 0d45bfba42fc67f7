"""What a process holds of the fleet's permits, and who is served with them."""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from sqlalchemy import Engine

from mailroom.fleet import buckets
from mailroom.fleet.buckets import LONG_HOLD
from mailroom.fleet.permits import ASK_AGAIN, NO_LIMIT, NoLimit, Permit
from mailroom.mail.transport import Mail
from mailroom.outcome import Outcome
from mailroom.worker.claim_size import INTENDED, MAX_SENDING
from mailroom.worker.sender import Work
from mailroom.worker.worker import MAX_PERMIT_WAIT
from tests.fleet.permitting import Clock, account, granted, permits, sender
from tests.kinds import ACTIVATION, RECOVERY
from tests.rating import let_pass
from tests.running import Scripted, accept
from tests.world import add_accounts, ask_recovery, execute, misplaced, rows


def nobody_urgent() -> bool:
    return False


def test_a_block_serves_several_claims_and_its_size_follows_what_is_used(engine: Engine, clock: Clock) -> None:
    account(engine, -1)
    held = permits(engine, clock)
    taken = []
    for _ in range(15):  # all at once: the next block is twice as large
        held.take(10, urgent_waits=nobody_urgent)
        taken.append(granted(engine))
    assert sorted(set(taken)) == [10, 30, 70, 150]
    clock.now += LONG_HOLD.total_seconds()
    held.take(10, urgent_waits=nobody_urgent)
    assert granted(engine) == 230  # as many as were used of the last


def untils(engine: Engine, clock: Clock, *, rate: float, gap: float) -> int:
    """Of how many blocks come the permits of mails that are sent one by one, so many seconds apart, in ten seconds.

    Not counted are the first seconds, in which the process learns how many it needs.
    """
    account(engine, rate)
    held = permits(engine, clock)
    blocks: dict[float, float] = {}
    began = clock.now
    while clock.now < began + 15:
        permit = held.take(10, urgent_waits=nobody_urgent)
        assert permit is not None
        with permit:
            permit.keep([1])
            permit.spend()
        blocks.setdefault(permit.until, clock.now)
        clock.now += gap
        with engine.connect() as connection:
            let_pass(connection, gap)
    return sum(first > began + 5 for first in blocks.values())


@pytest.mark.slow
@pytest.mark.parametrize(("rate", "gap"), [(-1, 0.02), (1000, 0.02), (100, 0.1)])
def test_mails_that_come_one_by_one_ask_less_than_once_a_second(
    engine: Engine, clock: Clock, rate: float, gap: float
) -> None:
    assert untils(engine, clock, rate=rate, gap=gap) <= 10


def test_a_rate_that_is_raised_is_used_within_seconds(engine: Engine, clock: Clock) -> None:
    """At no mails a second, and after a throttle answer, the next permit would come in half an hour."""
    account(engine, 0)
    held = permits(engine, clock)
    assert held.take(1, urgent_waits=nobody_urgent) is not None
    held.throttled()
    assert held.take(1, urgent_waits=nobody_urgent) is None
    assert held.wait() > timedelta(seconds=10)
    account(engine, 14)
    clock.now += 15
    assert held.take(1, urgent_waits=nobody_urgent) is not None


@pytest.mark.parametrize("moment", ["-infinity", "0044-03-15 BC", "infinity"])
@pytest.mark.parametrize("column", ["throttled_at", "filled_at", "long_held_until"])
def test_permits_are_had_whatever_moment_somebody_set(engine: Engine, clock: Clock, column: str, moment: str) -> None:
    """As to say that nothing was ever throttled."""
    account(engine, 1000)
    held = permits(engine, clock)
    assert held.take(1, urgent_waits=nobody_urgent) is not None
    execute(engine, f"UPDATE permits SET {column} = '{moment}'")  # noqa: S608 - our own words
    clock.now += LONG_HOLD.total_seconds()
    assert held.take(1, urgent_waits=nobody_urgent) is not None
    with engine.connect() as connection:
        let_pass(connection, 2)
        assert buckets.slow_down(connection) == buckets.CUT


def test_what_was_held_too_long_is_not_used(engine: Engine, clock: Clock) -> None:
    account(engine, 1000)
    held = permits(engine, clock)
    first = held.take(10, urgent_waits=nobody_urgent)
    assert first is not None
    first.keep([1])
    clock.now += LONG_HOLD.total_seconds()
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
    assert sends.calls == [(ACTIVATION, 3)]


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
    assert sends.calls[-1] == (RECOVERY, 1)


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
    assert actions.count(ACTIVATION) == 4
    assert actions[:4] == [RECOVERY] * 4


class OfTheReserve(NoLimit):
    """Where all permits are those of the reserve."""

    def take(self, wanted: int, *, per_call: int | None = None, urgent_waits: Callable[[], bool]) -> Permit | None:
        return Permit(wanted, urgent=True)


def test_so_it_does_where_there_is_but_the_reserve(engine: Engine) -> None:
    sends = Scripted(INTENDED)
    works = sender(engine, sends, OfTheReserve(), batch_limit=1)
    with engine.connect() as connection:
        for person in add_accounts(connection, 40, status="active", prefix="person"):
            ask_recovery(connection, person)
        add_accounts(connection, 20)
    for _ in range(20):
        works.work_claim()
    assert [action for action, _ in sends.calls].count(ACTIVATION) == 4


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
    assert sends.calls == [(RECOVERY, 1)] * 20


def test_a_recovery_that_comes_just_after_a_look_in_vain_waits_for_a_moment(engine: Engine, clock: Clock) -> None:
    """It has woken a sender, which must not look at once, nor leave it to the next look of the worker."""
    account(engine, -1, daily=1000, sent=960)
    held = permits(engine, clock)
    assert held.take(1, urgent_waits=nobody_urgent) is None
    assert held.wait() > MAX_PERMIT_WAIT
    assert held.take(1, urgent_waits=lambda: True) is None
    assert held.wait() <= ASK_AGAIN
    clock.now += held.wait().total_seconds()
    permit = held.take(1, urgent_waits=lambda: True)
    assert permit is not None
    assert permit.only_urgent


def test_of_many_that_come_then_one_looks(engine: Engine, clock: Clock) -> None:
    account(engine, -1, daily=1000, sent=960)
    held = permits(engine, clock)
    together = threading.Barrier(8)

    def come() -> timedelta:
        together.wait()  # each is a thread of its own
        assert held.take(1, urgent_waits=nobody_urgent) is None
        return held.wait()

    assert held.take(1, urgent_waits=nobody_urgent) is None
    with ThreadPoolExecutor(8) as threads:
        waits = [each.result() for each in [threads.submit(come) for _ in range(8)]]
    assert len([wait for wait in waits if wait <= ASK_AGAIN]) == 1


def test_a_recovery_waits_no_longer_than_the_reserve_takes_to_fill(engine: Engine, clock: Clock) -> None:
    account(engine, 1, daily=1000, sent=960)
    held = permits(engine, clock)
    assert held.take(1, urgent_waits=lambda: True) is not None
    assert held.take(1, urgent_waits=lambda: True) is None
    assert held.wait() < timedelta(seconds=2)


def test_several_batches_share_a_permit_and_give_back_what_they_do_not_need(engine: Engine, clock: Clock) -> None:
    account(engine, -1)
    sends = Scripted()
    works = sender(engine, sends, permits(engine, clock))
    with engine.connect() as connection:
        add_accounts(connection, 53)
    assert works.work_claim() == Work(10, full=True)
    assert works.work_claim() == Work(20, full=True)
    assert works.work_claim() == Work(23, full=False)
    assert sends.calls == [(ACTIVATION, 10)] * 5 + [(ACTIVATION, 3)]
    assert works.work_claim() == Work(0, full=False)
    assert granted(engine) == 53


def test_no_more_batches_are_claimed_than_are_permitted(engine: Engine, clock: Clock) -> None:
    account(engine, 100)
    sends = Scripted()
    works = sender(engine, sends, permits(engine, clock))
    with engine.connect() as connection:
        add_accounts(connection, 100)
    for _ in range(10):
        works.work_claim()
    mails = [each for _, each in sends.calls]
    assert sum(mails) == granted(engine) < 100  # 36, and what the bucket made while those of the first claims left
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


def test_what_is_given_back_is_claimed_again_at_once(engine: Engine) -> None:
    sends = Scripted()

    def slowly(mails: Sequence[Mail]) -> Sequence[Outcome]:
        sends.spent += 2 * MAX_SENDING.total_seconds()
        return accept(mails)

    works = sender(engine, sends, NO_LIMIT)
    with engine.connect() as connection:
        add_accounts(connection, 53)
    assert [works.work_claim() for _ in range(2)] == [Work(10, full=True), Work(20, full=True)]
    sends.answers = [slowly]
    work = works.work_claim()
    assert work == Work(23, full=False)
    assert len(sends.calls) == 4
    assert work.due


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
    works = sender(engine, sends, permits(engine, clock, bulk_rate=0.01))
    with engine.connect() as connection:
        add_accounts(connection, 53)
    for _ in range(3):
        works.work_claim()
    assert [mails for _, mails in sends.calls].count(10) == 1
    assert {mails for _, mails in sends.calls} == {1, 10}
