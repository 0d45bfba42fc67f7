"""The pages in a real browser: by keyboard, with scripts off, in any zone, and with words that want to be obeyed."""

import itertools
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote
from zoneinfo import ZoneInfo

import pytest
from playwright.sync_api import Browser, Page
from sqlalchemy import Engine, text

from mailroom.finding import failed, ok
from mailroom.fleet import pauses
from mailroom.window import ACT, Visitor, source
from tests.running import eventually
from tests.window import scene
from tests.window.browser import NARROW, WIDE, Tab, axe, complaints, tab
from tests.window.client import Window, opened
from tests.world import count

EACH_SERVER = False
LANE = f"/lane/{quote(scene.QUEUE, safe='')}/1/activation"
PAGES = ["/", "/flight", "/held", "/record", "/unconfirmed", "/flooded", "/account", "/doctor", LANE, "/nothing"]
PAGES += ["/act/pause", "/act/resume", "/act/release?held=1", "/act/drop?held=1", "/act/retry?outcome=rejected"]
CHECKS = [ok("one", "is well"), failed("two", f"is not {scene.CANARY}", "do `this`")]
RENAME = """
UPDATE accounts SET login = :login, email = :email WHERE id = (SELECT account FROM tokens WHERE id = :token)
"""
LOOKS: list[dict[str, Any]] = [
    {"viewport": WIDE, "color_scheme": "light"},
    {"viewport": WIDE, "color_scheme": "dark"},
    {"viewport": NARROW, "color_scheme": "light"},
]


def pages(tokens: dict[str, int]) -> list[str]:
    return [*PAGES, *(f"/mail/{token}" for token in tokens.values())]


def after_forms(seen: Tab) -> Iterator[Page]:
    """Send forms, one of them without a reason, and stop at each page that follows."""
    for path, button, reason in (
        ("/act/pause", "Pause", f"reason{scene.CANARY}"),
        ("/act/resume?scope=identity", "Resume", "mended"),
        ("/act/release?held=1", "Release", "looked at each"),
        ("/act/pause", "Pause", " "),
    ):
        page = seen.open(path)
        page.get_by_label("Why").fill(reason)
        page.get_by_role("button", name=button).click()
        page.get_by_label("Why").wait_for(state="detached")
        yield page
    page = seen.open("/doctor")
    page.get_by_role("button", name="Run the checks").click()
    page.get_by_text("1 check of 2 failed.").wait_for()
    yield page


@pytest.mark.slow
def test_no_page_complains_obeys_or_asks_elsewhere(window: Window, browser: Browser, tokens: dict[str, int]) -> None:
    with tab(browser, window.url) as seen:
        for path in pages(tokens):
            page = seen.open(path)
            assert page.evaluate("window.owned") is None
            assert page.locator("img").count() == 0
        assert seen.complained() == []
        assert {url for url in seen.asked if not url.startswith((window.url, "data:"))} == set()


@pytest.mark.slow
def test_what_follows_a_form_complains_of_nothing_either(engine: Engine, browser: Browser) -> None:
    scene.furnish(engine)
    with opened(engine, actions=engine, checks=lambda: CHECKS) as window, tab(browser, window.url) as seen:
        for page in after_forms(seen):
            assert page.evaluate("window.owned") is None
            assert page.locator("img").count() == 0
        assert seen.complained() == []
        assert {url for url in seen.asked if not url.startswith((window.url, "data:"))} == set()


@pytest.mark.slow
@pytest.mark.parametrize("look", LOOKS, ids=["light", "dark", "narrow"])
def test_axe_finds_nothing(engine: Engine, browser: Browser, look: dict[str, Any]) -> None:
    script, found = axe(), {}
    tokens = scene.furnish(engine)
    paths = [*PAGES, *(f"/mail/{tokens[what]}" for what in ("deferred", "flight", "bounced"))]
    with (
        opened(engine, actions=engine, checks=lambda: CHECKS) as window,
        tab(browser, window.url, **look, bypass_csp=True) as seen,
    ):
        for page in itertools.chain(map(seen.open, paths), after_forms(seen)):
            found[f"{page.url} {page.title()}"] = complaints(page, script)
    assert len(found) == len(paths) + 5
    assert {where: each for where, each in found.items() if each} == {}


@pytest.mark.slow
def test_nothing_is_wider_than_a_phone(window: Window, browser: Browser, tokens: dict[str, int]) -> None:
    with tab(browser, window.url, viewport=NARROW) as seen:
        wide = [
            path
            for path in pages(tokens)
            if seen.open(path).evaluate("document.documentElement.scrollWidth > window.innerWidth")
        ]
    assert wide == []


@pytest.mark.slow
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
        seen.open("/held").get_by_role("link", name="Release all").click()
        page.get_by_label("Why").fill("a test without scripts")
        page.get_by_role("button", name="Release").click()
        assert page.locator("h1").inner_text() == "Released 1 mail."
    with engine.connect() as connection:
        assert count(connection, "pauses WHERE scope = 'activation'") == 1
        assert count(connection, "jobs WHERE due_at = 'infinity'") == 0


@pytest.mark.slow
def test_with_scripts_off_every_page_is_read_in_utc(window: Window, browser: Browser, tokens: dict[str, int]) -> None:
    zone = "Asia/Tokyo"
    with tab(browser, window.url, java_script_enabled=False, timezone_id=zone) as seen:
        for path in pages(tokens):
            page = seen.open(path)
            assert page.locator("h1").is_visible()
            assert page.locator("footer").inner_text().endswith("All times are in UTC.")
            clocks = page.locator("main time[data-clock]").all_inner_texts()
            assert all(told.endswith(" UTC") for told in clocks), path
            assert page.locator(".lost:visible").count() == 0
        seen.open().get_by_label("Token of a mail").fill(str(tokens["sent"]))
        page.get_by_role("button", name="Find").click()
        page.wait_for_url(f"**/mail/{tokens['sent']}")


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
def test_a_word_that_wants_to_be_obeyed_is_read_as_it_was_written(
    window: Window, browser: Browser, engine: Engine
) -> None:
    with engine.connect() as connection:
        reason = connection.scalar(text("SELECT reason FROM pauses WHERE scope = 'priority:2'"))
    with tab(browser, window.url) as seen:
        assert reason in seen.open().locator("#paused").inner_text()


@pytest.mark.slow
def test_what_somebody_is_called_asks_for_and_was_told_is_read_as_it_was_written(
    engine: Engine, browser: Browser
) -> None:
    tokens = scene.furnish(engine)
    somebody = {"login": f"{scene.LOGIN}!", "email": f"{scene.QUEUE}@canary.example", "token": tokens["bounced"]}
    with engine.connect() as connection:
        connection.execute(text(RENAME), somebody)
    name, reason = f"name{scene.CANARY}", f"why{scene.CANARY}"

    def shows(page: Page, *words: str) -> None:
        shown = page.locator("body").inner_text()
        assert [each for each in words if each not in shown] == []
        assert page.evaluate("window.owned") is None
        assert page.locator("img").count() == 0

    with (
        opened(engine, actions=engine, may=lambda _: Visitor(name, ACT)) as window,
        tab(browser, window.url) as seen,
    ):
        page = seen.open(f"/mail/{tokens['bounced']}")
        shows(page, name, f"It bounced word{scene.CANARY}")
        page.get_by_role("link", name="Whose is it?").click()
        page.wait_for_url("**?who=1")
        shows(page, name, str(somebody["login"]), str(somebody["email"]))
        page = seen.open(f"/record?code={quote(reason)}")
        shows(page, name)
        assert page.get_by_label("Code").input_value() == reason
        page = seen.open(f"/act/retry?code={quote(reason)}")
        shows(page, reason)
        page = seen.open("/act/pause")
        page.get_by_label("Why").fill(reason)
        page.get_by_role("button", name="Pause").click()
        page.get_by_role("status").wait_for()
        shows(page, f"as done by {name}: {reason}")
        assert seen.complained() == []


@pytest.mark.slow
def test_what_is_drawn_is_told_in_words_too(window: Window, browser: Browser) -> None:
    with tab(browser, window.url) as seen:
        charts = seen.open().locator("svg[role=img]")
        assert charts.count() == 2
        for number in range(2):
            assert charts.nth(number).get_attribute("aria-label")
            assert charts.nth(number).locator("title").count() == 60
