"""The window as a server of its own: of this machine alone, unless one insists and there is a login."""

import asyncio
import contextlib
import ipaddress
import itertools
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Final

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from mailroom import signals
from mailroom.errors import SettingsError

# How long a request that is under way may take when the window is asked to stop.
GRACE_SECONDS: Final = 3
# How long a client may say nothing, and how many may be here at once: the oldest leaves for the next.
CLIENT_SECONDS: Final = 5
MAX_CLIENTS: Final = 128


def listen(host: str, port: int, *, allow_remote: bool) -> socket.socket:
    """Return a listening socket, on port 0 with any free port. Raises SettingsError if it cannot or must not be."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except (OSError, UnicodeError):
        raise SettingsError(f"cannot listen on {host}: it is no name of a host") from None
    if not allow_remote and not ipaddress.ip_address(address[0]).is_loopback:
        raise SettingsError(f"the window listens on loopback addresses only, and {host} is none: see --allow-remote")
    found = socket.socket(family, kind, protocol)
    try:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind(address)
        found.listen(128)
    except OSError as error:
        found.close()
        raise SettingsError(f"cannot listen on {host} port {port}: {error.strerror}") from error
    return found


def url(listener: socket.socket) -> str:
    """Return the address of the page."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"


# In which order clients have come.
_numbers = itertools.count()


class _Client(H11Protocol):
    """A connection that ends if no request comes: who holds many open must keep neither people nor probes out.

    uvicorn ends one that is silent after an answer. Here so does one that is before its first request, or in one.
    """

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as in uvicorn
        super().connection_made(transport)
        self.number = next(_numbers)
        others = [each for each in self.connections if isinstance(each, _Client) and each is not self]
        if len(others) >= MAX_CLIENTS:
            oldest = min(others, key=lambda each: (each.is_answered(), each.number))
            self.connections.discard(oldest)
            oldest.transport.abort()
        self._wait_for_a_request()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._wait_for_a_request()

    def is_answered(self) -> bool:
        """Whether a request is under way."""
        return self.cycle is not None and not self.cycle.response_complete

    def _wait_for_a_request(self) -> None:
        if self.timeout_keep_alive_task is None and not self.is_answered():
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )


@contextlib.contextmanager
def serving(application: ASGIApp, listener: socket.socket) -> Iterator[None]:
    """Answer in a thread, from `with` to its end. Who asks is who connects: no header of a proxy says otherwise."""
    config = uvicorn.Config(
        application,
        http=_Client,
        ws="none",
        lifespan="off",
        log_config=None,
        log_level="error",
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_keep_alive=CLIENT_SECONDS,
        timeout_graceful_shutdown=GRACE_SECONDS,
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, args=([listener],), name="window", daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.should_exit = True
        thread.join()


def serve(application: ASGIApp, listener: socket.socket, *, ready: Callable[[], None]) -> None:
    """Answer until a signal asks to stop; call `ready` once it does. For the main thread only."""
    stopped = signals.Stop()
    with signals.answered_by(stopped.set), serving(application, listener):
        ready()
        stopped.wait()
