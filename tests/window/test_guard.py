"""Who gets in, and what of other sites stays out, point by point."""

import ipaddress
import re
from collections.abc import Iterator

import pytest
from sqlalchemy import Engine, text
from sqlalchemy.exc import DBAPIError
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Mount

from mailroom.errors import SettingsError
from mailroom.window import ACT, LOOK, Visitor, application, login, server
from mailroom.window.login import MAX_TRIES, TRIES_SECONDS, Login, Tries
from mailroom.window.source import Source
from tests.window.client import SAME_ORIGIN, Window, basic, opened
from tests.world import rows

EACH_SERVER = False
PASSWORD = "twelve letters and more"
PAGES = ["/", "/flight", "/held", "/record", "/unconfirmed", "/flooded", "/account", "/doctor", "/mail/1"]
HERE, ELSEWHERE = ipaddress.ip_network("127.0.0.0/8"), ipaddress.ip_network("192.0.2.0/24")


class Time:
    """A clock that a test sets."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def asked(peer: str, *headers: tuple[str, str]) -> Request:
    """A request as it comes from there."""
    sent = [(name.encode(), value.encode()) for name, value in headers]
    return Request({"type": "http", "client": (peer, 4711), "headers": sent})


def refused(answer: Visitor | Response) -> int:
    """The status with which somebody is refused."""
    assert isinstance(answer, Response)
    return answer.status_code


@pytest.fixture
def window(engine: Engine) -> Iterator[Window]:
    with opened(engine, actions=engine) as window:
        yield window


def paused(engine: Engine) -> list[str]:
    with engine.connect() as connection:
        return [row.scope for row in rows(connection, "SELECT scope FROM pauses")]


def pause(window: Window, headers: dict[str, str]) -> int:
    return window.post("/act/pause", headers, scope="activation", reason="a test").status


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8026", "127.0.0.1.evil.example", "", "localhost.evil"])
def test_a_page_that_rebinds_its_name_is_told_by_its_host(window: Window, host: str) -> None:
    assert window.ask(headers={"Host": host}).status == 400


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:1", "127.0.0.1", "[::1]:8026"])
def test_names_of_this_machine_are_answered(window: Window, host: str) -> None:
    assert window.ask(headers={"Host": host}).status == 200


def test_another_name_is_answered_only_if_it_was_given(engine: Engine) -> None:
    with opened(engine, names={"localhost", "Mail.example"}) as window:
        assert window.ask(headers={"Host": "mail.example"}).status == 200
        assert window.ask(headers={"Host": "other.example"}).status == 400
        assert window.ask(headers={"Host": "192.0.2.1"}).status == 400
    with opened(engine, any_address=True) as window:
        assert window.ask(headers={"Host": "192.0.2.1"}).status == 200
        assert window.ask(headers={"Host": "other.example"}).status == 400


@pytest.mark.parametrize(
    "headers",
    [
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Sec-Fetch-Site": "none"},
        {"Sec-Fetch-Site": "cross-site", "Origin": "SELF"},
        {"Origin": "http://evil.example"},
        {"Origin": "http://127.0.0.1:1"},
        {"Origin": "null"},
        {"Origin": ""},
        {},
    ],
    ids=str,
)
def test_what_another_page_sends_changes_nothing(window: Window, engine: Engine, headers: dict[str, str]) -> None:
    sent = {name: value.replace("SELF", window.url) for name, value in headers.items()}
    assert pause(window, sent) == 403
    assert paused(engine) == []


@pytest.mark.parametrize("headers", [SAME_ORIGIN, {"Origin": "SELF"}], ids=str)
def test_a_form_of_its_own_does(window: Window, engine: Engine, headers: dict[str, str]) -> None:
    assert pause(window, {name: value.replace("SELF", window.url) for name, value in headers.items()}) == 200
    assert paused(engine) == ["activation"]


@pytest.mark.slow
def test_another_page_reads_nothing_but_a_link_leads_here(window: Window) -> None:
    foreign = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"}
    assert window.ask(headers=foreign).status == 403
    assert window.ask(headers=foreign | {"Sec-Fetch-Mode": "navigate"}).status == 200


@pytest.mark.slow
@pytest.mark.parametrize("path", [*PAGES, "/nothing", "/window.css", "/window.js", "/metrics", "/reading.json"])
def test_every_answer_says_what_a_browser_may_do_with_it(window: Window, path: str) -> None:
    headers = window.ask(path).headers
    policy = headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self';")
    assert "unsafe" not in policy
    for part in ("form-action 'self'", "base-uri 'none'", "frame-ancestors 'none'"):
        assert part in policy
    assert headers.get_all("Cache-Control") == ["no-store"]
    assert (headers["X-Content-Type-Options"], headers["Referrer-Policy"]) == ("nosniff", "no-referrer")


@pytest.mark.parametrize("path", [*PAGES, "/reading.json", "/metrics"])
def test_nobody_looks_without_a_login_where_there_is_one(engine: Engine, path: str) -> None:
    with opened(engine, may=Login(LOOK, password=PASSWORD)) as window:
        refused = window.ask(path)
        assert (refused.status, refused.text) == (401, "Who are you?\n")
        assert refused.headers["WWW-Authenticate"].startswith("Basic ")
        assert refused.headers["Content-Security-Policy"]
        assert window.ask(path, headers=basic("ada", PASSWORD)).status in {200, 404}


def test_programs_need_no_login_where_the_command_says_so(engine: Engine) -> None:
    with opened(engine, may=Login(LOOK, password=PASSWORD), free=("/metrics", "/livez", "/readyz")) as window:
        assert [window.ask(path).status for path in ("/metrics", "/livez", "/readyz", "/")] == [200, 200, 200, 401]


@pytest.mark.parametrize("given", ["Basic ?", "Basic Og==", "Basic /////w==", "Bearer x", "basic", ""])
def test_a_login_that_is_none_is_refused(engine: Engine, given: str) -> None:
    with opened(engine, may=Login(LOOK, password=PASSWORD)) as window:
        assert window.ask(headers={"Authorization": given}).status == 401


def test_after_eight_wrong_passwords_not_even_the_right_one_is_looked_at_for_a_minute(engine: Engine) -> None:
    time = Time()
    with opened(engine, may=Login(LOOK, password=PASSWORD, clock=time)) as window:
        tried = [window.ask(headers=basic("eve", f"{PASSWORD}{number}")).status for number in range(MAX_TRIES + 1)]
        assert tried == [401] * MAX_TRIES + [429]
        refused = window.ask(headers=basic("ada", PASSWORD))
        assert (refused.status, refused.headers["Retry-After"]) == (429, "60")
        time.now = TRIES_SECONDS + 1
        assert window.ask(headers=basic("ada", PASSWORD)).status == 200


def test_where_more_are_wrong_than_can_be_told_apart_who_comes_then_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(login, "MAX_PEERS", 2)
    now = [0.0]
    tries = Tries(lambda: now[0])
    for peer in ("192.0.2.1", "192.0.2.2"):
        assert not tries.too_many(peer)
        tries.note(peer)
    assert [tries.too_many(peer) for peer in ("192.0.2.1", "192.0.2.2", "192.0.2.3")] == [False, False, True]
    now[0] += TRIES_SECONDS
    assert not tries.too_many("192.0.2.3")


def test_whoever_has_a_network_of_ipv6_has_no_more_tries_than_one_who_has_an_address() -> None:
    one, other, elsewhere = (login._network(f"2001:db8:0:{place}") for place in ("1::1", "1:f::2", "2::1"))
    assert one == other != elsewhere
    assert login._network("192.0.2.1") != login._network("192.0.2.2")


def test_right_passwords_are_not_counted(engine: Engine) -> None:
    with opened(engine, may=Login(LOOK, password=PASSWORD)) as window:
        statuses = {window.ask("/livez", headers=basic("ada", PASSWORD)).status for _ in range(3 * MAX_TRIES)}
        assert statuses == {200}


def test_a_header_says_who_asks_if_it_comes_from_the_proxy(engine: Engine) -> None:
    with opened(engine, may=Login(LOOK, header="X-Remote-User", peers=[HERE])) as window:
        assert "grace, who may look" in window.ask(headers={"X-Remote-User": "grace"}).text
        assert window.ask().status == 403


@pytest.mark.parametrize(("password", "status"), [("", 403), (PASSWORD, 401)])
def test_a_header_from_elsewhere_says_nothing(engine: Engine, password: str, status: int) -> None:
    login = Login(LOOK, header="X-Remote-User", peers=[ELSEWHERE], password=password)
    with opened(engine, may=login) as window:
        assert window.ask(headers={"X-Remote-User": "grace"}).status == status
        assert window.ask(headers={"X-Remote-User": "grace", "X-Forwarded-For": "192.0.2.1"}).status == status


def test_a_header_that_comes_twice_says_nothing() -> None:
    login = Login(LOOK, header="X-Remote-User", peers=[HERE])
    assert refused(login(asked("127.0.0.1", ("x-remote-user", "eve"), ("x-remote-user", "grace")))) == 403


def test_an_address_of_the_old_kind_is_known_on_a_socket_of_the_new_one() -> None:
    mapped = "::ffff:192.0.2."
    login = Login(LOOK, header="X-Remote-User", peers=[ELSEWHERE], password=PASSWORD)
    assert login(asked(f"{mapped}1", ("x-remote-user", "grace"))) == Visitor("grace", LOOK)
    wrong, right = (("authorization", basic("ada", word)["Authorization"]) for word in ("wrong", PASSWORD))
    assert [refused(login(asked(f"{mapped}7", wrong))) for _ in range(MAX_TRIES + 1)] == [401] * MAX_TRIES + [429]
    assert login(asked(f"{mapped}8", right)) == Visitor("ada", LOOK), "who is elsewhere has tries of its own"


def with_password(peer: str, word: str, *ways: str) -> Request:
    """A request with a password, as it comes from there; each proxy on its way has said where it had it from."""
    forwarded = [("x-forwarded-for", way) for way in ways]
    return asked(peer, ("authorization", basic("ada", word)["Authorization"]), *forwarded)


@pytest.mark.parametrize("way", ["198.51.100.7", "203.0.113.9, 198.51.100.7", "198.51.100.7, 127.0.0.2", "2001:db8::7"])
def test_behind_a_proxy_wrong_passwords_are_counted_by_where_they_came_from(way: str) -> None:
    login = Login(LOOK, peers=[HERE], password=PASSWORD)
    wrong = [refused(login(with_password("127.0.0.1", "wrong", way))) for _ in range(MAX_TRIES + 1)]
    assert wrong == [401] * MAX_TRIES + [429]
    assert refused(login(with_password("127.0.0.1", PASSWORD, way))) == 429
    assert login(with_password("127.0.0.1", PASSWORD, "198.51.100.8")) == Visitor("ada", LOOK)
    assert login(with_password("127.0.0.1", PASSWORD)) == Visitor("ada", LOOK)


@pytest.mark.parametrize("peer", ["127.0.0.1", "192.0.2.1"])
def test_what_somebody_says_of_where_he_is_gives_him_no_more_tries(peer: str) -> None:
    """A proxy adds the address that it sees to what it was told; who is no proxy is not believed at all."""
    login = Login(LOOK, peers=[HERE], password=PASSWORD)
    ways = [(f"203.0.113.{number}", "198.51.100.7") for number in range(MAX_TRIES + 1)]
    wrong = [refused(login(with_password(peer, "wrong", *way))) for way in ways]
    assert wrong == [401] * MAX_TRIES + [429]


def test_what_is_no_address_counts_as_that_of_the_proxy() -> None:
    login = Login(LOOK, peers=[HERE], password=PASSWORD)
    ways = ["unknown", "", "198.51.100.7:4711", "_hidden"]
    wrong = [refused(login(with_password("127.0.0.1", "wrong", way))) for way in [*ways, *ways, "x"]]
    assert wrong == [401] * MAX_TRIES + [429]


def test_only_loopback_is_listened_on_unless_one_insists() -> None:
    with pytest.raises(SettingsError, match="loopback"):
        server.listen("0.0.0.0", 0, allow_remote=False)  # noqa: S104 - it is refused
    server.listen("127.0.0.1", 0, allow_remote=False).close()


@pytest.mark.slow
@pytest.mark.parametrize("deed", ["pause", "resume", "retry", "release", "drop"])
def test_who_may_only_look_does_nothing(engine: Engine, deed: str) -> None:
    with opened(engine, actions=engine, may=lambda _: Visitor("viewer", LOOK)) as window:
        assert window.ask(f"/act/{deed}?token=1").status == 403
        assert window.post(f"/act/{deed}", scope="activation", tokens="1", reason="a test").status == 403
        assert "/act/" not in window.ask().text
        assert window.post("/doctor").status == 403
    assert paused(engine) == []


def test_without_the_role_of_a_worker_nobody_does_anything(engine: Engine) -> None:
    with opened(engine, may=lambda _: Visitor("ada", ACT)) as window:
        assert window.post("/act/pause", scope="activation", reason="a test").status == 403
        assert "/act/" not in window.ask().text
    assert paused(engine) == []


def test_the_connection_of_the_pages_writes_nothing_whatever_its_role_may(engine: Engine) -> None:
    with Source(engine).looking() as connection:
        assert connection.scalar(text("SHOW statement_timeout")) == "2s"
    with pytest.raises(DBAPIError, match="read-only transaction"), Source(engine).looking() as connection:
        connection.execute(text("DELETE FROM jobs"))
    with engine.connect() as connection:
        assert connection.scalar(text("SHOW statement_timeout")) == "0"
        connection.execute(text("DELETE FROM jobs"))


def test_an_application_that_mounts_it_says_who_asks(engine: Engine) -> None:
    with opened(engine, may=lambda _: None, names=None) as window:
        assert [window.ask(path, headers={"Host": "shop.example"}).status for path in ("/", "/metrics")] == [403, 403]


def test_it_is_mounted_below_an_application_with_its_login(engine: Engine) -> None:
    def may(request: Request) -> Visitor | Response | None:
        return Visitor("ada", ACT) if request.headers.get("cookie") == "session=1" else RedirectResponse("/login")

    mounted = Starlette(routes=[Mount("/mail", application(engine, may=may, actions=engine))])
    with server.listen("127.0.0.1", 0, allow_remote=False) as listener, server.serving(mounted, listener):
        window = Window(server.url(listener))
        stranger = window.ask("/mail/", headers={"Host": "shop.example"})
        assert (stranger.status, stranger.headers["Location"]) == (307, "/login")
        assert stranger.headers["X-Content-Type-Options"] == "nosniff"
        page = window.ask("/mail/", headers={"Host": "shop.example", "Cookie": "session=1"}).text
        links = set(re.findall(r'(?:href|src|action)="(/[^"]*)"', page))
        assert links
        assert {link for link in links if not link.startswith("/mail/")} == set()
        assert window.ask("/mail/window.css").headers["Content-Type"].startswith("text/css")
        acted = window.post("/mail/act/pause", SAME_ORIGIN | {"Cookie": "session=1"}, scope="activation", reason="test")
        assert acted.status == 200
    assert paused(engine) == ["activation"]


def test_a_name_in_other_letters_is_known_as_browsers_send_it(engine: Engine) -> None:
    with opened(engine, names={"B\xfccher.example"}) as window:
        assert window.ask(headers={"Host": "xn--bcher-kva.example:8026"}).status == 200
        assert window.ask(headers={"Host": "bucher.example"}).status == 400


def test_a_name_that_a_proxy_writes_in_any_letters_is_read_as_it_was_written() -> None:
    entry = Login(ACT, header="X-Remote-User", peers=[HERE])
    found = entry(asked("127.0.0.1", ("x-remote-user", "J\xf6rg")))
    assert isinstance(found, Visitor)
    assert found.name == "J\xf6rg"
