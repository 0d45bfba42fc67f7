"""Every error of botocore is understood, what is kept of an answer, and what nobody may read."""

import http.server
import json
import logging
import stat
import threading
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from string import Formatter
from typing import Any

import pytest
from botocore import exceptions as boto
from mypy_boto3_sesv2 import SESV2Client

from mailroom import ses
from mailroom.mail.transport import CONNECT_TRIES
from mailroom.ses import network
from mailroom.simulator import Fault, Simulator
from tests.kinds import ACTIONS
from tests.machine import closed_port
from tests.ses.calls import (
    AFTER_ACCEPTANCE,
    REFUSED,
    SOURCE,
    Connect,
    codes,
    kinds,
    mail,
    mails,
    retries,
    send,
)

# Errors of botocore


def subclasses(error: type[Exception]) -> Iterator[type[Exception]]:
    yield error
    for below in error.__subclasses__():
        yield from subclasses(below)


ERRORS = {error.__name__: error for error in subclasses(boto.BotoCoreError) if error.__module__ == boto.__name__}


class OfTomorrowError(Exception):
    """One that nobody has heard of."""


def instance(error: type[Exception]) -> Exception:
    """One of them, with every blank of its message filled in."""
    blanks: dict[str, Any] = {name: "x" for _, name, _, _ in Formatter().parse(getattr(error, "fmt", "")) if name}
    if error is boto.WaiterError:
        blanks["last_response"] = {}
    return error(**blanks)


def outcome_of(client: SESV2Client, error: Exception, event: str) -> tuple[str, int]:
    """What becomes of a mail when this rises at an event of botocore, and how often it came so far."""
    times = 0

    def fail(**_: Any) -> None:
        nonlocal times
        times += 1
        raise error

    client.meta.events.register(event, fail)
    try:
        [outcome] = send(ses.SesTransport(client, source=SOURCE), mails(1))
    finally:
        client.meta.events.unregister(event, fail)
    return kinds([outcome])[0], times


@pytest.mark.slow
def test_what_rises_before_the_request_is_begun_costs_the_mail_nothing_whatever_it_is(
    client: SESV2Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(network, "RETRY_WAIT", timedelta(0))
    errors = [instance(error) for error in ERRORS.values()] + [OfTomorrowError(), ValueError(), OSError(24, "files")]
    for event in ("before-sign.sesv2", "before-send.sesv2"):
        assert {outcome_of(client, error, event) for error in errors} == {("free", CONNECT_TRIES)}, event


def test_what_rises_after_it_was_begun_is_unconfirmed_whatever_it_is(simulator: Simulator, client: SESV2Client) -> None:
    errors = [instance(error) for error in ERRORS.values()] + [OfTomorrowError(), ValueError(), OSError(24, "files")]
    for error in errors:
        assert outcome_of(client, error, "response-received.sesv2") == ("unconfirmed", 1), error
    assert len(simulator.ledger.requests) == len(errors)


def test_a_role_that_is_refused_costs_the_mails_nothing(
    simulator: Simulator, connect: Connect, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    class Refusal(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            body = b"<ErrorResponse><Error><Code>ValidationError</Code><Message>no</Message></Error></ErrorResponse>"
            self.send_response(400)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Refusal) as sts:
        thread = threading.Thread(target=sts.serve_forever, args=(0.01,))
        thread.start()
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.delenv(name)
        (tmp_path / "token").write_text("token")
        monkeypatch.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", str(tmp_path / "token"))
        monkeypatch.setenv("AWS_ROLE_ARN", "arn:aws:iam::123456789012:role/mailroom")
        monkeypatch.setenv("AWS_ENDPOINT_URL_STS", f"http://127.0.0.1:{sts.server_port}")
        try:
            outcomes = send(ses.SesTransport(connect(simulator.url), source=SOURCE), mails(2))
        finally:
            sts.shutdown()
            thread.join()
    assert (kinds(outcomes), codes(outcomes)) == (["free"] * 2, {"CredentialsValidationError"})
    assert simulator.ledger.requests == []


# What is kept, and what leaks


def kept(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "ses-errors.jsonl").read_text().splitlines()]


def test_error_answers_are_kept_where_one_asks_for_it(
    simulator: Simulator, client: SESV2Client, tmp_path: Path
) -> None:
    keeping = ses.SesTransport(client, source=SOURCE, output_path=tmp_path / "a" / "b")
    simulator.faults.add(Fault(error="MessageRejected", message="because"))
    simulator.faults.add(Fault(entries={1: "FAILED"}), Fault(body="{}"), Fault(before="drop"))
    for count in (1, 3, 2, 1, 2):
        send(keeping, mails(count))
    [file] = (tmp_path / "a" / "b").iterdir()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    refused, mixed, empty, dropped = kept(tmp_path / "a" / "b")
    assert refused["answer"]["Error"] == {"Code": "MessageRejected", "Message": "because"}
    statuses = [entry["Status"] for entry in mixed["answer"]["BulkEmailEntryResults"]]
    assert statuses == ["SUCCESS", "FAILED", "SUCCESS"]
    assert (mixed["batch"], mixed["tokens"]) == ("7", [0, 1, 2])
    assert "BulkEmailEntryResults" not in empty["answer"]
    assert dropped["answer"] == "ConnectionClosedError"
    assert all(datetime.fromisoformat(line["at"]).tzinfo for line in (refused, mixed, empty, dropped))


def test_nothing_is_kept_unless_asked(
    simulator: Simulator, transport: ses.SesTransport, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    simulator.faults.add(Fault(error="MessageRejected"))
    send(transport, mails(1))
    assert list(tmp_path.iterdir()) == []


def test_an_answer_that_cannot_be_kept_changes_no_outcome(
    simulator: Simulator, client: SESV2Client, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("in the way")
    keeping = ses.SesTransport(client, source=SOURCE, output_path=tmp_path / "file")
    simulator.faults.add(Fault(entries={1: "FAILED"}))
    assert kinds(send(keeping, mails(2))) == ["sent", "charged"]
    assert [record.levelname for record in caplog.records] == ["WARNING"]


@pytest.mark.slow
def test_no_log_holds_what_is_somebodys(
    simulator: Simulator, connect: Connect, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    canaries = {"login": "canary-login", "secret": "canary-secret", "code": "canary-code"}
    them = [mail(n, f"canary{n}@canary.example", **canaries) for n in range(3)]
    impatient = ses.SesTransport(connect(simulator.url, read_timeout=0.2), source=SOURCE)
    faults = [*AFTER_ACCEPTANCE.values(), Fault(entries={0: "FAILED"}), Fault(body="[]"), Fault(results="short")]
    faults += [Fault(error="BadRequestException"), Fault(error="MessageRejected", message=REFUSED + them[0].address)]
    for fault in faults:
        for count in (1, 3):
            simulator.faults.clear()
            simulator.faults.add(fault)
            for action in ACTIONS:
                outcomes = send(impatient, them[:count], action=action, batch="7")
                assert "canary" not in repr(outcomes)
    send(ses.SesTransport(connect(f"http://127.0.0.1:{closed_port()}"), source=SOURCE), them)
    assert len(retries(caplog)) == 2
    written = caplog.text + "".join(map(str, capfd.readouterr()))
    assert "canary" not in written.lower()
