"""What goes wrong on the way to SES: which of it is certainly not sent, and may be tried again at once."""

import logging
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from datetime import timedelta
from traceback import walk_tb
from typing import Any, Final

from botocore import exceptions as boto
from botocore.parsers import ResponseParserError
from tenacity import (
    RetryCallState,
    Retrying,
    retry_if_exception,
    stop_after_attempt,
    stop_after_delay,
    stop_when_event_set,
    wait_random,
)
from urllib3.connection import HTTPSConnection

from mailroom.job import Deferred, Outcome, Unconfirmed
from mailroom.transport import CONNECT_TRIES, RETRY_WAIT

log = logging.getLogger(__name__)

# The connection was never made, or nothing of the request was sent over it.
_UNSENT: Final = (boto.EndpointConnectionError, boto.ConnectTimeoutError, boto.ProxyConnectionError)
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
    getattr(boto, "LoginError", boto.SSOError),  # older versions have none
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


class UnreadableAnswerError(boto.BotoCoreError):
    """SES answered, and nobody can say what."""

    fmt = "the answer cannot be read"


class NoEndError(boto.BotoCoreError):
    """The call goes on, whatever it hangs in: a name that is not resolved, an answer that comes byte by byte."""

    fmt = "no answer in time"


def until_connected(send: Callable[..., Any], request: dict[str, Any], *, within: timedelta) -> Any:
    """Make a call and return its answer; try again only what was certainly not sent.

    Raises botocore's errors alone; NoEndError if the call goes on for longer than `within`: botocore's time-outs are
    for each step, and looking up a name has none.
    """
    over = threading.Event()
    attempts = Retrying(
        retry=retry_if_exception(is_unsent),
        # A connection is tried at each address that the name has: with several, one try may take all the time.
        stop=stop_after_attempt(CONNECT_TRIES) | stop_after_delay(within / CONNECT_TRIES) | stop_when_event_set(over),
        wait=wait_random(0, RETRY_WAIT.total_seconds()),
        before_sleep=_log_retry,
        reraise=True,
    )
    return _ended(lambda: attempts(_call, send, request), within, over)


def _ended(call: Callable[[], Any], within: timedelta, over: threading.Event) -> Any:
    """Make a call in a thread of its own; if it does not end in time, it is told so by `over`, and left to itself."""
    answer: Future[Any] = Future()

    def run() -> None:
        try:
            answer.set_result(call())
        except BaseException as error:
            answer.set_exception(error)  # raised where the answer is waited for

    threading.Thread(target=run, daemon=True).start()
    wait([answer], within.total_seconds())
    if not answer.done():
        over.set()
        raise NoEndError
    return answer.result()


def _call(send: Callable[..., Any], request: dict[str, Any]) -> Any:
    try:
        return send(**request)
    except boto.BotoCoreError:  # some are ValueErrors as well
        raise
    except _UNREADABLE as error:
        raise UnreadableAnswerError from error


def _log_retry(state: RetryCallState) -> None:
    error = state.outcome and state.outcome.exception()
    log.info("ses retry=%d error=%s", state.attempt_number, type(error).__name__)


def outcome(error: boto.BotoCoreError) -> Outcome:
    """Return the outcome of a mail whose call raised this."""
    name = type(error).__name__
    if is_unsent(error):
        return Deferred(name, "no connection to SES", charged=False)
    if isinstance(error, _NOT_TRIED):
        return Deferred(name, "the AWS configuration allows no call", charged=False)
    return Unconfirmed(name, "no answer from SES, or none that can be read")


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
