"""SES over HTTP: one ASGI application per operation, which can also hang, drop and truncate."""

import asyncio
import uuid
from collections.abc import Callable

from starlette.requests import ClientDisconnect, Request
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from mailroom.simulator.answers import Answer, answer
from mailroom.simulator.call import Arrival
from mailroom.simulator.operations import PERFORM
from mailroom.simulator.service import Operation, operation
from mailroom.simulator.ses import Ses


class Endpoint:
    """One operation of SES."""

    def __init__(self, ses: Ses, operation: Operation) -> None:
        self._ses = ses
        self._operation = operation

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            arrival = await self._read(Request(scope, receive))
        except ClientDisconnect:
            return
        answered, publish = answer(self._ses, arrival)
        await deliver(answered, scope, receive, send, then=publish)

    async def _read(self, request: Request) -> Arrival:
        return Arrival(
            operation=self._operation,
            path=request.path_params,
            query=request.query_params.multi_items(),
            body=await request.body(),
            invocation_id=request.headers.get("amz-sdk-invocation-id"),
        )


def routes(ses: Ses) -> list[Route]:
    """The routes of all operations, as the service model gives them."""
    operations = [operation(name) for name in PERFORM]
    return [Route(_path(one.path), Endpoint(ses, one), methods=[one.method]) for one in operations]


def _path(template: str) -> str:
    """Return the path for Starlette. The local part of an address may have a slash in it."""
    return template.replace("{EmailAddress}", "{EmailAddress:path}")


async def deliver(
    answered: Answer, scope: Scope, receive: Receive, send: Send, *, then: Callable[[], None] = lambda: None
) -> None:
    """Give the client its answer, or what a fault leaves of it. Ends when the client is gone or the server stops.

    `then` is called when the client has got all that it gets, and if it went away before.
    """
    try:
        if answered.latency_seconds and await gone(receive, answered.latency_seconds):
            return
        if answered.answered:
            await _write(answered, send)
    finally:
        then()
    if answered.delivery not in {"whole", "hang"}:
        scope["state"]["transport"].close()
    if answered.delivery != "whole":
        await gone(receive)


async def _write(answered: Answer, send: Send) -> None:
    cut = answered.delivery != "whole"
    body = answered.body[: len(answered.body) // 2] if cut else answered.body
    headers = [(b"content-type", answered.media_type.encode()), (b"x-amzn-requestid", str(uuid.uuid4()).encode())]
    if answered.delivery != "unended":  # without a length it goes out in chunks
        headers.append((b"content-length", str(len(answered.body)).encode()))
    if answered.error:
        headers.append((b"x-amzn-errortype", answered.error.encode()))
    if answered.query_error:
        headers.append((b"x-amzn-query-error", answered.query_error.encode()))
    await send({"type": "http.response.start", "status": answered.status, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": cut})


async def gone(receive: Receive, seconds: float | None = None) -> bool:
    """Wait for the client to go away; False if it is still there after that many seconds."""
    try:
        async with asyncio.timeout(seconds):
            while (await receive())["type"] != "http.disconnect":
                pass
    except TimeoutError:
        return False
    return True
