"""SES's own list of addresses that it does not send to: asking for one, and taking one off."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeVar

from tenacity import Retrying, retry_if_exception, stop_after_attempt, wait_random

from mailroom.errors import TransportError
from mailroom.ses import classify, network
from mailroom.ses.account import MAX_ANSWER
from mailroom.ses.address import ascii_address

if TYPE_CHECKING:
    from mypy_boto3_sesv2 import SESV2Client

T = TypeVar("T")

DENIALS: Final = classify.DENIALS
# How often SES is asked again. It takes one such call a second, and botocore's own tries follow each other sooner.
MAX_TURNS: Final = 5
_MISSING: Final = "NotFoundException"


@dataclass(frozen=True, slots=True)
class Listed:
    """Why SES does not send to an address (`BOUNCE` or `COMPLAINT`), and since when, as far as it says so."""

    reason: str
    at: datetime | None


def find(client: "SESV2Client", address: str) -> Listed | None:
    """Return what the list says of an address; None if it is not on it. Raises TransportError with SES's code."""
    for form in _forms(address):
        answer: Any = _asked(partial(client.get_suppressed_destination, EmailAddress=form))
        if answer is not None:
            return _read(answer)
    return None


def remove(client: "SESV2Client", address: str) -> bool:
    """Take an address off the list; return whether it was on it. Raises TransportError with SES's code."""
    answers = [_asked(partial(client.delete_suppressed_destination, EmailAddress=form)) for form in _forms(address)]
    return any(answer is not None for answer in answers)


def _forms(address: str) -> Iterator[str]:
    """Yield how SES may know an address: as mail goes to it, and in small letters. It tells them apart here."""
    form = ascii_address(address)
    return iter(()) if form is None else iter(dict.fromkeys([form, form.lower()]))


def _read(answer: Any) -> Listed:
    try:
        found = answer["SuppressedDestination"]
        reason, at = classify.word(found["Reason"]), found.get("LastUpdateTime")
    except (KeyError, TypeError, AttributeError) as error:  # what botocore makes of an answer of no sense
        raise TransportError("UnreadableAnswer") from error
    return Listed(reason, at if isinstance(at, datetime) else None)


def _asked(question: Callable[[], T]) -> T | None:
    turns = Retrying(
        retry=retry_if_exception(_is_throttled),
        wait=wait_random(1, 2),
        stop=stop_after_attempt(MAX_TURNS),
        reraise=True,
    )
    try:
        return turns(lambda: network.asked(question, within=MAX_ANSWER))
    except network.FailedError as error:
        if error.code == _MISSING:
            return None
        raise TransportError(error.code) from error.cause


def _is_throttled(error: BaseException) -> bool:
    return isinstance(error, network.FailedError) and error.code in classify.THROTTLES
