"""Several batches of one claim: sent in turn, settled together, and what becomes of the rest when one goes wrong."""

import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from math import inf
from typing import Any, cast

import psycopg
import pytest
from sqlalchemy import Connection, Engine, event, text
from sqlalchemy.exc import OperationalError

from mailroom import queue
from mailroom.errors import TransportError
from mailroom.fleet.permits import NoLimit, Permit
from mailroom.mail.transport import Mail
from mailroom.outcome import Answer, Deferred, Outcome, RefusedTogether, Rejected, Scope, Unconfirmed
from mailroom.worker.claim_run import ClaimRun
from mailroom.worker.claim_size import MAX_SENDING
from mailroom.worker.sender import Sender
from mailroom.worker.shared import Shared
from tests import running
from tests.claiming import claim
from tests.running import Answering, Scripted, accept, refuse
from tests.world import add_accounts, ask_recovery, count, misplaced, rows

LIMIT = 10
# Calls that halving takes where every half is fine.
SEARCH = 5
JOBS = 100


@pytest.fixture
def sends() -> Scripted:
    return Scripted()


@pytest.fixture
def shared(engine: Engine, sends: Scripted) -> Shared:
    return running.shared(engine, sends, clock=sends.clock, batch_limit=LIMIT)


@pytest.fixture
def sender(engine: Engine, sends: Scripted, shared: Shared) -> Sender:
    """A sender that has found that sending takes no time, and now claims four batches at once."""
    found = Sender(shared, name="test")
    with engine.connect() as connection:
        add_accounts(connection, 3 * LIMIT + JOBS)
        connection.execute(text("UPDATE jobs SET due_at = now() - interval '1 minute'"))  # so that floors matter
        for opened in (1, 2):
            before = count(connection, "deliveries")
            found.work_claim()
            assert count(connection, "deliveries") - before == opened * LIMIT
    return found


def refuse_together(mails: Sequence[Mail]) -> Sequence[Answer]:
    """Let the batch take another call, and then one more."""
    return [RefusedTogether("BadRequestException")] * len(mails)


def left(connection: Connection) -> tuple[int, int, int]:
    """How many jobs wait, how many of them were charged, and how many are in flight."""
    assert misplaced(connection) == []
    return (
        count(connection, "jobs"),
        count(connection, "jobs WHERE attempt > 0"),
        count(connection, "batches"),
    )


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


def throttled(mails: Sequence[Mail]) -> Sequence[Outcome]:
    return [Deferred("TooManyRequestsException", "slow down", charged=False)] * len(mails)


def suspended(mails: Sequence[Mail]) -> Sequence[Outcome]:
    fault = Deferred("AccountSuspendedException", "no more", charged=False, scope=Scope.ACCOUNT)
    return [fault] * len(mails)


def unheard(mails: Sequence[Mail]) -> Sequence[Outcome]:
    return [Unconfirmed("ReadTimeoutError", "no answer")] * len(mails)


def test_a_mail_that_is_refused_for_its_own_sake_stops_nothing(engine: Engine, sender: Sender, sends: Scripted) -> None:
    sends.answers = [of_each_one_bad]
    with engine.connect() as connection:
        sender.work_claim()
        assert left(connection) == (JOBS - 3 * LIMIT - 6, 4, 0)


@pytest.mark.parametrize("answer", [throttled, suspended, unheard, refuse])
def test_when_a_call_meets_a_fault_the_batches_behind_it_are_given_back_untried(
    engine: Engine, sender: Sender, sends: Scripted, answer: Answering
) -> None:
    sends.answers = [accept, answer, accept]
    with engine.connect() as connection:
        before = count(connection, "deliveries")
        sender.work_claim()
        assert count(connection, "deliveries") - before == 2 * LIMIT
        waiting, charged, in_flight = left(connection)
        assert (waiting, in_flight) == (JOBS - LIMIT, 0)
        assert charged == (LIMIT if answer is unheard else 0)
    assert sends.answers == [accept]
    assert len(sends.mailed) == 4 * LIMIT


def slow(sends: Scripted) -> Answering:
    def slowly(mails: Sequence[Mail]) -> Sequence[Outcome]:
        sends.spent += MAX_SENDING.total_seconds() + 0.01
        return accept(mails)

    return slowly


def test_when_a_call_is_slow_the_batches_behind_it_are_given_back_untried(
    engine: Engine, sender: Sender, sends: Scripted
) -> None:
    sends.answers = [accept, slow(sends), accept]
    with engine.connect() as connection:
        sender.work_claim()
        assert left(connection) == (JOBS - 2 * LIMIT, 0, 0)
    assert sends.answers == [accept]
    assert len(sends.mailed) == 5 * LIMIT


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


def test_what_is_given_back_is_found_by_the_claims_that_follow(engine: Engine, sender: Sender, sends: Scripted) -> None:
    sends.answers = [slow(sends), accept]
    with engine.connect() as connection:
        while (work := sender.work_claim()) is not None and work.taken:
            pass
        assert left(connection) == (0, 0, 0)
    assert len(sends.mailed) == len(set(sends.mailed)) == 3 * LIMIT + JOBS


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


def test_what_was_answered_is_settled_before_another_call_for_a_later_batch(
    engine: Engine, sender: Sender, sends: Scripted, caplog: pytest.LogCaptureFixture
) -> None:
    """A search for one bad mail takes a dozen calls, and waits for permits: the others' answers do not."""
    caplog.set_level("INFO")
    with engine.connect() as connection:
        before = count(connection, "deliveries")
        settled = []

        def searches(mails: Sequence[Mail]) -> Sequence[Outcome]:
            settled.append((count(connection, "deliveries") - before, count(connection, "batches")))
            return accept(mails)

        sends.answers = [accept, accept, refuse_together, *[searches] * SEARCH, accept]
        sender.work_claim()
        assert settled == [(2 * LIMIT, 1)] * SEARCH  # and what is behind it was given back
        assert count(connection, "deliveries WHERE outcome = 'sent'") - before == 3 * LIMIT
        assert left(connection) == (JOBS - 3 * LIMIT, 0, 0)
        sender.work_claim()
        assert left(connection) == (JOBS - 4 * LIMIT, 0, 0)  # at its own pace again, and nothing is passed over
    lines = [message for message in caplog.messages if message.startswith("batch id=")]
    assert ["late=true" in line for line in lines] == [False] * 5


@pytest.mark.parametrize("failing", [1, 2, 5])
def test_what_cannot_be_settled_meanwhile_is_settled_later(
    engine: Engine, sender: Sender, sends: Scripted, failing: int
) -> None:
    with engine.connect() as connection:
        before = count(connection, "deliveries")

        def take_away(mails: Sequence[Mail]) -> Sequence[Answer]:
            connection.execute(text("ALTER TABLE batches RENAME TO away"))
            return refuse_together(mails)

        def bring_back(mails: Sequence[Mail]) -> Sequence[Answer]:
            connection.execute(text("ALTER TABLE away RENAME TO batches"))
            return accept(mails)

        sends.answers = [accept, take_away, *[accept] * (failing - 1), bring_back, accept]
        sender.work_claim()
        assert count(connection, "deliveries WHERE outcome = 'sent'") - before == 2 * LIMIT
        assert left(connection) == (JOBS - 2 * LIMIT, 0, 0)


def test_what_was_perhaps_given_back_is_not_sent(engine: Engine, sender: Sender, sends: Scripted) -> None:
    """The answer of the settlement is lost, and others have claimed what it gave back."""

    def lose(connection: Connection, cursor: object, statement: str, *_: object) -> None:
        if "DELETE FROM batches" in statement:
            event.remove(engine, "after_cursor_execute", lose)
            raise psycopg.OperationalError("the connection is lost")

    def refuse(mails: Sequence[Mail]) -> Sequence[Answer]:
        event.listen(engine, "after_cursor_execute", lose)
        return refuse_together(mails)

    sends.answers = [accept, refuse, accept]
    with engine.connect() as connection:
        before = count(connection, "deliveries")
        sender.work_claim()
        assert count(connection, "deliveries WHERE outcome = 'sent' AND NOT late") - before == 2 * LIMIT
        assert left(connection) == (JOBS - 2 * LIMIT, 0, 0)
        while (work := sender.work_claim()) is not None and work.taken:
            pass
        assert left(connection) == (0, 0, 0)
    assert len(sends.mailed) == len(set(sends.mailed)) == 3 * LIMIT + JOBS


def test_a_transport_that_ends_after_a_settlement_gives_back_the_rest(
    engine: Engine, sender: Sender, sends: Scripted
) -> None:
    with engine.connect() as connection:
        before = count(connection, "deliveries")

        def closed(mails: Sequence[Mail]) -> Sequence[Outcome]:
            raise TransportError("the output is closed")

        sends.answers = [accept, refuse_together, closed]
        with pytest.raises(TransportError):
            sender.work_claim()
        assert count(connection, "deliveries WHERE outcome = 'sent'") - before == LIMIT
        assert left(connection) == (JOBS - LIMIT, 0, 0)


class Ended(NoLimit):
    """Permits whose bulk calls are void by the time that there is something to send."""

    def __init__(self, until: float) -> None:
        self.asked = 0
        self._until = until

    def take(self, wanted: int, *, per_call: int | None = None, urgent_waits: Callable[[], bool]) -> Permit:
        return Permit(wanted, until=self._until, calls=Permit(wanted, until=0))

    def take_again(self, permit: Permit, count: int, until: float) -> bool:
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


def test_the_log_tells_of_each_batch_that_is_given_back(
    sender: Sender, sends: Scripted, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    sends.answers = [accept, throttled]
    sender.work_claim()
    lines = [message for message in caplog.messages if message.startswith("batch id=")]
    found = [next(word for word in ("sent=", "deferred=", "untried=") if word in line) for line in lines]
    assert found == ["sent=", "deferred=", "untried=", "untried="]


def test_when_the_transport_takes_no_more_what_it_took_is_settled_and_the_rest_given_back(
    engine: Engine, sender: Sender, sends: Scripted
) -> None:
    def closed(mails: Sequence[Mail]) -> Sequence[Outcome]:
        raise TransportError("the output is closed")

    sends.answers = [accept, closed]
    with engine.connect() as connection:
        with pytest.raises(TransportError):
            sender.work_claim()
        assert left(connection) == (JOBS - LIMIT, 0, 0)


@pytest.mark.parametrize(("took", "sent"), [(0, LIMIT), (6, LIMIT), (11, 0)])
def test_a_call_has_what_the_claim_left_of_the_lease(
    engine: Engine, sender: Sender, shared: Shared, sends: Scripted, took: float, sent: int
) -> None:
    """The lease runs from the claim's own moment; a call that might outlast it is not begun."""
    sends.max_call_time = timedelta(seconds=20)
    with engine.connect() as connection:
        [batch] = claim(connection, batch_limit=LIMIT, lease=timedelta(seconds=30)).batches
        before = len(sends.mailed)
        permit = Permit(LIMIT)
        permit.keep([LIMIT])
        since = time.monotonic() - took
        ClaimRun(shared, [batch], permit=permit, size=sender.size, since=since).work()
        assert len(sends.mailed) - before == sent
        assert left(connection) == (JOBS - sent, 0, 0)


def test_a_fault_in_a_transport_leaves_its_batch_unconfirmed_and_the_others_untried(
    engine: Engine, sender: Sender, sends: Scripted
) -> None:
    def broken(mails: Sequence[Mail]) -> Sequence[Outcome]:
        raise ZeroDivisionError

    sends.answers = [accept, broken]
    with engine.connect() as connection:
        sender.work_claim()
        assert left(connection) == (JOBS - LIMIT, LIMIT, 0)
        assert count(connection, "deliveries WHERE outcome = 'unconfirmed'") == LIMIT


def lose_one_answer(engine: Engine, words: str) -> None:
    """Let the next statement that says so be executed, and its answer be lost with the connection."""

    def lose(connection: Connection, cursor: Any, sql: str, *_: Any) -> None:
        if words in sql:
            event.remove(engine, "after_cursor_execute", lose)
            raise OperationalError(sql, {}, psycopg.OperationalError("the connection is lost"))

    event.listen(engine, "after_cursor_execute", lose)


def test_what_a_claim_took_whose_answer_was_lost_is_given_back_uncharged(
    engine: Engine, sender: Sender, sends: Scripted
) -> None:
    before = len(sends.mailed)
    with engine.connect() as connection:
        waiting = left(connection)[0]
        lose_one_answer(engine, "-- Claim up to")
        with pytest.raises(OperationalError):
            sender.work_claim()
        assert left(connection)[2] > 0  # in flight, and nobody sends it
        while (work := sender.work_claim()) and work.taken:
            pass
        assert left(connection) == (0, 0, 0)
        assert len(sends.mailed) - before == waiting
        assert count(connection, "deliveries WHERE outcome <> 'sent'") == 0


def test_what_another_sender_has_in_flight_is_not_given_back(engine: Engine, sends: Scripted, sender: Sender) -> None:
    """Not even by one whose host and process have the same name: they come again, in containers above all."""
    other = running.sender(engine, sends, batch_limit=LIMIT)
    lose_one_answer(engine, "-- Claim up to")
    with pytest.raises(OperationalError):
        other.work_claim()
    with engine.connect() as connection:
        batches = count(connection, "batches")
        lose_one_answer(engine, "-- Claim up to")
        with pytest.raises(OperationalError):
            sender.work_claim()
        sender.work_claim()
        assert count(connection, "batches") == batches
