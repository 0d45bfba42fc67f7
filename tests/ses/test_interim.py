"""Interim answers: each request gets its own answer, whatever a proxy says before."""

import json
import socket
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from mailroom import ses
from mailroom.outcome import Sent, Unconfirmed
from tests.ses.calls import SOURCE, Connect, listening, mails, send, tls, whole

HINTS = b"HTTP/1.1 103 Early Hints\r\nLink: </style.css>; rel=preload\r\n\r\n"
PROCESSING = b"HTTP/1.1 102 Processing\r\n\r\n"
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


def final(number: int) -> bytes:
    body = json.dumps({"MessageId": f"answer-{number}"}).encode()
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)


def serving(*interim: bytes) -> Callable[[socket.socket], object]:
    """Answers three requests on one connection."""

    def serve(connection: socket.socket) -> None:
        for number in range(1, 4):
            whole(connection)
            for each in interim:
                connection.sendall(each)
            time.sleep(0.2)  # whoever takes one of these for the answer is gone by now
            connection.sendall(final(number))

    return serve


@pytest.mark.parametrize("secure", [False, True], ids=["plain", "tls"])
@pytest.mark.parametrize("interim", [[HINTS], [PROCESSING], [CONTINUE], [PROCESSING, CONTINUE, HINTS, HINTS]])
def test_the_answer_is_the_one_that_follows(
    monkeypatch: pytest.MonkeyPatch, connect: Connect, certificate: Path, interim: list[bytes], secure: bool
) -> None:
    monkeypatch.setenv("AWS_CA_BUNDLE", str(certificate))
    serve = serving(*interim)
    with listening(tls(certificate, serve) if secure else serve) as (port, served):
        transport = ses.SesTransport(connect(f"http{'s' * secure}://127.0.0.1:{port}"), source=SOURCE)
        outcomes = [send(transport, mails(1))[0] for _ in range(3)]
        assert outcomes == [Sent("answer-1"), Sent("answer-2"), Sent("answer-3")]
    assert len(served) == 1, "all on one connection"


def test_interim_answers_without_end_are_no_answer(connect: Connect) -> None:
    def serve(connection: socket.socket) -> None:
        whole(connection)
        connection.sendall(HINTS * 1_000)

    with listening(serve) as (port, _):
        transport = ses.SesTransport(connect(f"http://127.0.0.1:{port}"), source=SOURCE)
        assert isinstance(send(transport, mails(1))[0], Unconfirmed)
