"""Calls of the transport through SES, and what serves them: raw sockets, with TLS or without."""

import contextlib
import re
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import pytest
from mypy_boto3_sesv2 import SESV2Client

from mailroom import ses
from mailroom.job import Action
from mailroom.mail.transport import Mail
from mailroom.outcome import Deferred, Outcome, Sent
from mailroom.simulator import Fault
from mailroom.worker.bisection import Bisection
from mailroom.worker.call_sharing import CallSharing
from tests.kinds import ACTIVATION
from tests.machine import missing

SOURCE = "noreply@example.com"
# Longer than a call may take with the time-outs of `client_of`.
WITHIN = timedelta(seconds=300)


def set_aws(environment: pytest.MonkeyPatch, folder: Path) -> None:
    environment.setenv("AWS_ACCESS_KEY_ID", "AKIATEST")
    environment.setenv("AWS_SECRET_ACCESS_KEY", "nothing")
    environment.setenv("AWS_EC2_METADATA_DISABLED", "true")
    environment.setenv("AWS_CONFIG_FILE", str(folder / "config"))
    environment.setenv("AWS_SHARED_CREDENTIALS_FILE", str(folder / "credentials"))
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
        environment.delenv(name, raising=False)


def client_of(
    environment: pytest.MonkeyPatch, url: str, *, connect_timeout: float = 20, read_timeout: float = 60
) -> SESV2Client:
    environment.setenv("AWS_ENDPOINT_URL_SESV2", url)
    return ses.connect(
        region="eu-west-1",
        connections=8,
        connect_timeout=timedelta(seconds=connect_timeout),
        read_timeout=timedelta(seconds=read_timeout),
    )


def mail(token: int = 1, address: str | None = None, **changes: str) -> Mail:
    login, secret = changes.get("login", f"user{token}"), changes.get("secret", f"s{token}")
    address = address or f"user{token}@example.com"
    return Mail(token=token, address=address, login=login, secret=secret, code=changes.get("code", "01234"))


# A tag has at most 256 characters: for one with this token SES refuses a bulk call whole.
BAD = 10**256


def mails(count: int, bad: Collection[int] = ()) -> list[Mail]:
    """Mails by their position; those in `bad` make SES refuse the call that they are in."""
    return [mail(BAD + place if place in bad else place, f"user{place}@example.com") for place in range(count)]


# What is learned of calls, by transport, as in a process.
SHARING: "WeakKeyDictionary[ses.SesTransport, CallSharing]" = WeakKeyDictionary()


def send(
    transport: ses.SesTransport,
    them: Sequence[Mail],
    within: timedelta = WITHIN,
    *,
    action: Action = ACTIVATION,
    batch: str | None = "7",
) -> Sequence[Outcome]:
    """Send mails as a batch, with all the calls that it takes."""
    sharing = SHARING.setdefault(transport, CallSharing())
    deadline = time.monotonic() + within.total_seconds()
    return Bisection(transport, action, batch=batch, deadline=deadline, sharing=sharing).send(them)


def kinds(outcomes: Sequence[Outcome]) -> list[str]:
    """In a word each; a deferred one is `charged` or `free`."""
    return [
        ("charged" if outcome.charged else "free") if isinstance(outcome, Deferred) else type(outcome).__name__.lower()
        for outcome in outcomes
    ]


def in_a_row(kind: str, count: int) -> list[str]:
    """What becomes of so many mails that meet the same: of refusals only the first is believed."""
    return [kind] + ["charged" if kind == "rejected" else kind] * (count - 1)


def codes(outcomes: Sequence[Outcome]) -> set[str]:
    """The codes of those that were not sent."""
    return {outcome.code for outcome in outcomes if not isinstance(outcome, Sent)}


@contextlib.contextmanager
def listening(serve: Callable[[socket.socket], object], backlog: int = 16) -> Iterator[tuple[int, list[bytes]]]:
    """A port on which each connection is handed to `serve`, and what it returned for each, as they come."""
    seen: list[Any] = []
    with socket.create_server(("127.0.0.1", 0), backlog=backlog) as server:

        def accept() -> None:
            with contextlib.suppress(OSError):  # closed: the test is over
                while True:
                    connection, _ = server.accept()
                    with connection:
                        seen.append(serve(connection))

        thread = threading.Thread(target=accept)
        thread.start()
        try:
            yield server.getsockname()[1], seen
        finally:
            server.shutdown(socket.SHUT_RDWR)
            thread.join()


def whole(connection: socket.socket) -> bytes:
    """Read a request to its end: its body may come after its head, or there may be none."""
    asked = b""
    while (end := asked.find(b"\r\n\r\n")) < 0 and (more := connection.recv(65_536)):
        asked += more
    found = re.search(rb"(?i)content-length: *([0-9]+)", asked)
    size = end + 4 + (int(found[1]) if found else 0)
    while len(asked) < size and (more := connection.recv(65_536)):
        asked += more
    return asked


def make_certificate(folder: Path) -> Path:
    """A self-signed certificate for 127.0.0.1 and its key, in one file."""
    key, file = folder / "key.pem", folder / "certificate.pem"
    try:
        subprocess.run(
            [
                *("openssl", "req", "-x509", "-nodes", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"),
                *("-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", key, "-out", file),
            ],
            check=True,
            capture_output=True,
        )
    except FileNotFoundError:
        missing("openssl")
    file.write_bytes(key.read_bytes() + file.read_bytes())
    return file


def tls(certificate: Path, then: Callable[[ssl.SSLSocket], object]) -> Callable[[socket.socket], object]:
    """What serves a connection with TLS; a handshake that fails is what came of it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)

    def serve(connection: socket.socket) -> object:
        try:
            with context.wrap_socket(connection, server_side=True) as secured:
                return then(secured)
        except OSError as error:
            return error

    return serve


REFUSED = "Email address is not verified. The following identities failed the check in region US-EAST-1: "


Connect = Callable[..., SESV2Client]


AFTER_ACCEPTANCE = {
    "hang": Fault(accept_then="hang"),
    "close": Fault(accept_then="drop"),
    "cut short": Fault(accept_then="unended"),
    "truncated": Fault(accept_then="truncate"),
    "500": Fault(accept_then="error"),
    "503": Fault(accept_then="error", error="ServiceUnavailable", status=503),
    "429 of tomorrow, in a 500": Fault(accept_then="error", error="SlowDown", status=500),
}


def retries(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if "retry=" in record.getMessage()]
