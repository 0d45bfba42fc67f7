"""The SQS queue that SES's events come through. An event stays in it until it is deleted."""

import re
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeVar

from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError

from mailroom.errors import FeedError
from mailroom.event import Unreadable
from mailroom.mail.event_source import MAX_WAIT, Received
from mailroom.mail.transport import CONNECT_TIMEOUT
from mailroom.ses import classify, connection, network
from mailroom.ses.client import Clients, made, user_agent
from mailroom.ses.event import read

if TYPE_CHECKING:
    from mypy_boto3_sqs import SQSClient

T = TypeVar("T")

# SQS: at most ten messages a call.
MAX_MESSAGES: Final = 10
# How long a message is hidden from others, whatever the queue has as its own time. Who is killed with it in hand keeps
# it so long from all others, and it must be heard well before its mail is sent again, which is after 60 s.
HIDDEN: Final = timedelta(seconds=30)
# The same for a message that is kept, from then on: longer than it may take to keep it again.
KEPT: Final = timedelta(seconds=45)
# How long a call may take, wherever it hangs: botocore's time-outs are for each step, and an answer may come byte by
# byte. After that, others have what was received.
MAX_CALL: Final = timedelta(seconds=30)
# Ten messages of a mebibyte, written as JSON.
MAX_ANSWER_BYTES: Final = 32 << 20
# SQS answers a long poll when its wait is over. Whoever gives up before that loses what comes meanwhile.
_MORE_THAN_WAIT: Final = timedelta(seconds=8)
_ATTEMPTS: Final = 3
_REGION: Final = re.compile(
    r"https?://(?:[^/]*\.)?(?:sqs(?:-fips)?\.([a-z0-9-]+)\.(?:vpce\.)?(?:amazonaws\.com|api\.aws)"
    r"|([a-z0-9-]+)\.queue\.amazonaws\.com)(?:\.cn)?(?::[0-9]+)?/"
)


def region_of(url: str) -> str | None:
    """Return the region that the URL of a queue names; None where it names none."""
    found = _REGION.match(url)
    return found and (found[1] or found[2])


def connect_to_queue(
    url: str, *, region: str | None, connections: int, endpoint: str | None = None, wait: timedelta = MAX_WAIT
) -> "SQSClient":
    """Return a client for the queue at that URL, in the region that it names, or else in `region`.

    What goes wrong is tried again: to receive or to delete twice does no harm. `endpoint` is where the queue is if it
    is not at AWS; None: as boto3's own chain has it. `wait` is the longest wait for a message. Raises SettingsError.
    """
    config = Config(
        user_agent=user_agent(),
        retries={"mode": "standard", "total_max_attempts": _ATTEMPTS},
        connect_timeout=CONNECT_TIMEOUT.total_seconds(),
        read_timeout=(wait + _MORE_THAN_WAIT).total_seconds(),
        max_pool_connections=connections,
        tcp_keepalive=True,
        parameter_validation=False,
    )
    client = made(
        lambda session: session.client("sqs", config=config, endpoint_url=endpoint),
        "SQS",
        region=region_of(url) or region,
    )
    connection.use(client)
    return client


class EventQueue:
    """Reads events from SQS. Safe to share between threads."""

    most = MAX_MESSAGES

    def __init__(
        self,
        client: "SQSClient",
        url: str,
        *,
        renew: "Callable[[], SQSClient] | None" = None,
        hidden: timedelta = HIDDEN,
        within: timedelta = MAX_CALL,
    ) -> None:
        """`renew` makes another client for when SQS refuses the first, or does not answer; None: it stays for ever.

        `hidden` is in whole seconds. `within` is how long a call may take.
        """
        self._clients = Clients(client, renew, of="SQS")
        self._url = url
        self._hidden = hidden
        self._within = within

    def receive(self, *, wait: timedelta) -> Sequence[Received]:
        """See `EventSource.receive`; whole seconds, and one at least: a short poll may find nothing that is there."""

        def receive() -> list[Received]:
            answer: Any = self._clients.current().receive_message(
                QueueUrl=self._url,
                MaxNumberOfMessages=MAX_MESSAGES,
                WaitTimeSeconds=max(1, round(wait.total_seconds())),
                VisibilityTimeout=round(self._hidden.total_seconds()),
                MessageSystemAttributeNames=["ApproximateReceiveCount"],
            )
            return [_received(message) for message in answer.get("Messages", [])]

        return self._asked(receive)

    def remove(self, messages: Sequence[Received]) -> int:
        """See `EventSource.remove`: SQS says of each whether it is gone, within an answer that is well."""

        def delete(some: Sequence[Received]) -> int:
            entries: Any = _entries(some)
            answer: Any = self._clients.current().delete_message_batch(QueueUrl=self._url, Entries=entries)
            return len(answer.get("Failed", []))

        known = [each for each in messages if each.handle]
        return len(messages) - len(known) + sum(self._asked(partial(delete, some)) for some in _calls(known))

    def keep(self, messages: Sequence[Received]) -> None:
        """See `EventSource.keep`: what cannot be kept comes again, and does no harm."""

        def keep(some: Sequence[Received]) -> None:
            entries: Any = _entries(some, VisibilityTimeout=round(KEPT.total_seconds()))
            self._clients.current().change_message_visibility_batch(QueueUrl=self._url, Entries=entries)

        for some in _calls([each for each in messages if each.handle]):
            self._asked(partial(keep, some))

    def _asked(self, question: Callable[[], T]) -> T:
        """Put a question; where there is no answer to it, the next is put with what is outside then."""
        try:
            return _asked(question, within=self._within)
        except FeedError:
            self._clients.doubt()
            raise


def _received(message: Any) -> Received:
    """Read a message, whatever it lacks: one that is odd must cost the others of its answer nothing."""
    said = message if isinstance(message, dict) else {}
    body, handle = said.get("Body"), said.get("ReceiptHandle")
    holds = read(body) if isinstance(body, str) else Unreadable()
    return Received(classify.word(said.get("MessageId")), handle if isinstance(handle, str) else "", holds)


def _calls(messages: Sequence[Received]) -> Iterator[Sequence[Received]]:
    for start in range(0, len(messages), MAX_MESSAGES):
        yield messages[start : start + MAX_MESSAGES]


def _entries(messages: Sequence[Received], **more: int) -> list[dict[str, Any]]:
    return [{"Id": str(place), "ReceiptHandle": each.handle, **more} for place, each in enumerate(messages)]


def _asked(question: Callable[[], T], *, within: timedelta) -> T:
    """Put a question to SQS. Raises FeedError with the code of the refusal, or of what went wrong on the way."""
    try:
        try:
            return network.with_deadline(question, within=within, max_answer=MAX_ANSWER_BYTES)
        except network.FailedError as failed:
            raise failed.cause from None
    except ClientError as error:
        raise FeedError(classify.error_code(error.response)) from error
    except (BotoCoreError, HTTPClientError) as error:
        raise FeedError(type(error).__name__) from error
    # What botocore raises at an answer of no sense.
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise FeedError("UnreadableAnswer") from error
