"""An open page whose reader is not let in any more stays as it was, and says so."""

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser
from sqlalchemy import Engine
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Mount, Route

from mailroom.window import LOOK, Visitor, application, server
from tests.window import scene
from tests.window.browser import browsing, tab

EACH_SERVER = False
LOGIN = "<!doctype html><title>Log in</title><main><form>Who are you?</form></main>"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with browsing() as browser:
        yield browser


@pytest.mark.slow
@pytest.mark.parametrize(
    "refusal",
    [RedirectResponse("/", 303), RedirectResponse("https://login.example/", 303), HTMLResponse(LOGIN), None],
    ids=["login", "login elsewhere", "login in its place", "refused"],
)
def test_a_page_whose_login_ended_stays_as_it_was_and_says_so(
    engine: Engine, browser: Browser, refusal: Response | None
) -> None:
    scene.furnish(engine)
    logged_in = [True]

    def may(_: Request) -> Visitor | Response | None:
        return Visitor("ada", LOOK) if logged_in[0] else refusal

    mail = Mount("/mail", application(engine, may=may))
    app = Starlette(routes=[mail, Route("/", lambda _: HTMLResponse(LOGIN))])
    with (
        server.listen("127.0.0.1", 0, allow_remote=False) as listener,
        server.serving(app, listener),
        tab(browser, server.url(listener)) as seen,
    ):
        seen.page.clock.install()
        page = seen.open("mail/")
        title, sentence = page.title(), page.locator("h1").inner_text()
        logged_in[0] = False
        page.clock.run_for(5_000)
        page.locator(".lost").wait_for(state="visible")
        page.clock.run_for(1_000)
        assert "your login has ended" in page.locator(".lost").inner_text()
        assert (page.title(), page.locator("h1").inner_text()) == (title, sentence)
        assert "NaN" not in page.locator("main").inner_text()
        logged_in[0] = True
        page.clock.run_for(5_000)
        page.locator(".lost").wait_for(state="hidden")
