"""Several batches of one claim: how many are claimed, sent in turn, and settled together."""

import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from math import inf
from typing import Any, cast

import pytest
from sqlalchemy import Engine, event, text

from mailroom import queue
from mailroom.fleet.permits import NoLimit, Permit
from mailroom.mail.transport import Mail
from mailroom.outcome import Deferred, Outcome, Rejected
from mailroom.worker.claim_run import ClaimRun
from mailroom.worker.sender import Sender
from mailroom.worker.shared import Shared
from tests import running
from tests.claiming import claim
from tests.running import Scripted, accept
from tests.worker.batches import JOBS, LIMIT, left
from tests.world import add_accounts, ask_recovery, count, misplaced, rows


def test_what_is_quickly_sent_is_claimed_several_batches_at_a_time(
    engine: Engine, sender: Sender, sends: Scripted
) -> None:
    with engine.connect() as connection:
        work = sender.work_claim()
        assert work is not None
        assert work.taken == 4 * LIMIT
        assert left(connection) == (JOBS - 4 * LIMIT, 0, 0)
        [row] = rows(connection, "SELECT count(DISTINCT batch) AS batches FROM deliveries WHERE outcome = 'sent'")
        assert row.batches == 7
    assert len(sends.mailed) == len(set(sends.mailed)) == 7 * LIMIT


def of_each_one_bad(mails: Sequence[Mail]) -> Sequence[Outcome]:
    return [Rejected("MessageRejected", "no"), Deferred("TransientFailure", "later", charged=True), *accept(mails[2:])]


def test_a_mail_that_is_refused_for_its_own_sake_stops_nothing(engine: Engine, sender: Sender, sends: Scripted) -> None:
    sends.answers = [of_each_one_bad]
    with engine.connect() as connection:
        sender.work_claim()
        assert left(connection) == (JOBS - 3 * LIMIT - 6, 4, 0)


class Turns:
    """Counts who enters."""

    def __init__(self) -> None:
        self.taken = 0

    def __enter__(self) -> None:
        self.taken += 1

    def __exit__(self, *_: object) -> None:
        pass


def test_a_claim_for_several_batches_takes_its_turn(engine: Engine, shared: Shared) -> None:
    turns = Turns()
    shared.large_claims = cast(Any, turns)
    works = Sender(shared, name="test")
    with engine.connect() as connection:
        add_accounts(connection, 5 * LIMIT)
    taken = []
    for _ in range(2):
        works.work_claim()
        taken.append(turns.taken)
    assert taken == [0, 1]


class Odd(NoLimit):
    """Permits that come as they come."""

    def take(self, wanted: int, *, per_call: int | None = None, urgent_waits: Callable[[], bool]) -> Permit:
        return Permit(min(wanted, 2 * LIMIT + 5))


def test_whole_batches_are_claimed_of_what_is_permitted(engine: Engine, sends: Scripted) -> None:
    """A last one that is not full would be locked, and perhaps left, and another claim pass over it."""
    works = running.sender(engine, sends, permits=Odd(), clock=sends.clock, batch_limit=LIMIT)
    with engine.connect() as connection:
        add_accounts(connection, 10 * LIMIT)
    assert [work.taken for _ in range(3) if (work := works.work_claim())] == [LIMIT, 2 * LIMIT, 2 * LIMIT]


def test_of_batches_that_are_settled_together_the_log_says_which_were_late(
    engine: Engine, sender: Sender, sends: Scripted, caplog: pytest.LogCaptureFixture
) -> None:
    def lost_meanwhile(mails: Sequence[Mail]) -> Sequence[Outcome]:
        with engine.connect() as connection:
            connection.execute(text("UPDATE batches SET lease_until = now() WHERE id = (SELECT min(id) FROM batches)"))
            queue.rescue(connection)
        return accept(mails)

    caplog.set_level("INFO")
    sends.answers = [lost_meanwhile, accept]
    sender.work_claim()
    lines = [message for message in caplog.messages if message.startswith("batch id=")]
    assert ["late=true" in line for line in lines] == [True, False, False, False]
    with engine.connect() as connection:
        assert misplaced(connection) == []


def test_when_urgent_mail_comes_one_sender_leaves_the_rest_for_it(
    engine: Engine, sender: Sender, sends: Scripted, shared: Shared
) -> None:
    with engine.connect() as connection:
        [person] = add_accounts(connection, 1, status="active", prefix="person")

        def meanwhile(mails: Sequence[Mail]) -> Sequence[Outcome]:
            ask_recovery(connection, person)
            shared.urgent_came.set()
            return accept(mails)

        sends.answers = [accept, meanwhile, accept]
        sender.work_claim()
        assert left(connection) == (JOBS - 2 * LIMIT + 1, 0, 0)
        assert not shared.urgent_came.is_set()


def test_urgent_mail_that_it_cannot_send_keeps_it_from_nothing(
    engine: Engine, sender: Sender, sends: Scripted, shared: Shared
) -> None:
    """It may be another queue's, or paused."""

    def meanwhile(mails: Sequence[Mail]) -> Sequence[Outcome]:
        shared.urgent_came.set()
        return accept(mails)

    sends.answers = [accept, meanwhile, accept]
    with engine.connect() as connection:
        sender.work_claim()
        assert left(connection) == (JOBS - 4 * LIMIT, 0, 0)
        assert not shared.urgent_came.is_set()


def test_a_claim_that_began_after_urgent_mail_came_leaves_nothing_for_it(
    engine: Engine, sender: Sender, shared: Shared
) -> None:
    shared.urgent_came.set()
    with engine.connect() as connection:
        sender.work_claim()
        assert left(connection) == (JOBS - 4 * LIMIT, 0, 0)


def test_once_it_is_to_stop_it_makes_no_other_call(
    engine: Engine, sender: Sender, sends: Scripted, shared: Shared
) -> None:
    def meanwhile(mails: Sequence[Mail]) -> Sequence[Outcome]:
        shared.stopping.set()
        return accept(mails)

    sends.answers = [meanwhile, accept]
    with engine.connect() as connection:
        sender.work_claim()
        assert left(connection) == (JOBS - LIMIT, 0, 0)


def test_once_it_is_to_stop_it_claims_nothing_more(engine: Engine, sender: Sender, shared: Shared) -> None:
    shared.stopping.set()
    assert sender.work_claim() is None
    with engine.connect() as connection:
        assert left(connection) == (JOBS, 0, 0)


def test_the_turn_of_what_is_not_urgent_is_one_batch(engine: Engine, sender: Sender, sends: Scripted) -> None:
    with engine.connect() as connection:
        for person in add_accounts(connection, 6 * LIMIT, status="active", prefix="person"):
            ask_recovery(connection, person)
        turns = []
        for _ in range(5):
            before = len(sends.mailed)
            sender.work_claim()
            turns.append(len(sends.mailed) - before)
        assert turns == [LIMIT] * 5  # of recoveries a batch at a time, and then of the others
        assert left(connection)[0] == JOBS + 6 * LIMIT - 5 * LIMIT
        assert count(connection, "jobs WHERE action = 'activation'") == JOBS - LIMIT


class Ended(NoLimit):
    """Permits whose bulk calls are void by the time that there is something to send."""

    def __init__(self, until: float) -> None:
        self.asked = 0
        self._until = until

    def take(self, wanted: int, *, per_call: int | None = None, urgent_waits: Callable[[], bool]) -> Permit:
        return Permit(wanted, until=self._until, calls=Permit(wanted, until=0))

    def take_again(self, permit: Permit, count: int, until: float, *, wait: Callable[[float], bool]) -> bool:
        self.asked += 1
        return True


@pytest.mark.parametrize(("until", "asked"), [(inf, 0), (0, 1)])
def test_only_the_first_batch_waits_for_a_permit(engine: Engine, sends: Scripted, until: float, asked: int) -> None:
    permits = Ended(until)
    works = running.sender(engine, sends, permits=permits, clock=sends.clock, batch_limit=LIMIT)
    works.size.batches = 4
    with engine.connect() as connection:
        add_accounts(connection, JOBS)
        works.work_claim()
        assert left(connection) == (JOBS - LIMIT, 0, 0)
    assert permits.asked == asked


@pytest.mark.parametrize(("took", "sent"), [(0, LIMIT), (10, LIMIT), (26, 0)])
def test_a_call_has_what_the_claim_left_of_the_lease(
    engine: Engine, sender: Sender, shared: Shared, sends: Scripted, took: float, sent: int
) -> None:
    """The lease runs from the claim's own moment; a call that might outlast it is not begun."""
    sends.max_call_time = timedelta(seconds=5)
    with engine.connect() as connection:
        [batch] = claim(connection, batch_limit=LIMIT, lease=timedelta(seconds=30)).batches
        before = len(sends.mailed)
        permit = Permit(LIMIT)
        permit.keep([LIMIT])
        since = time.monotonic() - took
        ClaimRun(shared, [batch], permit=permit, size=sender.size, since=since).work()
        assert len(sends.mailed) - before == sent
        assert left(connection) == (JOBS - sent, 0, 0)


def test_a_machine_that_was_suspended_after_a_claim_sends_none_of_it(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its monotonic clock stood still; the lease is over, and others have sent the mails."""
    sends, suspended, clock_gettime = Scripted(), 0.0, time.clock_gettime
    monkeypatch.setattr(
        time, "clock_gettime", lambda which: clock_gettime(which) + suspended * (which == time.CLOCK_BOOTTIME)
    )

    def suspend(*given: Any) -> None:
        nonlocal suspended
        if ".claim(" in given[2]:
            suspended = 60.0

    event.listen(engine, "after_cursor_execute", suspend)
    with engine.connect() as connection:
        add_accounts(connection, 3)
        running.sender(engine, sends).work_claim()
        assert sends.calls == []
        assert count(connection, "jobs WHERE attempt = 0") == 3
        assert misplaced(connection) == []
