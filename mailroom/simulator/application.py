"""The whole of the simulator as one web application: SES, SQS, its pages, and its own interface."""

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from mailroom.simulator import endpoint
from mailroom.simulator.control import Control
from mailroom.simulator.event_control import EventControl
from mailroom.simulator.guard import Guard
from mailroom.simulator.inbox import Inbox
from mailroom.simulator.ses import Ses
from mailroom.simulator.sqs_endpoint import SqsEndpoint


def application(ses: Ses, *, host: str, allow_remote: bool) -> Starlette:
    """The application, under the name or address `host`; with `allow_remote` under any address of this machine."""
    routes = [
        *endpoint.routes(ses),
        *SqsEndpoint(ses).routes(),
        *Control(ses).routes(),
        *EventControl(ses).routes(),
        *Inbox(ses).routes(),
    ]
    guard = Middleware(Guard, host=host, allow_remote=allow_remote)
    return Starlette(routes=routes, middleware=[guard], exception_handlers={404: _unknown, 405: _unknown})


def _unknown(request: Request, _: Exception) -> Response:
    message = f"The simulator has nothing at {request.method} {request.url.path}"
    headers = {"x-amzn-ErrorType": "UnknownOperationException"}
    return JSONResponse({"message": message}, status_code=404, headers=headers)
