"""What to do about each pause and each warning: the words that the window, `status` and `doctor` share."""

from shlex import quote
from typing import Final

from mailroom import finding
from mailroom.fleet import pauses
from mailroom.ops import reputation

DEFAULT_QUEUE: Final = "mailroom"
START_WORKER: Final = "start one: `mailroom worker`; where cron sweeps, see that it runs"
SAME_RELEASE: Final = "run here the release that the workers run; until then, `mailroom status` counts for itself"
WORKERS_OF_QUEUES: Final = (
    "start a worker for each, with its MAILROOM_QUEUE_NAME; if nobody knows the queues, see who enqueues to them"
)
LOOK_AT_WORKER: Final = "see whether it still runs, and its log; what it had in flight goes back when its lease ends"
LOOK_AT_DATABASE: Final = "see the log of the workers: the database cuts the reading off, or refuses it"
ASK_DOCTOR: Final = "`mailroom doctor` names what is wrong"
MORE_SENDERS: Final = "start another worker, or give it more senders: `mailroom worker --concurrency N`"
THROTTLED: Final = (
    "the rate comes back by itself within 20 s of the last throttle; if it does not, others send with this account:"
    " lower MAILROOM_SES_RATE"
)
LISTEN_AGAIN: Final = "it connects again by itself; if not, `mailroom doctor` says why (listen)"
LET_ASK: Final = "allow ses:GetAccount to the workers, or set MAILROOM_SES_RATE"
LET_ASK_QUOTA: Final = "allow ses:GetAccount to the workers: nobody else says how much of the day's quota is left"
RAISE_RATE: Final = "nothing is broken: it leaves in its turn; ask AWS for a higher rate if that is too slow"
RAISE_OWN_RATE: Final = "nothing is broken: it leaves in its turn; raise MAILROOM_SES_RATE if that is too slow"
DECIDE_HELD: Final = (
    "`mailroom jobs list --held` shows them; `mailroom jobs release TOKEN` sends one,"
    " `mailroom jobs drop TOKEN` gives it up"
)
SEE_UNCONFIRMED: Final = "`mailroom jobs list --outcome unconfirmed --since 1d`; most often nothing is to be done"
REACH_DATABASE: Final = "see whether PostgreSQL runs and can be reached from here; `mailroom doctor` says what it meets"
REACH_SES: Final = "`mailroom doctor` says whether SES can be reached from its machine; look at AWS's health page too"
SEE_FAILED: Final = "`mailroom jobs list --outcome failed --since 1h`, and `mailroom jobs show TOKEN` has each attempt"
# How SES says that calls come too fast; the day's quota has words of its own, and pauses the account.
THROTTLES: Final = {"TooManyRequestsException", "Throttling", "ThrottlingException", "ACCOUNT_THROTTLED"}

_ADDRESSES: Final = "find out where these addresses come from (`mailroom suppressions list`), and stop what brings them"
_CREDENTIALS: Final = "give the workers good credentials; those that are renewed in a file are read again by themselves"
_ALLOW: Final = (
    "allow ses:SendEmail and ses:SendBulkEmail for sender, configuration set, templates and recipients;"
    " `mailroom jobs list --code AccessDeniedException` shows what is denied"
)
_CLOCK: Final = "renew the credentials, and see that the machine's clock is right (NTP)"
_TEMPLATE: Final = "push the template, and use it: `mailroom templates push --use`"
_REFUSED: Final = (
    "`mailroom doctor` checks the template; if it is sound, see whose they are: `mailroom jobs list --code {}`"
)

_BY_CODE: Final = {
    "AccountSuspendedException": finding.SEE_THE_CASE,
    "ACCOUNT_SUSPENDED": finding.SEE_THE_CASE,
    "SendingPausedException": finding.SWITCH_SENDING_ON,
    "AccountSendingPausedException": finding.SWITCH_SENDING_ON,
    "ACCOUNT_SENDING_PAUSED": finding.SWITCH_SENDING_ON,
    "LimitExceededException": finding.WAIT_FOR_QUOTA,
    "ACCOUNT_DAILY_QUOTA_EXCEEDED": finding.WAIT_FOR_QUOTA,
    "TooManyRequestsException": finding.WAIT_FOR_QUOTA,
    "Throttling": finding.WAIT_FOR_QUOTA,
    "ThrottlingException": finding.WAIT_FOR_QUOTA,
    "AccessDenied": _ALLOW,
    "AccessDeniedException": _ALLOW,
    "NotAuthorized": _ALLOW,
    "ExpiredToken": _CREDENTIALS,
    "ExpiredTokenException": _CREDENTIALS,
    "InvalidClientTokenId": _CREDENTIALS,
    "MissingAuthenticationToken": _CREDENTIALS,
    "UnrecognizedClientException": _CREDENTIALS,
    "IncompleteSignature": _CLOCK,
    "InvalidSignatureException": _CLOCK,
    "SignatureDoesNotMatch": _CLOCK,
    "OptInRequired": "sign this account up for SES in this region, or correct AWS_REGION",
    "ConfigurationSetSendingPausedException": finding.ENABLE_CONFIG_SET,
    "CONFIGURATION_SET_SENDING_PAUSED": finding.ENABLE_CONFIG_SET,
    "INVALID_SENDING_POOL_NAME": "correct the pool of dedicated addresses that the configuration set names",
    "MailFromDomainNotVerifiedException": "finish the MX and SPF records of its MAIL FROM domain, or take it away",
    "MAIL_FROM_DOMAIN_NOT_VERIFIED": "finish the MX and SPF records of its MAIL FROM domain, or take it away",
    "BounceRate": f"{_ADDRESSES}; it ends by itself below the line",
    "ComplaintRate": f"{_ADDRESSES}; it ends by itself below the line",
}
# What a scope is paused for whose code says no more.
_BY_SCOPE: Final = {
    "configuration_set": finding.MAKE_CONFIG_SET,
    "identity": finding.VERIFY_SENDER,
    "account": ASK_DOCTOR,
}
_TEMPLATE_CODES: Final = {
    *("NotFoundException", "ResourceNotFoundException", "TemplateDoesNotExist", "TEMPLATE_NOT_FOUND")
}

_OF_WARNINGS: Final = {
    "OldTransaction": "end it: `SELECT pg_terminate_backend(…)`, `ROLLBACK PREPARED …`, or drop the slot",
    "DeadRows": "end the oldest transaction, if one is old; otherwise `VACUUM {table}`",
    "NoAutovacuum": "`ALTER TABLE {table} RESET (autovacuum_enabled)`; and switch autovacuum on",
    "OverdueBatch": f"no worker or sweep rescues: {START_WORKER}",
    "QueueUnread": "end the oldest transaction, if one is old; otherwise `VACUUM {table}`",
    "FeedSilent": "`mailroom doctor`, then the topic of the configuration set, its subscription and the queue",
    "BounceRate": _ADDRESSES,
    "ComplaintRate": _ADDRESSES,
    "NoReading": START_WORKER,
}


def start_worker(queue: str) -> str:
    """Say how a queue gets a worker."""
    named = "" if queue == DEFAULT_QUEUE else f"MAILROOM_QUEUE_NAME={quote(queue)} "
    return f"start one: `{named}mailroom worker`; where cron sweeps, see that it runs"


def of_pause(scope: str, code: str) -> str:
    """Say what ends a pause, or what to mend so that a probe does."""
    resume = f"`mailroom resume {quote(scope)}`"
    if code == pauses.BY_HAND:
        return f"somebody paused it: {resume} once the reason is over"
    if code == "RenderingFailure":
        return f"its template does not render: correct it, `mailroom templates push --use`, then {resume}"
    if pauses.is_action(scope):
        return _TEMPLATE if code in _TEMPLATE_CODES else _BY_CODE.get(code) or _REFUSED.format(quote(code))
    return _BY_CODE.get(code) or _BY_SCOPE.get(scope) or f"{ASK_DOCTOR}; {resume} once it is mended"


def of_deferral(code: str) -> str:
    """Say what to do where mails have to be tried again and again."""
    return THROTTLED if code in THROTTLES else _BY_CODE.get(code) or REACH_SES


def of_warning(code: str, table: str = "mailroom.jobs") -> str:
    """Say what to do about a warning of `status`; `table` is jobs, as SQL finds it."""
    advised = _OF_WARNINGS.get(code, "look at workers, pauses and the rate: `mailroom status`")
    return advised.replace("{table}", table)


def ends_by_itself(code: str, *, by_hand: bool) -> str:
    """Say how a pause ends."""
    if by_hand:
        return "it stays until somebody resumes it"
    return "it ends with the rate" if code in reputation.CODES else "a probe ends it once the fault is over"
