"""All that may be done, with the keyboard alone."""

import pytest
from playwright.sync_api import Browser, Page
from sqlalchemy import Engine

from mailroom.finding import ok
from tests.window.browser import tab
from tests.window.client import Window, opened

EACH_SERVER = False


def reach(page: Page, name: str) -> None:
    """Go to a link, a field or a button with the tab key alone."""
    for _ in range(80):
        page.keyboard.press("Tab")
        told = "e => (e.labels?.[0] ?? e).textContent + (e.getAttribute('href') ?? '')"
        if page.evaluate(f"({told})(document.activeElement)").strip().startswith(name):
            assert page.evaluate("document.activeElement.matches(':focus-visible')")
            return
    pytest.fail(f"{name} cannot be reached")


def act(page: Page, link: str, button: str) -> None:
    """Go from a page to the preview of an action, give a reason, and do it."""
    reach(page, link)
    page.keyboard.press("Enter")
    page.wait_for_url("**/act/**")
    reach(page, "Why")
    page.keyboard.type("a test")
    reach(page, button)
    page.keyboard.press("Enter")
    page.get_by_role("status").wait_for()


def find(page: Page, token: int) -> None:
    """Go to the page of a mail."""
    reach(page, "Token of a mail")
    page.keyboard.type(str(token))
    reach(page, "Find")
    page.keyboard.press("Enter")
    page.wait_for_url(f"**/mail/{token}")


@pytest.mark.slow
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
        act(page, link, button)
        assert page.locator("h1").inner_text() == done


@pytest.mark.slow
def test_one_mail_is_found_and_acted_on_by_keyboard(window: Window, browser: Browser, tokens: dict[str, int]) -> None:
    with tab(browser, window.url) as seen:
        page = seen.open()
        for what, link, button, done in (
            ("rejected", "Try again", "Try again", "Put back, or made due, 1 mail."),
            ("held", "Release", "Release", "Released 1 mail."),
            ("waiting", "Drop", "Drop", "Dropped 1 mail."),
        ):
            find(page, tokens[what])
            act(page, link, button)
            assert page.locator("h1").inner_text() == done
        assert seen.said == []


@pytest.mark.slow
def test_whose_mail_it_is_is_asked_by_keyboard(window: Window, browser: Browser, tokens: dict[str, int]) -> None:
    with tab(browser, window.url) as seen:
        page = seen.open()
        find(page, tokens["recovery"])
        reach(page, "Whose is it?")
        page.keyboard.press("Enter")
        page.wait_for_url("**?who=1")
        assert "It goes to known1@example.com" in page.locator("main").inner_text()
        assert seen.said == []


@pytest.mark.slow
def test_the_checks_of_the_doctor_are_made_by_keyboard(engine: Engine, browser: Browser) -> None:
    with (
        opened(engine, actions=engine, checks=lambda: [ok("one", "is well")]) as window,
        tab(browser, window.url) as seen,
    ):
        page = seen.open()
        reach(page, "Doctor")
        page.keyboard.press("Enter")
        page.wait_for_url("**/doctor")
        reach(page, "Run the checks")
        page.keyboard.press("Enter")
        page.get_by_text("All is well: 1 check.").wait_for()
        assert seen.said == []
