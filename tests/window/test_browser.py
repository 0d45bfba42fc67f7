"""The pages in a real browser: by keyboard, with scripts off, in any zone, and with words that want to be obeyed."""

import re
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote
from zoneinfo import ZoneInfo

import pytest
from playwright.sync_api import Browser, Page
from sqlalchemy import Engine, text

from mailroom.fleet import pauses
from mailroom.window import source
from tests.running import eventually
from tests.window import scene
from tests.window.browser import NARROW, WIDE, axe, browsing, complaints, tab
from tests.window.client import Window, opened
from tests.world import count

EACH_SERVER = False
LANE = f"/lane/{quote(scene.QUEUE, safe='')}/1/activation"
PAGES = ["/", "/flight", "/held", "/record", "/unconfirmed", "/flooded", "/account", "/doctor", LANE, "/nothing"]
PAGES += ["/act/pause", "/act/resume", "/act/release?held=1", "/act/drop?held=1", "/act/retry?outcome=rejected"]
LOOKS: list[dict[str, Any]] = [
    {"viewport": WIDE, "color_scheme": "light"},
    {"viewport": WIDE, "color_scheme": "dark"},
    {"viewport": NARROW, "color_scheme": "light"},
]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with browsing() as browser:
        yield browser


def pages(tokens: dict[str, int]) -> list[str]:
    return [*PAGES, *(f"/mail/{token}" for token in tokens.values())]


def test_no_page_complains_obeys_or_asks_elsewhere(window: Window, browser: Browser, tokens: dict[str, int]) -> None:
    with tab(browser, window.url) as seen:
        for path in pages(tokens):
            page = seen.open(path)
            assert page.evaluate("window.owned") is None
            assert page.locator("img").count() == 0
        assert [said for said in seen.said if "404" not in said] == []
        assert {url for url in seen.asked if not url.startswith((window.url, "data:"))} == set()


def test_axe_finds_nothing(window: Window, browser: Browser, tokens: dict[str, int]) -> None:
    script = axe()
    found: dict[str, list[str]] = {}
    for look, paths in zip(
        LOOKS, ([*PAGES, f"/mail/{tokens['deferred']}"], ["/", "/held"], ["/", "/held"]), strict=True
    ):
        with tab(browser, window.url, **look, bypass_csp=True) as seen:
            for path in paths:
                found[f"{path} {look}"] = complaints(seen.open(path), script)
    assert {where: each for where, each in found.items() if each} == {}


def test_nothing_is_wider_than_a_phone(window: Window, browser: Browser, tokens: dict[str, int]) -> None:
    with tab(browser, window.url, viewport=NARROW) as seen:
        wide = [
            path
            for path in pages(tokens)
            if seen.open(path).evaluate("document.documentElement.scrollWidth > window.innerWidth")
        ]
    assert wide == []


def test_with_scripts_off_the_page_reads_and_acts_and_asks_again_by_itself(
    window: Window, browser: Browser, engine: Engine
) -> None:
    with tab(browser, window.url, java_script_enabled=False) as seen:
        page = seen.open()
        assert "UTC" in page.locator("#paused time").first.inner_text()
        assert page.locator("noscript meta[http-equiv=refresh]").count() == 1
        page.get_by_role("link", name="Pause mails").click()
        page.get_by_label("What").select_option("activation")
        page.get_by_label("Why").fill("a test without scripts")
        page.get_by_role("button", name="Pause").click()
        assert page.locator("h1").inner_text() == "Paused activation."
    with engine.connect() as connection:
        assert count(connection, "pauses WHERE scope = 'activation'") == 1


@pytest.mark.parametrize("zone", ["Asia/Tokyo", "America/New_York"])
def test_everywhere_the_same_moment_is_told_in_the_zone_of_who_reads(
    window: Window, browser: Browser, zone: str
) -> None:
    with tab(browser, window.url, timezone_id=zone, locale="en-GB") as seen:
        shown = seen.open().locator("#paused time[data-clock]").first
        moment = datetime.fromisoformat(shown.get_attribute("datetime") or "")
        there = moment.astimezone(ZoneInfo(zone))
        assert shown.inner_text().endswith(f"{there:%H:%M:%S}")
        assert f"{moment.astimezone(UTC):%H:%M:%S} UTC" in (shown.get_attribute("title") or "")
        assert zone in seen.page.locator("footer").inner_text()
        age = seen.page.locator("#said time[data-age]").inner_text()
        assert re.fullmatch(r"\d+ (s|min) ago", age)


def reach(page: Page, name: str) -> None:
    """Go to a link, a field or a button with the tab key alone."""
    for _ in range(80):
        page.keyboard.press("Tab")
        told = "e => (e.labels?.[0] ?? e).textContent + (e.getAttribute('href') ?? '')"
        if page.evaluate(f"({told})(document.activeElement)").strip().startswith(name):
            assert page.evaluate("document.activeElement.matches(':focus-visible')")
            return
    pytest.fail(f"{name} cannot be reached")


@pytest.mark.parametrize(
    ("path", "link", "button", "done"),
    [
        ("/", "Pause mails", "Pause", "Paused activation."),
        ("/", "Resume", "Resume", "Resumed priority:2."),
        ("/held", "Release all", "Release", "Released 1 mail."),
        ("/held", "Drop all", "Drop", "Dropped 1 mail."),
        ("/record?outcome=rejected", "Try all", "Try again", "Put back, or made due, 1 mail."),
    ],
)
def test_every_action_is_done_by_keyboard(
    window: Window, browser: Browser, path: str, link: str, button: str, done: str
) -> None:
    with tab(browser, window.url) as seen:
        page = seen.open(path)
        reach(page, link)
        page.keyboard.press("Enter")
        page.wait_for_url("**/act/**")
        reach(page, "Why")
        page.keyboard.type("a test")
        reach(page, button)
        page.keyboard.press("Enter")
        page.get_by_role("status").wait_for()
        assert page.locator("h1").inner_text() == done


def test_a_hidden_tab_asks_nothing_and_asks_at_once_when_it_is_seen(window: Window, browser: Browser) -> None:
    with tab(browser, window.url) as seen:
        seen.page.clock.install()
        seen.page.add_init_script(
            "window.away = true; Object.defineProperty(document, 'hidden', {get: () => window.away})"
        )
        page = seen.open()
        asked = len(seen.asked)
        page.clock.run_for(60_000)
        assert len(seen.asked) == asked
        with page.expect_response(f"{window.url}/"):
            page.evaluate("window.away = false; document.dispatchEvent(new Event('visibilitychange'))")


def test_an_open_page_keeps_itself_fresh_and_the_focus_where_it_is(
    window: Window, browser: Browser, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    with tab(browser, window.url) as seen:
        seen.page.clock.install()
        page = seen.open()
        page.locator("#figures a[href='/flight']").focus()
        with engine.connect() as connection:
            pauses.open_pause(connection, "account", code="AccountSuspendedException", reason="suspended")
        scene.count(engine)

        def told() -> bool:
            with page.expect_response(f"{window.url}/"):
                page.clock.run_for(5_000)
            return "suspended" in page.locator("#paused").inner_text()

        eventually(told)
        assert "account" in page.locator("#paused").inner_text()
        assert page.evaluate("document.activeElement.getAttribute('href')") == "/flight"
        # For how long somebody has been paused is new at each look: now one is kept for as long as this takes.
        monkeypatch.setattr(source, "KEPT_SECONDS", 600.0)

        def stays() -> bool:
            page.evaluate("document.title = 'kept'")
            with page.expect_response(f"{window.url}/") as answer:
                page.clock.run_for(5_000)
            return answer.value.status == 304 and page.title() == "kept"

        eventually(stays)
        assert seen.said == []


def test_a_page_says_when_nobody_answers_it_any_more(engine: Engine, browser: Browser) -> None:
    with opened(engine) as window, tab(browser, window.url) as seen:
        page = seen.open()
        page.clock.install()
        seen.open()
        assert page.locator(".lost").is_hidden()
        page.route("**/*", lambda route: route.abort())
        page.clock.run_for(5_000)
        page.locator(".lost").wait_for(state="visible")
        page.unroute("**/*")
        page.clock.run_for(5_000)
        page.locator(".lost").wait_for(state="hidden")


def test_a_word_that_wants_to_be_obeyed_is_read_as_it_was_written(
    window: Window, browser: Browser, engine: Engine
) -> None:
    with engine.connect() as connection:
        reason = connection.scalar(text("SELECT reason FROM pauses WHERE scope = 'priority:2'"))
    with tab(browser, window.url) as seen:
        assert reason in seen.open().locator("#paused").inner_text()


def test_what_is_drawn_is_told_in_words_too(window: Window, browser: Browser) -> None:
    with tab(browser, window.url) as seen:
        charts = seen.open().locator("svg[role=img]")
        assert charts.count() == 2
        for number in range(2):
            assert charts.nth(number).get_attribute("aria-label")
            assert charts.nth(number).locator("title").count() == 60
