"""A TCP proxy that can go half-open: it keeps its connections, takes what is sent, and passes nothing on."""

import contextlib
import select
import socket
import threading
from types import TracebackType
from typing import Self

from psycopg.conninfo import conninfo_to_dict, make_conninfo


class HalfOpenProxy:
    """Stands in front of the server of a database URL; `url` leads through it."""

    def __init__(self, url: str) -> None:
        self.lead_to(url)
        self._listener = socket.create_server(("127.0.0.1", 0))
        # Whom it does not let through gives up as soon as anybody of mailroom does.
        self.url = make_conninfo(url, host="127.0.0.1", port=self._listener.getsockname()[1], connect_timeout=5)
        self.connections = 0
        self._flowing = threading.Event()
        self._flowing.set()
        self._ended = threading.Event()
        self._dropping = threading.Event()
        self._freezes_at: bytes | None = None
        self._frozen: list[socket.socket] = []
        self._thread = threading.Thread(target=self._run)

    def freeze(self) -> None:
        """From now on nothing passes on the connections there are, nor on new ones."""
        self._flowing.clear()

    def freeze_at(self, words: bytes) -> None:
        """Freeze as soon as these are sent; they do not pass any more."""
        self._freezes_at = words

    def thaw(self) -> None:
        """Let new connections through; those that were frozen stay so, for ever."""
        self._flowing.set()

    def part(self) -> None:
        """Close those that were frozen, too, and let new connections through: nobody waits on them any more."""
        self.thaw()
        for one in self._frozen:
            with contextlib.suppress(OSError):  # its other end is gone
                one.shutdown(socket.SHUT_RDWR)

    def lead_to(self, url: str) -> None:
        """Connect whoever comes from now on to another server."""
        given = conninfo_to_dict(url)
        self._target = (str(given["host"]), int(given["port"] or 5432))

    def drop(self) -> None:
        """Close all connections, and return once they are; new ones are let through."""
        self._dropping.set()
        while self._dropping.is_set() and self._thread.is_alive():
            self._ended.wait(0.01)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()
        self._listener.close()
        for one in self._frozen:
            one.close()

    def _run(self) -> None:
        pairs: dict[socket.socket, socket.socket] = {}
        while not self._ended.is_set():
            if not self._flowing.is_set():
                self._frozen += pairs  # neither read nor closed again
                pairs = {}
            if self._dropping.is_set():
                for one in pairs:
                    one.close()
                pairs = {}
                self._dropping.clear()
            ready, _, _ = select.select([self._listener, *pairs], [], [], 0.05)
            for source in ready:
                if source is self._listener:
                    self._accept(pairs)
                elif source in pairs and self._flowing.is_set():
                    self._pass(source, pairs)
        self._frozen += pairs

    def _accept(self, pairs: dict[socket.socket, socket.socket]) -> None:
        client, _ = self._listener.accept()
        try:
            server = socket.create_connection(self._target)
        except OSError:  # the server is down
            client.close()
            return
        pairs[client], pairs[server] = server, client
        self.connections += 1

    def _pass(self, source: socket.socket, pairs: dict[socket.socket, socket.socket]) -> None:
        data = b""
        with contextlib.suppress(OSError):
            data = source.recv(65536)
            if self._freezes_at is not None and self._freezes_at in data:
                self._freezes_at = None
                self.freeze()
                return
            if data:
                pairs[source].sendall(data)
        if not data:
            other = pairs.pop(source)
            pairs.pop(other, None)
            source.close()
            other.close()
