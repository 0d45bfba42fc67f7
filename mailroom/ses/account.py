"""What SES says of the account itself: its rate, its quota, and whether it may send."""

from datetime import timedelta
from typing import TYPE_CHECKING, Final

from botocore.exceptions import BotoCoreError, ClientError

from mailroom.errors import TransportError
from mailroom.job import SesAccount
from mailroom.ses import network
from mailroom.ses.client import connect

if TYPE_CHECKING:
    from mypy_boto3_sesv2 import SESV2Client

# A question may be put again, unlike a mail.
ATTEMPTS: Final = 3
READ_TIMEOUT: Final = timedelta(seconds=10)
LONGEST_ANSWER: Final = timedelta(seconds=45)


def connect_to_ask(*, region: str | None) -> "SESV2Client":
    """Return a client for questions alone: what goes wrong is tried again. See `connect`."""
    return connect(region=region, connections=1, read_timeout=READ_TIMEOUT, attempts=ATTEMPTS)


def account(client: "SESV2Client") -> SesAccount:
    """Ask SES for the account. Raises TransportError with the code of the refusal, or of what went wrong on the way."""
    try:
        answer = network.until_connected(client.get_account, {}, within=LONGEST_ANSWER)
        quota = answer["SendQuota"]
        return SesAccount(
            max_send_rate=float(quota["MaxSendRate"]),
            max_24_hour_send=float(quota["Max24HourSend"]),
            sent_last_24_hours=float(quota["SentLast24Hours"]),
            sending_enabled=bool(answer.get("SendingEnabled", True)),
            production_access=bool(answer.get("ProductionAccessEnabled", True)),
            enforcement=str(answer.get("EnforcementStatus", "")),
        )
    except ClientError as error:
        raise TransportError(str(error.response.get("Error", {}).get("Code", "Unknown"))) from error
    except (BotoCoreError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise TransportError(type(error).__name__) from error
