"""Serves /livez, /readyz and /metrics of a process over HTTP. It reads memory alone, and takes nothing but GET."""

import contextlib
import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final
from urllib.parse import urlsplit

from mailroom.errors import MailroomError
from mailroom.worker.metrics import CONTENT_TYPE
from mailroom.worker.probes import Check, passed

log = logging.getLogger(__name__)

# How long a client may say nothing, and how many may be here at once: the oldest leaves for the next.
CLIENT_SECONDS: Final = 5.0
MAX_CLIENTS: Final = 32
# How long a client waits whom nobody can receive, since no file descriptor is left.
REST: Final = 0.1
PLAIN: Final = "text/plain; charset=utf-8"

Probe = Callable[[], Sequence[Check]]
Answer = tuple[HTTPStatus, str, bytes]


class Probes:
    """What each path is answered with."""

    def __init__(self, *, live: Probe, ready: Probe, metrics: Callable[[], bytes]) -> None:
        self._probes = {"/livez": live, "/readyz": ready}
        self._metrics = metrics

    def answer(self, target: str) -> Answer:
        """Return the answer to a GET. Of a query only the word `verbose` is known."""
        asked = urlsplit(target)
        if asked.path == "/metrics":
            return HTTPStatus.OK, CONTENT_TYPE, self._metrics()
        probe = self._probes.get(asked.path)
        if probe is None:
            return HTTPStatus.NOT_FOUND, PLAIN, b"not found: /livez, /readyz, /metrics\n"
        checks = probe()
        fine = passed(checks)
        words = [_line(check) for check in checks] if asked.query == "verbose" else []
        body = "\n".join([*words, "ok" if fine else "failed", ""])
        return HTTPStatus.OK if fine else HTTPStatus.SERVICE_UNAVAILABLE, PLAIN, body.encode()


@contextlib.contextmanager
def serving(probes: Probes, host: str, port: int) -> Iterator[int]:
    """Serve for as long as the block lasts, and give the port, which is another one if 0 was asked for.

    Raises MailroomError if that address cannot be had.
    """
    try:
        server = _Server(probes, host, port)
    except OSError as error:
        raise MailroomError(f"no probes on {_address(host, port)}: {error.strerror}") from error
    except UnicodeError as error:  # of the name's encoding, for the DNS
        raise MailroomError(f"no probes on {_address(host, port)}: it is no name of a host") from error
    bound: int = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, name="probes", daemon=True)
    thread.start()
    log.info("probes address=%s", _address(host, bound))
    try:
        yield bound
    finally:
        server.shutdown()
        server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = MAX_CLIENTS

    def __init__(self, probes: Probes, host: str, port: int) -> None:
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self.probes = probes
        self._lock = threading.Lock()
        self._here: dict[int, socket.socket] = {}  # the oldest first
        super().__init__((host, port), _Handler)

    def server_bind(self) -> None:
        """Bind, without asking anybody for the name of the host."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()

    def get_request(self) -> Any:
        """Receive a client, who is still there if that fails: so who asks again at once would ask without end."""
        try:
            return super().get_request()
        except OSError:
            time.sleep(REST)
            raise

    def process_request(self, request: Any, client_address: Any) -> None:
        """Leave the oldest where too many are here.

        Who holds connections open must not cost threads, nor keep a probe out, for which a worker would be killed.
        """
        self._leave(MAX_CLIENTS - 1)
        with self._lock:
            self._here[id(request)] = request
        super().process_request(request, client_address)

    def _leave(self, kept: int) -> None:
        with self._lock:
            over = [self._here.pop(key) for key in list(self._here)[: max(0, len(self._here) - kept)]]
        for request in over:
            with contextlib.suppress(OSError):  # it has just left
                request.shutdown(socket.SHUT_RDWR)  # its thread reads the end, and ends

    def shutdown_request(self, request: Any) -> None:
        """End with a client, however that went."""
        with self._lock:
            self._here.pop(id(request), None)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: a client that goes away is nobody's fault."""


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    timeout = CLIENT_SECONDS
    server_version = "mailroom"
    sys_version = ""
    error_message_format = "%(code)d %(message)s\n"
    error_content_type = PLAIN

    def do_GET(self) -> None:
        status, kind, body = self.server.probes.answer(self.path)
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.end_headers()
        self.wfile.write(body)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Say the number alone: what was wrong with a request is in its own words, which are anybody's."""
        super().send_error(code)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - http.server's name
        """Log nothing: a probe each second would be most of the log."""


def _line(check: Check) -> str:
    return f"[{'+' if check.passed else '-'}] {check.name}: {check.found}"


def _address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
