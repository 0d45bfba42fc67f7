"""Keeps other sites out of the window, and tells the browser what its pages may do."""

import ipaddress
import re
from collections.abc import Collection
from typing import Final

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

HARMLESS: Final = {"GET", "HEAD"}
LOOPBACK: Final = frozenset({"localhost"})
# What all answers carry. Nothing is kept by a browser or a proxy, framed, or loaded from elsewhere.
HEADERS: Final = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self';"
    " img-src 'self' data:; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


class Guard:
    """Answers only who names a host of ours, and no other site's pages.

    A page that rebinds its own name to this machine is same-origin to the browser, and is told by its Host. `names`
    None: whoever mounts the window has seen to that. With `any_address` an address is good too: nobody rebinds one.
    """

    def __init__(self, application: ASGIApp, *, names: Collection[str] | None, any_address: bool) -> None:
        self._application = application
        self._names = None if names is None else {each for name in names for each in (name.lower(), _as_sent(name))}
        self._any_address = any_address

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._application(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        refused = self._refusal(scope["method"], Headers(scope=scope))
        answer = PlainTextResponse(f"{refused[1]}\n", status_code=refused[0]) if refused else self._application
        await answer(scope, receive, send_with_headers)

    def _refusal(self, method: str, headers: Headers) -> tuple[int, str] | None:
        """Return the status and the words with which a request is refused, if it is."""
        host = headers.get("host", "")
        if not self._is_ours(host):
            return 400, "This window does not answer under that name. See mailroom window --help: --name."
        if not (_reads(headers) if method in HARMLESS else _is_own_form(headers, host)):
            return 403, "A page of another site reads and changes nothing here."
        return None

    def _is_ours(self, host: str) -> bool:
        if self._names is None:
            return True
        name = re.sub(r":[0-9]*$", "", host).strip("[]").lower()
        if name in self._names:
            return True
        try:
            return ipaddress.ip_address(name).is_loopback or self._any_address
        except ValueError:
            return False


def _as_sent(name: str) -> str:
    """Return a name with other letters than ASCII as a browser puts it into Host."""
    try:
        return name.lower().encode("idna").decode()
    except UnicodeError:  # it is no name, and nobody ever asks under it
        return name.lower()


def is_asked_here(headers: Headers) -> bool:
    """Whether a request comes from a page of ours, or from nobody's page: not by a link on another one."""
    return headers.get("sec-fetch-site", "none") in {"none", "same-origin"}


def _reads(headers: Headers) -> bool:
    """Whether a request may read: links from elsewhere may lead here, and programs may ask; other pages may not."""
    return is_asked_here(headers) or headers.get("sec-fetch-mode") == "navigate"


def _is_own_form(headers: Headers, host: str) -> bool:
    """Whether a request that changes something comes from a page of ours. `same-site` is another port or name."""
    site = headers.get("sec-fetch-site")
    if site is not None:
        return site == "same-origin"
    return headers.get("origin", "").partition("://")[2] == host != ""
