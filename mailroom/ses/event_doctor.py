"""What can be wrong on the way of events, from the configuration set to the queue, each with its remedy."""

import json
import time
from collections.abc import Callable, Iterable, Iterator
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

from mailroom.finding import Finding, failed, ok, warning
from mailroom.ses import classify, network
from mailroom.ses.account import MAX_ANSWER
from mailroom.ses.event_queue import MAX_ANSWER_BYTES

if TYPE_CHECKING:
    from mypy_boto3_sesv2 import SESV2Client
    from mypy_boto3_sqs import SQSClient

DESTINATION: Final = "event destination"
QUEUE: Final = "events queue"
DEAD: Final = "dead-letter queue"
# What mailroom acts on or shows; and what would carry links, and so secrets, through queues and logs.
WANTED: Final = ("SEND", "DELIVERY", "BOUNCE", "COMPLAINT", "REJECT", "RENDERING_FAILURE", "DELIVERY_DELAY")
UNWANTED: Final = ("OPEN", "CLICK")
# SQS keeps nothing longer.
MAX_RETENTION: Final = timedelta(days=14)
MIN_RECEIVES: Final = 5
# An event that has waited longer says that nobody reads, or not fast enough.
OLD: Final = timedelta(minutes=15)
# A receipt handle that is of no message: who may not delete is told so before that.
_NO_HANDLE: Final = "mailroom-doctor"
_GONE: Final = {"AWS.SimpleQueueService.NonExistentQueue", "QueueDoesNotExist", "NotFoundException"}


def examine_events(ses: "SESV2Client", sqs: "SQSClient", *, config_set: str, url: str) -> list[Finding]:
    """Check what the configuration set publishes, and the queue that it comes through."""
    return [
        *_checked(DESTINATION, "ses:GetConfigurationSetEventDestinations", lambda: _destination(ses, config_set)),
        *_checked(QUEUE, "sqs:GetQueueAttributes", lambda: _queue(sqs, url)),
        *_checked(QUEUE, "sqs:ReceiveMessage", lambda: _oldest(sqs, url)),
        *_checked(QUEUE, "sqs:DeleteMessage", lambda: _deletable(sqs, url)),
    ]


def _checked(name: str, permission: str, check: Callable[[], Iterable[Finding]]) -> list[Finding]:
    """Make a check, or say what keeps it from being made."""
    try:
        return network.with_deadline(lambda: list(check()), within=MAX_ANSWER, max_answer=MAX_ANSWER_BYTES)
    except network.FailedError as error:
        if error.code in _GONE:
            return [failed(name, "does not exist", "docs/feedback.md makes it; or unset MAILROOM_EVENTS_QUEUE_URL")]
        if error.code in classify.DENIALS:
            return [_refused(name, permission)]
        return [failed(name, f"could not be asked: {error.code}", "check network, region, credentials and endpoint")]


def _refused(name: str, permission: str) -> Finding:
    message = f"these credentials lack {permission}"
    if permission in {"sqs:ReceiveMessage", "sqs:DeleteMessage"}:
        return failed(name, f"{message}: no event is read", f"allow {permission}: docs/feedback.md has the policy")
    return warning(name, f"{message}, and it was not checked", f"allow {permission}, or look by hand")


def _destination(client: "SESV2Client", config_set: str) -> Iterator[Finding]:
    if not config_set:
        message = "there is no configuration set, and so no event of any mail"
        yield failed(DESTINATION, message, "name one in MAILROOM_SES_CONFIG_SET")
        return
    answer: Any = client.get_configuration_set_event_destinations(ConfigurationSetName=config_set)
    enabled = [each for each in answer.get("EventDestinations", []) if each.get("Enabled")]
    ours = [each for each in enabled if each.get("SnsDestination") or each.get("EventBridgeDestination")]
    if not ours:
        message = f"{config_set} has none that is enabled and leads to SNS or EventBridge"
        yield failed(DESTINATION, message, "docs/feedback.md makes one")
        return
    published = {kind for each in ours for kind in each.get("MatchingEventTypes", [])}
    tracked = sorted({kind for each in enabled for kind in each.get("MatchingEventTypes", [])} & set(UNWANTED))
    missing = [kind for kind in WANTED if kind not in published]
    if tracked:
        message = f"publishes {', '.join(tracked)}: a click carries the link, and so the token"
        yield warning(DESTINATION, message, "remove them from its event types")
    if missing:
        message = f"does not publish {', '.join(missing)}"
        yield warning(DESTINATION, message, "add them to the event types of one destination")
    if not tracked and not missing:
        yield ok(DESTINATION, f"{config_set} publishes all that is read, and no clicks")


def _queue(client: "SQSClient", url: str) -> Iterator[Finding]:
    found = _attributes(client, url)
    yield ok(QUEUE, f"is there, about {int(found['ApproximateNumberOfMessages'])} events wait")
    redrive = json.loads(found.get("RedrivePolicy", "{}"))
    if "deadLetterTargetArn" not in redrive:
        yield warning(DEAD, "there is none: what cannot be read comes again for days", "docs/feedback.md makes one")
        return
    if int(redrive.get("maxReceiveCount", 0)) < MIN_RECEIVES:
        message = f"an event goes there after {redrive.get('maxReceiveCount')} attempts"
        yield warning(DEAD, message, f"set maxReceiveCount to 10, and not below {MIN_RECEIVES}")
    name = str(redrive["deadLetterTargetArn"]).rpartition(":")[2]
    dead_url = f"{url.rpartition('/')[0]}/{name}"
    retention = _seconds(found, "MessageRetentionPeriod")
    yield from _checked(DEAD, "sqs:GetQueueAttributes", lambda: _dead(client, dead_url, retention))


def _dead(client: "SQSClient", url: str, retention: timedelta) -> Iterator[Finding]:
    """Check the dead-letter queue. There, too, the age of a message counts from when it was first sent."""
    found = _attributes(client, url)
    dead, kept = int(found["ApproximateNumberOfMessages"]), _seconds(found, "MessageRetentionPeriod")
    if kept <= retention and kept < MAX_RETENTION:
        message = f"keeps messages for {kept.days} days, and the queue for {retention.days}: it loses what comes late"
        yield warning(DEAD, message, f"set its MessageRetentionPeriod to {MAX_RETENTION.days} days")
    if dead:
        message = f"holds {dead} messages that nobody could read"
        yield warning(DEAD, message, "look at them, then move them back or purge it: docs/feedback.md")
    else:
        yield ok(DEAD, "is there, and empty")


def _oldest(client: "SQSClient", url: str) -> Iterator[Finding]:
    """Look at an event without taking it away. SQS does not tell which is the oldest: any that is old says enough."""
    answer: Any = client.receive_message(
        QueueUrl=url,
        MaxNumberOfMessages=1,
        VisibilityTimeout=0,
        WaitTimeSeconds=1,
        MessageSystemAttributeNames=["SentTimestamp"],
    )
    for message in answer.get("Messages", []):
        age = timedelta(seconds=time.time() - int(message["Attributes"]["SentTimestamp"]) / 1000)
        if age > OLD:
            words = f"an event has waited for {age.total_seconds() / 3600:.1f} hours"
            yield warning(QUEUE, words, "run a worker with MAILROOM_EVENTS_QUEUE_URL, or `mailroom events` from cron")
    yield ok(QUEUE, "may be read")


def _deletable(client: "SQSClient", url: str) -> Iterator[Finding]:
    client.delete_message_batch(QueueUrl=url, Entries=[{"Id": "0", "ReceiptHandle": _NO_HANDLE}])
    yield ok(QUEUE, "what is read may be deleted")


def _attributes(client: "SQSClient", url: str) -> dict[str, str]:
    answer: Any = client.get_queue_attributes(QueueUrl=url, AttributeNames=["All"])
    found: dict[str, str] = answer["Attributes"]
    return found


def _seconds(attributes: dict[str, str], name: str) -> timedelta:
    return timedelta(seconds=int(attributes[name]))
