"""What stands in front of an SES simulator: TLS, whose handshakes can stall, and a look at the key of each request."""

import contextlib
import re
import select
import socket
import ssl
import subprocess
import threading
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

from tests.machine import missing

_KEY = re.compile(rb"^authorization:.*?\bCredential=([^/]+)/", re.IGNORECASE | re.MULTILINE)
_LENGTH = re.compile(rb"^content-length: *([0-9]+)", re.IGNORECASE | re.MULTILINE)
# After so long in one step of a connection it is given up: its client is frozen or gone.
_PATIENCE_SECONDS = 60


def certify(folder: Path) -> Path:
    """Make a self-signed certificate for 127.0.0.1 with its key; return the file that holds both."""
    key, file = folder / "key.pem", folder / "certificate.pem"
    kind = ("-x509", "-nodes", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256")
    name = ("-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1")
    try:
        subprocess.run(["openssl", "req", *kind, *name, "-keyout", key, "-out", file], check=True, capture_output=True)
    except FileNotFoundError:
        missing("openssl")
    file.write_bytes(key.read_bytes() + file.read_bytes())
    return file


class Front:
    """Leads to the simulator at a URL; `url` leads through it."""

    def __init__(self, simulator: str, certificate: Path) -> None:
        found = urlsplit(simulator)
        self._target = (found.hostname, found.port)
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(certificate)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"https://127.0.0.1:{self._listener.getsockname()[1]}"
        self._keys: dict[str, str] = {}
        self._talking = threading.Event()
        self._talking.set()
        self._ended = threading.Event()
        self._threads = [threading.Thread(target=self._run)]

    def stall(self) -> None:
        """From now on new connections are made, and nothing is said on them: not even a handshake."""
        self._talking.clear()

    def resume(self) -> None:
        """Go on with those connections, also where nobody waits for that any more."""
        self._talking.set()

    def refuse(self, key: str, *, code: str) -> None:
        """From now on every request that is signed with this key is answered with 403 and this code."""
        self._keys[key] = code

    def __enter__(self) -> Self:
        self._threads[0].start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self._ended.set()
        self._talking.set()
        for thread in self._threads:
            thread.join()
        self._listener.close()

    def _run(self) -> None:
        while not self._ended.is_set():
            ready, _, _ = select.select([self._listener], [], [], 0.05)
            if self._talking.wait(0.05) and ready:
                thread = threading.Thread(target=self._serve, args=self._listener.accept()[:1])
                self._threads.append(thread)
                thread.start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):  # either side is gone
            connection.settimeout(_PATIENCE_SECONDS)
            with (
                self._context.wrap_socket(connection, server_side=True) as client,
                socket.create_connection(self._target) as server,
            ):
                self._relay(client, server)

    def _relay(self, client: ssl.SSLSocket, server: socket.socket) -> None:
        """Pass on whole requests, and answers as they come, until one side ends."""
        held = b""
        while not self._ended.is_set():
            ready, _, _ = ([client], [], []) if client.pending() else select.select([client, server], [], [], 0.2)
            if server in ready:
                if not (answer := server.recv(65536)):
                    return
                client.sendall(answer)
            if client in ready:
                if not (asked := client.recv(65536)):
                    return
                held += asked
                while size := _whole(held):
                    self._pass(held[:size], client, server)
                    held = held[size:]

    def _pass(self, request: bytes, client: ssl.SSLSocket, server: socket.socket) -> None:
        key = _KEY.search(request)
        code = self._keys.get(key[1].decode()) if key else None
        if code is None:
            server.sendall(request)
            return
        body = b'{"message": "The security token included in the request is not valid"}'
        head = f"HTTP/1.1 403 Forbidden\r\nx-amzn-errortype: {code}\r\ncontent-length: {len(body)}\r\n\r\n"
        client.sendall(head.encode() + body)


def _whole(held: bytes) -> int:
    """How many bytes the first request has; 0 while it is not complete."""
    head, end, _ = held.partition(b"\r\n\r\n")
    length = _LENGTH.search(head)
    size = len(head) + len(end) + (int(length[1]) if length else 0)
    return size if end and len(held) >= size else 0
