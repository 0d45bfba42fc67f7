"""What SES says of the account itself: its rate, its quota, and whether it may send."""

from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

from mailroom.errors import TransportError
from mailroom.job import SesAccount
from mailroom.ses import classify, network
from mailroom.ses.client import connect

if TYPE_CHECKING:
    from mypy_boto3_sesv2 import SESV2Client

# A question may be put again, unlike a mail.
ATTEMPTS: Final = 3
READ_TIMEOUT: Final = timedelta(seconds=10)
MAX_ANSWER: Final = timedelta(seconds=45)
# More a second, or a day, than anybody has: a sum of such numbers overflows.
_MOST: Final = 1e12


def connect_to_ask(*, region: str | None) -> "SESV2Client":
    """Return a client for questions alone: what goes wrong is tried again. See `connect`."""
    return connect(region=region, connections=1, read_timeout=READ_TIMEOUT, attempts=ATTEMPTS)


def account(client: "SESV2Client") -> SesAccount:
    """Ask SES for the account. Raises TransportError with the code of the refusal, or of what went wrong on the way."""
    try:
        return network.asked(lambda: _read(client.get_account()), within=MAX_ANSWER)
    except network.FailedError as error:
        raise TransportError(error.code) from error.cause


def _read(answer: Any) -> SesAccount:
    quota = answer["SendQuota"]
    return SesAccount(
        max_send_rate=_number(quota["MaxSendRate"]),
        max_24_hour_send=_number(quota["Max24HourSend"]),
        sent_last_24_hours=_number(quota["SentLast24Hours"]),
        sending_enabled=bool(answer.get("SendingEnabled", True)),
        production_access=bool(answer.get("ProductionAccessEnabled", True)),
        enforcement=classify.word(answer["EnforcementStatus"]) if answer.get("EnforcementStatus") else "",
    )


def _number(found: Any) -> float:
    """Return a number that one can count with, or -1: JSON as Python reads it knows NaN and infinity, too."""
    number = float(found)
    if not -1 <= number <= _MOST:  # nor is NaN
        raise ValueError("not a number")
    return number
