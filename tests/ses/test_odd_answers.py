"""What no server should answer: no mail is sent twice for it without a trace, and each call gets its own answer."""

import contextlib
import json
import socket
import struct
import time
from collections.abc import Callable
from typing import Final

import pytest

from mailroom import ses
from mailroom.outcome import Deferred, Outcome, Sent, Unconfirmed
from tests.ses.calls import SOURCE, Connect, kinds, listening, mails, send, whole


def answer(status: str, body: object, *headers: str) -> bytes:
    written = body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(written)}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + written


def saying(*answers: bytes, after: float = 0) -> Callable[[socket.socket], list[bytes]]:
    """Answers one request with each of these, with a moment between; and ends when the client does."""

    def serve(connection: socket.socket) -> list[bytes]:
        asked = [whole(connection)]
        for each in answers:
            connection.sendall(each)
            time.sleep(after)
        connection.settimeout(2)
        with contextlib.suppress(OSError):
            asked.append(whole(connection))
        return asked

    return serve


def told(
    connect: Connect, serve: Callable[[socket.socket], object], count: int = 1, *, calls: int = 1, rest: float = 0
) -> list[Outcome]:
    with listening(serve) as (port, _):
        transport = ses.SesTransport(connect(f"http://127.0.0.1:{port}", read_timeout=1), source=SOURCE)
        found: list[Outcome] = []
        for _ in range(calls):
            found += send(transport, mails(count))
            time.sleep(rest)
        transport._clients._client.close()
        return found


ID = {"MessageId": "m"}


@pytest.mark.slow
@pytest.mark.parametrize("status", ["301 Moved", "302 Found", "303 See Other", "307 Temporary", "308 Permanent"])
def test_no_redirection_is_followed(connect: Connect, status: str) -> None:
    with listening(saying(answer("200 OK", ID))) as (other, seen):
        serve = saying(answer(status, b"", f"Location: http://127.0.0.1:{other}/v2/email/outbound-emails"))
        assert kinds(told(connect, serve)) == ["free"]
    assert seen == []


def test_an_answer_that_nobody_asked_for_is_nobodys(connect: Connect) -> None:
    """The second is not taken for that of the next call, which goes on a connection of its own."""
    turns = iter(["first", "second"])

    def serve(connection: socket.socket) -> None:
        saying(answer("200 OK", {"MessageId": next(turns)}), answer("200 OK", {"MessageId": "odd"}), after=0.1)(
            connection
        )

    assert told(connect, serve, calls=2, rest=0.5) == [Sent("first"), Sent("second")]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("said", "kind"),
    [
        (answer("202 Accepted", ID), "sent"),
        (answer("204 No Content", b""), "unconfirmed"),
        (answer("206 Partial", b'{"MessageId": "m'), "unconfirmed"),
        (answer("200 OK", {"__type": "Throttling", "message": "Rate exceeded"}), "unconfirmed"),
        (answer("200 OK", b"\x1f\x8b\x08\x00", "Content-Encoding: gzip"), "unconfirmed"),
        (answer("200 OK", b"[" * 200_000), "unconfirmed"),
        (answer("400 Bad Request", b"[" * 200_000), "unconfirmed"),
        (answer("200 OK", b"9" * 200_000), "unconfirmed"),
        (answer("200 OK", b"\xff\xfe\x00"), "unconfirmed"),
        (answer("200 OK", b'{"MessageId": "a", "MessageId": null}'), "unconfirmed"),
        (answer("200 OK", ID, "Content-Length: 1"), "unconfirmed"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n" + b"{}", "unconfirmed"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", "unconfirmed"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n" + b'{"MessageId": "m"}', "unconfirmed"),
        (b"HTTP/1.1 999 Odd\r\nContent-Length: 2\r\n\r\n{}", "unconfirmed"),
        (b"HTTP/1.1 2\r\n\r\n", "unconfirmed"),
        (b"HTTP/9.9 200 OK\r\n\r\n", "unconfirmed"),
        (b"220 mail.example.com ESMTP\r\n", "unconfirmed"),
        (b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 1_000 + b"\r\n{}", "unconfirmed"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"y" * 100_000 + b"\r\n\r\n{}", "unconfirmed"),
        (b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\n\r\n", "unconfirmed"),
        (b"\x00" * 100, "unconfirmed"),
    ],
)
def test_what_makes_no_sense_is_unconfirmed(connect: Connect, said: bytes, kind: str) -> None:
    assert kinds(told(connect, saying(said, after=0.05))) == [kind]


LATIN: Final = "<html>Zugriff verweigert: gesperrt f\u00fcr Sie</html>".encode("latin-1")


@pytest.mark.slow
@pytest.mark.parametrize(
    "said",
    [
        *(
            answer(status, LATIN, "Content-Type: text/html")
            for status in ("302 Found", "404 Not Found", "429 Too Many")
        ),
        answer("407 Proxy Authentication Required", "<html>".encode("utf-16")),
        answer("401 Unauthorized", b"\x1f\x8b\x08\x00\xff", "Content-Encoding: gzip"),
        *(answer("403 Forbidden", body) for body in (LATIN, "Forbidden", None, [], [{"a": 1}], 403)),
        answer("403 Forbidden", {"__type": 5}),
    ],
)
def test_a_refusal_that_is_no_object_of_json_is_told_by_its_status(connect: Connect, said: bytes) -> None:
    """A proxy's, in the letters of its country, say. It costs no mail an attempt, as one in UTF-8 does not."""
    [outcome] = told(connect, saying(said, after=0.05))
    assert isinstance(outcome, Deferred)
    assert (outcome.charged, outcome.scope, outcome.code) == (False, None, said.split()[1].decode())


@pytest.mark.slow
@pytest.mark.parametrize("status", ["408 Request Timeout", "502 Bad Gateway"])
def test_a_fault_of_a_server_decides_nothing_whatever_letters_it_is_in(connect: Connect, status: str) -> None:
    [outcome] = told(connect, saying(answer(status, LATIN), after=0.05))
    assert outcome == Unconfirmed(status.split(maxsplit=1)[0], "SES answered with a fault of its own")


def broken_off(status: str, how: str) -> Callable[[socket.socket], list[bytes]]:
    """Answers with this status, and with less of a body than it has said."""
    said = b'{"message": "no'
    form, begun = {
        "chunked": ("Transfer-Encoding: chunked", b"40\r\n" + said),
        "between chunks": ("Transfer-Encoding: chunked", b"%x\r\n%b\r\n" % (len(said), said)),
        "of a length": ("Content-Length: 64", said),
        "and nothing more": ("Content-Length: 64", b""),
    }[how]

    def serve(connection: socket.socket) -> list[bytes]:
        asked = whole(connection)
        head = f"HTTP/1.1 {status}\r\nx-amzn-ErrorType: MessageRejected\r\n{form}\r\n\r\n"
        connection.sendall(head.encode() + begun)
        time.sleep(0.05 if begun else 1.5)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # a reset
        return [asked]

    return serve


HOW: Final = ["chunked", "between chunks", "of a length", "and nothing more"]


@pytest.mark.slow
@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("status", ["400 Bad Request", "403 Forbidden", "404 Not Found", "429 Too Many Requests"])
def test_a_refusal_that_breaks_off_is_told_by_its_status(connect: Connect, status: str, how: str) -> None:
    """Nothing was accepted. Of what kind it is, and so whose fault, nobody knows without its message."""
    [outcome] = told(connect, broken_off(status, how))
    assert isinstance(outcome, Deferred)
    assert (outcome.charged, outcome.scope, outcome.code) == (False, None, status.split(maxsplit=1)[0])


@pytest.mark.slow
@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("status", ["200 OK", "302 Found", "408 Request Timeout", "500 Oops", "503 Unavailable"])
def test_any_other_answer_that_breaks_off_is_unconfirmed(connect: Connect, status: str, how: str) -> None:
    assert kinds(told(connect, broken_off(status, how))) == ["unconfirmed"]


@pytest.mark.slow
def test_a_refusal_that_breaks_off_leaves_the_next_call_a_connection_of_its_own(connect: Connect) -> None:
    turns = iter([broken_off("403 Forbidden", "chunked"), saying(answer("200 OK", ID))])

    def serve(connection: socket.socket) -> list[bytes]:
        return next(turns)(connection)

    first, second = told(connect, serve, calls=2)
    assert isinstance(first, Deferred)
    assert second == Sent("m")


def test_one_message_id_for_two_mails_is_kept_for_both(connect: Connect) -> None:
    results = [{"Status": "SUCCESS", "MessageId": "m"}] * 2
    assert told(connect, saying(answer("200 OK", {"BulkEmailEntryResults": results})), 2) == [Sent("m")] * 2
