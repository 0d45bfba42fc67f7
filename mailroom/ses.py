"""The transport through Amazon SES: one request for a batch, sent exactly once, and every answer understood."""

import json
import logging
import os
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from traceback import walk_tb
from typing import TYPE_CHECKING, Any, Final

import boto3
from botocore import exceptions as boto
from botocore.config import Config
from botocore.parsers import ResponseParserError
from tenacity import RetryCallState, Retrying, retry_if_exception, stop_after_attempt, wait_random
from urllib3.connection import HTTPSConnection

from mailroom import actions, classify
from mailroom.address import ascii_address
from mailroom.classify import Fault
from mailroom.errors import SettingsError
from mailroom.job import Action, Deferred, Outcome, Rejected, Sent, Unconfirmed
from mailroom.transport import CONNECT_TIMEOUT, CONNECT_TRIES, READ_TIMEOUT, RETRY_WAIT, Mail

if TYPE_CHECKING:
    from mypy_boto3_sesv2 import SESV2Client
    from mypy_boto3_sesv2.type_defs import BulkEmailEntryTypeDef, MessageTagTypeDef

log = logging.getLogger(__name__)

# SES: at most 50 destinations in a bulk call.
LARGEST_CALL: Final = 50
# The connection was never made, or nothing of the request was sent over it.
_UNSENT: Final = (boto.EndpointConnectionError, boto.ConnectTimeoutError, boto.ProxyConnectionError)
# Any other operation is one that botocore calls for the sake of credentials, before it sends.
_SENDING: Final = {"SendEmail", "SendBulkEmail"}
# botocore gave up before it made a request.
_NOT_TRIED: Final = (
    boto.BaseEndpointResolverError,
    boto.ConfigNotFound,
    boto.ConfigParseError,
    boto.CredentialRetrievalError,
    boto.EndpointProviderError,
    boto.InvalidConfigError,
    boto.InvalidEndpointConfigurationError,
    boto.InvalidHostLabelError,
    boto.InvalidIMDSEndpointError,
    boto.InvalidIMDSEndpointModeError,
    boto.InvalidProxiesConfigError,
    boto.InvalidRegionError,
    boto.LoginError,
    boto.MetadataRetrievalError,
    boto.MissingDependencyException,
    boto.NoAuthTokenError,
    boto.NoCredentialsError,
    boto.PartialCredentialsError,
    boto.ProfileNotFound,
    boto.RefreshWithMFAUnsupportedError,
    boto.SSOError,
    boto.TokenRetrievalError,
    boto.UnknownCredentialError,
    boto.UnknownRegionError,
    boto.UnknownSignatureVersionError,
    boto.UnknownTokenProviderError,
    boto.UnsupportedSignatureVersionError,
)
# What botocore's parser trips with over JSON of another shape than the model's.
_UNREADABLE: Final = (AttributeError, TypeError, ValueError, ResponseParserError)


def connect(
    *,
    region: str | None,
    connections: int,
    connect_timeout: timedelta = CONNECT_TIMEOUT,
    read_timeout: timedelta = READ_TIMEOUT,
) -> "SESV2Client":
    """Return a client that sends each request exactly once, whatever the environment says about retries.

    botocore's default sends a bulk call up to five times after a time-out: 250 mails for 50. Without `region` it comes
    from boto3's own chain, as credentials and endpoint do; SettingsError if there is no region or no credentials. One
    client serves `connections` threads. Validation is off: requests are built here alone, and SES checks what botocore
    does not.
    """
    for name in ("boto3", "botocore", "urllib3"):  # at DEBUG they print request bodies, secrets included
        logging.getLogger(name).setLevel(logging.WARNING)
    config = Config(
        retries={"mode": "standard", "total_max_attempts": 1},
        connect_timeout=connect_timeout.total_seconds(),
        read_timeout=read_timeout.total_seconds(),
        max_pool_connections=connections,
        tcp_keepalive=True,
        parameter_validation=False,
    )
    try:
        session = boto3.Session(region_name=region)
        client = session.client("sesv2", config=config)
        credentials = session.get_credentials()
    except boto.NoRegionError as error:
        raise SettingsError(f"SES cannot be used: {error} Set AWS_REGION.") from error
    except (boto.BotoCoreError, ValueError) as error:
        raise SettingsError(f"SES cannot be used: {type(error).__name__}: check the AWS_ variables") from error
    if credentials is None:
        raise SettingsError("SES cannot be used: no AWS credentials were found (AWS_ACCESS_KEY_ID, a profile, a role)")
    return client


class SesTransport:
    """Sends one mail with SendEmail and several with SendBulkEmail. Safe to share between threads."""

    def __init__(
        self,
        client: "SESV2Client",
        *,
        source: str,
        config_set: str = "",
        output_path: Path | None = None,
    ) -> None:
        """`config_set` may be empty: none. `output_path` is the folder for raw error answers; None: not kept."""
        self._client = client
        self._source = source
        self._config_set = config_set
        self._output_path = output_path
        config: Any = client.meta.config
        self.longest_call = (
            CONNECT_TRIES * timedelta(seconds=config.connect_timeout)
            + timedelta(seconds=config.read_timeout)
            + (CONNECT_TRIES - 1) * RETRY_WAIT
        )

    def send(self, action: Action, mails: Sequence[Mail], *, batch: int | None, within: timedelta) -> Sequence[Outcome]:
        """See `Transport.send`. Addresses that SES cannot take are rejected without a call, and harm nobody else."""
        deadline = time.monotonic() + within.total_seconds()
        addresses = [ascii_address(mail.address) for mail in mails]
        possible = [place for place, address in enumerate(addresses) if address is not None]
        outcomes: list[Outcome] = [Rejected("UnsupportedAddress", "SES cannot mail to this address")] * len(mails)
        call = _Call(self, action, batch, deadline)
        entries = [(mails[place], addresses[place] or "") for place in possible]
        for place, outcome in zip(possible, call.outcomes(entries), strict=True):
            outcomes[place] = outcome
        return outcomes

    def request(self, action: Action, entries: "Sequence[Entry]", *, batch: int | None) -> Any:
        """Make one call for all entries and return its answer; retry only where nothing can have been sent."""
        template = actions.TEMPLATES[action]
        frame: dict[str, Any] = {"FromEmailAddress": self._source}
        if self._config_set:
            frame["ConfigurationSetName"] = self._config_set
        send: Callable[..., Any]
        if len(entries) == 1:
            [(mail, address)] = entries
            send = self._client.send_email
            frame["Destination"] = {"ToAddresses": [address]}
            frame["Content"] = {"Template": {"TemplateName": template, "TemplateData": mail.data(action)}}
            frame["EmailTags"] = _tags(mail, batch)
        else:
            send = self._client.send_bulk_email
            # Empty default data: a value left out is then an error of SES, not a mail with a blank link.
            frame["DefaultContent"] = {"Template": {"TemplateName": template, "TemplateData": "{}"}}
            frame["BulkEmailEntries"] = [_bulk_entry(action, mail, address, batch) for mail, address in entries]
        return _until_connected(send, **frame)

    def fault(self, error: boto.ClientError) -> tuple[Fault, str]:
        """Say whose fault an error answer is, and its code."""
        code = str(error.response.get("Error", {}).get("Code", "Unknown"))
        if error.operation_name not in _SENDING:
            return Fault.ACCOUNT, code
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 500)
        message = str(error.response.get("Error", {}).get("Message", ""))
        return classify.exception_fault(code, http_status=status, message=message, source=self._source), code

    def results(self, answer: Any, count: int) -> list[Outcome]:
        """Read the answer to a call for `count` mails, by position. What does not add up is unconfirmed."""
        if count == 1:
            return [_accepted(answer.get("MessageId"))]
        results = answer.get("BulkEmailEntryResults")
        if not isinstance(results, list) or len(results) != count:
            return [Unconfirmed("ResultCount", "SES answered without a result for each mail")] * count
        return [self._result(result) for result in results]

    def _result(self, result: Any) -> Outcome:
        if result is None:  # what botocore leaves of a null
            return _accepted(None)
        status = str(result.get("Status", "NoStatus"))
        if status == "SUCCESS" or (status not in classify.STATUSES and result.get("MessageId")):
            return _accepted(result.get("MessageId"))
        fault = classify.status_fault(status, message=str(result.get("Error", "")), source=self._source)
        return classify.outcome(fault, status)

    def keep(self, batch: int | None, entries: "Sequence[Entry]", answer: object) -> None:
        """Append a raw error answer to the folder for them, if there is one. Only its owner may read it.

        A folder that cannot be written to is logged and no more: what the other mails of the call got must not be lost.
        """
        if self._output_path is None:
            return
        tokens = [mail.token for mail, _ in entries]
        line = {"at": datetime.now(UTC).isoformat(), "batch": batch, "tokens": tokens, "answer": answer}
        try:
            self._output_path.mkdir(parents=True, exist_ok=True)
            file = os.open(self._output_path / "ses-errors.jsonl", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            with os.fdopen(file, "ab", buffering=0) as out:
                out.write(json.dumps(line, default=str).encode() + b"\n")
        except OSError as error:
            log.warning("ses answer not kept: %s", error)


Entry = tuple[Mail, str]


class _Call:
    """The call for one batch. Where SES refuses it whole for some mail's sake, it is halved down to that mail.

    Halving takes at most 12 calls for one bad mail in 50. It stops in time for the lease, and when the account turns
    out to be at fault: what is left then waits.
    """

    def __init__(self, transport: SesTransport, action: Action, batch: int | None, deadline: float) -> None:
        self._transport = transport
        self._action = action
        self._batch = batch
        self._deadline = deadline
        self._in_vain: Deferred | None = None

    def outcomes(self, entries: Sequence[Entry]) -> list[Outcome]:
        if not entries:
            return []
        if self._in_vain:
            return [self._in_vain] * len(entries)
        found = self._try(entries)
        if found is None:
            return self._halved(entries)
        self._in_vain = next((one for one in found if isinstance(one, Deferred) and not one.charged), None)
        return found

    def _halved(self, entries: Sequence[Entry]) -> list[Outcome]:
        """Send the halves of what was refused whole. Where the first is fine, the culprit must be in the second."""
        middle = len(entries) // 2
        first, second = entries[:middle], entries[middle:]
        outcomes = self.outcomes(first)
        if len(second) > 1 and not any(isinstance(outcome, Rejected) for outcome in outcomes):
            return outcomes + self._halved(second)
        return outcomes + self.outcomes(second)

    def _try(self, entries: Sequence[Entry]) -> list[Outcome] | None:
        """Make one call; None if it was refused whole for the sake of some mail that is still to be found."""
        transport = self._transport
        if time.monotonic() + transport.longest_call.total_seconds() > self._deadline:
            return [Deferred("OutOfTime", "the lease leaves no time for a call", charged=False)] * len(entries)
        try:
            answer = transport.request(self._action, entries, batch=self._batch)
        except boto.ClientError as error:
            transport.keep(self._batch, entries, error.response)
            fault, code = transport.fault(error)
            if fault is Fault.MAIL and len(entries) > 1:
                return None
            return [classify.outcome(fault, code)] * len(entries)
        except (boto.BotoCoreError, *_UNREADABLE) as error:
            transport.keep(self._batch, entries, type(error).__name__)
            return [_network_outcome(error)] * len(entries)
        outcomes = transport.results(answer, len(entries))
        if not all(isinstance(outcome, Sent) for outcome in outcomes):
            transport.keep(self._batch, entries, answer)
        return outcomes


def is_unsent(error: BaseException) -> bool:
    """Whether an error proves that nothing of the request left: no connection, or no TLS on it."""
    if isinstance(error, boto.SSLError | boto.ConnectionClosedError):
        return any(_while_connecting(cause) for cause in _causes(error))
    return isinstance(error, _UNSENT)


def _while_connecting(error: BaseException) -> bool:
    """Whether an error rose while TLS was set up. Its text does not tell: OpenSSL says the same of a later record."""
    return any(frame.f_code is HTTPSConnection.connect.__code__ for frame, _ in walk_tb(error.__traceback__))


def _causes(error: BaseException) -> Iterator[BaseException]:
    """An error, and those it wraps: botocore and urllib3 keep them in different places."""
    seen: list[BaseException] = [error]
    for one in seen:
        yield one
        kept = [one.__cause__, getattr(one, "kwargs", {}).get("error"), *one.args]
        seen += [cause for cause in kept if isinstance(cause, BaseException) and cause not in seen]


def _until_connected(send: Callable[..., Any], **request: Any) -> Any:
    attempts = Retrying(
        retry=retry_if_exception(is_unsent),
        stop=stop_after_attempt(CONNECT_TRIES),
        wait=wait_random(0, RETRY_WAIT.total_seconds()),
        before_sleep=_log_retry,
        reraise=True,
    )
    return attempts(send, **request)


def _log_retry(state: RetryCallState) -> None:
    error = state.outcome and state.outcome.exception()
    log.info("ses retry=%d error=%s", state.attempt_number, type(error).__name__)


def _network_outcome(error: Exception) -> Outcome:
    name = type(error).__name__
    if is_unsent(error):
        return Deferred(name, "no connection to SES", charged=False)
    if isinstance(error, _NOT_TRIED):
        return Deferred(name, "the AWS configuration allows no call", charged=False)
    return Unconfirmed(name, "no answer from SES, or none that can be read")


def _accepted(message_id: object) -> Outcome:
    if isinstance(message_id, str) and message_id:
        return Sent(message_id)
    return Unconfirmed("NoMessageId", "SES answered without a message id")


def _tags(mail: Mail, batch: int | None) -> "list[MessageTagTypeDef]":
    tags = {"mailroom_token": mail.token, "mailroom_batch": batch}
    return [{"Name": name, "Value": str(value)} for name, value in tags.items() if value is not None]


def _bulk_entry(action: Action, mail: Mail, address: str, batch: int | None) -> "BulkEmailEntryTypeDef":
    return {
        "Destination": {"ToAddresses": [address]},
        "ReplacementTags": _tags(mail, batch),
        "ReplacementEmailContent": {"ReplacementTemplate": {"ReplacementTemplateData": mail.data(action)}},
    }
