"""What every SES answer means for the mails of a call: one table, kept complete by a test against botocore's model.

Sources: the service model `sesv2` for names and HTTP codes, the SES developer guide for their meaning.
"""

from enum import Enum, auto
from typing import Final, assert_never

from mailroom.job import Deferred, Outcome, Rejected, Unconfirmed


class Fault(Enum):
    """Whose fault it is, which decides what follows."""

    MAIL = auto()  # this recipient or content: another attempt would end the same
    TEMPORARY = auto()  # nobody's in particular: try again, and count
    ACCOUNT = auto()  # the account's or its configuration's: wait until somebody mends it
    UNKNOWN = auto()  # it may have been accepted


# Codes of whole calls. Those below the blank line are not in the model, and yet are answered.
EXCEPTIONS: Final = {
    "AccountSuspendedException": Fault.ACCOUNT,
    "AlreadyExistsException": Fault.TEMPORARY,
    "BadRequestException": Fault.MAIL,
    "ConcurrentModificationException": Fault.UNKNOWN,
    "ConflictException": Fault.TEMPORARY,
    "InternalServiceErrorException": Fault.UNKNOWN,
    "InvalidNextTokenException": Fault.TEMPORARY,
    "LimitExceededException": Fault.ACCOUNT,
    "MailFromDomainNotVerifiedException": Fault.ACCOUNT,
    "MessageRejected": Fault.MAIL,
    "NotFoundException": Fault.ACCOUNT,
    "SendingPausedException": Fault.ACCOUNT,
    "TooManyRequestsException": Fault.ACCOUNT,

    "AccessDenied": Fault.ACCOUNT,
    "AccessDeniedException": Fault.ACCOUNT,
    "ExpiredToken": Fault.ACCOUNT,
    "ExpiredTokenException": Fault.ACCOUNT,
    "IncompleteSignature": Fault.ACCOUNT,
    "InternalFailure": Fault.UNKNOWN,
    "InvalidClientTokenId": Fault.ACCOUNT,
    "InvalidParameterValue": Fault.MAIL,
    "InvalidSignatureException": Fault.ACCOUNT,
    "MissingAuthenticationToken": Fault.ACCOUNT,
    "OptInRequired": Fault.ACCOUNT,
    "RequestEntityTooLarge": Fault.MAIL,
    "RequestEntityTooLargeException": Fault.MAIL,
    "RequestExpired": Fault.ACCOUNT,
    "ServiceUnavailable": Fault.UNKNOWN,
    "ServiceUnavailableException": Fault.UNKNOWN,
    "SignatureDoesNotMatch": Fault.ACCOUNT,
    "Throttling": Fault.ACCOUNT,
    "ThrottlingException": Fault.ACCOUNT,
    "UnrecognizedClientException": Fault.ACCOUNT,
}  # fmt: skip

# Statuses of single entries, as the model's enum BulkEmailStatus spells them; SUCCESS is no fault.
STATUSES: Final = {
    "ACCOUNT_DAILY_QUOTA_EXCEEDED": Fault.ACCOUNT,
    "ACCOUNT_SENDING_PAUSED": Fault.ACCOUNT,
    "ACCOUNT_SUSPENDED": Fault.ACCOUNT,
    "ACCOUNT_THROTTLED": Fault.ACCOUNT,
    "CONFIGURATION_SET_NOT_FOUND": Fault.ACCOUNT,
    "CONFIGURATION_SET_SENDING_PAUSED": Fault.ACCOUNT,
    "FAILED": Fault.TEMPORARY,
    "INVALID_PARAMETER": Fault.MAIL,
    "INVALID_SENDING_POOL_NAME": Fault.ACCOUNT,
    "MAIL_FROM_DOMAIN_NOT_VERIFIED": Fault.ACCOUNT,
    "MESSAGE_REJECTED": Fault.MAIL,
    "TEMPLATE_NOT_FOUND": Fault.ACCOUNT,
    "TRANSIENT_FAILURE": Fault.TEMPORARY,
}

_NOT_VERIFIED: Final = "not verified"


def exception_fault(code: str, *, http_status: int, message: str, source: str) -> Fault:
    """Say whose fault an error answer to a whole call is. An unknown code is never taken for a verdict on the mail."""
    unlisted = Fault.UNKNOWN if http_status >= 500 else Fault.TEMPORARY
    return _unless_ours(EXCEPTIONS.get(code, unlisted), message, source)


def status_fault(status: str, *, message: str, source: str) -> Fault:
    """Say whose fault the status of an entry is."""
    return _unless_ours(STATUSES.get(status, Fault.TEMPORARY), message, source)


def outcome(fault: Fault, code: str) -> Outcome:
    """Return the outcome of a mail that met this fault. The reason is ours: what providers write may hold addresses."""
    match fault:
        case Fault.MAIL:
            return Rejected(code, "SES refuses this mail")
        case Fault.TEMPORARY:
            return Deferred(code, "a temporary fault at SES", charged=True)
        case Fault.ACCOUNT:
            return Deferred(code, "SES refuses the account or its configuration", charged=False)
        case Fault.UNKNOWN:
            return Unconfirmed(code, "SES answered with a fault of its own")
        case _:
            assert_never(fault)


def _unless_ours(fault: Fault, message: str, source: str) -> Fault:
    """A rejection that names our own sender as not verified is the account's fault, not the recipient's."""
    if fault is not Fault.MAIL or _NOT_VERIFIED not in message:
        return fault
    address = _identity(source)
    named = [_identity(identity) for identity in message.rpartition(":")[2].split(",")]
    return Fault.ACCOUNT if address in named or address.partition("@")[2] in named else fault


def _identity(named: str) -> str:
    """Return the address or domain that stands alone, after a name, or last in a list that ends in an ellipsis."""
    return named.strip(" .…").rpartition("<")[2].rstrip(">").lower()
