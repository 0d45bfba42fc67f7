"""A window on a database in which much has happened."""

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser
from sqlalchemy import Engine

from tests.window import scene
from tests.window.browser import browsing
from tests.window.client import Window, opened


@pytest.fixture
def tokens(engine: Engine) -> dict[str, int]:
    """Tokens of mails, by what became of them."""
    return scene.furnish(engine)


@pytest.fixture
def window(engine: Engine, tokens: dict[str, int]) -> Iterator[Window]:
    """A window that looks and acts."""
    with opened(engine, actions=engine) as window:
        yield window


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One for all tests of a file: to start one takes longer than most of them."""
    with browsing() as browser:
        yield browser
