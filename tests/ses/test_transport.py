"""The transport through SES, over HTTP with the real boto3: sent once, and every answer understood."""

import contextlib
import html
import http.server
import json
import logging
import socket
import ssl
import stat
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from string import Formatter
from typing import Any

import pytest
from botocore import exceptions as boto
from mypy_boto3_sesv2 import SESV2Client

from mailroom import ses
from mailroom.errors import SettingsError
from mailroom.job import Action
from mailroom.mail.transport import CONNECT_TRIES, MAX_CALL_TIME, Mail
from mailroom.outcome import Deferred, Sent, Unconfirmed, Untried
from mailroom.ses import classify, network
from mailroom.simulator import Fault, Simulator
from mailroom.simulator.service import entry_statuses, error_statuses
from tests.ses.calls import (
    SOURCE,
    client_of,
    codes,
    free_port,
    kinds,
    listening,
    mail,
    mails,
    send,
    set_aws,
    tls,
)

REFUSED = "Email address is not verified. The following identities failed the check in region US-EAST-1: "
Connect = Callable[..., SESV2Client]


@pytest.fixture
def connect(monkeypatch: pytest.MonkeyPatch) -> Connect:
    """Returns a client of the endpoint at a URL."""
    return partial(client_of, monkeypatch)


@pytest.fixture(scope="module")
def client(running: Simulator, tmp_path_factory: pytest.TempPathFactory) -> SESV2Client:
    with pytest.MonkeyPatch.context() as environment:
        set_aws(environment, tmp_path_factory.mktemp("aws"))
        return client_of(environment, running.url)


@pytest.fixture
def transport(simulator: Simulator, client: SESV2Client) -> ses.SesTransport:
    return ses.SesTransport(client, source=SOURCE)


# Sent once


HOSTILE = {
    "many attempts": {"AWS_MAX_ATTEMPTS": "10"},
    "legacy": {"AWS_RETRY_MODE": "legacy", "AWS_MAX_ATTEMPTS": "10"},
    "adaptive": {"AWS_RETRY_MODE": "adaptive"},
    "file": {},
}
AFTER_ACCEPTANCE = {
    "hang": Fault(accept_then="hang"),
    "close": Fault(accept_then="drop"),
    "cut short": Fault(accept_then="unended"),
    "truncated": Fault(accept_then="truncate"),
    "500": Fault(accept_then="error"),
    "503": Fault(accept_then="error", error="ServiceUnavailable", status=503),
    "429 of tomorrow, in a 500": Fault(accept_then="error", error="SlowDown", status=500),
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
            assert len(simulator.ledger.requests) == 1, name
            assert simulator.ledger.counts().mails == count, name


@pytest.mark.parametrize("delivery", ["hang", "drop"])
def test_nor_is_what_got_no_answer(simulator: Simulator, connect: Connect, delivery: str) -> None:
    simulator.faults.add(Fault(before=delivery))  # type: ignore[arg-type]
    impatient = ses.SesTransport(connect(simulator.url, read_timeout=0.2), source=SOURCE)
    assert kinds(send(impatient, mails(2))) == ["unconfirmed"] * 2
    assert len(simulator.ledger.requests) == 1


def test_an_answer_that_comes_byte_by_byte_is_not_waited_for(connect: Connect) -> None:
    """Each byte is in time for the read time-out, and the last one would never come."""
    over = threading.Event()

    def drip(connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
        with contextlib.suppress(OSError):
            while not over.wait(0.05):
                connection.sendall(b" ")

    with listening(drip) as (port, _):
        impatient = ses.SesTransport(
            connect(f"http://127.0.0.1:{port}", connect_timeout=0.1, read_timeout=0.2), source=SOURCE
        )
        outcomes = send(impatient, mails(2))
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


# Tried again: only what was certainly not sent


def retries(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if "retry=" in record.getMessage()]


def test_a_refused_connection_is_tried_again_twice(connect: Connect, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    outcomes = send(ses.SesTransport(connect(f"http://127.0.0.1:{free_port()}"), source=SOURCE), mails(3))
    assert outcomes == [Deferred("EndpointConnectionError", "this machine cannot call SES", charged=False)] * 3
    assert retries(caplog) == [f"ses retry={number} error=EndpointConnectionError" for number in (1, 2)]
    assert CONNECT_TRIES == 3


class OnRetry(logging.Handler):
    """Does something before the second try."""

    def __init__(self, do: Callable[[], object]) -> None:
        super().__init__()
        self._do = do

    def emit(self, record: logging.LogRecord) -> None:
        if "retry=1" in record.getMessage():
            self._do()


def test_a_server_that_comes_up_between_the_tries_gets_the_mail(
    connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    port = free_port()
    late: list[Simulator] = []
    with contextlib.ExitStack() as stack:
        starter = OnRetry(lambda: late.append(stack.enter_context(Simulator(port=port))))
        logging.getLogger("mailroom").addHandler(starter)
        stack.callback(logging.getLogger("mailroom").removeHandler, starter)
        outcomes = send(ses.SesTransport(connect(f"http://127.0.0.1:{port}"), source=SOURCE), mails(2))
        assert kinds(outcomes) == ["sent", "sent"]
        assert late[0].ledger.sent_tokens() == {"0": 1, "1": 1}


def test_a_connection_that_is_not_answered_is_tried_again_twice(
    connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        for _ in range(4):  # the queue of those who wait to be accepted is full
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(server.getsockname())
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
        outcomes = send(ses.SesTransport(connect(url, connect_timeout=0.1), source=SOURCE), mails(2))
    assert outcomes == [Deferred("ConnectTimeoutError", "this machine cannot call SES", charged=False)] * 2
    assert retries(caplog) == [f"ses retry={number} error=ConnectTimeoutError" for number in (1, 2)]


def test_a_proxy_that_is_not_there_is_tried_again_twice(
    connect: Connect, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{free_port()}")
    outcomes = send(ses.SesTransport(connect("http://ses.example"), source=SOURCE), mails(2))
    assert (kinds(outcomes), codes(outcomes)) == (["free"] * 2, {"ProxyConnectionError"})
    assert len(retries(caplog)) == 2


def test_a_server_without_tls_is_tried_three_times(connect: Connect) -> None:
    def refuse(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n")

    with listening(refuse) as (port, seen):
        outcomes = send(ses.SesTransport(connect(f"https://127.0.0.1:{port}"), source=SOURCE), mails(2))
        assert (kinds(outcomes), codes(outcomes)) == (["free"] * 2, {"SSLError"})
    assert len(seen) == 3


def test_a_certificate_that_is_not_trusted_is_tried_three_times(connect: Connect, certificate: Path) -> None:
    with listening(tls(certificate, lambda secured: secured.recv(65536))) as (port, seen):
        outcomes = send(ses.SesTransport(connect(f"https://127.0.0.1:{port}"), source=SOURCE), mails(2))
        assert (kinds(outcomes), codes(outcomes)) == (["free"] * 2, {"SSLError"})
    assert [isinstance(handshake, ssl.SSLError) for handshake in seen] == [True] * 3


def test_tls_that_breaks_under_a_request_is_not_tried_again(
    connect: Connect, certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read_and_break(secured: ssl.SSLSocket) -> bytes:
        received = secured.recv(65536)
        with socket.socket(fileno=secured.detach()) as raw:
            raw.sendall(b"this is no record of TLS, whatever it is")
            raw.shutdown(socket.SHUT_WR)
            raw.recv(65536)
        return received

    monkeypatch.setenv("AWS_CA_BUNDLE", str(certificate))
    with listening(tls(certificate, read_and_break)) as (port, seen):
        outcomes = send(ses.SesTransport(connect(f"https://127.0.0.1:{port}"), source=SOURCE), mails(2))
        assert kinds(outcomes) == ["unconfirmed"] * 2
    assert [request[:4] for request in seen] == [b"POST"]


def test_a_server_that_hangs_up_before_tls_is_tried_three_times(connect: Connect) -> None:
    with listening(lambda connection: connection.close()) as (port, seen):
        outcomes = send(ses.SesTransport(connect(f"https://127.0.0.1:{port}"), source=SOURCE), mails(2))
        assert kinds(outcomes) == ["free"] * 2
    assert len(seen) == 3


@pytest.mark.parametrize("content", [None, "no certificate"])
def test_certificates_that_cannot_be_read_cost_the_mail_nothing(
    connect: Connect, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, content: str | None
) -> None:
    if content is not None:
        (tmp_path / "ca.pem").write_text(content)
    monkeypatch.setenv("AWS_CA_BUNDLE", str(tmp_path / "ca.pem"))
    with listening(lambda connection: connection.recv(65536)) as (port, seen):
        outcomes = send(ses.SesTransport(connect(f"https://127.0.0.1:{port}"), source=SOURCE), mails(2))
        assert kinds(outcomes) == ["free"] * 2
    assert not any(seen)


# What SES says, of a whole call

FREE = {
    *("TooManyRequestsException", "LimitExceededException", "AccountSuspendedException", "SendingPausedException"),
    *("MailFromDomainNotVerifiedException", "NotFoundException", "Throttling", "ThrottlingException"),
    *("AccessDenied", "AccessDeniedException", "UnrecognizedClientException", "InvalidClientTokenId"),
    *("SignatureDoesNotMatch", "InvalidSignatureException", "ExpiredToken", "ExpiredTokenException", "RequestExpired"),
    *("IncompleteSignature", "MissingAuthenticationToken", "OptInRequired"),
}
REJECTED = {
    *("MessageRejected", "BadRequestException", "InvalidParameterValue"),
    *("RequestEntityTooLarge", "RequestEntityTooLargeException"),
}
UNCONFIRMED = {
    *("InternalServiceErrorException", "ConcurrentModificationException", "InternalFailure"),
    *("ServiceUnavailable", "ServiceUnavailableException"),
}
CHARGED = {"AlreadyExistsException", "ConflictException", "InvalidNextTokenException"}
EXPECTED = {
    name: kind
    for kind, names in {"free": FREE, "rejected": REJECTED, "unconfirmed": UNCONFIRMED, "charged": CHARGED}.items()
    for name in names
}


def test_every_exception_that_is_classified_or_declared_is_tried_here() -> None:
    assert EXPECTED.keys() == classify.EXCEPTIONS.keys() >= error_statuses().keys()


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_an_exception_does_what_the_table_says(
    simulator: Simulator, transport: ses.SesTransport, name: str, count: int
) -> None:
    status = error_statuses().get(name, 503 if name in UNCONFIRMED else 400)
    simulator.faults.add(Fault(error=name, status=status, times=None))
    outcomes = send(transport, mails(count))
    assert (kinds(outcomes), codes(outcomes)) == ([EXPECTED[name]] * count, {name})
    assert simulator.ledger.mails == []


@pytest.mark.parametrize(
    ("status", "kind"),
    [(400, "charged"), (418, "charged"), (401, "free"), (403, "free"), (500, "unconfirmed"), (504, "unconfirmed")],
)
def test_an_exception_of_tomorrow_is_never_final(
    simulator: Simulator, transport: ses.SesTransport, status: int, kind: str
) -> None:
    for count in (1, 2):
        simulator.faults.add(Fault(error="OfTomorrow", status=status))
        assert kinds(send(transport, mails(count))) == [kind] * count


@pytest.mark.parametrize("status", ["301 Moved", "404 Not Found", "403 Forbidden"])
def test_an_answer_that_is_not_of_ses_costs_no_mail_anything(connect: Connect, status: str) -> None:
    """A proxy's, or that of a wrong endpoint: HTML, and no code but the status."""

    def answer(connection: socket.socket) -> None:
        connection.recv(65_536)
        connection.sendall(f"HTTP/1.1 {status}\r\nContent-Length: 6\r\nConnection: close\r\n\r\n<html>".encode())

    with listening(answer) as (port, _):
        outcomes = send(ses.SesTransport(connect(f"http://127.0.0.1:{port}"), source=SOURCE), mails(2))
    assert kinds(outcomes) == ["free"] * 2


@pytest.mark.parametrize(("identity", "kind"), [(SOURCE, "free"), ("example.com", "free"), ("x@a.example", "rejected")])
def test_an_unverified_identity_is_ours_or_the_recipients(
    simulator: Simulator, transport: ses.SesTransport, identity: str, kind: str
) -> None:
    for count in (1, 2):
        simulator.faults.clear()
        simulator.faults.add(Fault(error="MessageRejected", message=REFUSED + identity, times=None))
        assert kinds(send(transport, mails(count))) == [kind] * count


def test_in_the_sandbox_only_the_strangers_are_rejected(simulator: Simulator, transport: ses.SesTransport) -> None:
    simulator.account.production_access_enabled = False
    known, stranger = mail(1, "success@simulator.amazonses.com"), mail(2)
    assert kinds(send(transport, [stranger, known, stranger])) == ["rejected", "sent", "rejected"]
    assert kinds(send(transport, [stranger])) == ["rejected"]


@pytest.mark.parametrize("count", [1, 2])
def test_an_account_that_may_not_send_costs_the_mails_nothing(
    simulator: Simulator, transport: ses.SesTransport, count: int
) -> None:
    def refuse(**changes: Any) -> list[str]:
        simulator.reset()
        for name, value in changes.items():
            setattr(simulator.account, name, value)
        return kinds(send(transport, mails(count)))

    assert refuse(sending_enabled=False) == ["free"] * count
    assert refuse(enforcement_status="SHUTDOWN") == ["free"] * count
    assert refuse(max_24_hour_send=0) == ["free"] * count
    assert refuse(reject_bulk_on_missing_template=True) == ["sent"] * count
    simulator.templates.delete("activationv1")
    assert kinds(send(transport, mails(count))) == ["free"] * count
    simulator.account.reject_bulk_on_missing_template = False
    assert kinds(send(transport, mails(count))) == ["free"] * count


def test_a_missing_configuration_set_costs_the_mails_nothing(simulator: Simulator, client: SESV2Client) -> None:
    simulator.account.missing_configuration_sets = frozenset({"gone"})
    configured = ses.SesTransport(client, source=SOURCE, config_set="gone")
    assert [kinds(send(configured, mails(count))) for count in (1, 2)] == [["free"], ["free"] * 2]
    assert kinds(send(ses.SesTransport(client, source=SOURCE), mails(1))) == ["sent"]


# What SES says, of each entry

STATUSES = {
    "SUCCESS": "sent",
    **dict.fromkeys(["MESSAGE_REJECTED", "INVALID_PARAMETER"], "rejected"),
    **dict.fromkeys(["FAILED", "TRANSIENT_FAILURE"], "charged"),
    **dict.fromkeys(["ACCOUNT_SUSPENDED", "ACCOUNT_THROTTLED", "ACCOUNT_DAILY_QUOTA_EXCEEDED"], "free"),
    **dict.fromkeys(["INVALID_SENDING_POOL_NAME", "ACCOUNT_SENDING_PAUSED", "TEMPLATE_NOT_FOUND"], "free"),
    **dict.fromkeys(["CONFIGURATION_SET_NOT_FOUND", "CONFIGURATION_SET_SENDING_PAUSED"], "free"),
    "MAIL_FROM_DOMAIN_NOT_VERIFIED": "free",
}


def test_each_entry_is_settled_by_its_status_and_position(simulator: Simulator, transport: ses.SesTransport) -> None:
    wanted = [*entry_statuses(), "SUCCESS", *reversed(entry_statuses()), "OF_TOMORROW"]
    simulator.faults.add(Fault(entries=dict(enumerate(wanted))))
    outcomes = send(transport, mails(len(wanted)))
    assert kinds(outcomes) == [STATUSES.get(status, "charged") for status in wanted]
    assert STATUSES.keys() == set(entry_statuses())
    received = {mail.message_id: mail.tags["mailroom_token"] for mail in simulator.ledger.mails}
    for place, outcome in enumerate(outcomes):
        if isinstance(outcome, Sent):
            assert received.pop(outcome.message_id or "") == str(place)
        else:
            assert outcome.code == wanted[place]
    assert not received
    assert len(simulator.ledger.requests) == 1


def test_two_mails_to_one_address_get_an_outcome_each(simulator: Simulator, transport: ses.SesTransport) -> None:
    simulator.faults.add(Fault(entries={0: "MESSAGE_REJECTED", 2: "TRANSIENT_FAILURE"}))
    same = [mail(token, "jo@example.com") for token in range(4)]
    assert kinds(send(transport, same)) == ["rejected", "sent", "charged", "sent"]
    assert simulator.ledger.sent_tokens() == {"1": 1, "3": 1}


def answering(*results: Any) -> str:
    return json.dumps({"BulkEmailEntryResults": results})


def test_what_an_entry_says_is_weighed(simulator: Simulator, transport: ses.SesTransport) -> None:
    body = answering(
        {"Status": "OF_TOMORROW", "MessageId": "m1"},
        {"MessageId": "m2"},
        {"Status": "SUCCESS", "MessageId": "m3"},
        {"Status": "OF_TOMORROW"},
        {},
        {"Status": "SUCCESS"},
        {"Status": "SUCCESS", "MessageId": ""},
        {"Status": "SUCCESS", "MessageId": 5},
        None,
    )
    simulator.faults.add(Fault(body=body))
    outcomes = send(transport, mails(9))
    assert outcomes[:3] == [Sent("m1"), Sent("m2"), Sent("m3")]
    assert kinds(outcomes)[3:] == ["charged"] * 2 + ["unconfirmed"] * 4


@pytest.mark.parametrize(
    "body",
    [
        *("", "{}", "<html>Sorry</html>", "null", "[]", "[1, 2]", '"sent"', "5", "{", '{"MessageId": ""}'),
        *('{"MessageId": 5}', '{"MessageId": ["m"]}', answering(), answering({"Status": "SUCCESS", "MessageId": "m"})),
        *(answering(1, 2), '{"BulkEmailEntryResults": {"a": 1, "b": 2}}', '{"BulkEmailEntryResults": "ab"}'),
    ],
)
def test_a_200_that_does_not_add_up_is_no_success(simulator: Simulator, transport: ses.SesTransport, body: str) -> None:
    for count in (1, 2):
        simulator.faults.add(Fault(body=body))
        assert kinds(send(transport, mails(count))) == ["unconfirmed"] * count
    assert len(simulator.ledger.requests) == 2


@pytest.mark.parametrize("results", ["short", "long", "empty"])
def test_results_too_few_or_too_many_are_nobodys(
    simulator: Simulator, transport: ses.SesTransport, results: str
) -> None:
    simulator.faults.add(Fault(results=results))  # type: ignore[arg-type]
    assert kinds(send(transport, mails(3))) == ["unconfirmed"] * 3
    assert len(simulator.ledger.requests) == 1


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
        send(transport, mails(count), action=Action.ACTIVATION, batch="7")
        send(transport, mails(count), action=Action.PASSWORD_RECOVERY, batch="8")
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
        assert kinds(send(transport, them, action=Action.ACTIVATION, batch=None)) == ["sent"] * len(them)
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
    send(transport, mails(1), action=Action.PASSWORD_RECOVERY, batch="7")
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


# A call that is refused whole


@pytest.mark.parametrize("place", range(50))
def test_one_bad_mail_in_fifty_is_found_in_twelve_calls(
    simulator: Simulator, transport: ses.SesTransport, place: int
) -> None:
    assert kinds(send(transport, mails(50, {place}))) == ["sent"] * place + ["rejected"] + ["sent"] * (49 - place)
    assert len(simulator.ledger.requests) <= 12
    assert simulator.ledger.sent_tokens() == {str(token): 1 for token in range(50) if token != place}


@pytest.mark.parametrize("bad", [{0, 49}, {24, 25}, {0, 1}, {48, 49}, {10, 40}])
def test_two_bad_mails_are_both_found(simulator: Simulator, transport: ses.SesTransport, bad: set[int]) -> None:
    assert kinds(send(transport, mails(50, bad))) == ["rejected" if n in bad else "sent" for n in range(50)]
    assert len(simulator.ledger.requests) <= 24
    assert simulator.ledger.duplicates() == {}


@pytest.mark.parametrize("count", [1, 2, 3])
def test_when_all_are_refused_each_is_tried(simulator: Simulator, transport: ses.SesTransport, count: int) -> None:
    assert kinds(send(transport, mails(count, range(count)))) == ["rejected"] * count
    assert len(simulator.ledger.requests) == 2 * count - 1


def test_five_refused_alike_end_the_search(simulator: Simulator, transport: ses.SesTransport) -> None:
    simulator.faults.add(Fault(error="BadRequestException", times=None))
    outcomes = send(transport, mails(50))
    assert sorted(kinds(outcomes)) == ["rejected"] * 5 + ["untried"] * 45
    assert codes(outcomes) == {"BadRequestException", "CallsInVain"}
    assert len(simulator.ledger.requests) <= 16


def test_where_calls_are_refused_whole_for_several_mails_each_goes_alone_for_a_while(
    simulator: Simulator, transport: ses.SesTransport
) -> None:
    """A search for each would cost more calls than mails, and wait for more bulk calls than there are."""

    def operations(them: Sequence[Mail]) -> set[str]:
        simulator.ledger.clear()
        send(transport, them)
        return {request.operation for request in simulator.ledger.requests}

    both = {"SendBulkEmail", "SendEmail"}
    assert operations(mails(10, {3})) == both
    assert operations(mails(10)) == {"SendBulkEmail"}
    assert operations(mails(10, {3, 4})) == both
    assert operations(mails(9)) == {"SendEmail"}
    assert operations(mails(9, {0})) == {"SendEmail"}
    assert send(transport, mails(2), action=Action.PASSWORD_RECOVERY, batch="7")
    assert simulator.ledger.requests[-1].operation == "SendBulkEmail"
    assert operations(mails(9)) == {"SendEmail"}
    assert operations(mails(2)) == {"SendEmail"}
    assert operations(mails(2)) == {"SendBulkEmail"}


@pytest.mark.parametrize("before", [0, 1, 2])
def test_an_account_at_fault_ends_the_search(simulator: Simulator, transport: ses.SesTransport, before: int) -> None:
    simulator.faults.add(Fault(error="BadRequestException"), *[Fault()] * before)
    simulator.faults.add(Fault(error="TooManyRequestsException", times=None))
    outcomes = send(transport, mails(50))
    sent, refused = [(0, 25), (25, 12), (37, 6)][before]
    assert kinds(outcomes) == ["sent"] * sent + ["free"] * refused + ["untried"] * (50 - sent - refused)
    assert codes(outcomes) == {"TooManyRequestsException", "CallsInVain"}
    assert len(simulator.ledger.requests) == 2 + before


def test_an_entry_for_which_the_account_is_at_fault_ends_the_search(
    simulator: Simulator, transport: ses.SesTransport
) -> None:
    simulator.faults.add(Fault(error="BadRequestException"), Fault(entries={1: "ACCOUNT_THROTTLED"}))
    assert kinds(send(transport, mails(8))) == ["sent", "free", "sent", "sent"] + ["untried"] * 4
    assert len(simulator.ledger.requests) == 2


def test_no_call_begins_that_could_outlast_the_lease(simulator: Simulator, transport: ses.SesTransport) -> None:
    outcomes = send(transport, mails(2), within=transport.max_call_time - timedelta(milliseconds=1))
    assert outcomes == [Untried("OutOfTime")] * 2
    assert simulator.ledger.requests == []


def test_the_search_ends_with_the_lease(simulator: Simulator, transport: ses.SesTransport) -> None:
    simulator.faults.add(Fault(error="BadRequestException", latency_ms=600, times=None))
    outcomes = send(transport, mails(50), within=transport.max_call_time + timedelta(seconds=1))
    assert (kinds(outcomes), codes(outcomes)) == (["charged"] * 50, {"OutOfTime"})
    assert 1 <= len(simulator.ledger.requests) <= 2


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
        outcomes = send(ses.SesTransport(connect(simulator.url), source=SOURCE), mails(2))
        sts.shutdown()
        thread.join()
    assert (kinds(outcomes), codes(outcomes)) == (["free"] * 2, {"ValidationError"})
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
            for action in Action:
                outcomes = send(impatient, them[:count], action=action, batch="7")
                assert "canary" not in repr(outcomes)
    send(ses.SesTransport(connect(f"http://127.0.0.1:{free_port()}"), source=SOURCE), them)
    assert len(retries(caplog)) == 2
    written = caplog.text + "".join(map(str, capfd.readouterr()))
    assert "canary" not in written.lower()


# Connecting


@pytest.mark.parametrize(
    ("environment", "says"),
    [
        ({"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""}, "no AWS credentials were found"),
        ({"AWS_SECRET_ACCESS_KEY": ""}, "PartialCredentialsError"),
        ({"AWS_PROFILE": "nobody"}, "ProfileNotFound"),
        ({"AWS_CONFIG_FILE": __file__}, "ConfigParseError"),
        ({"AWS_ENDPOINT_URL_SESV2": "not a URL"}, "ValueError"),
        ({"AWS_DEFAULTS_MODE": "nonsense"}, "InvalidDefaultsMode"),
    ],
)
def test_a_wrong_aws_environment_is_one_line(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], says: str
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError, match=f"SES cannot be used: .*{says}") as raised:
        ses.connect(region="eu-west-1", connections=1)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(("region", "says"), [(None, "AWS_REGION"), ("not a region", "InvalidRegionError")])
def test_a_region_is_needed(region: str | None, says: str) -> None:
    with pytest.raises(SettingsError, match=says) as raised:
        ses.connect(region=region, connections=1)
    assert "\n" not in str(raised.value)


def test_a_region_may_come_from_botocores_own_chain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-north-1")
    assert ses.connect(region=None, connections=1).meta.region_name == "eu-north-1"


def test_retries_and_time_outs_are_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "10")
    client = ses.connect(region="eu-west-1", connections=3)
    config: Any = client.meta.config
    assert config.retries == {"mode": "standard", "total_max_attempts": 1}
    assert (config.connect_timeout, config.read_timeout, config.max_pool_connections) == (3, 15, 3)
    assert ses.SesTransport(client, source=SOURCE).max_call_time == MAX_CALL_TIME


def test_many_threads_share_one_client(
    simulator: Simulator, transport: ses.SesTransport, caplog: pytest.LogCaptureFixture
) -> None:
    together = threading.Barrier(8)
    simulator.faults.add(Fault(latency_ms=20, times=None))

    def work(first: int) -> list[str]:
        together.wait()
        return [
            kind for n in range(5) for kind in kinds(send(transport, [mail(first + 2 * n), mail(first + 2 * n + 1)]))
        ]

    with ThreadPoolExecutor(8) as pool:
        assert [*pool.map(work, range(0, 80, 10))] == [["sent"] * 10] * 8
    assert simulator.ledger.sent_tokens() == {str(token): 1 for token in range(80)}
    assert caplog.records == []
