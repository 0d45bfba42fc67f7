"""The way to SES: a call that ends in time, and that knows for certain whether its request was begun."""

import logging
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, wait
from contextvars import ContextVar
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from botocore import exceptions as boto
from botocore.awsrequest import HeadersDict
from tenacity import (
    RetryCallState,
    Retrying,
    retry_if_exception,
    retry_if_not_exception_type,
    stop_after_attempt,
    stop_after_delay,
    wait_random,
)

from mailroom.mail.transport import CONNECT_TRIES, RETRY_WAIT
from mailroom.ses import classify, connection

if TYPE_CHECKING:
    from botocore.awsrequest import AWSPreparedRequest
    from mypy_boto3_sesv2 import SESV2Client

log = logging.getLogger(__name__)

T = TypeVar("T")


class UnreadableAnswerError(boto.BotoCoreError):
    """SES answered, and nobody can say what."""

    fmt = "the answer cannot be read"


class CallTimeoutError(boto.BotoCoreError):
    """The call goes on, whatever it hangs in: a name that is not resolved, an answer that comes byte by byte."""

    fmt = "no answer in time"


class NoThreadError(boto.BotoCoreError):
    """This machine has no thread left for the call."""

    fmt = "no thread can be started"


class FailedError(Exception):
    """A call failed of `cause`, whatever that is; `code` is the word for it."""

    def __init__(self, cause: BaseException) -> None:
        super().__init__()
        self.cause = cause
        self.code = classify.error_code(cause.response) if isinstance(cause, boto.ClientError) else type(cause).__name__


class NotBegunError(FailedError):
    """No request was begun, and none will be: nothing of a mail has left."""

    def __init__(self, cause: BaseException) -> None:
        super().__init__(cause)
        if self.code in classify.EXCEPTIONS | classify.STATUSES:  # of the service that gives credentials
            self.code = f"Credentials{self.code}"


class _Start:
    """Whether the request of one call was begun. It is begun once at most, and never after the call was given up.

    It is begun when its body is asked for: names, credentials, proxies and TLS all come before that. Without its body
    SES cannot accept a request.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._begun = False
        self._given_up = False

    def body(self, content: bytes) -> Iterator[bytes]:
        """Give the body of the request, which begins it."""
        with self._lock:
            if self._given_up or self._begun:
                raise CallTimeoutError
            self._begun = True
        yield content

    def go_on(self) -> None:
        """Raise CallTimeoutError if nobody waits for the call any more."""
        if self._given_up:
            raise CallTimeoutError

    def give_up(self) -> bool:
        """Keep the request from being begun, unless that is too late; return whether it is."""
        with self._lock:
            self._given_up = True
            return self._begun

    @property
    def is_open(self) -> bool:
        """Whether it may still be begun, and so the call be tried again."""
        return not (self._begun or self._given_up)


class _Headers(HeadersDict):
    """Headers that are not written once the call was given up: a handshake may end long after that."""

    def __init__(self, headers: Mapping[str, Any], start: _Start) -> None:
        super().__init__(headers.items())
        self._start = start

    def __iter__(self) -> Iterator[str]:
        self._start.go_on()
        return super().__iter__()

    def copy(self) -> "_Headers":
        return _Headers(self, self._start)


_start: ContextVar[_Start] = ContextVar("_start")


def guard(client: "SESV2Client") -> None:
    """Make a client fit for `call_with_connect_retries`."""
    client.meta.events.register_last("before-send.sesv2", _note_start, unique_id="mailroom-start")
    connection.use(client)


def _note_start(request: "AWSPreparedRequest", **_: object) -> None:
    start = _start.get(None)
    if start is not None and isinstance(request.body, bytes):
        request.headers = _Headers(request.headers, start)  # type: ignore[assignment, arg-type]  # the stubs are wrong
        # Its length is among the headers already, and it is signed. One that cannot be rewound is not sent twice.
        request.body = start.body(request.body)  # type: ignore[assignment]  # urllib3 takes it


def call_with_connect_retries(call: Callable[[], T], *, within: timedelta) -> T:
    """Make a call with a client that is guarded, and return its answer; try again while no request was begun.

    It ends within that time, whatever it hangs in: botocore's time-outs are for each step, and looking up a name has
    none. Raises NotBegunError where nothing was sent, whatever the reason; FailedError where SES may have the request.
    """
    start = _Start()
    attempts = Retrying(
        retry=retry_if_exception(lambda _: start.is_open),
        # A connection is tried at each address that the name has: with several, one try may take all the time.
        stop=stop_after_attempt(CONNECT_TRIES) | stop_after_delay(within / CONNECT_TRIES),
        wait=wait_random(0, RETRY_WAIT.total_seconds()),
        before_sleep=_log_retry,
        reraise=True,
    )

    def started() -> T:
        _start.set(start)
        return attempts(call)

    try:
        answer = with_deadline(started, within=within)
    except FailedError as error:
        if start.give_up():
            raise
        raise NotBegunError(error.cause) from error.cause
    finally:
        start.give_up()
    if not start.give_up():
        raise FailedError(UnreadableAnswerError())  # to another request than ours
    return answer


def asked(question: Callable[[], T], *, within: timedelta) -> T:
    """Put a question, again if there is no answer, and return the answer. FailedError if there is none in that time."""
    attempts = Retrying(
        retry=retry_if_not_exception_type(boto.ClientError),
        stop=stop_after_attempt(CONNECT_TRIES) | stop_after_delay(within / CONNECT_TRIES),
        wait=wait_random(0, RETRY_WAIT.total_seconds()),
        reraise=True,
    )
    return with_deadline(lambda: attempts(question), within=within)


def with_deadline(call: Callable[[], T], *, within: timedelta, max_answer: int = connection.MAX_ANSWER_BYTES) -> T:
    """Make a call in a thread of its own, and in that time; read no more bytes of an answer. Raises FailedError alone.

    One that does not end in time is cut off, if its client is guarded, and it is on a connection. Else it is left to
    itself: nothing ends a look-up of a name, or a program that gives credentials.
    """
    answer: Future[T] = Future()
    hold = connection.Hold(max_answer=max_answer)

    def run() -> None:
        connection.holding.set(hold)
        try:
            answer.set_result(call())
        except BaseException as error:
            answer.set_exception(error)  # for whoever waits for the answer
        finally:
            hold.let_go()

    try:
        threading.Thread(target=run, daemon=True).start()
    except RuntimeError as error:
        raise FailedError(NoThreadError()) from error
    wait([answer], within.total_seconds())
    if not answer.done():
        hold.cut_off()
        raise FailedError(CallTimeoutError())
    if failure := answer.exception():
        raise FailedError(failure) from failure
    return answer.result()


def _log_retry(state: RetryCallState) -> None:
    error = state.outcome and state.outcome.exception()
    log.info("ses retry=%d error=%s", state.attempt_number, type(error).__name__)
