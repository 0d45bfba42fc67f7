"""What was so when a page was made, and is not any more when somebody acts on it."""

import re

import psycopg
import pytest
from sqlalchemy import Engine, create_engine, text

from mailroom.db.engine import connect_engine
from mailroom.ops import reading
from mailroom.ops.refresh import refresh
from mailroom.window import application
from tests.running import connecting
from tests.servers import Server
from tests.window.client import opened
from tests.world import count

EACH_SERVER = False


def paused(engine: Engine) -> int:
    with engine.connect() as connection:
        return count(connection, "pauses")


def test_a_pause_that_is_over_is_not_resumed_as_another_one(engine: Engine) -> None:
    """A probe may end a pause between the page and the click: another one that comes first must not be chosen."""
    with opened(engine, actions=engine) as window:
        window.post("/act/pause", scope="account", reason="a test")
        page = window.ask("/act/resume?scope=activation").text
        assert "activation is not paused, or not any more" in page
        assert re.search(r'<select name="scope" required><option value="">', page)
        assert "selected" not in page
        assert "<option selected>account" in window.ask("/act/resume?scope=account").text


def test_where_nothing_is_paused_nothing_is_offered(engine: Engine) -> None:
    with opened(engine, actions=engine) as window:
        page = window.ask("/act/resume?scope=account").text
        assert "Nothing is paused" in page
        assert '<form class="form"' not in page


def test_of_two_who_resume_the_second_is_told_that_it_was_over(engine: Engine) -> None:
    with opened(engine, actions=engine) as window:
        window.post("/act/pause", scope="account", reason="a test")
        assert window.post("/act/resume", scope="account", reason="first").status == 200
        second = window.post("/act/resume", scope="account", reason="second")
    assert second.status == 400
    assert "Nothing was done: account is not paused, or not any more." in second.text


@pytest.mark.parametrize("level", ["READ COMMITTED", "REPEATABLE READ", "AUTOCOMMIT"])
def test_what_is_said_to_be_done_is_done_whatever_engine_an_application_gives(
    url: str, engine: Engine, level: str
) -> None:
    own = connect_engine(url, pool_size=2, isolation_level=level)
    with opened(engine, actions=own) as window:
        assert "Paused account." in window.post("/act/pause", scope="account", reason="a test").text
    assert paused(engine) == 1
    with opened(engine, actions=own.execution_options(stream_results=True)) as window:
        assert "Resumed account." in window.post("/act/resume", scope="account", reason="a test").text
    own.dispose()
    assert paused(engine) == 0


@pytest.mark.parametrize("given", ["engine", "actions"])
def test_an_engine_of_which_nobody_knows_the_schema_is_refused_at_once(engine: Engine, url: str, given: str) -> None:
    """As one that an application has for its own tables: each page would be a mistake of the window."""
    plain = create_engine("postgresql+psycopg://", creator=lambda: psycopg.connect(url))
    engines = {"engine": engine} | {given: plain}
    with pytest.raises(ValueError, match="connect_engine"):
        application(engines["engine"], actions=engines.get("actions"), may=lambda _: None)


def test_it_does_not_show_one_database_and_act_in_another(
    engine: Engine, server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    """As where an application mounts it with two engines: a token has the same number there, and is somebody else's."""
    with server.database("other", of=server.template) as name, connecting(server.database_url(name)) as other:
        with opened(engine, actions=other) as window:
            refused = window.ask("/act/pause"), window.post("/act/pause", scope="account", reason="a test")
            assert [answer.status for answer in refused] == [500, 500]
            assert all("lead to another database" in answer.text for answer in refused)
            assert window.ask("/").status == 200
        assert paused(other) == 0
        with other.connect() as connection:
            assert reading.read(connection) is None
    assert "cannot count error=AnotherDatabase" in caplog.text


def test_an_engine_for_another_schema_is_refused_at_once(engine: Engine, url: str) -> None:
    with connecting(url, schema="other") as other, pytest.raises(ValueError, match="for schema other"):
        application(engine, actions=other, may=lambda _: None)


def test_a_window_is_mounted_while_the_database_is_away() -> None:
    nowhere = "postgresql://nobody@127.0.0.1:1/nothing"
    with connecting(nowhere, writes=False) as looking, connecting(nowhere) as acting:
        application(looking, actions=acting, may=lambda _: None)


def test_an_outcome_that_has_no_list_of_its_own_leads_nowhere(engine: Engine) -> None:
    """Late answers, and mails that were taken back, are counted, and are no outcome to look for."""
    with engine.connect() as connection:
        values = "INSERT INTO deliveries (action, outcome, attempt, message_id, late, retried_at) VALUES "
        connection.execute(text(f"{values} ('activation', 'sent', 0, 'm', true, NULL)"))
        connection.execute(text(f"{values} ('activation', 'sent', 0, 'n', false, now())"))
        connection.execute(text(f"{values} ('activation', 'rejected', 0, NULL, false, NULL)"))
    refresh(engine)
    with opened(engine) as window:
        page = window.ask("/").text
        assert "taken back" in page
        links = re.findall(r'href="(/record\?outcome=[^"]*)"', page)
        assert links
        assert [window.ask(link).status for link in links] == [200] * len(links)
