"""An application's session, and one that hears whom a commit wakes."""

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from tests.db.enqueueing import Hears


@pytest.fixture
def application(url: str) -> Iterator[psycopg.Connection[Any]]:
    """A connection on which whatever is executed at once is one transaction."""
    with psycopg.connect(url, autocommit=True) as connection:
        yield connection


@pytest.fixture
def hears(url: str) -> Iterator[Hears]:
    """What a listener has heard since it was last asked.

    Notifications arrive in the order of their commits, so one of our own says when all before it are in.
    """
    with psycopg.connect(url, autocommit=True) as listener, psycopg.connect(url, autocommit=True) as last:
        listener.execute("LISTEN token_insert")

        def hear() -> list[str]:
            last.execute("NOTIFY token_insert, 'that is all'")
            heard: list[str] = []
            for notification in listener.notifies(timeout=30):
                if notification.payload == "that is all":
                    return heard
                heard.append(notification.payload)
            raise AssertionError("the listener heard nothing for half a minute")

        yield hear
