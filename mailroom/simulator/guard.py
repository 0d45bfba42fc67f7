"""Keeps web pages out: what listens on loopback can be reached by every page that a browser of this machine shows."""

import ipaddress
import re
import socket
from typing import Final

from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

HARMLESS: Final = {"GET", "HEAD", "OPTIONS"}
# What a page may send anywhere without asking first.
SIMPLE: Final = {"application/x-www-form-urlencoded", "multipart/form-data", "text/plain"}
CONTROL: Final = "/_simulator/"


class Guard:
    """Answers only who names a host of ours (a page that rebinds its own name does not), and no other site's pages.

    SDKs say nothing of an origin, and pass.
    """

    def __init__(self, application: ASGIApp, *, host: str, allow_remote: bool) -> None:
        self._application = application
        self._names = {"localhost", host.lower(), *({socket.gethostname().lower()} if allow_remote else ())}
        self._allow_remote = allow_remote

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        refused = self._refusal(scope["method"], scope["path"], Headers(scope=scope))
        answer = PlainTextResponse(f"{refused}\n", status_code=403) if refused else self._application
        await answer(scope, receive, send)

    def _refusal(self, method: str, path: str, headers: Headers) -> str | None:
        host = headers.get("host", "")
        if not self._is_ours(host):
            return "This simulator answers under loopback names and the one that it was given"
        if method in HARMLESS and headers.get("sec-fetch-mode", "navigate") == "navigate":
            return None  # a link may lead here
        foreign = headers.get("sec-fetch-site", "none") not in {"none", "same-origin"}
        if foreign or headers.get("origin", f"http://{host}") != f"http://{host}":
            return "A page of another site reads and changes nothing here"
        if path.startswith(CONTROL) and headers.get("content-type", "").partition(";")[0].strip().lower() in SIMPLE:
            return "What changes the simulator is application/json"
        return None

    def _is_ours(self, host: str) -> bool:
        """Whether a Host header names this machine. Nobody rebinds an address, so from afar any address will do."""
        name = re.sub(r":[0-9]*$", "", host).strip("[]").lower()
        if name in self._names:
            return True
        try:
            return ipaddress.ip_address(name).is_loopback or self._allow_remote
        except ValueError:
            return False
