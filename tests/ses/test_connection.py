"""The connections to SES: an answer has an end, and a call that is given up leaves no thread and no socket behind."""

import contextlib
import socket
import struct
import threading
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest

from mailroom import ses
from mailroom.outcome import Sent, Unconfirmed
from mailroom.ses.connection import MAX_REST_SECONDS
from mailroom.simulator import Fault, Simulator
from tests.running import eventually
from tests.ses.calls import SOURCE, Connect, kinds, listening, mails, send, tls, whole

PIECE = 65_536


def pour(head: bytes, piece: bytes, poured: list[int]) -> Callable[[socket.socket], object]:
    """Answers with a head, and pieces without end; counts what was taken."""

    def serve(connection: socket.socket) -> None:
        whole(connection)
        connection.sendall(head)
        with contextlib.suppress(OSError):
            while True:
                connection.sendall(piece)
                poured.append(len(piece))

    return serve


@pytest.mark.parametrize(
    ("head", "piece"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n", b" " * PIECE),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"10000\r\n" + b" " * PIECE + b"\r\n"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1;", b"x" * PIECE),
        (b"HTTP/1.1 403 Forbidden\r\n\r\n", b"<br>" * (PIECE // 4)),
        (b"HTTP/1.1 403 Forbidden\r\nContent-Encoding: gzip\r\n\r\n", b"\x1f\x8b" * (PIECE // 2)),
    ],
    ids=["length", "chunks", "one chunk's head", "a page", "gzip"],
)
def test_an_answer_without_end_is_read_to_a_mebibyte(connect: Connect, head: bytes, piece: bytes) -> None:
    poured: list[int] = []
    with listening(pour(head, piece, poured)) as (port, _):
        transport = ses.SesTransport(connect(f"http://127.0.0.1:{port}"), source=SOURCE)
        assert kinds(send(transport, mails(1))) == ["unconfirmed"]
    assert sum(poured) < 20 * 2**20  # with what the sockets hold


def calls() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if "run" in thread.name}


def held(connection: socket.socket) -> bytes:
    """Say nothing more, until the other side ends it."""
    with contextlib.suppress(OSError):
        while connection.recv(PIECE):
            pass
    return b"ended"


def dripping(connection: socket.socket) -> bytes:
    whole(connection)
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
    with contextlib.suppress(OSError):
        while True:
            connection.sendall(b" ")
            threading.Event().wait(0.05)
    return b"ended"


@pytest.mark.slow
@pytest.mark.parametrize("how", ["in an answer", "in an answer over TLS", "in a handshake"])
def test_a_call_that_is_given_up_leaves_nothing_behind(
    monkeypatch: pytest.MonkeyPatch, connect: Connect, certificate: Path, how: str
) -> None:
    monkeypatch.setenv("AWS_CA_BUNDLE", str(certificate))
    serve = {"in an answer": dripping, "in an answer over TLS": tls(certificate, dripping), "in a handshake": held}[how]
    scheme = "http" if how == "in an answer" else "https"
    before = calls()
    with listening(serve) as (port, seen):
        transport = ses.SesTransport(connect(f"{scheme}://127.0.0.1:{port}"), source=SOURCE)
        transport._patience = timedelta(seconds=2)
        assert kinds(send(transport, mails(1))) == ["free" if how == "in a handshake" else "unconfirmed"]
        eventually(lambda: not calls() - before, "its thread ends", seconds=15)
        eventually(lambda: seen, "its connection ends", seconds=15)


def once(connection: socket.socket) -> bytes:
    """Answer one request, and none after it: as where a firewall has forgotten the connection, and says so."""
    whole(connection)
    connection.sendall(b'HTTP/1.1 200 OK\r\nContent-Length: 17\r\n\r\n{"MessageId":"m"}')
    with contextlib.suppress(OSError):
        connection.settimeout(5)
        if asked := connection.recv(PIECE):
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        return asked
    return b""


@pytest.mark.parametrize("secure", [False, True], ids=["plain", "tls"])
def test_no_request_goes_out_on_a_connection_that_has_rested(
    monkeypatch: pytest.MonkeyPatch, connect: Connect, certificate: Path, secure: bool
) -> None:
    """The mail would be unconfirmed, charged, and sent again a minute later, or held; and nothing of it had left."""
    monkeypatch.setenv("AWS_CA_BUNDLE", str(certificate))
    monkeypatch.setattr("mailroom.ses.connection.MAX_REST_SECONDS", -1.0, raising=False)
    with listening(tls(certificate, once) if secure else once) as (port, seen):
        transport = ses.SesTransport(connect(f"http{'s' * secure}://127.0.0.1:{port}"), source=SOURCE)
        assert [kinds(send(transport, mails(1))) for _ in range(3)] == [["sent"]] * 3
        eventually(lambda: len(seen) >= 2, "the connections end")
        assert set(seen) == {b""}


def every_one(connection: socket.socket) -> bytes:
    """Answer as long as requests come."""
    answered = b""
    while whole(connection):
        connection.sendall(b'HTTP/1.1 200 OK\r\nContent-Length: 17\r\n\r\n{"MessageId":"m"}')
        answered += b"."
    return answered


def test_a_connection_that_never_rests_for_long_is_kept(monkeypatch: pytest.MonkeyPatch, connect: Connect) -> None:
    """By a clock of its own, that each call sets forward by less than a rest may take."""
    now = [0.0]
    monkeypatch.setattr("mailroom.ses.connection.time", SimpleNamespace(monotonic=lambda: now[0]))
    with listening(every_one) as (port, seen), contextlib.closing(connect(f"http://127.0.0.1:{port}")) as client:
        transport = ses.SesTransport(client, source=SOURCE)
        for _ in range(3):
            assert kinds(send(transport, mails(1))) == ["sent"]
            now[0] += MAX_REST_SECONDS - 1
        now[0] += MAX_REST_SECONDS
        assert kinds(send(transport, mails(1))) == ["sent"]
        eventually(lambda: seen, "the first connection ends")
        assert seen == [b"..."]


def test_a_call_after_one_that_was_given_up_is_answered(connect: Connect, simulator: Simulator) -> None:
    transport = ses.SesTransport(connect(simulator.url), source=SOURCE)
    for _ in range(3):
        assert isinstance(send(transport, mails(1))[0], Sent)
    patience, transport._patience = transport._patience, timedelta(seconds=1)

    simulator.faults.add(Fault(accept_then="hang"))
    assert isinstance(send(transport, mails(1))[0], Unconfirmed)
    transport._patience = patience
    assert isinstance(send(transport, mails(1))[0], Sent)
