"""The queue of events, on an SQS that is not ours (moto), and where only a raw socket misbehaves well enough."""

import contextlib
import json
import socket
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from mailroom import ses, settings
from mailroom.cli.wiring import open_events
from mailroom.errors import FeedError, SettingsError
from mailroom.event import Event, Ignored, Unreadable
from mailroom.mail.event_source import MAX_WAIT, Received
from mailroom.ses.event_queue import EventQueue, region_of
from tests import sqs, sqs_front
from tests.machine import closed_port
from tests.running import eventually
from tests.ses.calls import listening, set_aws, whole
from tests.ses.events import event, wrapped

SECOND = timedelta(seconds=1)


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    with sqs.running() as url:
        yield url


@pytest.fixture
def queue(endpoint: str) -> sqs.Queue:
    return sqs.Queue(endpoint)


def test_what_is_received_is_read_and_gone_once_deleted(queue: sqs.Queue) -> None:
    queue.put([json.dumps(event("Send")), wrapped(json.dumps(event("Bounce"))), "{", json.dumps(event("Open"))])
    source = queue.source()
    received = list(source.receive(wait=SECOND))
    assert {type(each.holds) for each in received} == {Event, Unreadable, Ignored}
    assert len(received) == 4
    assert source.remove(received) == 0
    assert queue.left() == 0


@pytest.mark.slow
def test_what_is_not_deleted_comes_again_and_by_the_newest_handle(endpoint: str) -> None:
    """After the time that was asked for, not after the queue's own."""
    queue = sqs.Queue(endpoint, VisibilityTimeout="1")
    queue.client.set_queue_attributes(QueueUrl=queue.url, Attributes={"VisibilityTimeout": "600"})
    queue.put([json.dumps(event("Send"))])
    source = queue.source()
    [first] = source.receive(wait=SECOND)
    [again] = source.receive(wait=MAX_WAIT)
    assert (first.id, first.holds) == (again.id, again.holds)
    assert first.handle != again.handle
    assert source.remove([again]) == 0
    assert queue.left() == 0


@pytest.mark.slow
def test_what_is_kept_is_not_given_to_others(endpoint: str) -> None:
    """They would be seen again after five seconds: long enough for two receives, and for asking to keep them."""
    queue = sqs.Queue(endpoint, VisibilityTimeout="5")
    queue.put([json.dumps(event("Send"))] * 11)
    source = queue.source()
    received = [*source.receive(wait=SECOND), *source.receive(wait=SECOND)]
    assert len(received) == 11
    source.keep(received)
    assert source.receive(wait=timedelta(seconds=6)) == []


@pytest.mark.slow
def test_a_long_poll_waits_and_no_longer(queue: sqs.Queue) -> None:
    began = time.monotonic()
    assert queue.source().receive(wait=timedelta(0)) == []  # zero would be a short poll, which may find nothing
    assert time.monotonic() - began >= 1


def test_more_than_a_call_takes_are_deleted(queue: sqs.Queue) -> None:
    queue.put(json.dumps(event("Send")) for _ in range(25))
    source = queue.source()
    received = [each for _ in range(3) for each in source.receive(wait=SECOND)]
    assert len(received) == 25
    assert source.remove(received) == 0
    assert queue.left() == 0


def test_a_delete_that_fails_within_a_good_answer_is_counted(queue: sqs.Queue) -> None:
    """Trap 13: the answer is 200, and says of one that it is still there."""
    queue.put([json.dumps(event("Send"))] * 2)
    source = queue.source()
    received = list(source.receive(wait=SECOND))
    stale = Received("x", "no handle", Unreadable())
    assert source.remove([*received, stale]) == 1
    assert queue.left() == 0


def test_a_queue_that_is_not_there_is_an_error_of_ours(queue: sqs.Queue) -> None:
    source = queue.source()
    [queue.client.delete_queue(QueueUrl=url) for url in (queue.url, queue.dead_url)]
    for ask in (lambda: source.receive(wait=SECOND), lambda: source.remove([Received("x", "h", Unreadable())])):
        with pytest.raises(FeedError, match="NonExistentQueue"):
            ask()


def answering(status: int, body: bytes, kind: str = "application/x-amz-json-1.0") -> Any:
    def serve(connection: socket.socket) -> bytes:
        connection.settimeout(60)
        asked = whole(connection)
        head = (
            f"HTTP/1.1 {status} X\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        )
        connection.sendall(head.encode() + body)
        return asked

    return serve


def source_at(port: int, **how: Any) -> EventQueue:
    url = f"http://127.0.0.1:{port}/123456789012/events"
    client = ses.connect_to_queue(url, region="eu-west-1", connections=1, endpoint=url[: url.index("/1", 8)])
    return EventQueue(client, url, **how)


def dripping(connection: socket.socket) -> bytes:
    """Answer byte by byte, for long; return whether anybody read that to its end."""
    began = time.monotonic()
    whole(connection)
    with contextlib.suppress(OSError):
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")
        while time.monotonic() - began < 20:
            connection.sendall(b" ")
            time.sleep(0.05)
        return b"read on"
    return b"closed"


@pytest.mark.slow
@pytest.mark.parametrize("what", ["receive", "remove", "keep"])
def test_an_answer_that_comes_byte_by_byte_is_given_up_and_its_connection_closed(what: str) -> None:
    """One such answer must not be all that a worker ever hears of its mails."""
    received = [Received("x", "h", Unreadable())]
    with listening(dripping) as (port, seen):
        source = source_at(port, within=SECOND)
        ask: dict[str, Callable[[], object]] = {
            "receive": lambda: source.receive(wait=SECOND),
            "remove": lambda: source.remove(received),
            "keep": lambda: source.keep(received),
        }
        with pytest.raises(FeedError, match="CallTimeoutError"):
            ask[what]()
        eventually(lambda: seen == [b"closed"], "nobody reads on")


def test_an_answer_with_ten_messages_of_a_mebibyte_is_read() -> None:
    messages = [{"MessageId": str(n), "ReceiptHandle": "h", "Body": "x" * 2**20} for n in range(10)]
    with listening(answering(200, json.dumps({"Messages": messages}).encode())) as (port, _):
        assert len(source_at(port).receive(wait=SECOND)) == 10


DENIED = b'{"__type": "com.amazonaws.sqs#AccessDeniedException", "message": "ada@example.com may not"}'


@pytest.mark.parametrize(
    ("status", "body", "said"),
    [
        (403, DENIED, "AccessDeniedException"),
        (400, b'{"__type": "com.amazonaws.sqs#OverLimit"}', "OverLimit"),
        (403, b"<html>gesperrt f\xfcr ada@example.com", "403"),
        (403, b'"ada@example.com may not"', "403"),
        (200, b'{"Messages": 7}', "UnreadableAnswer"),
        (200, b"[" * 100_000, "UnreadableAnswer"),
    ],
)
def test_whatever_is_answered_is_an_error_of_ours_that_quotes_nothing(status: int, body: bytes, said: str) -> None:
    with listening(answering(status, body)) as (port, _), pytest.raises(FeedError, match=said) as raised:
        source_at(port).receive(wait=SECOND)
    assert "example" not in str(raised.value)
    assert str(raised.value).isprintable()


@pytest.mark.parametrize(
    "odd",
    [
        {"Body": "x"},
        {"MessageId": "m", "ReceiptHandle": "h"},
        {"MessageId": "m", "ReceiptHandle": "h", "Body": '{"Type": []}'},
        {"MessageId": "m", "ReceiptHandle": "h", "Body": '{"Type": {"a": 1}}'},
        {"MessageId": "a\nb", "ReceiptHandle": "", "Body": None},
        {},
        None,
    ],
    ids=json.dumps,
)
def test_one_odd_message_costs_the_others_nothing(odd: Any) -> None:
    """None of them could be deleted otherwise, and all would come again."""
    good = {"MessageId": "1", "ReceiptHandle": "g", "Body": json.dumps(event("Send"))}
    with listening(answering(200, json.dumps({"Messages": [odd, good]}).encode())) as (port, seen):
        source = source_at(port)
        received = source.receive(wait=SECOND)
        assert [type(each.holds) for each in received if each.handle == "g"] == [Event]
        assert all(each.holds == Unreadable() and each.id.isprintable() for each in received if each.handle != "g")
        eventually(lambda: seen, "what was asked is noted")


def test_what_came_without_a_handle_is_left_and_the_others_are_deleted() -> None:
    received = [Received("x", "", Unreadable()), Received("y", "g", Unreadable())]
    with listening(answering(200, b"{}")) as (port, seen):
        source = source_at(port)
        assert source.remove(received) == 1
        source.keep(received)
        assert source.remove(received[:1]) == 1  # asks nobody
        source.keep(received[:1])
        eventually(lambda: len(seen) == 2, "what was asked is noted")
    for one in seen:
        assert [each["ReceiptHandle"] for each in json.loads(one.split(b"\r\n\r\n")[1])["Entries"]] == ["g"]


@pytest.mark.parametrize("refused", ["receive", "remove", "keep"])
def test_what_follows_a_refusal_is_asked_with_the_credentials_of_now(
    queue: sqs.Queue, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, refused: str
) -> None:
    """They are rewritten in their file, whatever was asked with the old ones last."""
    set_aws(monkeypatch, tmp_path)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    with sqs_front.before(queue.endpoint) as front:
        monkeypatch.setenv("MAILROOM_EVENTS_QUEUE_URL", queue.url.replace(queue.endpoint, front.url))
        monkeypatch.setenv("AWS_REGION", sqs.REGION)
        (tmp_path / "credentials").write_text("[default]\naws_access_key_id = OLD\naws_secret_access_key = s\n")
        queue.put([json.dumps(event("Send"))])
        source = open_events(settings.load())
        received = source.receive(wait=SECOND)
        ask: dict[str, Callable[[], object]] = {
            "receive": lambda: source.receive(wait=SECOND),
            "remove": lambda: source.remove(received),
            "keep": lambda: source.keep(received),
        }
        front.key = "NEW"
        with pytest.raises(FeedError, match="AccessDenied"):
            ask[refused]()
        (tmp_path / "credentials").write_text("[default]\naws_access_key_id = NEW\naws_secret_access_key = s\n")
        assert source.remove(received) == 0
        assert source.receive(wait=SECOND) == []


def test_nobody_there_is_an_error_of_ours() -> None:
    with pytest.raises(FeedError, match="EndpointConnectionError"):
        source_at(closed_port()).receive(wait=SECOND)


def test_what_is_asked_is_what_sqs_advises() -> None:
    with listening(answering(200, b"{}")) as (port, seen):
        assert source_at(port).receive(wait=MAX_WAIT) == []
        eventually(lambda: seen, "what was asked is noted")
    asked = json.loads(seen[0].split(b"\r\n\r\n")[1])
    del asked["QueueUrl"]
    assert asked == {
        "MaxNumberOfMessages": 10,
        "WaitTimeSeconds": 10,
        "VisibilityTimeout": 30,
        "MessageSystemAttributeNames": ["ApproximateReceiveCount"],
    }


def test_the_client_waits_longer_than_the_poll_and_tries_again() -> None:
    config: Any = ses.connect_to_queue(
        "https://sqs.eu-west-1.amazonaws.com/1/q", region=None, connections=1
    ).meta.config
    assert config.read_timeout > MAX_WAIT.total_seconds() + 5
    assert config.retries == {"mode": "standard", "total_max_attempts": 3}


@pytest.mark.parametrize(
    ("url", "region"),
    [
        ("https://sqs.eu-west-1.amazonaws.com/123456789012/q", "eu-west-1"),
        ("https://sqs.cn-north-1.amazonaws.com.cn/123456789012/q", "cn-north-1"),
        ("https://sqs-fips.us-gov-west-1.amazonaws.com/123456789012/q", "us-gov-west-1"),
        ("https://sqs.eu-west-1.api.aws/123456789012/q", "eu-west-1"),
        ("https://eu-west-1.queue.amazonaws.com/123456789012/q", "eu-west-1"),
        ("https://vpce-1-a.sqs.eu-west-1.vpce.amazonaws.com/123456789012/q", "eu-west-1"),
        ("http://127.0.0.1:5000/123456789012/q", None),
        ("https://example.com/sqs.eu-west-1.amazonaws.com/q", None),
    ],
)
def test_the_region_is_the_queues(url: str, region: str | None) -> None:
    assert region_of(url) == region


def test_the_region_of_the_queue_goes_before_that_of_ses() -> None:
    client = ses.connect_to_queue("https://sqs.eu-west-1.amazonaws.com/1/q", region="us-east-1", connections=1)
    assert client.meta.region_name == "eu-west-1"


def test_without_any_region_it_is_said_what_to_set() -> None:
    with pytest.raises(SettingsError, match=r"SQS cannot be used: .*AWS_REGION"):
        ses.connect_to_queue("http://127.0.0.1:1/1/q", region=None, connections=1)
