"""The window as a server of its own, and requests to it as they are, with no browser in between."""

import base64
import contextlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from email.message import Message
from http.client import HTTPConnection
from typing import Any
from urllib.parse import urlencode, urlsplit

from sqlalchemy import Engine

from mailroom.window import ACT, LOOK, application, server
from mailroom.window.login import Login
from mailroom.window.rights import May

PATIENCE_SECONDS = 120
SAME_ORIGIN = {"Sec-Fetch-Site": "same-origin"}


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back."""

    status: int
    headers: Message
    text: str

    @property
    def json(self) -> Any:
        return json.loads(self.text)


class Window:
    """A window that answers at `url`."""

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        self.host = urlsplit(url).netloc

    def ask(
        self,
        path: str = "/",
        method: str = "GET",
        body: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        with contextlib.closing(HTTPConnection(self.host, timeout=PATIENCE_SECONDS)) as connection:
            connection.request(method, path, body, dict(headers or {}))
            response = connection.getresponse()
            return Answer(response.status, response.headers, response.read().decode())

    def post(self, path: str, headers: Mapping[str, str] = SAME_ORIGIN, **form: str) -> Answer:
        sent = {"Content-Type": "application/x-www-form-urlencoded", **headers}
        return self.ask(path, "POST", urlencode(form), sent)


def basic(name: str, password: str) -> dict[str, str]:
    """The header with which a browser logs in."""
    return {"Authorization": f"Basic {base64.b64encode(f'{name}:{password}'.encode()).decode()}"}


@contextlib.contextmanager
def opened(engine: Engine, *, actions: Engine | None = None, may: May | None = None, **more: Any) -> Iterator[Window]:
    """A window of this machine, as `mailroom window` opens it; `may` says who is let in, else everybody is."""
    names = more.pop("names", {"localhost"})
    let_in = may or Login(ACT if actions else LOOK)
    made = application(engine, may=let_in, actions=actions, names=names, **more)
    with server.listen("127.0.0.1", 0, allow_remote=False) as listener, server.serving(made, listener):
        yield Window(server.url(listener))
