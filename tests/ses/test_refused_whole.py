"""A call that is refused whole is halved until the mail is found that it was refused for."""

from collections.abc import Sequence
from datetime import timedelta

import pytest

from mailroom import ses
from mailroom.mail.transport import Mail
from mailroom.outcome import Untried
from mailroom.simulator import Fault, Simulator
from tests.kinds import RECOVERY
from tests.ses.calls import (
    codes,
    kinds,
    mails,
    send,
)


@pytest.mark.parametrize("place", range(50))
def test_one_bad_mail_in_fifty_is_found_in_twelve_calls(
    simulator: Simulator, transport: ses.SesTransport, place: int
) -> None:
    assert kinds(send(transport, mails(50, {place}))) == ["sent"] * place + ["rejected"] + ["sent"] * (49 - place)
    assert len(simulator.ledger.requests) <= 12
    assert simulator.ledger.sent_tokens() == {str(token): 1 for token in range(50) if token != place}


@pytest.mark.parametrize("bad", [{0, 49}, {24, 25}, {0, 1}, {48, 49}, {10, 40}])
def test_two_bad_mails_are_both_found(simulator: Simulator, transport: ses.SesTransport, bad: set[int]) -> None:
    assert kinds(send(transport, mails(50, bad))) == ["rejected" if n in bad else "sent" for n in range(50)]
    assert len(simulator.ledger.requests) <= 24
    assert simulator.ledger.duplicates() == {}


@pytest.mark.parametrize("count", [1, 2, 3])
def test_when_all_are_refused_each_is_tried(simulator: Simulator, transport: ses.SesTransport, count: int) -> None:
    assert kinds(send(transport, mails(count, range(count)))) == ["rejected"] * count
    assert len(simulator.ledger.requests) == 2 * count - 1


def test_five_refused_alike_end_the_search(simulator: Simulator, transport: ses.SesTransport) -> None:
    simulator.faults.add(Fault(error="BadRequestException", times=None))
    outcomes = send(transport, mails(50))
    assert sorted(kinds(outcomes)) == ["rejected"] * 5 + ["untried"] * 45
    assert codes(outcomes) == {"BadRequestException", "CallsInVain"}
    assert len(simulator.ledger.requests) <= 16


def test_where_calls_are_refused_whole_for_several_mails_each_goes_alone_for_a_while(
    simulator: Simulator, transport: ses.SesTransport
) -> None:
    """A search for each would cost more calls than mails, and wait for more bulk calls than there are."""

    def operations(them: Sequence[Mail]) -> set[str]:
        simulator.ledger.clear()
        send(transport, them)
        return {request.operation for request in simulator.ledger.requests}

    both = {"SendBulkEmail", "SendEmail"}
    assert operations(mails(10, {3})) == both
    assert operations(mails(10)) == {"SendBulkEmail"}
    assert operations(mails(10, {3, 4})) == both
    assert operations(mails(9)) == {"SendEmail"}
    assert operations(mails(9, {0})) == {"SendEmail"}
    assert send(transport, mails(2), action=RECOVERY, batch="7")
    assert simulator.ledger.requests[-1].operation == "SendBulkEmail"
    assert operations(mails(9)) == {"SendEmail"}
    assert operations(mails(2)) == {"SendEmail"}
    assert operations(mails(2)) == {"SendBulkEmail"}


@pytest.mark.parametrize("before", [0, 1, 2])
def test_an_account_at_fault_ends_the_search(simulator: Simulator, transport: ses.SesTransport, before: int) -> None:
    simulator.faults.add(Fault(error="BadRequestException"), *[Fault()] * before)
    simulator.faults.add(Fault(error="TooManyRequestsException", times=None))
    outcomes = send(transport, mails(50))
    sent, refused = [(0, 25), (25, 12), (37, 6)][before]
    assert kinds(outcomes) == ["sent"] * sent + ["free"] * refused + ["untried"] * (50 - sent - refused)
    assert codes(outcomes) == {"TooManyRequestsException", "CallsInVain"}
    assert len(simulator.ledger.requests) == 2 + before


def test_an_entry_for_which_the_account_is_at_fault_ends_the_search(
    simulator: Simulator, transport: ses.SesTransport
) -> None:
    simulator.faults.add(Fault(error="BadRequestException"), Fault(entries={1: "ACCOUNT_THROTTLED"}))
    assert kinds(send(transport, mails(8))) == ["sent", "free", "sent", "sent"] + ["untried"] * 4
    assert len(simulator.ledger.requests) == 2


def test_no_call_begins_that_could_outlast_the_lease(simulator: Simulator, transport: ses.SesTransport) -> None:
    outcomes = send(transport, mails(2), within=transport.max_call_time - timedelta(milliseconds=1))
    assert outcomes == [Untried("OutOfTime")] * 2
    assert simulator.ledger.requests == []


@pytest.mark.slow
def test_the_search_ends_with_the_lease(simulator: Simulator, transport: ses.SesTransport) -> None:
    """The first call has three seconds in which to begin; it takes two, and so a second may begin, but no third."""
    simulator.faults.add(Fault(error="BadRequestException", latency_ms=2_000, times=None))
    outcomes = send(transport, mails(50), within=transport.max_call_time + timedelta(seconds=3))
    assert (kinds(outcomes), codes(outcomes)) == (["charged"] * 50, {"OutOfTime"})
    assert 1 <= len(simulator.ledger.requests) <= 2
