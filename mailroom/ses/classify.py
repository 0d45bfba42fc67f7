"""What every SES answer means for the mails of a call: one table, kept complete by a test against botocore's model.

Sources: the service model `sesv2` for names and HTTP codes, the SES developer guide for their meaning.
"""

import re
from collections.abc import Mapping
from enum import Enum, auto
from http import HTTPStatus
from typing import Any, Final

from mailroom.outcome import Deferred, Outcome, Rejected, Scope, Unconfirmed


class Fault(Enum):
    """Whose fault it is, which decides what follows."""

    MAIL = auto()  # this recipient or content: another attempt would end the same
    TEMPORARY = auto()  # nobody's in particular: try again, and count
    THROTTLED = auto()  # ours, for sending too fast: wait a moment
    LOCAL = auto()  # this machine's, which cannot call: others may
    ON_WAY = auto()  # likewise, or that of what the call holds: a filter has answered in the place of SES
    ACCOUNT = auto()  # the account's: wait until somebody fixes it
    DENIED = auto()  # likewise, or that of what the call holds: a policy may name whom one may mail
    CONFIGURATION_SET = auto()  # likewise
    IDENTITY = auto()  # our sender's, likewise
    SENDER_DENIED = auto()  # likewise, by a policy that names it
    TEMPLATE = auto()  # that of one action's template, likewise
    UNKNOWN = auto()  # it may have been accepted


# Codes of whole calls. Those of the second group are not in the model, and yet are answered. Those of the third are of
# SES's first version: what stands in for SES may answer so, and no mail may use up its attempts with them.
EXCEPTIONS: Final = {
    "AccountSuspendedException": Fault.ACCOUNT,
    "AlreadyExistsException": Fault.TEMPORARY,
    "BadRequestException": Fault.MAIL,
    "ConcurrentModificationException": Fault.UNKNOWN,
    "ConflictException": Fault.TEMPORARY,
    "InternalServiceErrorException": Fault.UNKNOWN,
    "InvalidNextTokenException": Fault.TEMPORARY,
    "LimitExceededException": Fault.ACCOUNT,
    "MailFromDomainNotVerifiedException": Fault.IDENTITY,
    "MessageRejected": Fault.MAIL,
    "NotFoundException": Fault.TEMPLATE,
    "SendingPausedException": Fault.ACCOUNT,
    "TooManyRequestsException": Fault.THROTTLED,

    "AccessDenied": Fault.DENIED,
    "AccessDeniedException": Fault.DENIED,
    "ExpiredToken": Fault.ACCOUNT,
    "ExpiredTokenException": Fault.ACCOUNT,
    "IncompleteSignature": Fault.ACCOUNT,
    "InternalFailure": Fault.UNKNOWN,
    "InvalidAction": Fault.LOCAL,
    "InvalidClientTokenId": Fault.ACCOUNT,
    "InvalidParameterValue": Fault.MAIL,
    "InvalidSignatureException": Fault.ACCOUNT,
    "MissingAuthenticationToken": Fault.ACCOUNT,
    "NotAuthorized": Fault.ACCOUNT,
    "OptInRequired": Fault.ACCOUNT,
    "RequestAbortedException": Fault.UNKNOWN,
    "RequestEntityTooLarge": Fault.MAIL,
    "RequestEntityTooLargeException": Fault.MAIL,
    "RequestExpired": Fault.LOCAL,
    "RequestTimeoutException": Fault.UNKNOWN,
    "ResourceNotFoundException": Fault.TEMPLATE,
    "ServiceUnavailable": Fault.UNKNOWN,
    "ServiceUnavailableException": Fault.UNKNOWN,
    "SignatureDoesNotMatch": Fault.ACCOUNT,
    "Throttling": Fault.THROTTLED,
    "ThrottlingException": Fault.THROTTLED,
    "UnknownOperationException": Fault.LOCAL,
    "UnrecognizedClientException": Fault.ACCOUNT,
    "ValidationError": Fault.MAIL,
    "ValidationException": Fault.MAIL,

    "AccountSendingPausedException": Fault.ACCOUNT,
    "ConfigurationSetDoesNotExist": Fault.CONFIGURATION_SET,
    "ConfigurationSetSendingPausedException": Fault.CONFIGURATION_SET,
    "TemplateDoesNotExist": Fault.TEMPLATE,
}  # fmt: skip

# Statuses of single entries, as the model's enum BulkEmailStatus spells them; SUCCESS is no fault.
STATUSES: Final = {
    "ACCOUNT_DAILY_QUOTA_EXCEEDED": Fault.ACCOUNT,
    "ACCOUNT_SENDING_PAUSED": Fault.ACCOUNT,
    "ACCOUNT_SUSPENDED": Fault.ACCOUNT,
    "ACCOUNT_THROTTLED": Fault.THROTTLED,
    "CONFIGURATION_SET_NOT_FOUND": Fault.CONFIGURATION_SET,
    "CONFIGURATION_SET_SENDING_PAUSED": Fault.CONFIGURATION_SET,
    "FAILED": Fault.TEMPORARY,
    "INVALID_PARAMETER": Fault.MAIL,
    "INVALID_SENDING_POOL_NAME": Fault.CONFIGURATION_SET,
    "MAIL_FROM_DOMAIN_NOT_VERIFIED": Fault.IDENTITY,
    "MESSAGE_REJECTED": Fault.MAIL,
    "TEMPLATE_NOT_FOUND": Fault.TEMPLATE,
    "TRANSIENT_FAILURE": Fault.TEMPORARY,
}
SUCCESS: Final = "SUCCESS"

# Names that the documentation of these statuses has, beside the enum. Nobody knows which of both SES writes.
_OTHER_NAMES: Final = {
    "CONFIGURATION_SET_DOES_NOT_EXIST": "CONFIGURATION_SET_NOT_FOUND",
    "INVALID_PARAMETER_VALUE": "INVALID_PARAMETER",
    "TEMPLATE_DOES_NOT_EXIST": "TEMPLATE_NOT_FOUND",
}
# Both without what SES's first version leaves out: it writes them as in TemplateDoesNotExist.
_SPELLINGS: Final = {
    spelt.replace("_", ""): status
    for spelt, status in [*zip(STATUSES, STATUSES, strict=True), (SUCCESS, SUCCESS), *_OTHER_NAMES.items()]
}

THROTTLES: Final = frozenset(code for code, fault in (EXCEPTIONS | STATUSES).items() if fault is Fault.THROTTLED)

# With these SES refuses a mail for its own sake, as it says; but also where our template is broken.
REFUSALS: Final = frozenset(code for code, fault in (EXCEPTIONS | STATUSES).items() if fault is Fault.MAIL)

# With these it says that these credentials may not do that, all of it or some; others might.
DENIALS: Final = frozenset(code for code, fault in EXCEPTIONS.items() if fault is Fault.DENIED)

# Longer than any code or message id of SES.
_MAX_WORD: Final = 200
_NOT_IN_A_WORD: Final = re.compile(r"[^!-~]")

_NO_ENTRY: Final = {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}

# With these a filter refuses a request for what is in it, or for its size; others are about who calls, or how often.
_OF_CONTENT: Final = {
    HTTPStatus.BAD_REQUEST,
    HTTPStatus.FORBIDDEN,
    HTTPStatus.NOT_ACCEPTABLE,
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    HTTPStatus.UNPROCESSABLE_ENTITY,
    HTTPStatus.UNAVAILABLE_FOR_LEGAL_REASONS,
}

# Words that tell apart answers of SES with the same code.
_NOT_VERIFIED: Final = "not verified"
_DAILY_QUOTA: Final = "daily message quota"
_CONFIGURATION_SET: Final = "configuration set"
_OTHER_CLOCK: Final = ("signature expired", "signature not yet current")
_DENIED_FOR: Final = re.compile(r":(template|configuration-set|identity)/([^\s'\"`,;]+)")

_REASONS: Final = {
    Fault.THROTTLED: "SES asks to send more slowly",
    Fault.LOCAL: "this machine cannot call SES",
    Fault.ON_WAY: "refused on the way to SES",
    Fault.ACCOUNT: "SES refuses the account",
    Fault.DENIED: "these credentials may not do that",
    Fault.CONFIGURATION_SET: "SES refuses the configuration set",
    Fault.IDENTITY: "SES refuses the sender",
    Fault.SENDER_DENIED: "these credentials may not use the sender",
    Fault.TEMPLATE: "SES has no such template",
}
_SCOPES: Final = {
    Fault.ACCOUNT: Scope.ACCOUNT,
    Fault.DENIED: Scope.ACCOUNT,
    Fault.CONFIGURATION_SET: Scope.CONFIGURATION_SET,
    Fault.IDENTITY: Scope.IDENTITY,
    Fault.SENDER_DENIED: Scope.IDENTITY,
    Fault.TEMPLATE: Scope.ACTION,
}


def word(said: object) -> str:
    """Return a name that somebody outside gave as one word of ASCII that can be seen, and not too long.

    It may go into a line of the log and into a column, whatever it was: no line ends, blanks, escapes or NUL.
    """
    return _NOT_IN_A_WORD.sub("?", str(said)[:_MAX_WORD]) or "Unknown"


def code_word(said: object) -> str:
    """Return a code as a word, in which nobody finds an address: codes go into the log."""
    return word(said).replace("@", "?")


def status_word(said: object) -> str:
    """Return the status of an entry as the enum has it, however it is spelt; as a word, where nobody knows it."""
    found = code_word(said)
    return _SPELLINGS.get(found.replace("_", "").upper(), found)


def error_code(response: Mapping[str, Any]) -> str:
    """Return the code of an error answer, as a word."""
    return code_word(response.get("Error", {}).get("Code", "Unknown"))


def exception_fault(code: str, *, http_status: int, message: str, source: str, of_aws: bool = True) -> Fault:
    """Say whose fault an error answer to a whole call is. An unknown code is never taken for a verdict on the mail.

    Where the code is the HTTP status itself, the answer was not SES's: a proxy's, or that of a wrong endpoint. Nor was
    it where nobody knows the code and the answer has no id of AWS (`of_aws`). What a server says that has failed, or
    that has waited in vain for another, decides nothing: that one may have taken the mails.
    """
    if http_status >= HTTPStatus.INTERNAL_SERVER_ERROR or http_status == HTTPStatus.REQUEST_TIMEOUT:
        return Fault.UNKNOWN
    if code in EXCEPTIONS:
        return _by_message(EXCEPTIONS[code], message, source)
    if code.isdigit() or not of_aws:
        return Fault.ON_WAY if http_status in _OF_CONTENT else Fault.LOCAL
    if http_status == HTTPStatus.TOO_MANY_REQUESTS:
        return Fault.THROTTLED
    return Fault.ACCOUNT if http_status in _NO_ENTRY else Fault.TEMPORARY


def status_fault(status: str, *, message: str, source: str) -> Fault:
    """Say whose fault the status of an entry is."""
    return _by_message(STATUSES.get(status, Fault.TEMPORARY), message, source)


def outcome(fault: Fault, code: str) -> Outcome:
    """Return the outcome of a mail that met this fault. The reason is ours: what providers write may hold addresses."""
    match fault:
        case Fault.MAIL:
            return Rejected(code, "SES refuses this mail")
        case Fault.TEMPORARY:
            return Deferred(code, "a temporary fault at SES", charged=True)
        case Fault.UNKNOWN:
            return Unconfirmed(code, "SES answered with a fault of its own")
        case _:
            on_way = fault in {Fault.ON_WAY, Fault.DENIED, Fault.SENDER_DENIED}
            reason = _REASONS[Fault.DENIED if code in DENIALS else fault]
            return Deferred(code, reason, charged=False, scope=_SCOPES.get(fault), on_way=on_way)


def _by_message(fault: Fault, message: str, source: str) -> Fault:
    """Tell apart what one code may mean; a rejection that names our own sender as not verified is not the mail's."""
    text = message.lower()
    match fault:
        case Fault.THROTTLED if _DAILY_QUOTA in text:
            return Fault.ACCOUNT
        case Fault.ACCOUNT if text.startswith(_OTHER_CLOCK):
            return Fault.LOCAL
        case Fault.TEMPLATE if _CONFIGURATION_SET in text:
            return Fault.CONFIGURATION_SET
        case Fault.MAIL if _NOT_VERIFIED in text and _names(message, _identity(source)):
            return Fault.IDENTITY
        case Fault.DENIED if found := _DENIED_FOR.search(message):
            return _denied(found[1], found[2], _identity(source))
        case _:
            return fault


def _denied(kind: str, name: str, address: str) -> Fault:
    """Say whose fault it is that something of this kind and name may not be used. A recipient may be an identity."""
    match kind:
        case "template":
            return Fault.TEMPLATE
        case "configuration-set":
            return Fault.CONFIGURATION_SET
        case _:
            domain = address.partition("@")[2]
            named = _identity(name)
            if named == "*":
                return Fault.DENIED
            is_ours = named == address or f".{domain}".endswith(f".{named}")
            return Fault.SENDER_DENIED if is_ours else Fault.ON_WAY


def _names(message: str, address: str) -> bool:
    """Whether a message lists our address or its domain, after its last colon."""
    named = [_identity(identity) for identity in message.rpartition(":")[2].split(",")]
    return address in named or address.partition("@")[2] in named


def _identity(named: str) -> str:
    """Return the address or domain that stands alone, after a name, or last in a list that ends in an ellipsis."""
    return named.strip(" .…").rpartition("<")[2].rstrip(">").lower()
