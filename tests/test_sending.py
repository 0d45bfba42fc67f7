"""Several batches of one claim: sent in turn, settled together, and what becomes of the rest when one goes wrong."""

import threading
import time
from collections.abc import Callable, Sequence
from datetime import timedelta

import pytest
from sqlalchemy import Connection, Engine

from mailroom.errors import TransportError
from mailroom.job import Action, Deferred, Outcome, Rejected, Scope, Sent, Unconfirmed
from mailroom.pace import LONGEST
from mailroom.sender import Sender
from mailroom.sending import Shared
from mailroom.transport import Mail, Permitted, always
from tests.running import count, limits
from tests.world import KEY, add_accounts, misplaced, rows

LIMIT = 10
JOBS = 100

Answer = Callable[[Sequence[Mail]], Sequence[Outcome]]


def accept(mails: Sequence[Mail]) -> Sequence[Outcome]:
    return [Sent("m")] * len(mails)


class Scripted:
    """A transport that answers as it is told: the last answer again and again."""

    longest_call = timedelta(0)

    def __init__(self) -> None:
        self.answers: list[Answer] = [accept]
        self.mailed: list[int | None] = []

    def send(
        self,
        action: Action,
        mails: Sequence[Mail],
        *,
        batch: int | None,
        within: timedelta,
        permitted: Permitted = always,
    ) -> Sequence[Outcome]:
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        outcomes = answer(mails)
        self.mailed += [mail.token for mail, outcome in zip(mails, outcomes, strict=True) if isinstance(outcome, Sent)]
        return outcomes


@pytest.fixture
def sends() -> Scripted:
    return Scripted()


@pytest.fixture
def urgent_came() -> threading.Event:
    return threading.Event()


@pytest.fixture
def sender(engine: Engine, sends: Scripted, urgent_came: threading.Event) -> Sender:
    """A sender that has found that sending takes no time, and now claims four batches at once."""
    found = Sender(
        engine,
        sends,
        name="test",
        key=KEY,
        limits=limits(batch_limit=LIMIT),
        shared=Shared(urgent_came=urgent_came),
    )
    with engine.connect() as connection:
        add_accounts(connection, 3 * LIMIT + JOBS)
        for opened in (1, 2):
            before = count(connection, "deliveries")
            found.work_claim()
            assert count(connection, "deliveries") - before == opened * LIMIT
    return found


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


def slowly(mails: Sequence[Mail]) -> Sequence[Outcome]:
    time.sleep(LONGEST.total_seconds() + 0.01)
    return accept(mails)


def of_each_one_bad(mails: Sequence[Mail]) -> Sequence[Outcome]:
    return [Rejected("MessageRejected", "no"), Deferred("TransientFailure", "later", charged=True), *accept(mails[2:])]


def throttled(mails: Sequence[Mail]) -> Sequence[Outcome]:
    return [Deferred("TooManyRequestsException", "slow down", charged=False)] * len(mails)


def suspended(mails: Sequence[Mail]) -> Sequence[Outcome]:
    fault = Deferred("AccountSuspendedException", "no more", charged=False, scope=Scope.ACCOUNT)
    return [fault] * len(mails)


def unheard(mails: Sequence[Mail]) -> Sequence[Outcome]:
    return [Unconfirmed("ReadTimeoutError", "no answer")] * len(mails)


def refused(mails: Sequence[Mail]) -> Sequence[Outcome]:
    return [Rejected("MessageRejected", "no")] * len(mails)


def test_a_mail_that_is_refused_for_its_own_sake_stops_nothing(engine: Engine, sender: Sender, sends: Scripted) -> None:
    sends.answers = [of_each_one_bad]
    with engine.connect() as connection:
        sender.work_claim()
        assert left(connection) == (JOBS - 3 * LIMIT - 6, 4, 0)


@pytest.mark.parametrize("answer", [slowly, throttled, suspended, unheard, refused])
def test_when_a_call_is_slow_or_meets_a_fault_the_batches_behind_it_are_given_back_untried(
    engine: Engine, sender: Sender, sends: Scripted, answer: Answer
) -> None:
    sends.answers = [accept, answer, accept]
    with engine.connect() as connection:
        before = count(connection, "deliveries")
        sender.work_claim()
        assert count(connection, "deliveries") - before == 2 * LIMIT
        waiting, charged, in_flight = left(connection)  # what the fuse has put back waits as well, as tried once
        assert (waiting, in_flight) == (JOBS - LIMIT - (LIMIT if answer is slowly else 0), 0)
        assert charged == (LIMIT if answer in (unheard, refused) else 0)
    assert sends.answers == [accept]
    assert len(sends.mailed) == 4 * LIMIT + (LIMIT if answer is slowly else 0)


def test_when_urgent_mail_comes_one_sender_leaves_the_rest_for_it(
    engine: Engine, sender: Sender, sends: Scripted, urgent_came: threading.Event
) -> None:
    def meanwhile(mails: Sequence[Mail]) -> Sequence[Outcome]:
        urgent_came.set()
        return accept(mails)

    sends.answers = [accept, meanwhile, accept]
    with engine.connect() as connection:
        sender.work_claim()
        assert left(connection) == (JOBS - 2 * LIMIT, 0, 0)
        assert not urgent_came.is_set()

        urgent_came.set()  # before a claim: it will see what came
        sends.answers = [accept]
        sender.work_claim()
        sender.work_claim()
        assert left(connection) == (JOBS - 5 * LIMIT, 0, 0)


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
