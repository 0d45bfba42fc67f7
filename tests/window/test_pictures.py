"""The pictures of docs/window.md: `MAILROOM_TEST_PICTURES=docs/window` keeps them."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser
from sqlalchemy import Engine

from tests.window import evening
from tests.window.browser import NARROW, WIDE, browsing, tab
from tests.window.client import opened

EACH_SERVER = False


@pytest.fixture
def browser() -> Iterator[Browser]:
    with browsing() as browser:
        yield browser


def test_an_evening_and_what_it_looks_like_when_aws_stops_the_account(
    engine: Engine, browser: Browser, tmp_path: Path
) -> None:
    folder = Path(os.environ.get("MAILROOM_TEST_PICTURES", tmp_path))
    evening.furnish(engine)
    with opened(engine) as window:
        for name, viewport, scheme in (("wide", WIDE, "light"), ("narrow", NARROW, "light")):
            with tab(browser, window.url, viewport=viewport, color_scheme=scheme) as seen:
                evening.go_on(engine)
                page = seen.open()
                assert page.locator("h1.fine, h1.look").count() == 1
                page.screenshot(path=folder / f"{name}.png", full_page=name == "wide")
    evening.stop(engine)
    with opened(engine) as window, tab(browser, window.url, viewport=WIDE, color_scheme="dark") as seen:
        page = seen.open()
        assert page.locator("h1.act").inner_text().startswith("No mail leaves: account has been paused")
        page.screenshot(path=folder / "trouble.png")
    assert all((folder / f"{name}.png").stat().st_size > 10_000 for name in ("wide", "narrow", "trouble"))
