"""A real boto3 client of the simulator's queues, and the events that come out of one."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

import boto3
from botocore.config import Config

from mailroom.simulator import Simulator
from tests.simulator.client import ONCE

EVERYTHING = ["SEND", "DELIVERY", "BOUNCE", "COMPLAINT", "REJECT", "RENDERING_FAILURE", "DELIVERY_DELAY"]


def connect_queue(url: str, config: Config = ONCE) -> Any:
    """SQS has no types among those that are installed."""
    return boto3.client(
        "sqs",
        endpoint_url=url,
        region_name="us-east-1",
        aws_access_key_id="nobody",
        aws_secret_access_key="nothing",
        config=config,
    )


def take(sqs: Any, url: str, *, wait: int = 0, **more: Any) -> list[dict[str, Any]]:
    """What one receive gives, at most ten."""
    answer = sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=10, WaitTimeSeconds=wait, **more)
    messages: list[dict[str, Any]] = answer.get("Messages", [])
    return messages


def drain(sqs: Any, ses: Simulator, count: int) -> list[dict[str, Any]]:
    """Receive until `count` messages have come, delete them, and return their bodies as JSON.

    Each time it waits as long as SQS lets anybody wait: that they come is what is meant, not when.
    """
    bodies: list[dict[str, Any]] = []
    while len(bodies) < count:
        messages = take(sqs, ses.events_queue_url, wait=20)
        assert messages, f"{len(bodies)} of {count} came"
        delete(sqs, ses.events_queue_url, messages)
        bodies += [json.loads(message["Body"]) for message in messages]
    assert take(sqs, ses.events_queue_url) == []
    return bodies


def delete(sqs: Any, url: str, messages: list[dict[str, Any]]) -> None:
    entries = [{"Id": str(place), "ReceiptHandle": one["ReceiptHandle"]} for place, one in enumerate(messages)]
    assert len(sqs.delete_message_batch(QueueUrl=url, Entries=entries)["Successful"]) == len(entries)


def events(sqs: Any, ses: Simulator, count: int) -> list[dict[str, Any]]:
    """So many events, out of the envelope of SNS."""
    return [json.loads(body["Message"]) for body in drain(sqs, ses, count)]


def types(told: list[dict[str, Any]]) -> list[str]:
    return [one["eventType"] for one in told]


def texts(value: object) -> Iterator[str]:
    """All strings in a JSON value."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from texts(item)
    elif isinstance(value, list):
        for item in value:
            yield from texts(item)
