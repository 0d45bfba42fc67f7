"""The operations of SQS that a consumer needs, as strict as SQS is."""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import urlsplit

from mailroom.simulator.events import ACCOUNT
from mailroom.simulator.queues import RETENTION_SECONDS, Message, Queue, Queues, Received
from mailroom.simulator.shapes import ShapeError

MAX_ENTRIES: Final = 10  # SQS: at most 10 entries a batch, and 10 messages a receive
MAX_WAIT_SECONDS: Final = 20  # SQS
MAX_VISIBILITY_SECONDS: Final = 43_200  # SQS: 12 hours
MAX_DELAY_SECONDS: Final = 900  # SQS
MAX_MESSAGE_BYTES: Final = 1024 * 1024  # SQS: a message is at most 1 MiB
_ENTRY_ID: Final = re.compile(r"[A-Za-z0-9_-]{1,80}")
_NOT_XML: Final = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")

# How SQS called its errors before it spoke JSON; boto3 knows them by these.
QUERY_CODES: Final[Mapping[str, str]] = {
    "QueueDoesNotExist": "AWS.SimpleQueueService.NonExistentQueue",
    "TooManyEntriesInBatchRequest": "AWS.SimpleQueueService.TooManyEntriesInBatchRequest",
    "EmptyBatchRequest": "AWS.SimpleQueueService.EmptyBatchRequest",
    "BatchEntryIdsNotDistinct": "AWS.SimpleQueueService.BatchEntryIdsNotDistinct",
    "InvalidBatchEntryId": "AWS.SimpleQueueService.InvalidBatchEntryId",
}
REASONS: Final[Mapping[str, str]] = {
    "ReceiptHandleIsInvalid": "The input receipt handle is invalid.",
    "InvalidParameterValue": "Message does not exist or is not available for visibility timeout change.",
    "MessageNotInflight": "The message is not in flight.",
}


class SqsError(Exception):
    """An error answer of SQS."""

    def __init__(self, name: str, message: str, status: int | None = None) -> None:
        super().__init__(f"{name}: {message}")
        self.name = name
        self.message = message
        self.status = status or 400

    @property
    def query_error(self) -> str:
        return f"{QUERY_CODES.get(self.name, self.name)};{'Sender' if self.status < 500 else 'Receiver'}"

    @property
    def body(self) -> bytes:
        return json.dumps({"__type": f"com.amazonaws.sqs#{self.name}", "message": self.message}).encode()


@dataclass(frozen=True, slots=True)
class QueueCall:
    """A call whose members fit the model; `refused` are the entries that a fault makes fail, by position."""

    members: Mapping[str, Any]
    url: str
    """Where the simulator was asked."""
    refused: Mapping[int, str] = field(default_factory=dict)


def wrong_shape(error: ShapeError) -> SqsError:
    """What SQS says to a request that its model does not allow."""
    if error.rule.startswith("lacks"):
        return SqsError("MissingParameter", f"The request must contain the parameter {error.rule[6:]}.")
    if error.path[:1] == ("AttributeNames",):
        return SqsError("InvalidAttributeName", f"Unknown Attribute. {error}")
    return SqsError("InvalidParameterValue", str(error))


def check_range(members: Mapping[str, Any], name: str, least: int, most: int) -> int | None:
    value: int | None = members.get(name)
    if value is not None and not least <= value <= most:
        raise SqsError(
            "InvalidParameterValue",
            f"Value {value} for parameter {name} is invalid. Reason: Must be between {least} and {most}, if provided.",
        )
    return value


def find_queue(queues: Queues, url: str) -> Queue:
    """The queue of this URL, whatever host it names; of another account, none."""
    account, _, name = urlsplit(url).path.strip("/").partition("/")
    if not urlsplit(url).scheme or not name:
        raise SqsError("InvalidAddress", f"The address {url} is not valid for this endpoint.", 404)
    queue = queues.find(name) if account == ACCOUNT else None
    if queue is None:
        raise _no_queue()
    return queue


def get_queue_url(queues: Queues, call: QueueCall) -> Mapping[str, Any]:
    owner = call.members.get("QueueOwnerAWSAccountId", ACCOUNT)
    if owner != ACCOUNT or queues.find(call.members["QueueName"]) is None:
        raise _no_queue()
    return {"QueueUrl": queue_url(call.url, call.members["QueueName"])}


def queue_url(simulator_url: str, name: str) -> str:
    return f"{simulator_url}/{ACCOUNT}/{name}"


def send_message(queues: Queues, call: QueueCall) -> Mapping[str, Any]:
    queue = find_queue(queues, call.members["QueueUrl"])
    body = call.members["MessageBody"]
    delay = check_range(call.members, "DelaySeconds", 0, MAX_DELAY_SECONDS) or 0
    if not body:
        raise SqsError("MissingParameter", "The request must contain the parameter MessageBody.")
    if _NOT_XML.search(body):
        raise SqsError("InvalidMessageContents", "Invalid characters found. Valid characters are those of XML 1.0.")
    if len(body.encode()) > MAX_MESSAGE_BYTES:
        raise SqsError(
            "InvalidParameterValue",
            f"One or more parameters are invalid. Reason: Message must be shorter than {MAX_MESSAGE_BYTES} bytes.",
        )
    message = Message(body)
    queue.put(message, delay=delay)
    return {"MessageId": message.id, "MD5OfMessageBody": _md5(body)}


def check_receive(queues: Queues, call: QueueCall) -> Queue:
    """The queue to receive from; every member is checked before anything is waited for."""
    queue = find_queue(queues, call.members["QueueUrl"])
    check_range(call.members, "MaxNumberOfMessages", 1, MAX_ENTRIES)
    check_range(call.members, "VisibilityTimeout", 0, MAX_VISIBILITY_SECONDS)
    check_range(call.members, "WaitTimeSeconds", 0, MAX_WAIT_SECONDS)
    return queue


def receive_message(queues: Queues, call: QueueCall) -> Mapping[str, Any]:
    """What can be seen now; who waits for it is the endpoint. The member is absent where there is nothing."""
    queue = check_receive(queues, call)
    limit = call.members.get("MaxNumberOfMessages", 1)
    received = queue.receive(limit, call.members.get("VisibilityTimeout"))
    wanted = {*call.members.get("AttributeNames", ()), *call.members.get("MessageSystemAttributeNames", ())}
    return {"Messages": [_received(one, wanted) for one in received]} if received else {}


def delete_message_batch(queues: Queues, call: QueueCall) -> Mapping[str, Any]:
    queue = find_queue(queues, call.members["QueueUrl"])

    def delete(entry: Mapping[str, Any]) -> str | None:
        return None if queue.delete(entry["ReceiptHandle"]) else "ReceiptHandleIsInvalid"

    return _each(call, delete)


def change_message_visibility_batch(queues: Queues, call: QueueCall) -> Mapping[str, Any]:
    queue = find_queue(queues, call.members["QueueUrl"])

    def change(entry: Mapping[str, Any]) -> str | None:
        seconds = entry.get("VisibilityTimeout", -1)
        if not 0 <= seconds <= MAX_VISIBILITY_SECONDS:
            return "InvalidParameterValue"
        return queue.hide_for(entry["ReceiptHandle"], seconds)

    return _each(call, change)


def get_queue_attributes(queues: Queues, call: QueueCall) -> Mapping[str, Any]:
    """Those that are asked for; with none, none."""
    queue = find_queue(queues, call.members["QueueUrl"])
    wanted = set(call.members.get("AttributeNames", ()))
    attributes = {name: value for name, value in _attributes(queue).items() if wanted & {name, "All"}}
    return {"Attributes": attributes} if attributes else {}


def _each(call: QueueCall, act: Callable[[Mapping[str, Any]], str | None]) -> Mapping[str, Any]:
    """Do it for every entry; `act` returns the code of what is wrong with one."""
    entries = call.members["Entries"]
    _check_entries(entries)
    successful, failed = [], []
    for position, entry in enumerate(entries):
        code = call.refused.get(position) or act(entry)
        if code is None:
            successful.append({"Id": entry["Id"]})
        else:
            blame = code != "InternalError"
            reason = REASONS.get(code, "A fault was asked for.")
            failed.append({"Id": entry["Id"], "SenderFault": blame, "Code": code, "Message": reason})
    return {"Successful": successful, "Failed": failed}


def _check_entries(entries: Sequence[Mapping[str, Any]]) -> None:
    if not entries:
        raise SqsError("EmptyBatchRequest", "There should be at least one entry in the request.")
    if len(entries) > MAX_ENTRIES:
        message = f"Maximum number of entries per request are {MAX_ENTRIES}. You have sent {len(entries)}."
        raise SqsError("TooManyEntriesInBatchRequest", message)
    if not all(_ENTRY_ID.fullmatch(entry["Id"]) for entry in entries):
        raise SqsError("InvalidBatchEntryId", "An Id is 1 to 80 letters, digits, hyphens and underscores.")
    [(repeated, times)] = Counter(entry["Id"] for entry in entries).most_common(1)
    if times > 1:
        raise SqsError("BatchEntryIdsNotDistinct", f"Id {repeated} repeated.")


def _received(one: Received, wanted: set[str]) -> Mapping[str, Any]:
    message = one.message
    known = {
        "SenderId": ACCOUNT,
        "SentTimestamp": str(message.sent_at_ms),
        "ApproximateReceiveCount": str(one.receives),
        "ApproximateFirstReceiveTimestamp": str(message.received_at_ms),
        **({"DeadLetterQueueSourceArn": message.source_arn} if message.source_arn else {}),
    }
    attributes = {name: value for name, value in known.items() if wanted & {name, "All"}}
    return {
        "MessageId": message.id,
        "ReceiptHandle": one.handle,
        "MD5OfBody": _md5(one.body),
        "Body": one.body,
        **({"Attributes": attributes} if attributes else {}),
    }


def _attributes(queue: Queue) -> dict[str, str]:
    visible, in_flight, delayed = queue.counts()
    dead = queue.dead_letters
    redrive = {"deadLetterTargetArn": dead.arn, "maxReceiveCount": queue.settings.max_receives} if dead else None
    return {
        "QueueArn": queue.arn,
        "ApproximateNumberOfMessages": str(visible),
        "ApproximateNumberOfMessagesNotVisible": str(in_flight),
        "ApproximateNumberOfMessagesDelayed": str(delayed),
        "CreatedTimestamp": str(queue.created_at),
        "LastModifiedTimestamp": str(queue.created_at),
        "VisibilityTimeout": str(int(queue.settings.visibility_seconds)),
        "MaximumMessageSize": str(MAX_MESSAGE_BYTES),
        "MessageRetentionPeriod": str(RETENTION_SECONDS),
        "DelaySeconds": "0",
        "ReceiveMessageWaitTimeSeconds": "0",
        **({"RedrivePolicy": json.dumps(redrive)} if redrive else {}),
    }


def _md5(body: str) -> str:
    return hashlib.md5(body.encode(), usedforsecurity=False).hexdigest()


def _no_queue() -> SqsError:
    return SqsError("QueueDoesNotExist", "The specified queue does not exist.")


PERFORM: Final[Mapping[str, Callable[[Queues, QueueCall], Mapping[str, Any]]]] = {
    "GetQueueUrl": get_queue_url,
    "SendMessage": send_message,
    "ReceiveMessage": receive_message,
    "DeleteMessageBatch": delete_message_batch,
    "ChangeMessageVisibilityBatch": change_message_visibility_batch,
    "GetQueueAttributes": get_queue_attributes,
}
