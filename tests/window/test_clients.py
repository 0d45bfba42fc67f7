"""Connections that say nothing, or half of something, keep nobody out."""

import contextlib
import socket
from collections.abc import Iterator

import pytest
from starlette.types import Receive, Scope, Send

from mailroom.window import server
from tests.running import eventually
from tests.window.client import Window

PATIENCE_SECONDS = 60
REQUEST = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
FORM = b"POST /wait HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\nhalf"


begun: list[str] = []


async def application(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer once the whole request is there."""
    begun.append(scope["path"])
    while (await receive()).get("more_body"):
        pass
    await send({"type": "http.response.start", "status": 204, "headers": []})
    await send({"type": "http.response.body"})


@contextlib.contextmanager
def serving() -> Iterator[Window]:
    with server.listen("127.0.0.1", 0, allow_remote=False) as listener, server.serving(application, listener):
        yield Window(server.url(listener))


@contextlib.contextmanager
def connected(window: Window, *, clients: int = 1, saying: bytes = b"") -> Iterator[list[socket.socket]]:
    host, port = window.host.split(":")
    with contextlib.ExitStack() as open_:
        made = []
        for _ in range(clients):
            client = socket.create_connection((host, int(port)), timeout=PATIENCE_SECONDS)
            made.append(open_.enter_context(client))
            client.sendall(saying)
        yield made


def ends(client: socket.socket) -> bool:
    """Whether the other side has ended a connection; else this fails for a time-out."""
    try:
        return client.recv(1) == b""
    except ConnectionResetError:
        return True


@pytest.mark.parametrize("saying", [b"", REQUEST[:-2]], ids=["nothing", "half a request"])
def test_who_does_not_say_what_is_wanted_is_left_after_a_time(monkeypatch: pytest.MonkeyPatch, saying: bytes) -> None:
    monkeypatch.setattr(server, "CLIENT_SECONDS", 0.2)
    with serving() as window, connected(window, saying=saying) as [client]:
        assert ends(client)


def test_who_stops_in_the_second_request_is_left_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "CLIENT_SECONDS", 0.5)
    with serving() as window, connected(window, saying=REQUEST) as [client]:
        assert b"204" in client.recv(1_000)
        client.sendall(REQUEST[:-2])
        assert ends(client)


@pytest.mark.parametrize("saying", [b"", FORM], ids=["nothing", "half a form"])
def test_the_oldest_leaves_for_the_next_where_too_many_are(monkeypatch: pytest.MonkeyPatch, saying: bytes) -> None:
    monkeypatch.setattr(server, "MAX_CLIENTS", 4)
    monkeypatch.setattr(server, "CLIENT_SECONDS", 600)
    begun.clear()
    with serving() as window, connected(window, clients=4, saying=saying) as clients:
        eventually(lambda: len(begun) == (4 if saying else 0), "each has been heard")
        assert window.ask("/").status == 204
        assert ends(clients[0])
        clients[-1].settimeout(0.2)
        with pytest.raises(TimeoutError):
            clients[-1].recv(1)


@pytest.mark.slow
def test_what_is_asked_already_is_answered_however_long_it_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "CLIENT_SECONDS", 1)
    monkeypatch.setattr(server, "MAX_CLIENTS", 2)
    begun.clear()
    with serving() as window, connected(window, saying=FORM) as [client]:
        eventually(lambda: begun, "it has been heard")
        with connected(window, clients=5) as silent:
            assert ends(silent[-1])
        client.sendall(b" more")
        assert b"204" in client.recv(1_000)
