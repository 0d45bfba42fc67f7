"""Requests as no browser makes them, and places that a window may be mounted at."""

import asyncio
import re
import socket
from typing import Any
from urllib.parse import quote

import pytest
from sqlalchemy import Engine
from starlette.applications import Starlette
from starlette.routing import Mount
from starlette.types import ASGIApp, Message

from mailroom.window import ACT, Visitor, application, server
from tests.running import eventually
from tests.window.client import Window, opened

EACH_SERVER = False


def may(_: object) -> Visitor:
    return Visitor("ada", ACT)


def asked(made: ASGIApp, path: str, *, query: bytes = b"", root_path: str = "") -> tuple[int, dict[bytes, bytes], str]:
    """The answer to a request as any ASGI server hands it over: not all of them refuse what h11 does."""
    scope: dict[str, Any] = {"type": "http", "method": "GET", "path": root_path + path, "root_path": root_path}
    scope |= {"query_string": query, "headers": [(b"host", b"shop.example")], "client": ("192.0.2.1", 1)}
    told: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Message) -> None:
        told.append(message)

    async def ask() -> None:
        await made(scope, receive, send)

    asyncio.run(ask())
    body = b"".join(message.get("body", b"") for message in told)
    return told[0]["status"], dict(told[0]["headers"]), body.decode()


@pytest.mark.parametrize("path", ["/", "/record", "/held", "/account", "/no/such/page"])
def test_bytes_in_a_query_that_are_no_text_are_no_mistake_of_the_window(engine: Engine, path: str) -> None:
    status, _, page = asked(application(engine, may=may), path, query=b"code=\xff\xfe&outcome=\xc3")
    assert status in {200, 404}
    assert "made a mistake" not in page


@pytest.mark.parametrize(
    "root", ["/tools/mail", "/b\xfcro post", "/what?#", "/100%/a%20b", "/tools/", "//evil.example"]
)
def test_every_link_leads_back_to_where_it_is_mounted(engine: Engine, root: str) -> None:
    made = application(engine, may=may, actions=engine)
    links = set(re.findall(r'(?:href|src|action)="(/[^"]*)"', asked(made, "/", root_path=root)[2]))
    at = "/" + quote(root.strip("/"))
    assert links
    assert {link for link in links if not quote(link, safe="/%?=").startswith(f"{at}/")} == set()
    _, headers, _ = asked(made, "/mail", query=b"token=7", root_path=root)
    assert quote(headers[b"location"].decode(), safe="/%") == f"{at}/mail/7"


def test_the_page_that_is_open_is_marked_wherever_it_is_mounted(engine: Engine) -> None:
    made = application(engine, may=may)
    for root in ("", "/b\xfcro", "/what?"):
        assert re.findall(r'aria-current="page">(\w+)', asked(made, "/flight", root_path=root)[2]) == ["In"]


def test_below_an_odd_path_its_styles_are_found(engine: Engine) -> None:
    mounted = Starlette(routes=[Mount("/b\xfcro #1", application(engine, may=may))])
    with server.listen("127.0.0.1", 0, allow_remote=False) as listener, server.serving(mounted, listener):
        window = Window(server.url(listener))
        page = window.ask(quote("/b\xfcro #1/")).text
        [style] = re.findall(r'rel="stylesheet" href="([^"]*)"', page)
        assert window.ask(style).status == 200


@pytest.mark.parametrize(
    ("path", "allowed"), [("/act/pause", {"GET", "HEAD"}), ("/doctor", {"GET", "HEAD"}), ("/", {"GET", "HEAD"})]
)
def test_a_method_that_a_page_has_not_is_answered_with_those_that_it_has(
    engine: Engine, path: str, allowed: set[str]
) -> None:
    with opened(engine, actions=engine) as window:
        answer = window.ask(path, "DELETE", headers={"Sec-Fetch-Site": "same-origin"})
        assert answer.status == 405
        assert set((answer.headers["Allow"] or "").replace(" ", "").split(",")) >= allowed


def test_who_leaves_in_the_middle_of_a_form_is_no_mistake_of_the_window(
    engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    lines = ("POST /act/pause HTTP/1.1", "Host: localhost", "Sec-Fetch-Site: same-origin", "Content-Length: 99")
    begins = "\r\n".join((*lines, "", "scope=")).encode()
    with opened(engine, actions=engine) as window:
        host, port = window.host.split(":")
        for _ in range(3):
            with socket.create_connection((host, int(port))) as client:
                client.sendall(begins)
        eventually(lambda: window.ask("/livez").status == 200, "it answers")
    assert [record for record in caplog.records if record.levelname == "ERROR"] == []
