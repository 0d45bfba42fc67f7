"""An SQS that is not ours: moto's, as a server on this machine; and queues on it."""

import contextlib
import itertools
import json
import logging
import threading
from collections.abc import Callable, Iterable, Iterator
from datetime import timedelta
from typing import Any
from unittest import mock

import boto3
from moto.server import ThreadedMotoServer
from moto.sqs.models import Queue as KeptByMoto
from moto.sqs.models import SQSBackend
from mypy_boto3_sqs import SQSClient

from mailroom import ses
from mailroom.ses.event_queue import EventQueue

REGION = "eu-west-1"
SECOND = timedelta(seconds=1)
AWS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_EC2_METADATA_DISABLED": "true"}
_numbers = itertools.count()


@contextlib.contextmanager
def _one_at_a_time() -> Iterator[None]:
    """Have moto do one thing at a time with its messages, as it takes for granted that it does, except while it waits.

    Else of two that receive at once one sets aside what the other has just been given, or is answered with a 500.
    """
    held = threading.RLock()

    def alone(asked: Callable[..., Any]) -> Callable[..., Any]:
        def ask(*given: Any, **named: Any) -> Any:
            with held:
                return asked(*given, **named)

        return ask

    def let_go(wait: Callable[..., Any]) -> Callable[..., Any]:
        def ask(*given: Any, **named: Any) -> Any:
            held.release()
            try:
                return wait(*given, **named)
            finally:
                held.acquire()

        return ask

    with contextlib.ExitStack() as stack:
        for owner, name in (
            (SQSBackend, "receive_message"),
            (SQSBackend, "change_message_visibility"),
            (KeptByMoto, "delete_message"),
            (KeptByMoto, "add_message"),
        ):
            stack.enter_context(mock.patch.object(owner, name, alone(getattr(owner, name))))
        stack.enter_context(mock.patch.object(KeptByMoto, "wait_for_messages", let_go(KeptByMoto.wait_for_messages)))
        yield


@contextlib.contextmanager
def running() -> Iterator[str]:
    """The URL of a server of its own."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # a line for each request
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    with _one_at_a_time():
        server.start()
        host, port = server.get_host_and_port()
        try:
            yield f"http://{host}:{port}"
        finally:
            server.stop()


class Queue:
    """A queue with a dead-letter queue of its own, and a client that fills it and looks into both."""

    def __init__(self, endpoint: str, **attributes: str) -> None:
        with mock.patch.dict("os.environ", AWS):
            self.client: SQSClient = boto3.client("sqs", region_name=REGION, endpoint_url=endpoint)
        name = f"events-{next(_numbers)}"
        self.endpoint = endpoint
        self.dead_url = self.client.create_queue(QueueName=f"{name}-dead")["QueueUrl"]
        arn = f"arn:aws:sqs:{REGION}:123456789012:{name}-dead"
        redrive = {"RedrivePolicy": json.dumps({"deadLetterTargetArn": arn, "maxReceiveCount": "3"})}
        made: Any = {"VisibilityTimeout": "60"} | redrive | attributes
        self.url = self.client.create_queue(QueueName=name, Attributes=made)["QueueUrl"]
        self.hidden = timedelta(seconds=int(made["VisibilityTimeout"]))

    def set_aside_after(self, receives: int) -> None:
        """Have the dead-letter queue take what has been received that often."""
        arn = f"arn:aws:sqs:{REGION}:123456789012:{self.dead_url.rpartition('/')[2]}"
        redrive = json.dumps({"deadLetterTargetArn": arn, "maxReceiveCount": str(receives)})
        self.client.set_queue_attributes(QueueUrl=self.url, Attributes={"RedrivePolicy": redrive})

    def put(self, bodies: Iterable[str]) -> None:
        """Send messages, ten at a time."""
        left = list(bodies)
        while left:
            some, left = left[:10], left[10:]
            entries: Any = [{"Id": str(place), "MessageBody": body} for place, body in enumerate(some)]
            self.client.send_message_batch(QueueUrl=self.url, Entries=entries)

    def left(self, *, dead: bool = False) -> int:
        """How many messages are in it: to be received, or in somebody's hand.

        They are counted one after the other, so one that goes from the second to the first meanwhile is in neither: of
        two answers the larger one has it.
        """
        return max(self._counted(dead=dead) for _ in range(2))

    def _counted(self, *, dead: bool) -> int:
        names: Any = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
        url = self.dead_url if dead else self.url
        found = self.client.get_queue_attributes(QueueUrl=url, AttributeNames=names)["Attributes"]
        return sum(int(found[name]) for name in names)

    def show(self, handle: str) -> None:
        """Let a message that was received be there for everybody again, as if the time were over that it is hidden."""
        self.client.change_message_visibility(QueueUrl=self.url, ReceiptHandle=handle, VisibilityTimeout=0)

    def source(self, *, connections: int = 5) -> EventQueue:
        """What the worker reads it with; it hides what it gives for as long as the queue would."""
        with mock.patch.dict("os.environ", AWS):
            client = ses.connect_to_queue(self.url, region=REGION, connections=connections, endpoint=self.endpoint)
        return EventQueue(client, self.url, hidden=self.hidden)
