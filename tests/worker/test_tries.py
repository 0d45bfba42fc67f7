"""While a process is held back, one claim in a while is to try: what makes no call takes nobody's turn."""

import time
from collections.abc import Callable

import pytest
from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError

from mailroom.mail.transport import Mail
from mailroom.outcome import Rejected
from mailroom.worker.breaker import FIRST_WAIT, Breaker
from mailroom.worker.sender import Sender, Work
from tests import running
from tests.running import Answering, Scripted, accept
from tests.worker.test_given_back import unheard
from tests.worker.test_permitted import RunOut
from tests.world import add_accounts, execute

NOW = 1_000_000.0


def held_back(breaker: Breaker) -> None:
    """Let it have been in vain again and again, and this be the moment to try."""
    for before in range(6, 0, -1):
        breaker.trip("ReadTimeoutError", "no answer", now=NOW - 60 * before, jitter=0)
    assert breaker.wait_to_try(NOW).total_seconds() == 0
    assert breaker.wait_to_try(NOW).total_seconds() == 30


def nothing_wanted(engine: Engine) -> None:
    execute(engine, "UPDATE tokens SET consumed_at = now()")


def nothing_left(engine: Engine) -> None:
    execute(engine, "DELETE FROM jobs")


@pytest.mark.parametrize(("make", "taken"), [(nothing_wanted, 3), (nothing_left, 0)])
def test_a_claim_of_what_is_not_to_be_sent_leaves_the_turn_to_the_next(
    engine: Engine, make: Callable[[Engine], None], taken: int
) -> None:
    """While nothing left, links have ended: each claim that found but those would have cost half a minute."""
    both = running.shared(engine, Scripted())
    works = Sender(both, name="test")
    with engine.connect() as connection:
        add_accounts(connection, 3)
    make(engine)
    held_back(both.breaker)
    assert works.work_claim() == Work(taken, full=False)
    assert both.breaker.wait_to_try(NOW).total_seconds() == 0


def test_nor_does_a_claim_that_fails_or_comes_to_no_call_take_it(engine: Engine) -> None:
    both = running.shared(engine, Scripted(), permits=RunOut())
    works = Sender(both, name="test")
    with engine.connect() as connection:
        add_accounts(connection, 3)
    held_back(both.breaker)
    works.work_claim()  # its permit is void by then
    assert both.breaker.wait_to_try(NOW).total_seconds() == 0
    execute(engine, "ALTER TABLE batches RENAME TO away")
    with pytest.raises(DBAPIError):
        works.work_claim()
    assert both.breaker.wait_to_try(NOW).total_seconds() == 0


@pytest.mark.parametrize("answer", [unheard, accept])
def test_a_call_takes_it_and_tells_how_long_the_others_wait(engine: Engine, answer: Answering) -> None:
    sends = Scripted()
    sends.answers = [answer]
    both = running.shared(engine, sends)
    works = Sender(both, name="test")
    with engine.connect() as connection:
        add_accounts(connection, 3)
    held_back(both.breaker)
    works.work_claim()
    assert both.breaker.is_open is (answer is unheard)


class NotInAscii(Scripted):
    """As SES, which takes no such address: that is known without a call."""

    def unmailable(self, mail: Mail) -> Rejected | None:
        return None if mail.address.isascii() else Rejected("UnsupportedAddress", "SES cannot mail to this address")


def test_what_is_rejected_without_a_call_tells_nothing_of_ses(engine: Engine) -> None:
    """Or whoever signs up with such addresses in an outage has every mail tried again and again, up to its last try."""
    both = running.shared(engine, NotInAscii())
    works = Sender(both, name="test")
    with engine.connect() as connection:
        add_accounts(connection, 3, prefix="m\u00fcller")
    held_back(both.breaker)
    assert works.work_claim() == Work(3, full=False)
    assert both.breaker.is_open
    assert both.breaker.wait_to_try(NOW).total_seconds() == 0


def test_nor_does_it_where_the_others_of_its_call_have_no_answer(engine: Engine) -> None:
    sends = NotInAscii()
    sends.answers = [unheard]
    both = running.shared(engine, sends)
    works = Sender(both, name="test")
    with engine.connect() as connection:
        add_accounts(connection, 2)
        add_accounts(connection, 1, prefix="m\u00fcller")
    works.work_claim()
    assert both.breaker.is_open
    assert both.breaker.wait_to_try(time.monotonic()) > FIRST_WAIT / 4
