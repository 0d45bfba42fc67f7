"""The transport through SES, over HTTP with the real boto3: what is sent, and that it is sent once."""

import contextlib
import html
import json
import socket
import threading
from collections import Counter
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from mypy_boto3_sesv2 import SESV2Client

from mailroom import ses
from mailroom.mail.transport import Mail
from mailroom.outcome import Sent, Unconfirmed
from mailroom.simulator import Fault, Simulator
from tests.kinds import ACTIVATION, RECOVERY
from tests.running import eventually
from tests.ses.calls import (
    AFTER_ACCEPTANCE,
    SOURCE,
    Connect,
    codes,
    kinds,
    listening,
    mail,
    mails,
    send,
)

# Sent once

HOSTILE = {
    "many attempts": {"AWS_MAX_ATTEMPTS": "10"},
    "legacy": {"AWS_RETRY_MODE": "legacy", "AWS_MAX_ATTEMPTS": "10"},
    "adaptive": {"AWS_RETRY_MODE": "adaptive"},
    "file": {},
}


@pytest.mark.parametrize("hostile", HOSTILE)
def test_what_may_have_been_accepted_is_never_sent_again(
    simulator: Simulator, connect: Connect, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, hostile: str
) -> None:
    for name, value in HOSTILE[hostile].items():
        monkeypatch.setenv(name, value)
    if hostile == "file":
        (tmp_path / "config").write_text("[default]\nmax_attempts = 10\nretry_mode = legacy\n")
    impatient = ses.SesTransport(connect(simulator.url, read_timeout=0.2), source=SOURCE)
    for name, fault in AFTER_ACCEPTANCE.items():
        for count in (1, 3):
            simulator.reset()
            simulator.faults.add(fault)
            assert kinds(send(impatient, mails(count))) == ["unconfirmed"] * count, name
            eventually(lambda: simulator.ledger.requests, f"{name}: it has come, though nobody waits any more")
            assert len(simulator.ledger.requests) == 1, name
            assert simulator.ledger.counts().mails == count, name


@pytest.mark.parametrize("delivery", ["hang", "drop"])
def test_nor_is_what_got_no_answer(simulator: Simulator, connect: Connect, delivery: str) -> None:
    simulator.faults.add(Fault(before=delivery))  # type: ignore[arg-type]
    impatient = ses.SesTransport(connect(simulator.url, read_timeout=0.2), source=SOURCE)
    assert kinds(send(impatient, mails(2))) == ["unconfirmed"] * 2
    eventually(lambda: simulator.ledger.requests, "it has come, though nobody waits any more")
    assert len(simulator.ledger.requests) == 1


@pytest.mark.slow
def test_an_answer_that_comes_byte_by_byte_is_not_waited_for(connect: Connect) -> None:
    """Each byte is in time for the read time-out, and the last one would never come: the call as a whole ends."""
    over = threading.Event()

    def drip(connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
        with contextlib.suppress(OSError):
            while not over.wait(0.05):
                connection.sendall(b" ")

    with listening(drip) as (port, _):
        impatient = ses.SesTransport(connect(f"http://127.0.0.1:{port}"), source=SOURCE)
        impatient._patience = timedelta(seconds=3)  # which is to be enough to begin the request
        try:
            outcomes = send(impatient, mails(2))
        finally:
            over.set()
    assert outcomes == [Unconfirmed("CallTimeoutError", "no answer from SES, or none that can be read")] * 2


@pytest.mark.parametrize("fault", [Fault(before="drop"), Fault(accept_then="drop")], ids=["unread", "accepted"])
def test_a_kept_connection_that_dies_under_a_request_is_not_tried_again(
    simulator: Simulator, transport: ses.SesTransport, fault: Fault
) -> None:
    assert kinds(send(transport, mails(1))) == ["sent"]
    simulator.faults.add(fault)
    assert send(transport, mails(1)) == [
        Unconfirmed("ConnectionClosedError", "no answer from SES, or none that can be read")
    ]
    assert len(simulator.ledger.requests) == 2


def test_each_call_is_one_of_its_own(simulator: Simulator, transport: ses.SesTransport) -> None:
    for _ in range(3):
        send(transport, mails(2))
    assert len({request.invocation_id for request in simulator.ledger.requests}) == 3


# What is sent


@pytest.fixture
def bodies(client: SESV2Client) -> Iterator[list[dict[str, Any]]]:
    """The body of every request, as it is about to be sent."""
    seen: list[dict[str, Any]] = []

    def note(request: Any, **_: Any) -> None:
        seen.append(json.loads(request.body))

    client.meta.events.register("before-send.sesv2", note)
    yield seen
    client.meta.events.unregister("before-send.sesv2", note)


def test_one_mail_is_a_call_of_its_own_and_several_share_one(
    simulator: Simulator, transport: ses.SesTransport, bodies: list[dict[str, Any]]
) -> None:
    for count in (1, 2, 50):
        assert kinds(send(transport, mails(count))) == ["sent"] * count
    assert [(request.operation, request.entries) for request in simulator.ledger.requests] == [
        ("SendEmail", 0),
        ("SendBulkEmail", 2),
        ("SendBulkEmail", 50),
    ]
    assert [body["DefaultContent"]["Template"]["TemplateData"] for body in bodies[1:]] == ["{}", "{}"]


def test_every_mail_is_tagged_and_its_template_that_of_the_action(simulator: Simulator, client: SESV2Client) -> None:
    transport = ses.SesTransport(client, source="Mailroom <noreply@example.com>", config_set="default")
    for count in (1, 2):
        send(transport, mails(count), action=ACTIVATION, batch="7")
        send(transport, mails(count), action=RECOVERY, batch="8")
    found = Counter((mail.template.name, *sorted(mail.tags.items())) for mail in simulator.ledger.mails)
    assert found == {
        (template, ("mailroom_batch", batch), ("mailroom_token", token)): 2 if token == "0" else 1
        for template, batch in (("activationv1", "7"), ("passwordrecoveryv1", "8"))
        for token in "01"
    }
    assert {mail.source for mail in simulator.ledger.mails} == {"Mailroom <noreply@example.com>"}
    assert {mail.configuration_set for mail in simulator.ledger.mails} == {"default"}


def test_what_is_not_known_is_not_named(simulator: Simulator, client: SESV2Client, bodies: list[Any]) -> None:
    transport = ses.SesTransport(client, source=SOURCE, config_set="")
    anonymous = Mail(token=None, address="jo@example.com", login="jo", secret="s", code="")
    for them in ([anonymous], [anonymous] * 2):
        assert kinds(send(transport, them, action=ACTIVATION, batch=None)) == ["sent"] * len(them)
    assert {mail.configuration_set for mail in simulator.ledger.mails} == {None}
    assert [mail.tags for mail in simulator.ledger.mails] == [{}] * 3
    assert not any("ConfigurationSetName" in body for body in bodies)


@pytest.mark.parametrize(
    "login",
    [
        *("\"quoted\" 'too'", "{{secret}} {{{code}}}", "<script>alert(1)</script>", "</p><a href='//evil.example'>"),
        *("\N{PARTY POPPER}\N{ZERO WIDTH JOINER}", "\N{RIGHT-TO-LEFT OVERRIDE}olleh", "\\u0022\\", "a&amp;b"),
        "<" * 254,
    ],
)
@pytest.mark.parametrize("count", [1, 2])
def test_any_login_arrives_inert_in_html_and_raw_in_text(
    simulator: Simulator, transport: ses.SesTransport, login: str, count: int
) -> None:
    assert kinds(send(transport, [mail(token, login=login) for token in range(count)])) == ["sent"] * count
    for arrived in simulator.ledger.mails:
        assert f"Hello {login}," in (arrived.text or "")
        assert f"Hello <strong>{html.escape(login)}</strong>," in (arrived.html or "")
        assert arrived.subject == "Activate your account"
    assert simulator.ledger.counts().rendering_failures == 0


def test_a_recovery_has_its_code_and_its_link(simulator: Simulator, transport: ses.SesTransport) -> None:
    send(transport, mails(1), action=RECOVERY, batch="7")
    [arrived] = simulator.ledger.mails
    for part in (arrived.text, arrived.html):
        assert "token=s0" in (part or "")
        assert "01234" in (part or "")


# Addresses

UNSUPPORTED = [
    *("jö@example.com", "jo@bad_domain.example", "jo@example.com.", "a" * 65 + "@example.com", "jo@localhost", "jo"),
    *("jo@example.com\r\nBcc: li@example.com", "jo@exa mple.com"),
]


def test_an_address_that_ses_cannot_take_harms_nobody_else(simulator: Simulator, transport: ses.SesTransport) -> None:
    simulator.account.reject_bulk_on_bad_address = True
    them = [mail(0)]
    for token, address in enumerate(UNSUPPORTED, start=1):
        them += [mail(100 + token, address), mail(token)]
    outcomes = send(transport, them)
    assert kinds(outcomes) == ["sent"] + ["rejected", "sent"] * len(UNSUPPORTED)
    assert codes(outcomes) == {"UnsupportedAddress"}
    received = {mail.message_id: mail.recipients for mail in simulator.ledger.mails}
    for one, outcome in zip(them, outcomes, strict=True):
        if isinstance(outcome, Sent):
            assert received[outcome.message_id or ""] == (one.address,)
    assert len(simulator.ledger.requests) == 1


def test_no_call_is_made_for_nobody(simulator: Simulator, transport: ses.SesTransport) -> None:
    assert kinds(send(transport, [mail(1, address) for address in UNSUPPORTED])) == ["rejected"] * len(UNSUPPORTED)
    assert send(transport, []) == []
    assert simulator.ledger.requests == []


def test_one_that_is_left_is_sent_alone(simulator: Simulator, transport: ses.SesTransport) -> None:
    assert kinds(send(transport, [mail(1, "jö@example.com"), mail(2)])) == ["rejected", "sent"]
    assert [request.operation for request in simulator.ledger.requests] == ["SendEmail"]


def test_a_domain_travels_in_punycode(simulator: Simulator, transport: ses.SesTransport) -> None:
    for count in (1, 2):
        assert kinds(send(transport, [mail(n, "jo@bücher.example") for n in range(count)])) == ["sent"] * count
    assert {mail.recipients for mail in simulator.ledger.mails} == {("jo@xn--bcher-kva.example",)}
