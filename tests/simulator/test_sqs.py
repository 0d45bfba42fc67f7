"""The queues, asked by the real boto3: what SQS does and refuses, as far as a consumer of events can meet it."""

import contextlib
import gc
import json
import time
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from typing import Any
from urllib.parse import urlsplit

import pytest
from botocore.exceptions import ClientError

from mailroom.simulator import Fault, Simulator
from mailroom.simulator.queues import SLACK, Message, Queue
from tests.running import eventually
from tests.simulator.client import PATIENCE_SECONDS, ask
from tests.simulator.queue import connect_queue, delete, take


@pytest.fixture
def url(ses: Simulator) -> str:
    return ses.events_queue_url


def put(sqs: Any, url: str, *bodies: str) -> None:
    for body in bodies:
        sqs.send_message(QueueUrl=url, MessageBody=body)


def count(sqs: Any, url: str) -> tuple[int, int, int]:
    """How many wait, are in flight, and are delayed."""
    names = [f"ApproximateNumberOfMessages{which}" for which in ("", "NotVisible", "Delayed")]
    attributes = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=names)["Attributes"]
    waiting, in_flight, delayed = (int(attributes[name]) for name in names)
    return waiting, in_flight, delayed


def refused(act: Any, **members: Any) -> str:
    with pytest.raises(ClientError) as raised:
        act(**members)
    code: str = raised.value.response["Error"]["Code"]
    return code


def entries(*handles: str) -> list[dict[str, Any]]:
    return [{"Id": f"e{place}", "ReceiptHandle": handle} for place, handle in enumerate(handles)]


def test_a_message_goes_in_and_out_and_is_gone(ses: Simulator, sqs: Any, url: str) -> None:
    assert sqs.get_queue_url(QueueName="mailroom-events")["QueueUrl"] == url
    sent = sqs.send_message(QueueUrl=url, MessageBody="höllo")
    (message,) = take(sqs, url, MessageSystemAttributeNames=["ApproximateReceiveCount", "SentTimestamp"])
    assert (message["MessageId"], message["Body"]) == (sent["MessageId"], "höllo")
    assert message["MD5OfBody"] == sent["MD5OfMessageBody"]
    assert message["Attributes"].keys() == {"ApproximateReceiveCount", "SentTimestamp"}
    assert message["Attributes"]["ApproximateReceiveCount"] == "1"
    assert count(sqs, url) == (0, 1, 0)
    delete(sqs, url, [message])
    assert count(sqs, url) == (0, 0, 0)
    assert "Attributes" not in (take(sqs, url) or [{}])[0]


def test_messages_come_in_order_ten_at_most(ses: Simulator, sqs: Any, url: str) -> None:
    put(sqs, url, *map(str, range(12)))
    assert [message["Body"] for message in take(sqs, url)] == list(map(str, range(10)))
    assert len(sqs.receive_message(QueueUrl=url)["Messages"]) == 1
    assert count(sqs, url) == (1, 11, 0)


def test_a_receive_waits_and_wakes_at_once(ses: Simulator, sqs: Any, url: str) -> None:
    began = time.monotonic()
    assert take(sqs, url, wait=1) == []
    assert time.monotonic() - began >= 1
    queue = ses.queues["mailroom-events"]

    def put_once_it_waits() -> None:
        eventually(queue.is_watched)
        queue.put(Message("late"))

    began = time.monotonic()
    with ThreadPoolExecutor(1) as other:
        done = other.submit(put_once_it_waits)
        assert [message["Body"] for message in take(sqs, url, wait=20)] == ["late"]
        assert time.monotonic() - began < 20, "it has waited to its end"
        done.result()


def test_a_receive_wakes_for_what_comes_back_into_sight(ses: Simulator, sqs: Any, url: str) -> None:
    put(sqs, url, "again")
    take(sqs, url, VisibilityTimeout=1)
    (message,) = take(sqs, url, wait=20, MessageSystemAttributeNames=["All"])
    assert message["Attributes"]["ApproximateReceiveCount"] == "2"


def test_a_delayed_message_waits(ses: Simulator, sqs: Any, url: str) -> None:
    sqs.send_message(QueueUrl=url, MessageBody="much later", DelaySeconds=900)
    assert count(sqs, url) == (0, 0, 1)
    assert take(sqs, url) == []
    began = time.monotonic()
    sqs.send_message(QueueUrl=url, MessageBody="late", DelaySeconds=1)
    assert [message["Body"] for message in take(sqs, url, wait=20)] == ["late"]
    assert time.monotonic() - began >= 1


def test_only_the_newest_handle_deletes_and_an_old_one_only_seems_to(ses: Simulator, sqs: Any, url: str) -> None:
    put(sqs, url, "twice")
    (first,) = take(sqs, url, VisibilityTimeout=0)
    (second,) = take(sqs, url)
    delete(sqs, url, [first])
    assert count(sqs, url) == (0, 1, 0)
    delete(sqs, url, [second])
    assert count(sqs, url) == (0, 0, 0)
    delete(sqs, url, [second])  # gone already, which is as good


def test_a_bad_handle_fails_alone(ses: Simulator, sqs: Any, url: str) -> None:
    put(sqs, url, *map(str, range(9)))
    handles = [message["ReceiptHandle"] for message in take(sqs, url)]
    answer = sqs.delete_message_batch(QueueUrl=url, Entries=entries(*handles, "nonsense"))
    assert len(answer["Successful"]) == 9
    (failed,) = answer["Failed"]
    assert (failed["Id"], failed["Code"], failed["SenderFault"]) == ("e9", "ReceiptHandleIsInvalid", True)
    assert count(sqs, url) == (0, 0, 0)


def test_visibility_can_be_changed(ses: Simulator, sqs: Any, url: str) -> None:
    put(sqs, url, "a", "b")
    first, second = take(sqs, url)

    def change(message: dict[str, Any], seconds: int) -> dict[str, Any]:
        (one,) = entries(message["ReceiptHandle"])
        answer: dict[str, Any] = sqs.change_message_visibility_batch(
            QueueUrl=url, Entries=[one | {"VisibilityTimeout": seconds}]
        )
        return answer

    assert change(first, 0)["Successful"] == [{"Id": "e0"}]
    (again,) = take(sqs, url)
    assert again["Body"] == "a"
    assert change(first, 5)["Failed"][0]["Code"] == "MessageNotInflight"
    assert change(second, 43_201)["Failed"][0]["Code"] == "InvalidParameterValue"
    delete(sqs, url, [second])
    assert change(second, 5)["Failed"][0]["Code"] == "InvalidParameterValue"


def test_what_is_received_too_often_goes_to_the_dead_letter_queue(ses: Simulator, sqs: Any, url: str) -> None:
    assert ask(f"{ses.url}/_simulator/queues/mailroom-events", "PATCH", '{"max_receives": 3}').status == 200
    put(sqs, url, "poison")
    assert [len(take(sqs, url, VisibilityTimeout=0)) for _ in range(4)] == [1, 1, 1, 0]
    dead_url = sqs.get_queue_url(QueueName="mailroom-events-dead")["QueueUrl"]
    (dead,) = take(sqs, dead_url, MessageSystemAttributeNames=["All"])
    assert (dead["Body"], dead["Attributes"]["ApproximateReceiveCount"]) == ("poison", "4")
    assert dead["Attributes"]["DeadLetterQueueSourceArn"] == ses.queues["mailroom-events"].arn
    policy = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["RedrivePolicy"])["Attributes"]["RedrivePolicy"]
    assert '"maxReceiveCount": 3' in policy
    assert "mailroom-events-dead" in policy


@pytest.mark.parametrize("operation", ["delete_message_batch", "change_message_visibility_batch"])
def test_a_batch_has_one_to_ten_entries_with_ids_of_their_own(
    ses: Simulator, sqs: Any, url: str, operation: str
) -> None:
    act = getattr(sqs, operation)
    prefix = "AWS.SimpleQueueService."
    assert refused(act, QueueUrl=url, Entries=[]) == prefix + "EmptyBatchRequest"
    assert refused(act, QueueUrl=url, Entries=entries(*"abcdefghijk")) == prefix + "TooManyEntriesInBatchRequest"
    assert refused(act, QueueUrl=url, Entries=entries("a") * 2) == prefix + "BatchEntryIdsNotDistinct"
    assert refused(act, QueueUrl=url, Entries=[entries("a")[0] | {"Id": "a b"}]) == prefix + "InvalidBatchEntryId"


@pytest.mark.parametrize(
    "members",
    [
        {"MaxNumberOfMessages": 11},
        {"MaxNumberOfMessages": 0},
        {"WaitTimeSeconds": 21},
        {"VisibilityTimeout": -1},
        {"VisibilityTimeout": 43_201},
    ],
)
def test_a_receive_out_of_range_is_refused(ses: Simulator, sqs: Any, url: str, members: dict[str, int]) -> None:
    assert refused(sqs.receive_message, QueueUrl=url, **members) == "InvalidParameterValue"


def test_what_is_too_large_or_no_text_is_refused(ses: Simulator, sqs: Any, url: str) -> None:
    put(sqs, url, "x" * 1024 * 1024)
    assert refused(sqs.send_message, QueueUrl=url, MessageBody="x" * (1024 * 1024 + 1)) == "InvalidParameterValue"
    assert refused(sqs.send_message, QueueUrl=url, MessageBody="\x00") == "InvalidMessageContents"
    assert refused(sqs.send_message, QueueUrl=url, MessageBody="") == "MissingParameter"
    assert refused(sqs.send_message, QueueUrl=url, MessageBody="x", DelaySeconds=901) == "InvalidParameterValue"
    assert count(sqs, url) == (1, 0, 0)


def test_a_queue_that_is_not_there(ses: Simulator, sqs: Any, url: str) -> None:
    for other in (f"{url}x", url.replace("123456789012", "999999999999")):
        with pytest.raises(sqs.exceptions.QueueDoesNotExist):
            sqs.receive_message(QueueUrl=other)
    with pytest.raises(sqs.exceptions.QueueDoesNotExist):
        sqs.get_queue_url(QueueName="none")
    assert refused(sqs.receive_message, QueueUrl="mailroom-events") == "InvalidAddress"


def test_a_queue_can_go_and_come_back(ses: Simulator, sqs: Any, url: str) -> None:
    place = f"{ses.url}/_simulator/queues/mailroom-events"
    assert ask(place, "DELETE").status == 204
    with pytest.raises(sqs.exceptions.QueueDoesNotExist):
        take(sqs, url)
    assert ask(f"{place}?dead_letters=mailroom-events-dead", "PUT").json["dead_letters"] == "mailroom-events-dead"
    assert take(sqs, url) == []
    assert [queue["name"] for queue in ask(f"{ses.url}/_simulator/queues").json] == [
        "mailroom-events-dead",
        "mailroom-events",
    ]


def test_attributes_are_given_when_asked_for(ses: Simulator, sqs: Any, url: str) -> None:
    assert "Attributes" not in sqs.get_queue_attributes(QueueUrl=url)
    everything = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["All"])["Attributes"]
    assert everything["QueueArn"] == "arn:aws:sqs:us-east-1:123456789012:mailroom-events"
    assert everything["VisibilityTimeout"] == "60"
    with pytest.raises(sqs.exceptions.InvalidAttributeName):
        sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["Nonsense"])


def test_calls_to_a_queue_meet_the_faults_that_name_them(ses: Simulator, sqs: Any, url: str) -> None:
    put(sqs, url, "a", "b")
    ses.faults.add(
        Fault(error="MessageRejected"),
        Fault(operation="ReceiveMessage", error="AccessDenied", status=403),
        Fault(operation="DeleteMessageBatch", entries={0: "InternalError"}),
    )
    assert refused(sqs.receive_message, QueueUrl=url) == "AccessDenied"
    messages = take(sqs, url)
    answer = sqs.delete_message_batch(QueueUrl=url, Entries=entries(*[one["ReceiptHandle"] for one in messages]))
    assert [one["Code"] for one in answer["Failed"]] == ["InternalError"]
    assert [one["Id"] for one in answer["Successful"]] == ["e1"]
    assert count(sqs, url) == (0, 1, 0)
    assert [fault.error for fault in ses.faults.pending()] == ["MessageRejected"]


def test_an_answer_of_a_queue_can_be_lost_after_the_deed(ses: Simulator, sqs: Any, url: str) -> None:
    put(sqs, url, "a")
    ses.faults.add(Fault(operation="ReceiveMessage", accept_then="drop"))
    with pytest.raises(Exception, match="closed"):
        take(sqs, url)
    assert count(sqs, url) == (0, 1, 0)


def test_calls_to_queues_are_not_requests_to_ses(ses: Simulator, sqs: Any, url: str) -> None:
    put(sqs, url, "a")
    assert (ses.ledger.requests, ses.ledger.counts().requests) == ([], 0)


def test_above_its_limit_a_queue_drops_the_oldest() -> None:
    queue = Queue("small")
    queue.settings.max_messages = 3
    for number in range(10):
        queue.put(Message(str(number)))
    assert ([one.body for one in queue.receive(10)], queue.dropped) == (["7", "8", "9"], 7)
    assert queue.bodies() == ["7", "8", "9"]


def test_requests_that_no_sdk_would_send(ses: Simulator) -> None:
    assert ask(f"{ses.url}/", "POST", "{}").status == 404
    assert "UnknownOperation" in ask(f"{ses.url}/", "POST", "{}").text


def test_a_queue_that_nobody_reads_forgets_what_it_dropped() -> None:
    queue = Queue("small")
    queue.settings.max_messages = 10
    for number in range(20_000):
        queue.put(Message(str(number)))
    assert sum(type(thing) is Message for thing in gc.get_objects()) < 2 * SLACK
    assert [one.body for one in queue.receive(3)] == ["19990", "19991", "19992"]


def test_a_message_is_not_given_to_a_client_that_left(ses: Simulator, sqs: Any, url: str) -> None:
    queue = ses.queues["mailroom-events"]
    with contextlib.closing(HTTPConnection(urlsplit(url).netloc, timeout=PATIENCE_SECONDS)) as connection:
        asks = json.dumps({"QueueUrl": url, "WaitTimeSeconds": 20})
        connection.request("POST", "/", asks, {"X-Amz-Target": "AmazonSQS.ReceiveMessage"})
        eventually(queue.is_watched, "it waits")
    eventually(lambda: not queue.is_watched(), "it is known to be gone")
    put(sqs, url, "for somebody who is there")
    (message,) = take(sqs, url, MessageSystemAttributeNames=["ApproximateReceiveCount"])
    assert message["Attributes"]["ApproximateReceiveCount"] == "1"


def test_a_server_that_stops_ends_the_receives_that_wait() -> None:
    with ThreadPoolExecutor(1) as other, Simulator() as ses:
        waited = other.submit(_wait, connect_queue(ses.url), ses.events_queue_url)
        eventually(ses.queues["mailroom-events"].is_watched)
    assert waited.result() < 20, "it has waited to its end"


def _wait(sqs: Any, url: str) -> float:
    """Receive, and return how long that took."""
    began = time.monotonic()
    with contextlib.suppress(Exception):  # its connection is cut
        take(sqs, url, wait=20)
    return time.monotonic() - began
