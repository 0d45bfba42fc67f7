"""Interim answers (102, 103) of what stands between: they are passed over, and the answer is the one that follows."""

from http import HTTPStatus
from http.client import BadStatusLine, HTTPResponse, parse_headers
from typing import TYPE_CHECKING, Any, Final

from botocore.awsrequest import (
    AWSHTTPConnection,
    AWSHTTPConnectionPool,
    AWSHTTPSConnection,
    AWSHTTPSConnectionPool,
)

if TYPE_CHECKING:
    from mypy_boto3_sesv2 import SESV2Client

# More before one answer make no sense.
_MOST: Final = 100


class _Response(HTTPResponse):
    """http.client passes over 100 alone, and takes any other for the answer: the next request would get the real one.

    Source: RFC 9110, section 15.2: a client must be able to read one or more interim answers before the final one.
    """

    def _read_status(self) -> tuple[str, int, str]:
        for _ in range(_MOST):
            version, status, reason = super()._read_status()  # type: ignore[misc]  # the stubs do not have it
            if status < HTTPStatus.OK and status not in {HTTPStatus.CONTINUE, HTTPStatus.SWITCHING_PROTOCOLS}:
                parse_headers(self.fp)
            else:
                return version, status, reason
        raise BadStatusLine("interim answers without end")


class _Connection(AWSHTTPConnection):
    response_class = _Response  # type: ignore[assignment]  # the stubs take it for one that expects 100


class _SecureConnection(AWSHTTPSConnection):
    response_class = _Response  # type: ignore[assignment]


class _Pool(AWSHTTPConnectionPool):
    ConnectionCls = _Connection


class _SecurePool(AWSHTTPSConnectionPool):
    ConnectionCls = _SecureConnection


def pass_over(client: "SESV2Client") -> None:
    """Have all connections that a client makes from now on pass over interim answers."""
    session: Any = client._endpoint.http_session  # type: ignore[attr-defined]  # botocore has no other way
    session._pool_classes_by_scheme.update(http=_Pool, https=_SecurePool)
