"""Who may look through a window of its own: everybody on this machine, who has the password, whom a proxy knows."""

import base64
import hashlib
import hmac
import ipaddress
import threading
import time
from collections.abc import Callable, Sequence
from typing import Final

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from mailroom.window.rights import ACT, LOOK, Right, Visitor

__all__ = ["ACT", "LOOK", "Login", "Right"]

MAX_TRIES: Final = 8
TRIES_SECONDS: Final = 60.0
# Of how many peers wrong tries are kept, each a few bytes. While there are so many, every other peer waits.
MAX_PEERS: Final = 10_000
MAX_NAME: Final = 64
ASKS: Final = 'Basic realm="mailroom", charset="UTF-8"'

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Clock = Callable[[], float]


class Tries:
    """The wrong passwords of the last minute, by where they came from."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._wrong: dict[str, list[float]] = {}
        self._lock = threading.Lock()

    def too_many(self, peer: str) -> bool:
        """Whether this peer has to wait, since it was wrong so often, or so many others are that none can be told."""
        with self._lock:
            self._forget()
            full = peer not in self._wrong and len(self._wrong) >= MAX_PEERS
            return full or len(self._wrong.get(peer, ())) >= MAX_TRIES

    def note(self, peer: str) -> None:
        """Note a wrong password."""
        with self._lock:
            self._wrong.setdefault(peer, []).append(self._clock())

    def _forget(self) -> None:
        since = self._clock() - TRIES_SECONDS
        kept = {peer: [at for at in tries if at > since] for peer, tries in self._wrong.items()}
        self._wrong = {peer: tries for peer, tries in kept.items() if tries}


class Login:
    """Says who asks. Without a password and without a trusted header everybody may: for loopback alone.

    `header` is one that a proxy at one of `peers` sets, once it knows who asks. X-Forwarded-For says where a wrong
    password came from. From elsewhere both say nothing.
    """

    def __init__(
        self,
        right: Right,
        *,
        password: str = "",
        header: str = "",
        peers: Sequence[Network] = (),
        clock: Clock = time.monotonic,
    ) -> None:
        self._right = right
        self._password = password
        self._header = header
        self._peers = peers
        self._tries = Tries(clock)

    def __call__(self, request: Request) -> Visitor | Response:
        """Return who asks, or what is answered to whom nothing is shown."""
        peer = _without_mapping(request.client.host if request.client else "")
        names = request.headers.getlist(self._header) if self._header and self._is_trusted(peer) else []
        if len(names) > 1:  # one may be of whoever asks, and the proxy has left it there
            return _answer(403, "Who are you?")
        if names and names[0]:
            return self._visitor(_as_text(names[0]))
        if self._password:
            return self._logged_in(request, _network(self._where(request, peer)))
        return _answer(403, "Who are you?") if self._header else self._visitor("somebody here")

    def _where(self, request: Request, peer: str) -> str:
        """Return where a request comes from: through proxies at `peers` the next one on its way, else who connects."""
        way = ",".join(request.headers.getlist("x-forwarded-for")).split(",")
        for before in map(_without_mapping, map(str.strip, reversed(way))):
            if not (self._is_trusted(peer) and _is_address(before)):
                break
            peer = before
        return peer

    def _is_trusted(self, peer: str) -> bool:
        try:
            address = ipaddress.ip_address(peer)
        except ValueError:
            return False
        return any(address in network for network in self._peers)

    def _logged_in(self, request: Request, peer: str) -> Visitor | Response:
        """Let in whoever has the password; the name that comes with it may be any."""
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "basic":
            return _answer(401, "Who are you?", {"WWW-Authenticate": ASKS})
        if self._tries.too_many(peer):
            words = "Too many wrong passwords came from there. Wait a minute."
            return _answer(429, words, {"Retry-After": str(int(TRIES_SECONDS))})
        try:
            name, _, password = base64.b64decode(given, validate=True).decode().partition(":")
        except ValueError:
            name, password = "", ""
        if hmac.compare_digest(_digest(password), _digest(self._password)):
            return self._visitor(name or "somebody")
        self._tries.note(peer)
        return _answer(401, "Who are you?", {"WWW-Authenticate": ASKS})

    def _visitor(self, name: str) -> Visitor:
        return Visitor(name[:MAX_NAME], self._right)


def _answer(status: int, words: str, headers: dict[str, str] | None = None) -> Response:
    return PlainTextResponse(f"{words}\n", status_code=status, headers=headers)


def _digest(words: str) -> bytes:
    return hashlib.sha256(words.encode()).digest()


def _as_text(header: str) -> str:
    """Return what a proxy has written in UTF-8, as most do; what is none stays in the letters of ISO 8859-1."""
    try:
        return header.encode("latin-1").decode()
    except UnicodeError:
        return header


def _without_mapping(peer: str) -> str:
    """Return the address of IPv4 that a socket of IPv6 shows as ::ffff:192.0.2.1; any other as it is."""
    try:
        mapped = ipaddress.IPv6Address(peer).ipv4_mapped
    except ValueError:
        return peer
    return peer if mapped is None else str(mapped)


def _is_address(words: str) -> bool:
    try:
        return bool(ipaddress.ip_address(words))
    except ValueError:
        return False


def _network(peer: str) -> str:
    """Return where somebody is: of IPv6 the network, since each has more addresses than could be counted."""
    try:
        address = ipaddress.ip_address(peer)
    except ValueError:
        return peer
    return peer if address.version == 4 else str(ipaddress.ip_network(f"{address}/64", strict=False))
