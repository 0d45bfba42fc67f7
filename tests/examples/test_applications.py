"""Each example is an application that works: sign-up, link, recovery, and the window behind its own login."""

import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path
from urllib.parse import urlencode

import pytest
from sqlalchemy import Engine

from mailroom.simulator import Simulator
from tests.machine import ROOT, held_port
from tests.running import PATIENCE_SECONDS, Processes, eventually
from tests.world import KEY_HEX, rows

# What an application does with the answers of functions that are tested on each.
EACH_SERVER = False

UVICORN = ("-m", "uvicorn", "--log-level", "warning", "--port")
SERVERS = {
    "fastapi": (*UVICORN, "{port}", "app:app"),
    "flask": ("-m", "flask", "--app", "app", "run", "--port", "{port}"),
    "django": (*UVICORN, "{port}", "app:application"),
}
EXAMPLES = [path.parent.name for path in sorted((ROOT / "examples").glob("*/app.py"))]
MAX_LINES = 80


class Site:
    """The application that runs, as one browser sees it."""

    def __init__(self, port: int) -> None:
        self._port = port
        self.cookie = ""

    def ask(self, path: str, form: dict[str, str] | None = None, host: str | None = None) -> tuple[int, str]:
        with closing(HTTPConnection("127.0.0.1", self._port, timeout=PATIENCE_SECONDS)) as connection:
            method, body = ("GET", None) if form is None else ("POST", urlencode(form))
            headers = {"Cookie": self.cookie, "Content-Type": "application/x-www-form-urlencoded"}
            connection.request(method, path, body, headers | ({"Host": host} if host else {}))
            answer: HTTPResponse = connection.getresponse()
            self.cookie = (answer.getheader("Set-Cookie") or self.cookie).partition(";")[0]
            return answer.status, answer.read().decode() or str(answer.getheader("Location"))

    def answers(self) -> bool:
        try:
            return self.ask("/")[0] == 200
        except OSError:
            return False


@pytest.fixture
def port() -> Iterator[int]:
    with held_port() as held:
        yield held


@pytest.fixture(params=sorted(SERVERS))
def site(request: pytest.FixtureRequest, url: str, port: int, tmp_path: Path) -> Iterator[Site]:
    name: str = request.param
    environment = {"MAILROOM_DATABASE_URL": url, "MAILROOM_SECRET_KEY": KEY_HEX, "SESSION_KEY": "s" * 50}
    log = tmp_path / "application.log"
    with log.open("w") as output:
        process = subprocess.Popen(
            [sys.executable, *(each.format(port=port) for each in SERVERS[name])],
            cwd=ROOT / "examples" / name,
            env=environment | {"STAFF_PASSWORD": "three in the morning", "PYTHONDONTWRITEBYTECODE": "1"},
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    found = Site(port)
    try:
        eventually(lambda: found.answers() or process.poll() is not None, "the application answers")
        assert process.poll() is None, log.read_text()
        yield found
    finally:
        process.terminate()
        process.wait(PATIENCE_SECONDS)


def mailed(simulator: Simulator, number: int) -> str:
    eventually(lambda: len(simulator.ledger.mails) == number, f"mail {number} arrives")
    return simulator.ledger.mails[number - 1].text or ""


def link(mail: str) -> str:
    [found] = re.findall(r"https://example.com(/\S+)", mail)
    return str(found)


@pytest.mark.slow
@pytest.mark.early
def test_somebody_signs_up_forgets_the_password_and_whoever_is_on_call_looks(
    site: Site, url: str, engine: Engine, simulator: Simulator, processes: Processes
) -> None:
    processes.worker(url=url, simulator=simulator)
    ada, in_other_letters = {"email": "ada@example.com"}, {"email": "ADA@example.com"}
    spelt_otherwise = {"email": "ada@example\N{IDEOGRAPHIC FULL STOP}com."}

    for again in (ada, ada, in_other_letters, spelt_otherwise):
        assert site.ask("/sign-up", again) == (200, "Look into your mails.")
    lost = link(mailed(simulator, 1))
    assert site.ask("/forgotten", in_other_letters) == (200, "Look into your mails.")
    activate = link(mailed(simulator, 2))
    assert activate != lost  # whose link has ended gets another, and nobody who is not active a recovery
    assert site.ask(activate)[0] == 200  # a scanner looks, and nothing happens
    with engine.connect() as connection:
        assert [row.status for row in rows(connection, "SELECT status FROM accounts")] == ["provisioned"]
    assert site.ask(activate, {}) == (200, "Welcome, user 1.")
    assert site.ask(activate, {}) == (400, "This link is not good, or not any more.")

    assert site.ask("/forgotten", {"email": "nobody@example.com"}) == site.ask("/forgotten", spelt_otherwise)
    recovery = mailed(simulator, 3)
    [code] = re.findall(r"type this code: (\d{5})", recovery)
    wrong = f"{(int(code) + 1) % 100_000:05}"
    assert site.ask(link(recovery), {"code": wrong})[0] == 400
    assert site.ask(link(recovery), {"code": code}) == (200, "Welcome, user 1.")

    assert site.ask("/mail")[0] in {303, 307}, "without the slash it is found too"
    assert site.ask("/mail/") == (303, "/")
    assert site.ask("/login", {"password": "wrong"})[0] in {302, 303}
    assert site.ask("/mail/") == (303, "/")
    assert site.ask("/login", {"password": "three in the morning"})[0] in {302, 303}
    status, page = site.ask("/mail/")
    assert (status, "<h1" in page) == (200, True)
    assert site.ask("/mail/", host="evil.example")[0] == 400


@pytest.mark.slow
def test_a_sign_up_that_fails_leaves_neither_user_nor_mail(site: Site, engine: Engine) -> None:
    for email in ("not an address", "a\0b@example.com", "@", "a" * 300 + "@example.com"):
        assert site.ask("/sign-up", {"email": email}) == (422, "That is no address.")
    assert site.ask("/sign-up", {})[0] in {400, 422}
    assert site.ask("/forgotten", {"email": "a\0b@example.com"})[0] == 422
    with engine.connect() as connection:
        assert rows(connection, "SELECT FROM users UNION ALL SELECT FROM accounts") == []


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_is_short(name: str) -> None:
    assert len((ROOT / "examples" / name / "app.py").read_text().splitlines()) < MAX_LINES
