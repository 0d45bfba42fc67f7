"""What an outcome leads to: the deliveries it leaves, and whether and when the job is tried again. Pure."""

from dataclasses import dataclass
from datetime import timedelta
from typing import Final, assert_never

from mailroom.outcome import Deferred, Outcome, Rejected, Sent, Unconfirmed, Untried

MAX_ATTEMPTS: Final = 6
FIRST_DELAY: Final = timedelta(seconds=2)
MAX_DELAY: Final = timedelta(seconds=120)
# A fault of the account costs the job nothing; the circuit breaker sets the pace, this only spreads the jobs.
UNCHARGED_DELAY: Final = timedelta(seconds=10)
# How long a late answer may still take to arrive before an unconfirmed mail is sent again, unless a setting says so.
GRACE: Final = timedelta(seconds=5)
# While events are heard: one may prove that it is out. Safety never depends on this; it saves mails sent twice.
GRACE_HEARD: Final = timedelta(seconds=60)


@dataclass(frozen=True, slots=True)
class Delivery:
    """A row of the log: one outcome of one job, in the words of the SQL type `delivery_outcome`."""

    outcome: str
    message_id: str | None = None
    error_code: str | None = None
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Again:
    """The job goes back, with this many attempts charged, and is due after this long; None: it is held."""

    attempt: int
    after: timedelta | None


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is recorded of an attempt, and whether there is another. Nothing recorded: the job goes back as it was.

    `call_ms` is how long its call took; None: there was none, or nobody knows.
    """

    deliveries: tuple[Delivery, ...]
    again: Again | None = None
    call_ms: int | None = None


def retry_delay(attempt: int, *, jitter: float) -> timedelta:
    """Double the wait with every attempt, up to MAX_DELAY; `jitter` in 0..1 takes a share of it off."""
    return min(FIRST_DELAY * 2.0 ** min(attempt, 16), MAX_DELAY) * (1 - jitter)


def judge(
    outcome: Outcome,
    *,
    attempt: int,
    jitter: float,
    resend_after: timedelta | None = GRACE,
    call_ms: int | None = None,
) -> Verdict:
    """Decide what follows from an outcome of a job with `attempt` charged attempts before this one.

    An unconfirmed mail is sent again after `resend_after` at the earliest; None holds it until somebody decides. An
    unconfirmed mail whose attempts are used up leaves two rows: that it may be out, and that it has failed.
    """
    deliveries, again = _decide(outcome, attempt, jitter, resend_after)
    return Verdict(deliveries, again, call_ms)


def _decide(
    outcome: Outcome, attempt: int, jitter: float, resend_after: timedelta | None
) -> tuple[tuple[Delivery, ...], Again | None]:
    charged = attempt + 1
    match outcome:
        case Sent(message_id):
            return (Delivery("sent", message_id=message_id),), None
        case Rejected(code, reason):
            return (Delivery("rejected", error_code=code, error=reason),), None
        case Deferred(code, reason, charged=False):
            deferred = Delivery("deferred", error_code=code, error=reason)
            return (deferred,), Again(attempt, UNCHARGED_DELAY * (1 - jitter))
        case Deferred(code, reason) if charged >= MAX_ATTEMPTS:
            return (Delivery("failed", error_code=code, error=reason),), None
        case Deferred(code, reason):
            deferred = Delivery("deferred", error_code=code, error=reason)
            return (deferred,), Again(charged, retry_delay(attempt, jitter=jitter))
        case Unconfirmed(code, reason, message_id) if charged >= MAX_ATTEMPTS:
            failed = Delivery("failed", error_code=code, error="no attempt is left")
            return (Delivery("unconfirmed", message_id=message_id, error_code=code, error=reason), failed), None
        case Unconfirmed(code, reason, message_id):
            unconfirmed = Delivery("unconfirmed", message_id=message_id, error_code=code, error=reason)
            wait = None if resend_after is None else max(resend_after, retry_delay(attempt, jitter=jitter))
            return (unconfirmed,), Again(charged, wait)
        case Untried():
            return (), None
        case _:
            assert_never(outcome)
