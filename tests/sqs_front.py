"""What stands before an SQS, and sees each request: it hands it on, refuses it, or leaves it without an answer."""

import contextlib
import threading
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Final

DENIED: Final = (
    b'{"__type": "com.amazon.coral.service#AccessDeniedException", "message": "User ada@example.com is not authorized"}'
)


class Front:
    """`url` is where it is. `refuses` all; `holds` requests of an operation: they are not handed on until `let_go`.

    `asked` is set, by operation, once such a request has come.
    """

    def __init__(self, endpoint: str) -> None:
        self.endpoint = endpoint
        self.refuses = False
        self.key = ""  # the access key that it takes; empty: any
        self.holds = ""
        self.let_go = threading.Event()
        self.asked = {name: threading.Event() for name in ("ReceiveMessage", "DeleteMessageBatch")}
        self.url = ""

    def answer(self, headers: dict[str, str], path: str, body: bytes) -> tuple[int, bytes]:
        operation = headers.get("X-Amz-Target", "").rpartition(".")[2]
        if operation in self.asked:
            self.asked[operation].set()
        if self.refuses or f"Credential={self.key}" not in headers.get("Authorization", ""):
            return 403, DENIED
        if operation == self.holds:
            self.let_go.wait()
            return 500, b"{}"
        kept = {name: value for name, value in headers.items() if name.lower() not in {"host", "connection"}}
        request = urllib.request.Request(self.endpoint + path, body, kept)  # noqa: S310 - a server of the test's own
        with urllib.request.urlopen(request) as answer:  # noqa: S310
            return answer.status, answer.read()


@contextlib.contextmanager
def before(endpoint: str) -> Iterator[Front]:
    front = Front(endpoint)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            status, answer = front.answer(dict(self.headers), self.path, body)
            with contextlib.suppress(OSError):  # whoever asked is gone
                self.send_response(status)
                self.send_header("Content-Type", "application/x-amz-json-1.0")
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

        def log_message(self, *_: object) -> None:
            """Nobody reads it."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        server.block_on_close = False
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        front.url = f"http://127.0.0.1:{server.server_address[1]}"
        try:
            yield front
        finally:
            front.let_go.set()
            server.shutdown()
            thread.join()
