"""The pictures of docs/window.md: `MAILROOM_TEST_PICTURES=docs/window` keeps them.

Those that are there were taken with Debian's fonts-inter and fonts-liberation.
"""

import os
from pathlib import Path

import pytest
from playwright.sync_api import Browser
from sqlalchemy import Engine

from tests.window import evening
from tests.window.browser import NARROW, WIDE, tab
from tests.window.client import opened

EACH_SERVER = False
# As wide as others, and as high as what is on them.
LOW = WIDE | {"height": 400}
PICTURES = {"unconfirmed": "/unconfirmed", "flooded": "/flooded", "amazon": "/account"}


@pytest.mark.slow
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
    with opened(engine) as window, tab(browser, window.url, viewport=LOW) as seen:
        for name, path in PICTURES.items():
            seen.open(path).screenshot(path=folder / f"{name}.png", full_page=True)
    late = evening.stop(engine)
    with opened(engine) as window, tab(browser, window.url, viewport=WIDE, color_scheme="dark") as seen:
        page = seen.open()
        assert page.locator("h1.act").inner_text().startswith("No mail leaves: account has been paused")
        page.screenshot(path=folder / "trouble.png")
        page.emulate_media(color_scheme="light")
        page = seen.open(f"/mail/{late[0]}")
        assert page.locator(".chain .holds").count() == 1
        page.screenshot(path=folder / "mail.png", full_page=True)
    assert all(
        (folder / f"{name}.png").stat().st_size > 10_000 for name in ("wide", "narrow", "trouble", "mail", *PICTURES)
    )
