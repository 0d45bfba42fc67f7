"""The ledger: what was asked, what was accepted, and what was accepted twice; in Python and over HTTP."""

import json
from dataclasses import asdict
from typing import Any

import pytest
from mypy_boto3_sesv2 import SESV2Client

from mailroom.simulator import Counts, Fault, Simulator
from tests.simulator.client import ask, bulk, connect, entry, single


def control(ses: Simulator, method: str, path: str, body: object = None) -> tuple[int, Any]:
    """Status and JSON, if any, of an answer of the simulator's own interface."""
    answer = ask(f"{ses.url}/_simulator/{path}", method, json.dumps(body))
    return answer.status, answer.json if answer.text else None


def test_a_request_is_recorded_with_what_became_of_it(ses: Simulator, client: SESV2Client) -> None:
    ses.faults.add(Fault(latency_ms=1))
    client.send_bulk_email(**bulk(entry(), entry()))
    (request,) = ses.ledger.requests
    assert (request.number, request.operation, request.template, request.entries) == (
        1,
        "SendBulkEmail",
        "activationv1",
        2,
    )
    assert (request.status, request.error) == (200, None)
    assert request.fault is not None
    assert request.fault["latency_ms"] == 1
    assert request.invocation_id
    assert len(request.body_sha256) == 64


def test_a_mail_is_recorded_with_its_envelope(ses: Simulator, client: SESV2Client) -> None:
    default = [{"Name": "mailroom_batch", "Value": "1"}, {"Name": "stream", "Value": "account"}]
    sent = client.send_bulk_email(**bulk(entry(), ConfigurationSetName="default", DefaultEmailTags=default))
    (mail,) = ses.ledger.mails
    assert mail.message_id == sent["BulkEmailEntryResults"][0]["MessageId"]
    assert (mail.recipients, mail.source, mail.request) == (("jo@example.com",), "noreply@example.com", 1)
    assert mail.tags == {"mailroom_token": "1", "mailroom_batch": "7", "stream": "account"}
    assert mail.configuration_set == "default"


def test_counts_are_exact_where_the_mails_are_not_all_kept() -> None:
    with Simulator(ledger_limit=3) as ses:
        client = connect(ses.url)
        for _ in range(2):
            client.send_bulk_email(**bulk(*[entry(token=number) for number in range(4)]))
        assert ses.ledger.counts() == Counts(requests=2, mails=8, duplicates=4, rendering_failures=0)
        assert [mail.tags["mailroom_token"] for mail in ses.ledger.mails] == ["1", "2", "3"]
        assert ses.ledger.duplicates() == {"0": 2, "1": 2, "2": 2, "3": 2}


def test_the_ledger_can_be_read_and_cleared_over_http(ses: Simulator, client: SESV2Client) -> None:
    for _ in range(2):
        client.send_email(**single())
    status, ledger = control(ses, "GET", "ledger")
    assert status == 200
    assert [request["operation"] for request in ledger["requests"]] == ["SendEmail"] * 2
    assert ledger["duplicates"] == {"1": 2}
    assert "s3cret" in ledger["mails"][1]["text"]
    assert control(ses, "GET", "counts") == (200, asdict(Counts(requests=2, mails=2, duplicates=1)))
    assert control(ses, "DELETE", "ledger") == (204, None)
    assert ses.ledger.counts() == Counts()


def test_the_inbox_can_be_read_from_where_one_left_off(ses: Simulator, client: SESV2Client) -> None:
    for name in ("a", "b", "c", "d"):
        client.send_email(**single(f"{name}@example.com"))
    seen = ses.ledger.mails[0].message_id
    newer = control(ses, "GET", f"inbox?after={seen}&limit=2")[1]
    assert [mail["recipients"] for mail in newer["newest"]] == [["d@example.com"], ["c@example.com"]]
    assert newer["mails"] == 4


def test_faults_can_be_added_and_cleared_over_http(ses: Simulator, client: SESV2Client) -> None:
    assert control(ses, "POST", "faults", [{"entries": {"0": "FAILED"}}, {"error": "MessageRejected"}])[0] == 204
    assert client.send_bulk_email(**bulk(entry()))["BulkEmailEntryResults"][0]["Status"] == "FAILED"
    assert [fault["error"] for fault in control(ses, "GET", "faults")[1]] == ["MessageRejected"]
    assert control(ses, "DELETE", "faults")[0] == 204
    client.send_email(**single())


def test_the_account_can_be_changed_over_http(ses: Simulator, client: SESV2Client) -> None:
    status, account = control(ses, "PATCH", "account", {"max_send_rate": 14, "missing_identities": ["gone"]})
    assert (status, account["max_send_rate"], account["missing_identities"]) == (200, 14, ["gone"])
    assert client.get_account()["SendQuota"]["MaxSendRate"] == 14


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [("POST", "faults", [{"explode": True}]), ("POST", "faults", {}), ("PATCH", "account", {"rate": 1})],
)
def test_what_the_simulator_does_not_know_it_does_not_take(
    ses: Simulator, method: str, path: str, body: object
) -> None:
    status, answer = control(ses, method, path, body)
    assert status == 400
    assert answer["errors"]
