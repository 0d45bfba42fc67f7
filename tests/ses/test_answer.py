"""What SES, or whoever answers in its place, calls things is one word of the log and of the record, whatever it is."""

import json
import logging
import socket
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import Engine

from mailroom import ses
from mailroom.errors import TransportError
from mailroom.outcome import Deferred, Outcome, Sent
from mailroom.ses import classify
from mailroom.ses.doctor import examine
from mailroom.simulator import Fault, Simulator
from tests.kinds import ACTIONS
from tests.running import aws, eventually, working
from tests.ses.calls import SOURCE, client_of, listening, mails, send
from tests.world import add_accounts, count, rows

HOSTILE = {
    "line feed": "Evil\n2026-11-25T10:00:00+0000 INFO resumed scope=account",
    "other line ends": "Evil\u2028\x85\x0b\x0c\r\x1e",
    "escapes": "\x1b[2J\x1b]0;owned\x07",
    "NUL": "Evil\x00",
    "half a letter": "Evil\ud800",
    "right to left": "\u202elive",
    "blanks": "Evil outcome=sent code=Fine",
    "long": "E" * 1_000_000,
    "an address": "ada@example.com?is?not?verified",
    "nothing": "",
}


def is_a_word(said: str | None) -> bool:
    return said is not None and said.isascii() and said.isprintable() and " " not in said and 0 < len(said) <= 200


def answering(status: str, body: object) -> Callable[[socket.socket], None]:
    written = json.dumps(body).encode()

    def answer(connection: socket.socket) -> None:
        while b"activationv1" not in connection.recv(65_536, socket.MSG_PEEK):
            pass
        connection.recv(1_000_000)
        head = f"HTTP/1.1 {status}\r\nContent-Length: {len(written)}\r\nConnection: close\r\n\r\n"
        connection.sendall(head.encode() + written)

    return answer


def told(environment: pytest.MonkeyPatch, status: str, body: object, amount: int) -> list[Outcome]:
    with listening(answering(status, body)) as (port, _):
        transport = ses.SesTransport(client_of(environment, f"http://127.0.0.1:{port}"), source=SOURCE)
        return list(send(transport, mails(amount)))


@pytest.mark.slow
@pytest.mark.parametrize("name", HOSTILE)
def test_a_code_is_a_word(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    hostile = HOSTILE[name]
    for outcome in told(monkeypatch, "403 Forbidden", {"__type": hostile, "message": hostile}, 1):
        assert not isinstance(outcome, Sent)
        assert is_a_word(outcome.code)
        assert "@" not in outcome.code
    results = [{"Status": hostile}, {"Status": hostile, "Error": hostile}]
    for outcome in told(monkeypatch, "200 OK", {"BulkEmailEntryResults": results}, 2):
        assert not isinstance(outcome, Sent)
        assert is_a_word(outcome.code)
        assert "@" not in outcome.code


@pytest.mark.parametrize("name", [name for name in HOSTILE if name != "nothing"])
def test_a_message_id_is_a_word_and_the_mail_is_sent(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    [outcome] = told(monkeypatch, "200 OK", {"MessageId": HOSTILE[name]}, 1)
    assert isinstance(outcome, Sent)
    assert is_a_word(outcome.message_id)


def test_every_code_that_is_known_is_a_word() -> None:
    for code in [*classify.EXCEPTIONS, *classify.STATUSES]:
        assert classify.word(code) == code


@pytest.mark.slow
@pytest.mark.early
def test_the_account_is_told_in_words_and_numbers(simulator: Simulator, monkeypatch: pytest.MonkeyPatch) -> None:
    quota: dict[str, Any] = {"MaxSendRate": 14, "Max24HourSend": 200, "SentLast24Hours": 0}
    client = client_of(monkeypatch, simulator.url)
    for hostile in HOSTILE.values():
        body = json.dumps({"SendQuota": quota, "EnforcementStatus": hostile})
        simulator.faults.add(Fault(operation="GetAccount", body=body))
        assert ses.account(client).enforcement in {classify.word(hostile), ""}
    strange: object
    for strange in (float("nan"), float("inf"), -float("inf"), [], {}, None, "x"):
        body = json.dumps({"SendQuota": quota | {"MaxSendRate": strange}})
        simulator.faults.add(Fault(operation="GetAccount", body=body, times=None))
        with pytest.raises(TransportError) as raised:
            ses.account(client)
        assert is_a_word(str(raised.value))
        simulator.faults.clear()


@pytest.mark.slow
@pytest.mark.parametrize("name", HOSTILE)
def test_doctor_tells_it_in_lines_that_end(simulator: Simulator, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    hostile = HOSTILE[name]
    client = client_of(monkeypatch, simulator.url)
    parts = {"Subject": "x", "Text": "{{secret}}" + "".join(f"{{{{{hostile}{n}}}}}" for n in range(40)), "Html": "x"}
    bodies = {
        "GetAccount": {"SendQuota": {}, "EnforcementStatus": hostile},
        "GetEmailIdentity": [],
        "GetConfigurationSet": {"SendingOptions": 5},
        "GetEmailTemplate": {"TemplateName": "x", "TemplateContent": parts},
    }
    for operation, body in bodies.items():
        simulator.faults.add(Fault(operation=operation, body=json.dumps(body), times=None))
    for finding in examine(client, source=SOURCE, config_set="default", flags={}, actions=ACTIONS):
        line = f"{finding.check} {finding.message} {finding.remedy}"
        assert line.replace("…", "").isprintable(), finding.check
        assert len(line) < 6_000, finding.check


@pytest.mark.slow
@pytest.mark.parametrize("name", ["line feed", "NUL", "half a letter", "long"])
def test_a_worker_records_and_logs_it_in_one_line(
    engine: Engine, simulator: Simulator, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    """A NUL is what PostgreSQL takes in no text: the batch would never be settled."""
    caplog.set_level(logging.INFO)
    for variable, value in aws(simulator).items():
        monkeypatch.setenv(variable, value)
    hostile = HOSTILE[name]
    answers = [{"Status": hostile}, {"Status": "SUCCESS", "MessageId": hostile}]
    simulator.faults.add(Fault(operation="SendBulkEmail", body=json.dumps({"BulkEmailEntryResults": answers})))
    transport = ses.SesTransport(client_of(monkeypatch, simulator.url), source=SOURCE)
    with engine.connect() as connection:
        add_accounts(connection, 2)
        with working(engine, transport, lease=2 * transport.max_call_time):
            eventually(lambda: count(connection, "deliveries WHERE outcome = 'sent'") == 2, "both are sent")
        for row in rows(connection, "SELECT coalesce(error_code, message_id) AS said FROM deliveries"):
            assert is_a_word(row.said)
    assert all(len(record.getMessage().splitlines()) == 1 for record in caplog.records if "mail" in record.name)


def test_a_gateway_that_answers_in_json_costs_no_attempt(monkeypatch: pytest.MonkeyPatch) -> None:
    for outcome in told(monkeypatch, "429 Too Many Requests", {"code": "rate_limited"}, 3):
        assert isinstance(outcome, Deferred)
        assert (outcome.charged, outcome.scope, outcome.code) == (False, None, "rate_limited")


@pytest.mark.parametrize("odd", [1e308, -1e308, -2, float("nan"), float("inf")])
def test_a_number_that_nobody_can_count_with_is_no_answer(monkeypatch: pytest.MonkeyPatch, odd: float) -> None:
    body = {"SendQuota": {"MaxSendRate": odd, "Max24HourSend": 200.0, "SentLast24Hours": 0.0}}

    def answer(connection: socket.socket) -> None:
        connection.recv(65_536)
        written = json.dumps(body).encode()
        head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(written)}\r\nConnection: close\r\n\r\n"
        connection.sendall(head.encode() + written)

    with listening(answer) as (port, _), pytest.raises(TransportError, match="ValueError"):
        ses.account(client_of(monkeypatch, f"http://127.0.0.1:{port}"))
