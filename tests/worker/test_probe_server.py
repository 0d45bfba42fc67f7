"""The server of the probes: what it answers, and what it does not let others do to a worker."""

import contextlib
import os
import re
import resource
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from mailroom.errors import MailroomError
from mailroom.worker import probe_server
from mailroom.worker.probe_server import MAX_CLIENTS, Probes, serving
from mailroom.worker.probes import Check
from tests.running import PATIENCE_SECONDS, eventually
from tests.worker.watched import get

FINE = [Check("look", passed=True, found="0 s of 75 s")]
BROKEN = [*FINE, Check("step", passed=False, found="51 s of 50 s")]


@pytest.fixture
def port() -> Iterator[int]:
    with serving(
        Probes(live=lambda: FINE, ready=lambda: BROKEN, metrics=lambda: b"mailroom_x 1\n"), "127.0.0.1", 0
    ) as port:
        yield port


def connected(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_SECONDS)


def raw(port: int, request: bytes) -> bytes:
    with connected(port) as client:
        client.sendall(request)
        answer = b""
        while part := client.recv(65536):
            answer += part
    return answer


@pytest.mark.parametrize(
    ("target", "status", "body"),
    [
        ("/livez", 200, "ok\n"),
        ("/livez?verbose", 200, "[+] look: 0 s of 75 s\nok\n"),
        ("/readyz", 503, "failed\n"),
        ("/readyz?verbose", 503, "[+] look: 0 s of 75 s\n[-] step: 51 s of 50 s\nfailed\n"),
        ("/readyz?verbose=1;drop", 503, "failed\n"),
        ("/metrics", 200, "mailroom_x 1\n"),
        ("/", 404, "not found: /livez, /readyz, /metrics\n"),
        ("/livez/../metrics", 404, "not found: /livez, /readyz, /metrics\n"),
    ],
)
def test_each_path_has_its_answer(port: int, target: str, status: int, body: str) -> None:
    assert get(port, target) == (status, body)


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "HEAD", "OPTIONS"])
def test_nothing_but_get_is_taken(port: int, method: str) -> None:
    assert get(port, "/livez", method=method)[0] == 501


def test_nothing_that_is_sent_comes_back(port: int) -> None:
    """Neither in a body nor in a header: the path is anybody's words."""
    for request in (b"GET /<canary> HTTP/1.0\r\n\r\n", b"<canary> / HTTP/1.0\r\n\r\n"):
        answer = raw(port, request)
        assert answer.startswith(b"HTTP/1.0 ")
        assert b"<canary>" not in answer
    assert b"Python" not in raw(port, b"GET /livez HTTP/1.0\r\n\r\n")


@contextlib.contextmanager
def holding(port: int, clients: int) -> Iterator[list[socket.socket]]:
    """So many connections on which nothing is said, one after the other."""
    with contextlib.ExitStack() as held:
        yield [held.enter_context(connected(port)) for _ in range(clients)]


def test_who_holds_connections_open_costs_no_more_than_some_threads(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe_server._Handler, "timeout", 10 * PATIENCE_SECONDS)  # however busy this machine is
    before = set(threading.enumerate())
    with holding(port, MAX_CLIENTS) as held:
        eventually(lambda: len(set(threading.enumerate()) - before) == MAX_CLIENTS, "each has a thread")
        with connected(port):
            assert held[0].recv(1) == b"", "the oldest is left at once"
            eventually(lambda: len(set(threading.enumerate()) - before) <= MAX_CLIENTS, "and its thread ends")


@pytest.mark.slow
def test_who_says_nothing_is_left_after_a_while(port: int) -> None:
    with holding(port, MAX_CLIENTS) as held:
        for one in held:
            assert one.recv(1) == b""


@pytest.mark.slow
def test_who_drips_keeps_no_probe_out(port: int) -> None:
    """A worker would be killed for a probe that is not answered."""
    with holding(port, 2 * MAX_CLIENTS) as held:
        for _ in range(3):
            for one in held:
                with contextlib.suppress(OSError):
                    one.sendall(b"G")
            assert get(port, "/livez")[0] == 200


def test_clients_for_whom_there_is_no_thread_take_no_room(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_room(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", no_room)
        for _ in range(2 * MAX_CLIENTS):
            assert raw(port, b"") == b""
    assert get(port, "/livez")[0] == 200


def test_a_client_for_whom_there_is_no_file_descriptor_costs_nothing_and_is_served_later(port: int) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with socket.socket() as client:
        client.settimeout(PATIENCE_SECONDS)
        with open(os.devnull, encoding="ascii") as lowest:
            number = lowest.fileno()
        resource.setrlimit(resource.RLIMIT_NOFILE, (number, hard))
        try:
            client.connect(("127.0.0.1", port))
            began = time.process_time()
            threading.Event().wait(1)
            spent = time.process_time() - began
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        client.sendall(b"GET /livez HTTP/1.0\r\n\r\n")
        assert client.recv(100).startswith(b"HTTP/1.0 200 ")
    assert spent < 0.1


def test_an_address_that_is_taken_is_named(port: int) -> None:
    answers = Probes(live=lambda: FINE, ready=lambda: FINE, metrics=lambda: b"")
    with pytest.raises(MailroomError, match=rf"no probes on 127\.0\.0\.1:{port}: Address already in use"):
        serving(answers, "127.0.0.1", port).__enter__()


@pytest.mark.parametrize("host", ["mail..example", ".example", "x" * 64, "nowhere.invalid"])
def test_so_is_one_that_there_is_not(host: str) -> None:
    answers = Probes(live=lambda: FINE, ready=lambda: FINE, metrics=lambda: b"")
    with pytest.raises(MailroomError, match=f"no probes on {re.escape(host)}:0: "):
        serving(answers, host, 0).__enter__()


def test_it_serves_ipv6_too() -> None:
    answers = Probes(live=lambda: FINE, ready=lambda: FINE, metrics=lambda: b"")
    with serving(answers, "::1", 0) as port, socket.create_connection(("::1", port), timeout=60) as client:
        client.sendall(b"GET /livez HTTP/1.0\r\n\r\n")
        assert client.recv(65536).startswith(b"HTTP/1.0 200")
