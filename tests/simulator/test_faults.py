"""Faults on demand: each exception and status arrives as SES would send it, and the ledger knows what was accepted."""

import time
from collections.abc import Callable

import pytest
from botocore.exceptions import ClientError, ConnectionClosedError, ReadTimeoutError
from mypy_boto3_sesv2 import SESV2Client

from mailroom.simulator import Fault, Simulator
from mailroom.simulator.service import entry_statuses, error_statuses
from tests.running import eventually
from tests.simulator.client import IMPATIENT, bulk, connect, entry, single, statuses

EXCEPTIONS = error_statuses()


@pytest.fixture(scope="module")
def impatient(running: Simulator) -> SESV2Client:
    """Waits for an answer no longer than it must."""
    return connect(running.url, IMPATIENT)


@pytest.mark.parametrize("name", EXCEPTIONS)
def test_every_exception_of_the_model_arrives_typed(ses: Simulator, client: SESV2Client, name: str) -> None:
    ses.faults.add(Fault(error=name, message="because"))
    with pytest.raises(getattr(client.exceptions, name), match="because") as raised:
        client.send_bulk_email(**bulk(entry()))
    assert raised.value.response["ResponseMetadata"]["HTTPStatusCode"] == EXCEPTIONS[name]
    assert (ses.ledger.mails, ses.ledger.requests[0].error) == ([], name)


def test_an_exception_outside_the_model_arrives_by_its_code(ses: Simulator, client: SESV2Client) -> None:
    ses.faults.add(Fault(error="ServiceUnavailable", status=503))
    with pytest.raises(ClientError) as raised:
        client.send_email(**single())
    assert raised.value.response["Error"]["Code"] == "ServiceUnavailable"
    assert raised.value.response["ResponseMetadata"]["HTTPStatusCode"] == 503


def test_every_status_arrives_at_its_position(ses: Simulator, client: SESV2Client) -> None:
    wanted = [*entry_statuses(), "A_STATUS_OF_TOMORROW"]
    ses.faults.add(Fault(entries=dict(enumerate(wanted))))
    assert statuses(client, bulk(*[entry(token=number) for number in range(len(wanted) + 1)])) == [
        *wanted,
        "SUCCESS",
    ]
    assert sorted(ses.ledger.sent_tokens()) == sorted([str(wanted.index("SUCCESS")), str(len(wanted))])


def test_a_late_answer_is_accepted(ses: Simulator, client: SESV2Client, impatient: SESV2Client) -> None:
    ses.faults.add(Fault(latency_ms=50), Fault(latency_ms=60_000))
    began = time.monotonic()
    client.send_email(**single())
    assert time.monotonic() - began >= 0.05
    with pytest.raises(ReadTimeoutError):
        impatient.send_email(**single())
    eventually(lambda: ses.ledger.duplicates() == {"1": 2}, "it is accepted, though nobody waits any more")


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        (Fault(accept_then="hang"), ReadTimeoutError),
        (Fault(accept_then="drop"), ConnectionClosedError),
        (Fault(accept_then="unended"), ConnectionClosedError),
        (Fault(accept_then="error"), ClientError),
        (Fault(accept_then="error", error="ServiceUnavailable", status=503), ClientError),
    ],
    ids=["hang", "drop", "unended", "500", "503"],
)
def test_what_is_accepted_and_then_goes_wrong_is_recorded_once(
    ses: Simulator, client: SESV2Client, impatient: SESV2Client, fault: Fault, error: type[Exception]
) -> None:
    ses.faults.add(fault)
    with pytest.raises(error):
        (impatient if error is ReadTimeoutError else client).send_bulk_email(**bulk(entry(token=1), entry(token=2)))
    eventually(lambda: ses.ledger.requests, "it has come, though nobody may wait any more")
    assert ses.ledger.sent_tokens() == {"1": 1, "2": 1}
    assert len(ses.ledger.requests) == 1


def test_botocore_takes_half_an_answer_for_an_empty_one(ses: Simulator, client: SESV2Client) -> None:
    ses.faults.add(Fault(accept_then="truncate"))
    assert "BulkEmailEntryResults" not in client.send_bulk_email(**bulk(entry()))
    assert ses.ledger.sent_tokens() == {"1": 1}


@pytest.mark.parametrize(
    ("fault", "error"),
    [(Fault(before="hang"), ReadTimeoutError), (Fault(before="drop"), ConnectionClosedError)],
    ids=["hang", "drop"],
)
def test_what_goes_wrong_before_accepts_nothing(
    ses: Simulator, client: SESV2Client, impatient: SESV2Client, fault: Fault, error: type[Exception]
) -> None:
    ses.faults.add(fault)
    with pytest.raises(error):
        (impatient if error is ReadTimeoutError else client).send_bulk_email(**bulk(entry()))
    eventually(lambda: ses.ledger.requests, "it has come, though nobody may wait any more")
    assert ses.ledger.mails == []
    assert ses.ledger.requests[0].status is None


def test_a_default_client_sends_again_what_was_accepted(ses: Simulator) -> None:
    ses.faults.add(Fault(accept_then="drop"))
    connect(ses.url, config=None).send_bulk_email(**bulk(entry()))
    first, second = ses.ledger.requests
    assert first.invocation_id == second.invocation_id is not None
    assert first.body_sha256 == second.body_sha256
    assert ses.ledger.duplicates() == {"1": 2}


@pytest.mark.parametrize("body", ["<html>Sorry</html>", "{}", ""])
def test_a_200_may_hold_anything(ses: Simulator, client: SESV2Client, body: str) -> None:
    ses.faults.add(Fault(body=body))
    assert "BulkEmailEntryResults" not in client.send_bulk_email(**bulk(entry()))
    assert ses.ledger.counts().mails == 1


@pytest.mark.parametrize(("results", "count"), [("short", 1), ("long", 3), ("empty", 0)])
def test_there_may_be_too_few_or_too_many_results(
    ses: Simulator, client: SESV2Client, results: str, count: int
) -> None:
    ses.faults.add(Fault(results=results))  # type: ignore[arg-type]
    assert len(statuses(client, bulk(entry(), entry()))) == count
    assert ses.ledger.counts().mails == 2


def refusals(send: Callable[[], object], times: int) -> list[bool]:
    """Which of so many sends are refused."""
    outcomes = []
    for _ in range(times):
        try:
            send()
        except ClientError:
            outcomes.append(True)
        else:
            outcomes.append(False)
    return outcomes


def test_a_fault_lasts_as_often_as_it_says(ses: Simulator, client: SESV2Client) -> None:
    ses.faults.add(Fault(error="MessageRejected", times=2))
    assert refusals(lambda: client.send_email(**single()), 4) == [True, True, False, False]
    ses.faults.add(Fault(error="MessageRejected", times=None))
    assert refusals(lambda: client.send_email(**single()), 4) == [True] * 4
    ses.faults.clear()
    assert refusals(lambda: client.send_email(**single()), 1) == [False]


def test_a_fault_waits_for_the_operation_and_template_it_is_for(ses: Simulator, client: SESV2Client) -> None:
    ses.faults.add(Fault(error="MessageRejected", operation="SendBulkEmail", template="passwordrecoveryv1"))
    client.get_account()
    client.send_email(**single(template="passwordrecoveryv1"))
    client.send_bulk_email(**bulk(entry()))
    with pytest.raises(client.exceptions.MessageRejected):
        client.send_bulk_email(**bulk(entry(), template="passwordrecoveryv1"))


def test_chance_repeats_itself(ses: Simulator, client: SESV2Client) -> None:
    rounds = []
    for _ in range(2):
        ses.faults.clear()
        ses.faults.add(Fault(error="MessageRejected", probability=0.5, times=None))
        rounds.append(refusals(lambda: client.send_email(**single()), 12))
    assert rounds[0] == rounds[1]
    assert set(rounds[0]) == {True, False}


def test_a_fault_that_would_do_two_things_is_refused() -> None:
    with pytest.raises(ValueError, match="one thing"):
        Fault(error="MessageRejected", before="drop")
    with pytest.raises(ValueError, match="accept_then"):
        Fault(accept_then="explode")  # type: ignore[arg-type]


def test_a_fault_may_be_of_some_recipients_alone(ses: Simulator, client: SESV2Client) -> None:
    """Of single calls to them, of bulk calls that hold one of them, or of their entries."""
    ses.faults.add(
        Fault(operation="SendEmail", recipients="bad", error="MessageRejected", times=None),
        Fault(operation="SendBulkEmail", recipients="bad", matching="MESSAGE_REJECTED", times=None),
    )
    assert refusals(lambda: client.send_email(**single("bad@example.com")), 2) == [True, True]
    assert refusals(lambda: client.send_email(**single("good@example.com")), 2) == [False, False]
    both = bulk(entry("good@example.com"), entry("bad@example.com"))
    assert [statuses(client, both) for _ in range(2)] == [["SUCCESS", "MESSAGE_REJECTED"]] * 2
    ses.faults.clear()
    ses.faults.add(Fault(recipients="bad", error="BadRequestException", times=None))
    assert refusals(lambda: client.send_bulk_email(**both), 2) == [True, True]
    assert statuses(client, bulk(entry("good@example.com"))) == ["SUCCESS"]
