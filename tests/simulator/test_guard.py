"""Who is answered: clients of this machine, and no web page that its browsers show."""

import contextlib
import json
from http.client import HTTPConnection
from urllib.parse import urlsplit

import pytest
from mypy_boto3_sesv2 import SESV2Client

from mailroom.simulator import Simulator
from tests.simulator.client import PATIENCE_SECONDS, single

FAULT = json.dumps([{"error": "MessageRejected"}])


def ask(ses: Simulator, method: str, path: str, body: str | None = None, **headers: str) -> int:
    """Send a request with headers of one's own, with - for _; return the status."""
    with contextlib.closing(HTTPConnection(urlsplit(ses.url).netloc, timeout=PATIENCE_SECONDS)) as connection:
        connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
        with connection.getresponse() as response:
            response.read()
            return response.status


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:80", "127.0.0.1.evil.example", "192.0.2.1", "[::2]", ""]
)
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/"),
        ("POST", "/"),
        ("GET", "/_simulator/ledger"),
        ("GET", "/_simulator/queues"),
        ("GET", "/v2/email/account"),
    ],
)
def test_a_name_that_is_not_its_own_is_refused(ses: Simulator, host: str, method: str, path: str) -> None:
    assert ask(ses, method, path, Host=host) == 403
    assert ses.ledger.requests == []


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:8025", "127.0.0.1:1", "127.8.0.1", "[::1]:8025"])
def test_this_machine_is_answered(ses: Simulator, host: str) -> None:
    assert ask(ses, "GET", "/", Host=host) == 200


def test_one_that_serves_others_is_called_by_any_address_but_not_by_any_name() -> None:
    with Simulator(host="0.0.0.0", allow_remote=True) as ses:  # noqa: S104
        assert ask(ses, "GET", "/", Host="192.0.2.1:8025") == 200
        assert ask(ses, "GET", "/", Host="evil.example") == 403


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://localhost:1"},
        {"Sec_Fetch_Site": "cross-site"},
        {"Sec_Fetch_Site": "same-site"},
        {"Content_Type": "text/plain"},
        {"Content_Type": "text/plain;charset=UTF-8"},
        {"Content_Type": "application/x-www-form-urlencoded"},
    ],
)
def test_a_page_of_another_site_changes_nothing(ses: Simulator, headers: dict[str, str]) -> None:
    assert ask(ses, "POST", "/_simulator/faults", FAULT, **{"Content_Type": "application/json"} | headers) == 403
    assert ses.faults.pending() == []


@pytest.mark.parametrize("headers", [{"Origin": "http://evil.example"}, {"Sec_Fetch_Site": "cross-site"}])
def test_nor_does_it_send_mail_or_use_up_faults(ses: Simulator, headers: dict[str, str]) -> None:
    page = headers | {"Sec_Fetch_Mode": "no-cors"}
    assert ask(ses, "POST", "/v2/email/outbound-emails", json.dumps(single()), **page) == 403
    assert ask(ses, "GET", "/v2/email/account", **page) == 403
    assert ses.ledger.requests == []


@pytest.mark.parametrize("headers", [{"Origin": "http://evil.example"}, {"Sec_Fetch_Site": "cross-site"}])
def test_nor_does_it_fill_or_empty_queues(ses: Simulator, headers: dict[str, str]) -> None:
    body = json.dumps({"QueueUrl": ses.events_queue_url, "MessageBody": "forged"})
    sqs = {"X_Amz_Target": "AmazonSQS.SendMessage"}
    for path in ("/", "/123456789012/mailroom-events"):
        assert ask(ses, "POST", path, body, **sqs, **headers) == 403
        assert ask(ses, "POST", path, body, **sqs) == 200
    assert ask(ses, "DELETE", "/_simulator/queues/mailroom-events", **headers) == 403
    assert ses.queues["mailroom-events"].bodies() == ["forged"] * 2


def test_its_own_page_and_an_sdk_are_answered(ses: Simulator, client: SESV2Client) -> None:
    own = {"Sec_Fetch_Site": "same-origin", "Sec_Fetch_Mode": "cors", "Origin": ses.url}
    assert ask(ses, "GET", "/_simulator/counts", **own) == 200
    assert ask(ses, "POST", "/_simulator/faults", FAULT, Content_Type="application/json", **own) == 204
    ses.faults.clear()
    client.send_email(**single())
    assert ses.ledger.counts().mails == 1
