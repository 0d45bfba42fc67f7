"""SQS over HTTP: one address for all of its operations, and a receive that waits for what comes."""

import asyncio
import json
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any, Final

from starlette.convertors import Convertor, register_url_convertor
from starlette.requests import ClientDisconnect, Request
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from mailroom.simulator.answers import Answer, distorted
from mailroom.simulator.endpoint import deliver, gone
from mailroom.simulator.faults import Fault
from mailroom.simulator.queues import Queue
from mailroom.simulator.service import operation
from mailroom.simulator.ses import Ses
from mailroom.simulator.shapes import ShapeError
from mailroom.simulator.sqs import PERFORM, QueueCall, SqsError, check_receive, wrong_shape

TARGET: Final = "AmazonSQS."
MEDIA_TYPE: Final = "application/x-amz-json-1.0"


class _Digits(Convertor[str]):
    """An account in a path. Starlette's `int` ends with an error where there are thousands of digits."""

    regex = "[0-9]{1,20}"

    def convert(self, value: str) -> str:
        return value

    def to_string(self, value: str) -> str:
        return value


register_url_convertor("digits", _Digits())


class SqsEndpoint:
    """The queues of one `Ses`."""

    def __init__(self, ses: Ses) -> None:
        self._ses = ses

    def routes(self) -> list[Route]:
        """Some SDKs ask at the address of the queue itself."""
        return [Route(path, self, methods=["POST"]) for path in ("/", "/{account:digits}/{queue}")]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        try:
            body = await request.body()
        except ClientDisconnect:
            return
        name = request.headers.get("x-amz-target", "").removeprefix(TARGET)
        url = f"http://{request.headers.get('host', '')}"
        answered = await self._answer(name, body, url, receive)
        if answered is not None:
            await deliver(replace(answered, media_type=MEDIA_TYPE), scope, receive, send)

    async def _answer(self, name: str, body: bytes, url: str, receive: Receive) -> Answer | None:
        """The answer; None for a client that went away while it waited."""
        fault = None
        try:
            if name not in PERFORM:
                raise SqsError("UnknownOperationException", f"The simulator has no operation {name!r} of SQS.", 404)
            call = QueueCall(_members(name, body), url)
            fault = self._ses.faults.draw(name, None, (), named=True)
            answered = await self._perform(name, call, fault, receive)
        except SqsError as error:
            answered = _of_error(error)
        if fault and answered:
            return replace(answered, latency_seconds=fault.latency_ms / 1000)
        return answered

    async def _perform(self, name: str, call: QueueCall, fault: Fault | None, receive: Receive) -> Answer | None:
        match fault:
            case Fault(before="hang" | "drop" as delivery):
                return Answer(0, b"", delivery=delivery)
            case Fault(error=str(), accept_then=None):
                raise _asked_for(fault)
        if name == "ReceiveMessage":
            queue = check_receive(self._ses.queues, call)
            if not await _something(queue, call.members.get("WaitTimeSeconds", 0), receive):
                return None
        members = PERFORM[name](self._ses.queues, replace(call, refused=fault.entries if fault else {}))
        if fault is None:
            return Answer.of(members)
        return _of_error(_asked_for(fault)) if fault.accept_then == "error" else distorted(members, fault)


def _members(name: str, body: bytes) -> Mapping[str, Any]:
    try:
        members: Mapping[str, Any] = json.loads(body or b"{}")
        operation(name, "sqs").check(members)
    except (ValueError, RecursionError) as error:
        raise SqsError("SerializationException", "The body is not JSON") from error
    except ShapeError as error:
        raise wrong_shape(error) from error
    return members


async def _something(queue: Queue, seconds: float, receive: Receive) -> bool:
    """Wait until the queue has a message to show, or for so long; False if the client is gone by then."""
    loop = asyncio.get_running_loop()
    ends = loop.time() + seconds
    left = asyncio.ensure_future(gone(receive)) if seconds else None
    try:
        while left is not None and queue.is_empty() and (remaining := ends - loop.time()) > 0:
            await _change(queue, remaining, left)
            if left.done():
                return False
    finally:
        if left is not None:
            left.cancel()
    return True


async def _change(queue: Queue, seconds: float, left: "asyncio.Future[bool]") -> None:
    """Wait until something may have come into sight, the client is gone, or the time is over."""
    loop = asyncio.get_running_loop()
    changed = loop.create_future()

    def wake() -> None:
        if not changed.done():
            changed.set_result(None)

    with queue.watched(partial(loop.call_soon_threadsafe, wake)):
        if queue.is_empty():
            due = queue.next_change_seconds()
            timeout = seconds if due is None else min(seconds, due + 0.001)
            await asyncio.wait({changed, left}, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)


def _asked_for(fault: Fault) -> SqsError:
    return SqsError(fault.error or "InternalError", fault.message, fault.status or (400 if fault.error else 500))


def _of_error(error: SqsError) -> Answer:
    return Answer(error.status, error.body, error.name, query_error=error.query_error)
