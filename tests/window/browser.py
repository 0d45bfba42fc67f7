"""A real browser: Debian's Chromium, led by Playwright, which downloads none."""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright

from tests.machine import missing

PROGRAM = Path("/usr/bin/chromium")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"]
OFFLINE = ["--disable-background-networking", "--disable-component-update"]
# A browser beside five other tests may need half a minute for a page.
PATIENCE_MS = 120_000
WIDE, NARROW = {"width": 1280, "height": 860}, {"width": 390, "height": 844}


@contextmanager
def browsing() -> Iterator[Browser]:
    """A browser; skipped where there is none."""
    if not PROGRAM.exists():
        missing("Debian's chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=PROGRAM, args=[*FLAGS, *OFFLINE], timeout=PATIENCE_MS)
        try:
            yield browser
        finally:
            browser.close()


class Tab:
    """A page of its own, and all that its console was told."""

    def __init__(self, context: BrowserContext, url: str) -> None:
        self.said: list[str] = []
        self.asked: list[str] = []
        self.url = url
        self.page: Page = context.new_page()
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("request", lambda request: self.asked.append(request.url))

    def open(self, path: str = "/") -> Page:
        self.page.goto(self.url + path)
        return self.page

    def complained(self) -> list[str]:
        """What the console was told, but for the status of a page that says by itself why it is none."""
        return [each for each in self.said if not re.match("Failed to load resource: .* status of 40[04] ", each)]


@contextmanager
def tab(browser: Browser, url: str, **how: Any) -> Iterator[Tab]:
    """A tab of a browser that knows nothing yet."""
    context = browser.new_context(**{"viewport": WIDE} | how)
    try:
        context.set_default_timeout(PATIENCE_MS)
        yield Tab(context, url)
    finally:
        context.close()


def axe() -> str:
    """The script of axe-core."""
    return (files("axe_playwright_python") / "axe.min.js").read_text()


def complaints(page: Page, script: str) -> list[str]:
    """What axe finds on a page, once it is there with its colours: they come in a file of their own."""
    page.wait_for_load_state()
    page.evaluate(script)
    found = page.evaluate("axe.run(document, {resultTypes: ['violations']})")
    return [
        f"{each['id']}: {each['help']}: {json.dumps([node['html'][:120] for node in each['nodes'][:3]])}"
        for each in found["violations"]
    ]
