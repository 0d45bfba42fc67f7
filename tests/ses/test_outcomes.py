"""What SES says, of a call and of each entry, and what becomes of the mails."""

import json
import socket
from typing import Any

import pytest
from mypy_boto3_sesv2 import SESV2Client

from mailroom import ses
from mailroom.outcome import Sent, Unconfirmed
from mailroom.ses import classify
from mailroom.simulator import Fault, Simulator
from mailroom.simulator.service import entry_statuses, error_statuses
from tests.ses.calls import (
    REFUSED,
    SOURCE,
    Connect,
    codes,
    kinds,
    listening,
    mail,
    mails,
    send,
    whole,
)

# What SES says, of a whole call

FREE = {
    *("TooManyRequestsException", "LimitExceededException", "AccountSuspendedException", "SendingPausedException"),
    *("MailFromDomainNotVerifiedException", "NotFoundException", "Throttling", "ThrottlingException"),
    *("AccessDenied", "AccessDeniedException", "UnrecognizedClientException", "InvalidClientTokenId"),
    *("SignatureDoesNotMatch", "InvalidSignatureException", "ExpiredToken", "ExpiredTokenException", "RequestExpired"),
    *("IncompleteSignature", "MissingAuthenticationToken", "NotAuthorized", "OptInRequired"),
    *("AccountSendingPausedException", "ConfigurationSetSendingPausedException"),
    *("ConfigurationSetDoesNotExist", "TemplateDoesNotExist", "ResourceNotFoundException"),
    *("InvalidAction", "UnknownOperationException"),
}
REJECTED = {
    *("MessageRejected", "BadRequestException", "InvalidParameterValue"),
    *("RequestEntityTooLarge", "RequestEntityTooLargeException", "ValidationException"),
    "ValidationError",
}
UNCONFIRMED = {
    *("InternalServiceErrorException", "ConcurrentModificationException", "InternalFailure"),
    *("ServiceUnavailable", "ServiceUnavailableException", "RequestAbortedException", "RequestTimeoutException"),
}
CHARGED = {"AlreadyExistsException", "ConflictException", "InvalidNextTokenException"}
EXPECTED = {
    name: kind
    for kind, names in {"free": FREE, "rejected": REJECTED, "unconfirmed": UNCONFIRMED, "charged": CHARGED}.items()
    for name in names
}


def test_every_exception_that_is_classified_or_declared_is_tried_here() -> None:
    assert EXPECTED.keys() == classify.EXCEPTIONS.keys() >= error_statuses().keys()


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_an_exception_does_what_the_table_says(
    simulator: Simulator, transport: ses.SesTransport, name: str, count: int
) -> None:
    status = error_statuses().get(name, 503 if name in UNCONFIRMED else 400)
    simulator.faults.add(Fault(error=name, status=status, times=None))
    outcomes = send(transport, mails(count))
    assert (kinds(outcomes), codes(outcomes)) == ([EXPECTED[name]] * count, {name})
    assert simulator.ledger.mails == []


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        *((400, "charged"), (418, "charged"), (401, "free"), (403, "free"), (429, "free")),
        *((408, "unconfirmed"), (500, "unconfirmed"), (504, "unconfirmed")),
    ],
)
def test_an_exception_of_tomorrow_is_never_final(
    simulator: Simulator, transport: ses.SesTransport, status: int, kind: str
) -> None:
    for count in (1, 2):
        simulator.faults.add(Fault(error="OfTomorrow", status=status))
        assert kinds(send(transport, mails(count))) == [kind] * count


@pytest.mark.parametrize("name", ["TooManyRequestsException", "NotFoundException", "BadRequestException"])
def test_what_a_server_says_that_has_failed_decides_nothing_whatever_its_name(
    simulator: Simulator, transport: ses.SesTransport, name: str
) -> None:
    for count in (1, 2):
        simulator.faults.add(Fault(accept_then="error", error=name, status=503))
        assert kinds(send(transport, mails(count))) == ["unconfirmed"] * count


@pytest.mark.parametrize("status", ["301 Moved", "404 Not Found", "403 Forbidden"])
def test_an_answer_that_is_not_of_ses_costs_no_mail_anything(connect: Connect, status: str) -> None:
    """A proxy's, or that of a wrong endpoint: HTML, and no code but the status."""

    def answer(connection: socket.socket) -> None:
        whole(connection)
        connection.sendall(f"HTTP/1.1 {status}\r\nContent-Length: 6\r\nConnection: close\r\n\r\n<html>".encode())

    with listening(answer) as (port, _):
        outcomes = send(ses.SesTransport(connect(f"http://127.0.0.1:{port}"), source=SOURCE), mails(2))
    assert kinds(outcomes) == ["free"] * 2


@pytest.mark.parametrize(("identity", "kind"), [(SOURCE, "free"), ("example.com", "free"), ("x@a.example", "rejected")])
def test_an_unverified_identity_is_ours_or_the_recipients(
    simulator: Simulator, transport: ses.SesTransport, identity: str, kind: str
) -> None:
    for count in (1, 2):
        simulator.faults.clear()
        simulator.faults.add(Fault(error="MessageRejected", message=REFUSED + identity, times=None))
        assert kinds(send(transport, mails(count))) == [kind] * count


def test_in_the_sandbox_only_the_strangers_are_rejected(simulator: Simulator, transport: ses.SesTransport) -> None:
    simulator.account.production_access_enabled = False
    known, stranger = mail(1, "success@simulator.amazonses.com"), mail(2)
    assert kinds(send(transport, [stranger, known, stranger])) == ["rejected", "sent", "rejected"]
    assert kinds(send(transport, [stranger])) == ["rejected"]


@pytest.mark.parametrize("count", [1, 2])
def test_an_account_that_may_not_send_costs_the_mails_nothing(
    simulator: Simulator, transport: ses.SesTransport, count: int
) -> None:
    def refuse(**changes: Any) -> list[str]:
        simulator.reset()
        for name, value in changes.items():
            setattr(simulator.account, name, value)
        return kinds(send(transport, mails(count)))

    assert refuse(sending_enabled=False) == ["free"] * count
    assert refuse(enforcement_status="SHUTDOWN") == ["free"] * count
    assert refuse(max_24_hour_send=0) == ["free"] * count
    assert refuse(reject_bulk_on_missing_template=True) == ["sent"] * count
    simulator.templates.delete("activationv1")
    assert kinds(send(transport, mails(count))) == ["free"] * count
    simulator.account.reject_bulk_on_missing_template = False
    assert kinds(send(transport, mails(count))) == ["free"] * count


def test_a_missing_configuration_set_costs_the_mails_nothing(simulator: Simulator, client: SESV2Client) -> None:
    configured = ses.SesTransport(client, source=SOURCE, config_set="gone")
    assert [kinds(send(configured, mails(count))) for count in (1, 2)] == [["free"], ["free"] * 2]
    assert kinds(send(ses.SesTransport(client, source=SOURCE), mails(1))) == ["sent"]


# What SES says, of each entry

STATUSES = {
    "SUCCESS": "sent",
    **dict.fromkeys(["MESSAGE_REJECTED", "INVALID_PARAMETER"], "rejected"),
    **dict.fromkeys(["FAILED", "TRANSIENT_FAILURE"], "charged"),
    **dict.fromkeys(["ACCOUNT_SUSPENDED", "ACCOUNT_THROTTLED", "ACCOUNT_DAILY_QUOTA_EXCEEDED"], "free"),
    **dict.fromkeys(["INVALID_SENDING_POOL_NAME", "ACCOUNT_SENDING_PAUSED", "TEMPLATE_NOT_FOUND"], "free"),
    **dict.fromkeys(["CONFIGURATION_SET_NOT_FOUND", "CONFIGURATION_SET_SENDING_PAUSED"], "free"),
    "MAIL_FROM_DOMAIN_NOT_VERIFIED": "free",
}


def test_each_entry_is_settled_by_its_status_and_position(simulator: Simulator, transport: ses.SesTransport) -> None:
    wanted = [*entry_statuses(), "SUCCESS", *reversed(entry_statuses()), "OF_TOMORROW"]
    simulator.faults.add(Fault(entries=dict(enumerate(wanted))))
    outcomes = send(transport, mails(len(wanted)))
    assert kinds(outcomes) == [STATUSES.get(status, "charged") for status in wanted]
    assert STATUSES.keys() == set(entry_statuses())
    received = {mail.message_id: mail.tags["mailroom_token"] for mail in simulator.ledger.mails}
    for place, outcome in enumerate(outcomes):
        if isinstance(outcome, Sent):
            assert received.pop(outcome.message_id or "") == str(place)
        else:
            assert outcome.code == wanted[place]
    assert not received
    assert len(simulator.ledger.requests) == 1


def test_two_mails_to_one_address_get_an_outcome_each(simulator: Simulator, transport: ses.SesTransport) -> None:
    simulator.faults.add(Fault(entries={0: "MESSAGE_REJECTED", 2: "TRANSIENT_FAILURE"}))
    same = [mail(token, "jo@example.com") for token in range(4)]
    assert kinds(send(transport, same)) == ["rejected", "sent", "charged", "sent"]
    assert simulator.ledger.sent_tokens() == {"1": 1, "3": 1}


def answering(*results: Any) -> str:
    return json.dumps({"BulkEmailEntryResults": results})


def test_what_an_entry_says_is_weighed(simulator: Simulator, transport: ses.SesTransport) -> None:
    body = answering(
        {"Status": "OF_TOMORROW", "MessageId": "m1"},
        {"MessageId": "m2"},
        {"Status": "SUCCESS", "MessageId": "m3"},
        {"Status": "OF_TOMORROW"},
        {},
        {"Status": "SUCCESS"},
        {"Status": "SUCCESS", "MessageId": ""},
        {"Status": "SUCCESS", "MessageId": 5},
        None,
        {"Status": None},
        {"Status": None, "MessageId": "m4"},
        {"Status": "TRANSIENT_FAILURE", "MessageId": ""},
        {"Error": "Try again."},
        {"Status": ""},
    )
    simulator.faults.add(Fault(body=body))
    outcomes = send(transport, mails(14))
    assert outcomes[:3] == [Sent("m1"), Sent("m2"), Sent("m3")]
    said_nothing = ["unconfirmed"] * 6
    assert kinds(outcomes)[3:] == ["charged", *said_nothing, "sent", "charged", "charged", "unconfirmed"]


def test_a_status_in_another_spelling_means_the_same(simulator: Simulator, transport: ses.SesTransport) -> None:
    """As the documentation of the field has it, or SES's first version: a missing template costs no mail an attempt."""
    told = ("TEMPLATE_DOES_NOT_EXIST", "CONFIGURATION_SET_DOES_NOT_EXIST", "AccountThrottled", "AccountSendingPaused")
    simulator.faults.add(Fault(entries=dict(enumerate(told))))
    outcomes = send(transport, mails(len(told)))
    assert kinds(outcomes) == ["free"] * len(told)
    known = {"TEMPLATE_NOT_FOUND", "CONFIGURATION_SET_NOT_FOUND", "ACCOUNT_THROTTLED", "ACCOUNT_SENDING_PAUSED"}
    assert codes(outcomes) == known
    simulator.faults.add(Fault(body=answering({"Status": "Success", "MessageId": "m"}, {"Status": "Success"})))
    assert kinds(send(transport, mails(2))) == ["sent", "unconfirmed"]
    simulator.faults.add(Fault(body=answering({"Status": "Failed", "MessageId": "m"}, {"Status": "MessageRejected"})))
    assert kinds(send(transport, mails(2))) == ["unconfirmed", "rejected"]


def test_an_entry_with_a_fault_and_a_message_id_is_unconfirmed_and_the_id_is_kept(
    simulator: Simulator, transport: ses.SesTransport
) -> None:
    """Where the account is at fault SES took nothing of anybody, whatever it says besides."""
    failing = ("TRANSIENT_FAILURE", "FAILED", "INVALID_PARAMETER", "MESSAGE_REJECTED")
    told = (*failing, "ACCOUNT_THROTTLED", "ACCOUNT_SUSPENDED", "TEMPLATE_NOT_FOUND")
    simulator.faults.add(Fault(body=answering(*({"Status": status, "MessageId": f"m-{status}"} for status in told))))
    outcomes = send(transport, mails(7))
    assert [(one.code, one.message_id) for one in outcomes if isinstance(one, Unconfirmed)] == [
        (status, f"m-{status}") for status in failing
    ]
    assert kinds(outcomes)[4:] == ["free"] * 3


@pytest.mark.parametrize(
    "body",
    [
        *("", "{}", "<html>Sorry</html>", "null", "[]", "[1, 2]", '"sent"', "5", "{", '{"MessageId": ""}'),
        *('{"MessageId": 5}', '{"MessageId": ["m"]}', answering(), answering({"Status": "SUCCESS", "MessageId": "m"})),
        *(answering(1, 2), '{"BulkEmailEntryResults": {"a": 1, "b": 2}}', '{"BulkEmailEntryResults": "ab"}'),
    ],
)
def test_a_200_that_does_not_add_up_is_no_success(simulator: Simulator, transport: ses.SesTransport, body: str) -> None:
    for count in (1, 2):
        simulator.faults.add(Fault(body=body))
        assert kinds(send(transport, mails(count))) == ["unconfirmed"] * count
    assert len(simulator.ledger.requests) == 2


@pytest.mark.parametrize("results", ["short", "long", "empty"])
def test_results_too_few_or_too_many_are_nobodys(
    simulator: Simulator, transport: ses.SesTransport, results: str
) -> None:
    simulator.faults.add(Fault(results=results))  # type: ignore[arg-type]
    assert kinds(send(transport, mails(3))) == ["unconfirmed"] * 3
    assert len(simulator.ledger.requests) == 1
