"""The connections to SES and SQS: interim answers are passed over, each answer has an end, what is given up is cut off.

None is used again after a rest: nobody can tell whether it still leads anywhere.
"""

import contextlib
import io
import socket
import threading
import time
from collections.abc import Callable
from contextvars import ContextVar
from http import HTTPStatus
from http.client import BadStatusLine, HTTPException, HTTPResponse, parse_headers
from typing import TYPE_CHECKING, Any, Final

from botocore.awsrequest import (
    AWSHTTPConnection,
    AWSHTTPConnectionPool,
    AWSHTTPSConnection,
    AWSHTTPSConnectionPool,
)

if TYPE_CHECKING:
    from mypy_boto3_sesv2 import SESV2Client
    from mypy_boto3_sqs import SQSClient

# More interim answers (102, 103) before one answer make no sense.
_MOST_INTERIM: Final = 100
# Far longer than any answer to a send, of fifty results, or about the account.
MAX_ANSWER_BYTES: Final = 1 << 20
# What stands between (NAT, a firewall) forgets a connection that rests, and tells nobody: AWS's NAT gateway does after
# 350 s, others sooner; and servers close theirs. A request on such a one is lost, and nobody knows whether it arrived.
MAX_REST_SECONDS: Final = 10.0


# With these SES, or what stands before it, refuses a request: nothing of it is accepted, whatever follows. Sources: the
# service model `sesv2`, and AWS's common errors. Not 408: who says that has waited in vain, perhaps for SES.
_REFUSALS: Final = {
    HTTPStatus.BAD_REQUEST,
    HTTPStatus.FORBIDDEN,
    HTTPStatus.NOT_FOUND,
    HTTPStatus.CONFLICT,
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    HTTPStatus.TOO_MANY_REQUESTS,
}


class Hold:
    """Knows the connection that a call is on. Whoever waits for the call no more may cut that off."""

    def __init__(self, *, max_answer: int = MAX_ANSWER_BYTES) -> None:
        """`max_answer`: how many bytes may come on the connection for one answer."""
        self.max_answer = max_answer
        self._cut: Callable[[Hold], None] | None = None

    def is_on(self, cut: "Callable[[Hold], None]") -> None:
        """Take note of the connection, by what cuts it off if it is still this call's."""
        self._cut = cut

    def cut_off(self) -> None:
        """End the connection, so that the thread of the call ends as well. It may be on none, or on none any more."""
        cut = self._cut
        if cut is not None:
            cut(self)

    def let_go(self) -> None:
        """Take note that the call has ended."""
        self._cut = None


# That of the call which a thread makes.
holding: ContextVar[Hold] = ContextVar("holding")


class _EndlessError(OSError):
    """An answer is longer than any of SES."""


class _Bounded(io.RawIOBase):
    """What comes on a connection, up to so many bytes; then OSError."""

    def __init__(self, raw: Any, most: int) -> None:
        super().__init__()
        self._raw = raw
        self._left = most

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        if self._left <= 0:
            raise _EndlessError("an answer without end")
        count: int | None = self._raw.readinto(buffer)
        self._left -= count or 0
        return count

    def close(self) -> None:
        self._raw.close()
        super().close()


class _Response(HTTPResponse):
    """http.client passes over 100 alone, and takes any other for the answer: the next request would get the real one.

    Source: RFC 9110, section 15.2: a client must be able to read one or more interim answers before the final one.

    A refusal whose body breaks off has none: its status is certain.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        hold = holding.get(None)
        most = MAX_ANSWER_BYTES if hold is None else hold.max_answer
        self.fp: io.BufferedReader = io.BufferedReader(_Bounded(self.fp.detach(), most))

    def begin(self) -> None:
        super().begin()
        if self.status in _REFUSALS:
            try:
                body = self.read()
            except _EndlessError:  # who says that is not SES
                raise
            except (OSError, HTTPException):
                body, self.will_close = b"", True
                del self.headers["x-amzn-ErrorType"]  # without its message nobody knows whose fault it is
            del self.headers["Transfer-Encoding"]
            self.chunked, self.length, self.fp = False, len(body), io.BufferedReader(io.BytesIO(body))

    def _read_status(self) -> tuple[str, int, str]:
        for _ in range(_MOST_INTERIM):
            version, status, reason = super()._read_status()  # type: ignore[misc]  # the stubs do not have it
            if status < HTTPStatus.OK and status not in {HTTPStatus.CONTINUE, HTTPStatus.SWITCHING_PROTOCOLS}:
                parse_headers(self.fp)
            else:
                return version, status, reason
        raise BadStatusLine("interim answers without end")


class _Held:
    """A connection that is of one call at a time, from when that connects or asks until another does."""

    sock: Any

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._lock = threading.Lock()
        self._hold: Hold | None = None
        self._dialed: socket.socket | None = None
        self._is_cut = False
        # When it was last left to rest, in monotonic seconds.
        self.rests_since = time.monotonic()

    def connect(self) -> None:
        self._take()
        try:
            super().connect()  # type: ignore[misc]  # of urllib3, in the classes below
        finally:
            with self._lock:
                if self._dialed is not None:
                    self._dialed.close()
                self._dialed = None

    def request(self, *args: Any, **kwargs: Any) -> Any:
        self._take()
        return super().request(*args, **kwargs)  # type: ignore[misc]

    def close(self) -> None:
        super().close()  # type: ignore[misc]
        self._is_cut = False

    def _new_conn(self) -> socket.socket:
        made: socket.socket = super()._new_conn()  # type: ignore[misc]
        with self._lock:
            self._dialed = made.dup()  # while a handshake lasts nobody else can reach the one that it is on
        return made

    def _take(self) -> None:
        with self._lock:
            if self._is_cut:  # the call before was given up just as it ended
                raise ConnectionAbortedError
            self._hold = holding.get(None)
        if self._hold is not None:
            self._hold.is_on(self._cut_off)

    def _cut_off(self, hold: Hold) -> None:
        with self._lock:
            if self._hold is not hold:
                return
            self._is_cut = True
            for one in (self._dialed, self.sock):
                if isinstance(one, socket.socket):
                    with contextlib.suppress(OSError):
                        socket.socket.shutdown(one, socket.SHUT_RDWR)  # not that of TLS, which is of its own thread


class _Connection(_Held, AWSHTTPConnection):  # type: ignore[misc]  # so botocore has it
    response_class = _Response  # type: ignore[assignment]  # the stubs take it for one that expects 100


class _SecureConnection(_Held, AWSHTTPSConnection):  # type: ignore[misc]
    response_class = _Response  # type: ignore[assignment]


class _Kept:
    """Keeps connections, but not for long."""

    def urlopen(self, *args: Any, **kwargs: Any) -> Any:
        # A redirection is an answer. urllib3 would follow none either, and stumble over our headers as it finds out.
        return super().urlopen(*args, **kwargs | {"redirect": False})  # type: ignore[misc]

    def _get_conn(self, *args: Any, **kwargs: Any) -> Any:
        kept: _Held = super()._get_conn(*args, **kwargs)  # type: ignore[misc]
        if time.monotonic() - kept.rests_since > MAX_REST_SECONDS:
            kept.close()  # urllib3 connects it again
        return kept

    def _put_conn(self, conn: Any) -> None:
        if conn is not None:
            conn.rests_since = time.monotonic()
        super()._put_conn(conn)  # type: ignore[misc]


class _Pool(_Kept, AWSHTTPConnectionPool):
    ConnectionCls = _Connection


class _SecurePool(_Kept, AWSHTTPSConnectionPool):
    ConnectionCls = _SecureConnection


def use(client: "SESV2Client | SQSClient") -> None:
    """Have a client make such connections from now on."""
    made: Any = client
    session = made._endpoint.http_session  # botocore has no other way
    session._pool_classes_by_scheme.update(http=_Pool, https=_SecurePool)
