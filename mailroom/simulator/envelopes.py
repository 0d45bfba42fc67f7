"""What an event comes in: SNS's envelope, none, or EventBridge's."""

import json
from collections.abc import Mapping
from typing import Any, Final, Literal

from mailroom.simulator.events import ACCOUNT, REGION

Envelope = Literal["wrapped", "raw", "eventbridge"]

DETAIL_TYPES: Final[Mapping[str, str]] = {
    "Send": "Email Sent",
    "Delivery": "Email Delivered",
    "Bounce": "Email Bounced",
    "Complaint": "Email Complaint Received",
    "Reject": "Email Rejected",
    "Rendering Failure": "Email Rendering Failed",
    "DeliveryDelay": "Email Delivery Delayed",
}


def enclose(event: Mapping[str, Any], envelope: Envelope, *, arn: str, uuid: str, now: str) -> str:
    """The body of the queue's message; `arn` is the topic's, `uuid` the notification's own id."""
    match envelope:
        case "raw":
            return json.dumps(event)
        case "wrapped":
            return json.dumps(_notification(event, arn, uuid, now))
        case "eventbridge":
            return json.dumps(_bridged(event, uuid, now))


def _notification(event: Mapping[str, Any], topic: str, uuid: str, now: str) -> dict[str, str]:
    host = f"https://sns.{REGION}.amazonaws.com"
    return {
        "Type": "Notification",
        "MessageId": uuid,
        "TopicArn": topic,
        "Subject": "Amazon SES Email Event Notification",
        "Message": json.dumps(event),
        "Timestamp": now,
        "SignatureVersion": "1",
        "Signature": "bm9ib2R5IGhhcyBzaWduZWQgdGhpcw==",
        "SigningCertURL": f"{host}/SimpleNotificationService-0000000000000000000000000000000.pem",
        "UnsubscribeURL": f"{host}/?Action=Unsubscribe&SubscriptionArn={topic}:{uuid}",
    }


def _bridged(event: Mapping[str, Any], uuid: str, now: str) -> dict[str, Any]:
    configuration_set = event["mail"]["tags"]["ses:configuration-set"][0]
    return {
        "version": "0",
        "id": uuid,
        "detail-type": DETAIL_TYPES[event["eventType"]],
        "source": "aws.ses",
        "account": ACCOUNT,
        "time": f"{now[:19]}Z",
        "region": REGION,
        "resources": [f"arn:aws:ses:{REGION}:{ACCOUNT}:configuration-set/{configuration_set}"],
        "detail": event,
    }
