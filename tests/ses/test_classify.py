"""The table of what SES answers mean: complete against the installed botocore, and careful beyond it."""

import re
from typing import Any

import pytest
from botocore.loaders import Loader
from botocore.model import ServiceModel

from mailroom.mail.transport import DENIALS, REFUSALS
from mailroom.outcome import Deferred, Rejected, Scope, Unconfirmed
from mailroom.ses import classify
from mailroom.ses.classify import Fault, exception_fault, status_fault
from mailroom.simulator.service import entry_statuses

SOURCE = "Mailroom <noreply@Example.com>"
MODEL = ServiceModel(Loader().load_service_model("sesv2", "service-2"), "sesv2")
REFUSED = "Email address is not verified. The following identities failed the check in region US-EAST-1: "


@pytest.mark.parametrize("operation", ["SendEmail", "SendBulkEmail"])
def test_every_error_that_a_send_declares_is_classified(operation: str) -> None:
    declared = {shape.name for shape in MODEL.operation_model(operation).error_shapes}
    assert declared
    assert declared <= classify.EXCEPTIONS.keys()


def test_every_process_knows_the_codes_of_refusals() -> None:
    assert classify.REFUSALS == REFUSALS
    assert classify.DENIALS == DENIALS


def test_every_error_of_the_service_is_classified() -> None:
    assert {shape.name for shape in MODEL.error_shapes} <= classify.EXCEPTIONS.keys()


def test_every_status_of_an_entry_is_classified_and_no_other() -> None:
    assert classify.STATUSES.keys() | {"SUCCESS"} == set(entry_statuses())


def test_every_status_is_known_as_its_documentation_spells_it() -> None:
    """Beside an enum of other names: nobody knows which of both SES writes."""
    entry: Any = MODEL.shape_for("BulkEmailEntryResult")
    said = entry.members["Status"].documentation
    documented = re.findall(r"<p>([A-Z_]+):", said)
    assert len(documented) == len(entry_statuses())
    assert {classify.status_word(each) for each in documented} == set(entry_statuses())


@pytest.mark.parametrize(
    ("said", "status"),
    [
        ("TEMPLATE_DOES_NOT_EXIST", "TEMPLATE_NOT_FOUND"),
        ("CONFIGURATION_SET_DOES_NOT_EXIST", "CONFIGURATION_SET_NOT_FOUND"),
        ("INVALID_PARAMETER_VALUE", "INVALID_PARAMETER"),
        ("AccountDailyQuotaExceeded", "ACCOUNT_DAILY_QUOTA_EXCEEDED"),
        ("TemplateDoesNotExist", "TEMPLATE_NOT_FOUND"),
        ("InvalidParameterValue", "INVALID_PARAMETER"),
        ("Success", "SUCCESS"),
        ("account_throttled", "ACCOUNT_THROTTLED"),
        ("OF_TOMORROW", "OF_TOMORROW"),
        ("OfTomorrow", "OfTomorrow"),
        (["SUCCESS"], "['SUCCESS']"),
        ("", "Unknown"),
    ],
)
def test_a_status_is_known_however_it_is_spelt(said: object, status: str) -> None:
    assert classify.status_word(said) == status


@pytest.mark.parametrize("name", [shape.name for shape in MODEL.error_shapes])
def test_a_fault_of_ses_is_never_taken_for_a_refusal(name: str) -> None:
    [status] = [shape.metadata["error"]["httpStatusCode"] for shape in MODEL.error_shapes if shape.name == name]
    assert (classify.EXCEPTIONS[name] is Fault.UNKNOWN) == (status >= 500)


@pytest.mark.parametrize(
    ("http_status", "fault"),
    [
        (400, Fault.TEMPORARY),
        (404, Fault.TEMPORARY),
        (499, Fault.TEMPORARY),
        (408, Fault.UNKNOWN),
        (500, Fault.UNKNOWN),
        (599, Fault.UNKNOWN),
    ],
)
def test_an_unknown_code_is_judged_by_its_status_and_never_final(http_status: int, fault: Fault) -> None:
    assert exception_fault("OfTomorrow", http_status=http_status, message="", source=SOURCE) is fault


@pytest.mark.parametrize("code", ["RequestAbortedException", "RequestTimeoutException"])
def test_a_request_that_ended_before_its_answer_may_have_been_accepted(code: str) -> None:
    """AWS answers so with 400, too."""
    assert exception_fault(code, http_status=400, message="", source=SOURCE) is Fault.UNKNOWN


def test_an_unknown_status_of_an_entry_is_temporary() -> None:
    assert status_fault("OF_TOMORROW", message="", source=SOURCE) is Fault.TEMPORARY


@pytest.mark.parametrize(
    "named",
    [
        "noreply@example.com",
        "NoReply@EXAMPLE.com",
        "example.com",
        "jo@example.com, example.com",
        "Mailroom <noreply@example.com>",
        "jo@example.com, noreply@example.com, ...",
        "noreply@example.com…",
    ],
)
def test_our_own_sender_unverified_is_the_accounts_fault(named: str) -> None:
    for source in (SOURCE, "noreply@example.com"):
        for code in ("MessageRejected", "BadRequestException"):
            assert exception_fault(code, http_status=400, message=REFUSED + named, source=source) is Fault.IDENTITY
        assert status_fault("MESSAGE_REJECTED", message=REFUSED + named, source=source) is Fault.IDENTITY


@pytest.mark.parametrize(
    "message",
    [
        REFUSED + "jo@example.com",
        REFUSED + "jo@example.org, li@example.net",
        REFUSED + "other-noreply@example.com",
        REFUSED + "example.com.au",
        "Message contains a virus: noreply@example.com",
        "",
    ],
)
def test_any_other_refusal_is_the_mails(message: str) -> None:
    assert exception_fault("MessageRejected", http_status=400, message=message, source=SOURCE) is Fault.MAIL
    assert status_fault("MESSAGE_REJECTED", message=message, source=SOURCE) is Fault.MAIL


def test_only_a_refusal_is_read_for_our_sender() -> None:
    message = REFUSED + "noreply@example.com"
    unread = exception_fault("InternalServiceErrorException", http_status=500, message=message, source=SOURCE)
    assert unread is Fault.UNKNOWN


@pytest.mark.parametrize(
    ("fault", "outcome", "charged"),
    [
        (Fault.MAIL, Rejected, None),
        (Fault.TEMPORARY, Deferred, True),
        (Fault.THROTTLED, Deferred, False),
        (Fault.LOCAL, Deferred, False),
        (Fault.ON_WAY, Deferred, False),
        (Fault.ACCOUNT, Deferred, False),
        (Fault.DENIED, Deferred, False),
        (Fault.SENDER_DENIED, Deferred, False),
        (Fault.CONFIGURATION_SET, Deferred, False),
        (Fault.IDENTITY, Deferred, False),
        (Fault.TEMPLATE, Deferred, False),
        (Fault.UNKNOWN, Unconfirmed, None),
    ],
)
def test_each_fault_has_its_outcome(
    fault: Fault, outcome: type[Rejected | Deferred | Unconfirmed], charged: bool | None
) -> None:
    found = classify.outcome(fault, "SomeCode")
    assert isinstance(found, outcome)
    assert found.code == "SomeCode"
    assert getattr(found, "charged", None) is charged


@pytest.mark.parametrize(
    ("code", "message", "scope"),
    [
        ("TooManyRequestsException", "Maximum sending rate exceeded.", None),
        ("TooManyRequestsException", "Daily message quota exceeded.", Scope.ACCOUNT),
        ("Throttling", "Daily message quota exceeded.", Scope.ACCOUNT),
        ("NotFoundException", "Template activationv1 does not exist.", Scope.ACTION),
        ("NotFoundException", "Configuration set default does not exist.", Scope.CONFIGURATION_SET),
        ("MailFromDomainNotVerifiedException", "", Scope.IDENTITY),
        ("SendingPausedException", "", Scope.ACCOUNT),
        ("AccessDeniedException", "", Scope.ACCOUNT),
    ],
)
def test_a_fault_that_all_would_meet_says_what_it_stops(code: str, message: str, scope: Scope | None) -> None:
    fault = exception_fault(code, http_status=400, message=message, source=SOURCE)
    found = classify.outcome(fault, code)
    assert isinstance(found, Deferred)
    assert (found.charged, found.scope) == (False, scope)


ARN = "arn:aws:ses:eu-west-1:123456789012:"
DENIED = "User: arn:aws:sts::123456789012:assumed-role/mail/template/x is not authorized to perform: ses:SendEmail"


@pytest.mark.parametrize(
    ("named", "fault"),
    [
        (f" on resource: {ARN}template/welcomev1", Fault.TEMPLATE),
        (f" on resource `{ARN}configuration-set/default'", Fault.CONFIGURATION_SET),
        (f" on resource `{ARN}identity/noreply@example.com'", Fault.SENDER_DENIED),
        (f" on resource `{ARN}identity/example.com' because no identity-based policy allows it", Fault.SENDER_DENIED),
        (f" on resource: {ARN}identity/*", Fault.DENIED),
        (f" on resource: {ARN}identity/com", Fault.SENDER_DENIED),
        ("", Fault.DENIED),
        (f" on resource `{ARN}identity/ada@example.com'", Fault.ON_WAY),
        (f" on resource: {ARN}identity/ada@example.org.", Fault.ON_WAY),
        (f" on resource: {ARN}identity/ple.com", Fault.ON_WAY),
    ],
)
def test_a_denial_is_that_of_what_it_names(named: str, fault: Fault) -> None:
    for code in DENIALS:
        assert exception_fault(code, http_status=403, message=DENIED + named, source=SOURCE) is fault
        found = classify.outcome(fault, code)
        assert isinstance(found, Deferred)
        assert (found.charged, found.reason) == (False, "these credentials may not do that")


@pytest.mark.parametrize("code", ["InvalidSignatureException", "SignatureDoesNotMatch"])
@pytest.mark.parametrize("said", ["Signature expired: 20261127T0100Z is now", "Signature not yet current: 2026"])
def test_a_signature_of_another_time_is_this_machines_clock(code: str, said: str) -> None:
    assert exception_fault(code, http_status=403, message=said, source=SOURCE) is Fault.LOCAL
    assert exception_fault(code, http_status=403, message="The request signature", source=SOURCE) is Fault.ACCOUNT


@pytest.mark.parametrize("http_status", [300, 400, 403, 404, 413, 429])
def test_what_nobody_knows_and_aws_did_not_say_is_no_answer_of_ses(http_status: int) -> None:
    def fault(code: str, *, of_aws: bool) -> Fault:
        return exception_fault(code, http_status=http_status, message="", source=SOURCE, of_aws=of_aws)

    assert fault("rate_limited", of_aws=False) is (Fault.ON_WAY if http_status in {400, 403, 413} else Fault.LOCAL)
    known = {403: Fault.ACCOUNT, 429: Fault.THROTTLED}
    assert fault("OfTomorrow", of_aws=True) is known.get(http_status, Fault.TEMPORARY)
    assert fault("MessageRejected", of_aws=False) is Fault.MAIL
