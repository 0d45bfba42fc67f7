"""The whole of the simulator as one web application: SES, its pages, and its own interface."""

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from mailroom.simulator import endpoint
from mailroom.simulator.control import Control
from mailroom.simulator.inbox import Inbox
from mailroom.simulator.ses import Ses


def application(ses: Ses) -> Starlette:
    routes = [*endpoint.routes(ses), *Control(ses).routes(), *Inbox(ses.ledger).routes()]
    return Starlette(routes=routes, exception_handlers={404: _unknown, 405: _unknown})


def _unknown(request: Request, _: Exception) -> Response:
    message = f"The simulator has nothing at {request.method} {request.url.path}"
    headers = {"x-amzn-ErrorType": "UnknownOperationException"}
    return JSONResponse({"message": message}, status_code=404, headers=headers)
