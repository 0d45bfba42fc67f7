"""The socket the simulator listens on: of this machine alone, unless one insists."""

import ipaddress
import socket
from typing import Any

from mailroom.errors import SettingsError


def listen(host: str, port: int, *, allow_remote: bool) -> socket.socket:
    """A listening socket, on port 0 with any free port; `SettingsError` if it cannot or must not be."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        if not allow_remote and not ipaddress.ip_address(address[0]).is_loopback:
            raise SettingsError(f"the simulator listens on loopback addresses only, and {host} is none")
        # With its protocol named, for asyncio switches Nagle's delay (40 ms an answer) off only then.
        return _bound(socket.socket(family, kind, protocol), address)
    except OSError as error:
        raise SettingsError(f"cannot listen on {host} port {port}: {error.strerror}") from error
    except UnicodeError as error:  # of the name's encoding, for the DNS
        raise SettingsError(f"cannot listen on {host} port {port}: it is no name of a host") from error


def _bound(listener: socket.socket, address: Any) -> socket.socket:
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(2048)
    except OSError:
        listener.close()
        raise
    return listener
