"""Certain is whether a request was begun on a connection that was ready, not what an exception is called."""

import gc
import http.server
import json
import resource
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import Engine

from mailroom import ses
from mailroom.outcome import Deferred
from mailroom.simulator import Simulator
from tests.running import eventually, working
from tests.ses.calls import SOURCE, client_of, codes, kinds, listening, mails, send, tls, whole
from tests.world import add_accounts, count

Serve = Callable[[socket.socket], object]


def impatient(environment: pytest.MonkeyPatch, url: str) -> ses.SesTransport:
    """A transport that waits for nothing for long: for what never comes, since anything else may come later."""
    return ses.SesTransport(client_of(environment, url, connect_timeout=0.1, read_timeout=0.3), source=SOURCE)


def patient(environment: pytest.MonkeyPatch, url: str) -> ses.SesTransport:
    """A transport that waits longer than anything takes here."""
    return ses.SesTransport(client_of(environment, url), source=SOURCE)


def received(connection: socket.socket) -> bytes:
    """All that comes, until the other side ends it."""
    found = b""
    try:
        while more := connection.recv(65_536):
            found += more
    except OSError:
        pass
    return found


def garbage(connection: socket.socket) -> object:
    connection.sendall(b"\x00garbage\xff" * 100)
    return received(connection)


UNREADY: dict[str, Serve] = {"silent": received, "garbage": garbage, "closed": lambda connection: connection.close()}


@pytest.mark.slow
@pytest.mark.parametrize("how", UNREADY)
def test_a_handshake_that_does_not_end_well_costs_the_mails_nothing(monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    with listening(UNREADY[how]) as (port, seen):
        for amount in (1, 2):
            assert kinds(send(impatient(monkeypatch, f"https://127.0.0.1:{port}"), mails(amount))) == ["free"] * amount
        eventually(lambda: seen, "a try has come to an end")
    assert not any(b"POST" in (found or b"") for found in seen)


def answering(answer: bytes, then: Serve) -> Serve:
    """A proxy that answers a CONNECT so."""

    def serve(connection: socket.socket) -> object:
        connection.recv(65_536)
        connection.sendall(answer)
        return then(connection)

    return serve


TUNNEL = b"HTTP/1.1 200 Connection established\r\n\r\n"
PROXIES: dict[str, Serve] = {
    "silent": received,
    "refuses": answering(b"HTTP/1.1 403 Forbidden\r\n\r\n", lambda connection: connection.close()),
    "overloaded": answering(b"HTTP/1.1 503 Busy\r\nRetry-After: 1\r\n\r\n", lambda connection: connection.close()),
    "drops": answering(TUNNEL, lambda connection: connection.close()),
    "leads to silence": answering(TUNNEL, received),
    "says what is no HTTP": answering(b"220 smtp.example ESMTP\r\n", received),
    "hangs up": lambda connection: connection.close(),
}


@pytest.mark.parametrize("how", PROXIES)
def test_a_proxy_that_opens_no_way_costs_the_mails_nothing(monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    with listening(PROXIES[how]) as (port, _):
        monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{port}")
        assert kinds(send(impatient(monkeypatch, "https://ses.example"), mails(2))) == ["free"] * 2


# Of a connection that was cut off just before its handshake, the ssl module leaves the socket to the garbage collector.
@pytest.mark.filterwarnings("ignore:Exception ignored in. <ssl.SSLSocket:pytest.PytestUnraisableExceptionWarning")
def test_a_call_that_was_given_up_before_it_began_sends_no_byte_later(
    monkeypatch: pytest.MonkeyPatch, certificate: Path
) -> None:
    """Each byte of the proxy is in time, and when the way is open at last nobody waits for the call any more."""
    given_up = threading.Event()

    def open_late(connection: socket.socket) -> object:
        connection.recv(65_536)
        connection.sendall(b"HTTP/1.1 200 OK\r\nX-Slow: ")
        while not given_up.wait(0.02):
            connection.sendall(b"a")
        connection.sendall(b"\r\n\r\n")
        return tls(certificate, received)(connection)

    monkeypatch.setenv("AWS_CA_BUNDLE", str(certificate))
    with listening(open_late) as (port, seen):
        monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{port}")
        sends = patient(monkeypatch, "https://127.0.0.1:1")
        sends._patience = timedelta(seconds=1)  # for the call as a whole
        outcomes = send(sends, mails(2))
        given_up.set()
        eventually(lambda: seen, "the handshake is over, and the connection too")
    assert (kinds(outcomes), codes(outcomes)) == (["free"] * 2, {"CallTimeoutError"})
    assert seen == [b""]
    del sends, outcomes
    gc.collect()  # here, and not in whatever test comes next


def reset(connection: socket.socket) -> bytes:
    """Read a request, and break the connection off."""
    found = b""
    while b"activationv1" not in found and (more := connection.recv(65_536)):
        found += more
    plain = socket.socket(fileno=connection.detach())
    plain.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    plain.close()
    return found


@pytest.mark.parametrize("secure", [False, True])
def test_a_request_that_was_begun_and_broken_off_is_unconfirmed(
    monkeypatch: pytest.MonkeyPatch, certificate: Path, secure: bool
) -> None:
    monkeypatch.setenv("AWS_CA_BUNDLE", str(certificate))
    with listening(tls(certificate, reset) if secure else reset) as (port, seen):
        url = f"http{'s' if secure else ''}://127.0.0.1:{port}"
        assert kinds(send(patient(monkeypatch, url), mails(2))) == ["unconfirmed"] * 2
        eventually(lambda: seen, "the request was read")
    assert [found[:4] for found in seen] == [b"POST"]


def test_a_request_arrives_as_it_was_signed(monkeypatch: pytest.MonkeyPatch) -> None:
    def read(connection: socket.socket) -> bytes:
        found = b""
        while b"\r\n\r\n" not in found or len(found.partition(b"\r\n\r\n")[2]) < length(found):
            found += connection.recv(65_536)
        connection.sendall(b'HTTP/1.1 200 OK\r\nContent-Length: 17\r\nConnection: close\r\n\r\n{"MessageId": "m"}'[:-1])
        return found

    def length(found: bytes) -> int:
        fields = dict(line.split(b": ", 1) for line in found.partition(b"\r\n\r\n")[0].split(b"\r\n")[1:])
        assert b"Transfer-Encoding" not in fields
        return int(fields[b"Content-Length"])

    with listening(read) as (port, seen):
        send(patient(monkeypatch, f"http://127.0.0.1:{port}"), mails(50))
        eventually(lambda: seen, "the request was read")
    [found] = seen
    assert len(json.loads(found.partition(b"\r\n\r\n")[2])["BulkEmailEntries"]) == 50


class Metadata(http.server.BaseHTTPRequestHandler):
    """Gives credentials that are about to run out; once it `hangs` it keeps everybody waiting."""

    hangs = False
    goes_on = threading.Event()

    def do_GET(self) -> None:
        if Metadata.hangs:
            Metadata.goes_on.wait(60)
        ends = (datetime.now(UTC) + timedelta(minutes=5)).strftime("%Y-%m-%dT%H:%M:%SZ")
        body = json.dumps({"AccessKeyId": "a", "SecretAccessKey": "s", "Token": "t", "Expiration": ends}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def metadata(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Metadata]]:
    Metadata.hangs = False
    Metadata.goes_on.clear()
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Metadata) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.delenv(name)
        monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", f"http://127.0.0.1:{server.server_port}/")
        try:
            yield Metadata
        finally:
            Metadata.goes_on.set()
            server.shutdown()
            thread.join()


@pytest.mark.slow
def test_credentials_that_do_not_come_cost_the_mails_nothing_and_nothing_is_sent_when_they_do(
    simulator: Simulator, monkeypatch: pytest.MonkeyPatch, metadata: type[Metadata]
) -> None:
    sends = impatient(monkeypatch, simulator.url)
    metadata.hangs = True
    before = threading.active_count()
    outcomes = send(sends, mails(2))
    assert (kinds(outcomes), codes(outcomes)) == (["free"] * 2, {"CallTimeoutError"})
    metadata.goes_on.set()
    eventually(lambda: threading.active_count() <= before, "what was left behind has ended")
    assert simulator.ledger.requests == []


def test_a_machine_without_files_to_open_costs_the_mails_nothing(
    simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    sends = patient(monkeypatch, simulator.url)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
    try:
        outcomes = send(sends, mails(2))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert kinds(outcomes) == ["free"] * 2
    assert kinds(send(sends, mails(2))) == ["sent"] * 2


def test_a_machine_without_threads_costs_the_mails_nothing(
    simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    sends = patient(monkeypatch, simulator.url)
    usual = threading.stack_size(2**47)  # more than there are addresses
    try:
        outcomes = send(sends, mails(2))
    finally:
        threading.stack_size(usual)
    assert (kinds(outcomes), codes(outcomes)) == (["free"] * 2, {"NoThreadError"})
    assert simulator.ledger.requests == []


def test_what_the_service_of_credentials_says_is_not_taken_for_the_word_of_ses(
    simulator: Simulator, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Its throttling must not slow the fleet down."""

    def throttle(connection: socket.socket) -> None:
        whole(connection)
        body = b"<ErrorResponse><Error><Code>Throttling</Code><Message>no</Message></Error></ErrorResponse>"
        connection.sendall(b"HTTP/1.1 400 No\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))

    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    (tmp_path / "token").write_text("token")
    monkeypatch.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", str(tmp_path / "token"))
    monkeypatch.setenv("AWS_ROLE_ARN", "arn:aws:iam::123456789012:role/mailroom")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    with listening(throttle) as (port, _):
        monkeypatch.setenv("AWS_ENDPOINT_URL_STS", f"http://127.0.0.1:{port}")
        transport = ses.SesTransport(client_of(monkeypatch, simulator.url), source=SOURCE)
        [outcome] = send(transport, mails(1))
    assert outcome == Deferred("CredentialsThrottling", "this machine cannot call SES", charged=False)


@pytest.mark.slow
@pytest.mark.early
def test_a_worker_before_a_silent_endpoint_uses_up_no_attempt(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    with listening(received) as (port, seen), engine.connect() as connection:
        add_accounts(connection, 1)
        client = client_of(monkeypatch, f"https://127.0.0.1:{port}", connect_timeout=0.05, read_timeout=0.1)
        with working(engine, ses.SesTransport(client, source=SOURCE)):
            eventually(lambda: count(connection, "deliveries WHERE outcome = 'deferred'") >= 3, "it is tried again")
        assert count(connection, "jobs WHERE attempt = 0 AND due_at < 'infinity'") == 1
        assert count(connection, "deliveries WHERE outcome <> 'deferred' OR attempt > 0") == 0
    assert not any(b"POST" in found for found in seen)
