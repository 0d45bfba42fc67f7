"""The window as a server of its own: of this machine alone, unless one insists and there is a login."""

import contextlib
import ipaddress
import socket
import threading
from collections.abc import Callable, Iterator

import uvicorn
from starlette.types import ASGIApp

from mailroom import signals
from mailroom.errors import SettingsError

# How long a request that is under way may take when the window is asked to stop.
GRACE_SECONDS = 3


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


@contextlib.contextmanager
def serving(application: ASGIApp, listener: socket.socket) -> Iterator[None]:
    """Answer in a thread, from `with` to its end. Who asks is who connects: no header of a proxy says otherwise."""
    config = uvicorn.Config(
        application,
        ws="none",
        lifespan="off",
        log_config=None,
        log_level="error",
        access_log=False,
        proxy_headers=False,
        server_header=False,
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
    stopped = threading.Event()
    with signals.answered_by(stopped.set), serving(application, listener):
        ready()
        stopped.wait()
