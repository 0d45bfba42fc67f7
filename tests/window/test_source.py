"""Where the pages have their numbers from, when a part of what that stands on is broken."""

import re
from collections.abc import Iterator
from datetime import timedelta

import pytest
from sqlalchemy import Engine, text

from mailroom.db.engine import connect_engine
from mailroom.window.source import Source
from tests.window import scene
from tests.window.client import opened
from tests.window.test_troubles import metrics

EACH_SERVER = False
NOWHERE = "postgresql://nobody@127.0.0.1:1/nothing"


@pytest.fixture
def broken() -> Iterator[Engine]:
    """An engine that reaches no database."""
    made = connect_engine(NOWHERE, pool_size=2)
    yield made
    made.dispose()


@pytest.fixture
def abandoned(engine: Engine) -> Engine:
    """A database in which a mail waits, and for a while nobody has worked or counted."""
    scene.furnish(engine)
    with engine.connect() as connection:
        connection.execute(text("DELETE FROM pauses"))
        connection.execute(text("DELETE FROM workers"))
    scene.count(engine)
    shift(engine, "-2 min")
    return engine


def shift(engine: Engine, by: str) -> None:
    """Let the reading be of another moment."""
    with engine.connect() as connection:
        connection.execute(
            text("""
                UPDATE readings SET read_at = read_at + CAST(:by AS interval), due_at = due_at + CAST(:by AS interval),
                       found = CAST(jsonb_set(CAST(found AS jsonb), '{read_at}',
                           to_jsonb(CAST(found->>'read_at' AS timestamptz) + CAST(:by AS interval))) AS json)
            """),
            {"by": by},
        )


def test_actions_that_reach_no_database_hide_neither_what_is_read_nor_its_cause(
    abandoned: Engine, broken: Engine
) -> None:
    with opened(abandoned, actions=broken) as window:
        page = window.ask().text
        assert "The database does not answer" not in page
        assert "no worker takes the queue" in page
        assert window.ask("/readyz").status == 200
        assert metrics(window)["mailroom_window_up"] == {(): 1.0}


def test_counting_that_failed_is_not_tried_with_each_look(
    abandoned: Engine, broken: Engine, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mailroom.window.source.KEPT_SECONDS", 0.0)
    source = Source(abandoned, counting=broken)
    assert [source.see().failure for _ in range(3)] == ["", "", ""]
    assert caplog.text.count("cannot count") == 1


def test_a_pool_without_a_free_connection_is_a_failure_that_is_told(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    narrow = connect_engine(url, writes=False, pool_size=1)
    monkeypatch.setattr(narrow.pool, "_timeout", 0.1)
    with narrow.connect():
        assert Source(narrow).see().failure == "TimeoutError"
    narrow.dispose()


def test_a_reading_that_is_ahead_of_the_clock_is_told_to_be_old(abandoned: Engine) -> None:
    shift(abandoned, "1 hour 2 min")
    with opened(abandoned) as window:
        page = window.ask().text
    assert re.search(r'<span class="bad">Counted <time [^>]*>(60|59) min ago', page)


def test_a_reading_that_is_ahead_of_the_clock_is_made_anew_by_who_may(abandoned: Engine) -> None:
    shift(abandoned, "1 hour 2 min")
    found = Source(abandoned, counting=abandoned).see()
    assert found.reading is not None
    assert abs(found.now - found.reading.read_at) < timedelta(minutes=1)
