"""Who looks through the window, and what they may do there."""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Final, Literal

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

Right = Literal["look", "act"]
LOOK: Final = "look"
ACT: Final = "act"


@dataclass(frozen=True, slots=True)
class Visitor:
    """A person who may look, or act besides. The name is written to the log with all that they do."""

    name: str
    right: Right


# Says who asks: a visitor; an answer to give instead, as a way to a login; or None for whom nothing is shown. It is
# called in a thread, so it may ask a database.
May = Callable[[Request], Visitor | Response | None]


class Admission:
    """Lets in whom `may` knows. Nobody is asked on the way to what is `free`."""

    def __init__(self, application: ASGIApp, *, may: May, free: Collection[str]) -> None:
        self._application = application
        self._may = may
        self._free = free

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"].removeprefix(scope.get("root_path", "")) in self._free:
            await self._application(scope, receive, send)
            return
        request = Request(scope)
        found = await run_in_threadpool(self._may, request)
        if isinstance(found, Visitor):
            request.state.visitor = found
            await self._application(scope, receive, send)
        else:
            refusal = found or PlainTextResponse("This window is not for you.\n", status_code=403)
            await refusal(scope, receive, send)
