"""Tried again is only what was certainly not sent."""

import contextlib
import logging
import socket
import ssl
from collections.abc import Callable
from pathlib import Path

import pytest

from mailroom import ses
from mailroom.mail.transport import CONNECT_TRIES
from mailroom.outcome import Deferred
from mailroom.simulator import Simulator
from tests.machine import closed_port, held_port
from tests.ses.calls import (
    SOURCE,
    Connect,
    codes,
    kinds,
    listening,
    mails,
    retries,
    send,
    tls,
)


def test_a_refused_connection_is_tried_again_twice(connect: Connect, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    outcomes = send(ses.SesTransport(connect(f"http://127.0.0.1:{closed_port()}"), source=SOURCE), mails(3))
    assert outcomes == [Deferred("EndpointConnectionError", "this machine cannot call SES", charged=False)] * 3
    assert retries(caplog) == [f"ses retry={number} error=EndpointConnectionError" for number in (1, 2)]
    assert CONNECT_TRIES == 3


class OnRetry(logging.Handler):
    """Does something before the second try."""

    def __init__(self, do: Callable[[], object]) -> None:
        super().__init__()
        self._do = do

    def emit(self, record: logging.LogRecord) -> None:
        if "retry=1" in record.getMessage():
            self._do()


def test_a_server_that_comes_up_between_the_tries_gets_the_mail(
    connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    late: list[Simulator] = []
    with contextlib.ExitStack() as stack:
        port = stack.enter_context(held_port())
        starter = OnRetry(lambda: late.append(stack.enter_context(Simulator(port=port))))
        logging.getLogger("mailroom").addHandler(starter)
        stack.callback(logging.getLogger("mailroom").removeHandler, starter)
        outcomes = send(ses.SesTransport(connect(f"http://127.0.0.1:{port}"), source=SOURCE), mails(2))
        assert kinds(outcomes) == ["sent", "sent"]
        assert late[0].ledger.sent_tokens() == {"0": 1, "1": 1}


def test_a_connection_that_is_not_answered_is_tried_again_twice(
    connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        for _ in range(4):  # the queue of those who wait to be accepted is full
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(server.getsockname())
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
        outcomes = send(ses.SesTransport(connect(url, connect_timeout=0.1), source=SOURCE), mails(2))
    assert outcomes == [Deferred("ConnectTimeoutError", "this machine cannot call SES", charged=False)] * 2
    assert retries(caplog) == [f"ses retry={number} error=ConnectTimeoutError" for number in (1, 2)]


def test_a_proxy_that_is_not_there_is_tried_again_twice(
    connect: Connect, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{closed_port()}")
    outcomes = send(ses.SesTransport(connect("http://ses.example"), source=SOURCE), mails(2))
    assert (kinds(outcomes), codes(outcomes)) == (["free"] * 2, {"ProxyConnectionError"})
    assert len(retries(caplog)) == 2


def test_a_server_without_tls_is_tried_three_times(connect: Connect) -> None:
    def refuse(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n")

    with listening(refuse) as (port, seen):
        outcomes = send(ses.SesTransport(connect(f"https://127.0.0.1:{port}"), source=SOURCE), mails(2))
        assert (kinds(outcomes), codes(outcomes)) == (["free"] * 2, {"SSLError"})
    assert len(seen) == 3


def test_a_certificate_that_is_not_trusted_is_tried_three_times(connect: Connect, certificate: Path) -> None:
    with listening(tls(certificate, lambda secured: secured.recv(65536))) as (port, seen):
        outcomes = send(ses.SesTransport(connect(f"https://127.0.0.1:{port}"), source=SOURCE), mails(2))
        assert (kinds(outcomes), codes(outcomes)) == (["free"] * 2, {"SSLError"})
    assert [isinstance(handshake, ssl.SSLError) for handshake in seen] == [True] * 3


def test_tls_that_breaks_under_a_request_is_not_tried_again(
    connect: Connect, certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read_and_break(secured: ssl.SSLSocket) -> bytes:
        received = secured.recv(65536)
        with socket.socket(fileno=secured.detach()) as raw:
            raw.sendall(b"this is no record of TLS, whatever it is")
            raw.shutdown(socket.SHUT_WR)
            raw.recv(65536)
        return received

    monkeypatch.setenv("AWS_CA_BUNDLE", str(certificate))
    with listening(tls(certificate, read_and_break)) as (port, seen):
        outcomes = send(ses.SesTransport(connect(f"https://127.0.0.1:{port}"), source=SOURCE), mails(2))
        assert kinds(outcomes) == ["unconfirmed"] * 2
    assert [request[:4] for request in seen] == [b"POST"]


def test_a_server_that_hangs_up_before_tls_is_tried_three_times(connect: Connect) -> None:
    with listening(lambda connection: connection.close()) as (port, seen):
        outcomes = send(ses.SesTransport(connect(f"https://127.0.0.1:{port}"), source=SOURCE), mails(2))
        assert kinds(outcomes) == ["free"] * 2
    assert len(seen) == 3


@pytest.mark.parametrize("content", [None, "no certificate"])
def test_certificates_that_cannot_be_read_cost_the_mail_nothing(
    connect: Connect, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, content: str | None
) -> None:
    if content is not None:
        (tmp_path / "ca.pem").write_text(content)
    monkeypatch.setenv("AWS_CA_BUNDLE", str(tmp_path / "ca.pem"))
    with listening(lambda connection: connection.recv(65536)) as (port, seen):
        outcomes = send(ses.SesTransport(connect(f"https://127.0.0.1:{port}"), source=SOURCE), mails(2))
        assert kinds(outcomes) == ["free"] * 2
    assert not any(seen)
