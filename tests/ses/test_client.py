"""What was renewed outside is found without a restart: only a new client reads it."""

import http.server
import re
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from mypy_boto3_sesv2 import SESV2Client
from sqlalchemy import Engine

from mailroom import ses, settings
from mailroom.cli.wiring import open_transport
from mailroom.errors import TransportError
from mailroom.ses.client import RENEW_EVERY
from mailroom.simulator import Fault, Simulator
from tests.running import eventually, working
from tests.ses.calls import SOURCE, codes, kinds, mail, mails, send, set_aws
from tests.world import add_accounts, count, drained

Keys = Callable[[str], None]


class Guarded:
    """A simulator that takes one access key, and refuses every other with an error of this name."""

    def __init__(self, simulator: Simulator, monkeypatch: pytest.MonkeyPatch) -> None:
        self.simulator = simulator
        self.key = ""
        self.error = "ExpiredTokenException"
        self.seen: list[str] = []
        monkeypatch.setenv("AWS_ENDPOINT_URL_SESV2", simulator.url)

    def connect(self) -> SESV2Client:
        """A client as the worker makes it, whose requests pass the guard."""
        client = ses.connect(
            region="eu-west-1",
            connections=8,
            connect_timeout=timedelta(seconds=2),
            read_timeout=timedelta(seconds=15),  # a call is to fit into a lease
        )
        client.meta.events.register("before-send.sesv2", self._guard)
        return client

    def _guard(self, request: Any, **_: object) -> None:
        found = re.search(rb"Credential=(\w+)/", request.headers["Authorization"])
        assert found
        key = found[1].decode()
        self.seen.append(key)
        if key != self.key:
            # Once, and by whom it is for: what others ask at the same time is judged by their own key.
            found = re.search(rb'"ToAddresses": ?\["([^"]+)"', request.body or b"")
            whose = found[1].decode() if found else None
            self.simulator.faults.add(Fault(error=self.error, status=403, recipients=whose))


@pytest.fixture
def keys(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Keys:
    """Writes the credentials file, which is all there is."""
    set_aws(monkeypatch, tmp_path)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)

    def write(key: str) -> None:
        (tmp_path / "credentials").write_text(
            f"[default]\naws_access_key_id = {key}\naws_secret_access_key = s\n" if key else "[default]\naws_acc"
        )

    write("OLD")
    return write


@pytest.fixture
def guarded(simulator: Simulator, monkeypatch: pytest.MonkeyPatch, keys: Keys) -> Iterator[Guarded]:
    yield Guarded(simulator, monkeypatch)
    simulator.reset()


@pytest.fixture
def transport(guarded: Guarded) -> ses.SesTransport:
    return ses.SesTransport(guarded.connect(), source=SOURCE, renew=guarded.connect)


@pytest.mark.parametrize(
    "error",
    [
        *("ExpiredToken", "ExpiredTokenException", "InvalidClientTokenId", "UnrecognizedClientException"),
        *("SignatureDoesNotMatch", "InvalidSignatureException", "AccessDeniedException", "MissingAuthenticationToken"),
        *("InvalidAccessKeyId", "OfTomorrow"),
    ],
)
def test_the_call_after_a_refusal_is_made_with_the_credentials_of_now(
    guarded: Guarded, transport: ses.SesTransport, keys: Keys, error: str
) -> None:
    guarded.key, guarded.error = "NEW", error
    assert kinds(send(transport, mails(2))) == ["free"] * 2
    keys("NEW")
    assert kinds(send(transport, mails(2))) == ["sent"] * 2
    assert guarded.seen == ["OLD", "NEW"]


@pytest.mark.slow
def test_they_are_looked_for_again_and_again_but_not_at_each_call(
    guarded: Guarded, transport: ses.SesTransport, keys: Keys
) -> None:
    made = threading.Event()
    guarded.key = "NEW"
    while not made.is_set():
        if len(guarded.seen) == 20:
            keys("NEW")
        if kinds(send(transport, mails(1))) == ["sent"]:
            made.set()
        assert len(guarded.seen) < 10_000 or made.is_set()
        made.wait(RENEW_EVERY.total_seconds() / 100)
    assert guarded.seen[-1] == "NEW"
    assert set(guarded.seen[:-1]) == {"OLD"}


@pytest.mark.slow
def test_what_cannot_be_read_leaves_the_client_there_was(
    guarded: Guarded, transport: ses.SesTransport, keys: Keys, caplog: pytest.LogCaptureFixture
) -> None:
    """A file that is half written; and it is read again when it is whole."""
    guarded.key = "NEW"
    send(transport, mails(1))
    keys("")
    assert kinds(send(transport, mails(1))) == ["free"]
    assert caplog.text.count("no new client of SES, the old one goes on") == 1
    keys("NEW")
    eventually(lambda: kinds(send(transport, mails(1))) == ["sent"], "the file is read again")


def test_the_question_for_the_account_finds_them_too(guarded: Guarded, transport: ses.SesTransport, keys: Keys) -> None:
    guarded.key = "NEW"
    with pytest.raises(TransportError, match="ExpiredTokenException"):
        transport.account()
    keys("NEW")
    assert transport.account().sending_enabled


def test_many_threads_renew_it_once(guarded: Guarded, keys: Keys) -> None:
    made: list[SESV2Client] = []

    def renew() -> SESV2Client:
        made.append(guarded.connect())
        return made[-1]

    transport = ses.SesTransport(guarded.connect(), source=SOURCE, renew=renew)
    guarded.key = "NEW"
    send(transport, mails(1))
    keys("NEW")
    began = time.monotonic()
    with ThreadPoolExecutor(8) as pool:
        found = [*pool.map(lambda number: kinds(send(transport, [mail(number)])), range(8))]
    assert ["sent"] in found
    assert 1 <= len(made) <= 1 + (time.monotonic() - began) / RENEW_EVERY.total_seconds()


@pytest.mark.usefixtures("keys")
def test_a_program_that_gives_what_has_run_out_is_asked_again(
    guarded: Guarded, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It is not SES that refuses then, and no request is begun."""
    program = tmp_path / "give"
    program.touch(mode=0o700)
    (tmp_path / "credentials").unlink()
    (tmp_path / "config").write_text(f"[default]\ncredential_process = {program}\n")
    ends = "2000-01-01T00:00:00Z"
    answer = '{"Version": 1, "AccessKeyId": "%s", "SecretAccessKey": "s", "SessionToken": "t"%s}'
    program.write_text("#!/bin/sh\ncat <<E\n" + answer % ("OLD", f', "Expiration": "{ends}"') + "\nE\n")
    transport = ses.SesTransport(guarded.connect(), source=SOURCE, renew=guarded.connect)
    guarded.key = "NEW"
    assert kinds(send(transport, mails(1))) == ["free"]
    assert guarded.seen == []
    assert "Traceback" not in caplog.text
    program.write_text("#!/bin/sh\ncat <<E\n" + answer % ("NEW", "") + "\nE\n")
    assert kinds(send(transport, mails(1))) == ["sent"]
    assert guarded.seen == ["NEW"]


@pytest.mark.slow
@pytest.mark.early
def test_a_paused_worker_goes_on_when_the_file_is_rewritten(
    guarded: Guarded, transport: ses.SesTransport, keys: Keys, engine: Engine
) -> None:
    guarded.key = "NEW"
    with engine.connect() as connection:
        add_accounts(connection, 3)
        with working(engine, transport):
            eventually(lambda: count(connection, "pauses WHERE scope = 'account'"), "the account is paused")
            keys("NEW")
            eventually(lambda: drained(connection), "all is sent")
        assert count(connection, "deliveries WHERE outcome = 'sent' AND attempt = 0") == 3
        assert count(connection, "pauses") == 0


class Service(http.server.BaseHTTPRequestHandler):
    """Takes the access key NEW alone."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        takes = "Credential=NEW/" in self.headers["Authorization"]
        body = b'{"MessageId": "m"}' if takes else b'{"__type": "UnrecognizedClientException"}'
        self.send_response(200 if takes else 403)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


def test_the_transport_of_the_commands_finds_them(keys: Keys, monkeypatch: pytest.MonkeyPatch) -> None:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Service) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        monkeypatch.setenv("AWS_ENDPOINT_URL_SESV2", f"http://127.0.0.1:{server.server_port}")
        monkeypatch.setenv("AWS_REGION", "eu-west-1")
        try:
            transport = open_transport(settings.load(), connections=1, output_path=None)
            assert isinstance(transport, ses.SesTransport)
            assert codes(send(transport, mails(1))) == {"UnrecognizedClientException"}
            keys("NEW")
            assert kinds(send(transport, mails(1))) == ["sent"]
        finally:
            server.shutdown()
            thread.join()


def test_without_a_way_to_renew_it_the_client_is_kept(guarded: Guarded, keys: Keys) -> None:
    transport = ses.SesTransport(guarded.connect(), source=SOURCE)
    guarded.key = "NEW"
    send(transport, mails(1))
    keys("NEW")
    assert codes(send(transport, mails(1))) == {"ExpiredTokenException"}
