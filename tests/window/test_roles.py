"""The window as it is run: it looks with the role of `mailroom grants --viewer`, and acts with that of `--worker`."""

from collections.abc import Iterator
from functools import partial

import pytest
from sqlalchemy import Engine, text

from mailroom.db.engine import connect_engine
from mailroom.ops import grants
from mailroom.ops.doctor import examine
from tests.roles import a_role
from tests.servers import Server
from tests.window import scene
from tests.window.client import SAME_ORIGIN, Window, opened
from tests.world import count, rows

EACH_SERVER = False


@pytest.fixture
def as_granted(server: Server, url: str, engine: Engine, tokens: dict[str, int]) -> Iterator[Window]:
    """A window of two roles, on a database where nobody may call a function unless it is granted."""
    with a_role(server) as (viewer, log_in_viewer), a_role(server) as (worker, log_in_worker):
        with engine.connect() as connection:
            connection.execute(text("REVOKE EXECUTE ON ALL FUNCTIONS IN SCHEMA mailroom FROM PUBLIC"))
            grants.apply(connection, grants.statements(connection, "viewer", viewer))
            grants.apply(connection, grants.statements(connection, "worker", worker))
        looking = connect_engine(log_in_viewer(url), writes=False, pool_size=4)
        acting = connect_engine(log_in_worker(url), pool_size=2)
        checks = partial(examine, acting, listening=log_in_worker(url), channel="mailroom", queue="mailroom")
        with opened(looking, actions=acting, checks=checks) as window:
            yield window
        looking.dispose()
        acting.dispose()


@pytest.mark.slow
def test_the_role_of_a_worker_is_enough_for_each_action(
    as_granted: Window, engine: Engine, tokens: dict[str, int]
) -> None:
    def done(deed: str, **form: str) -> str:
        name, value = next(iter(form.items()))
        asked = {"tokens": "token"}.get(name, name)
        assert as_granted.ask(f"/act/{deed}?{asked}={value}").status == 200
        answer = as_granted.post(f"/act/{deed}", SAME_ORIGIN, reason="a test", **form)
        return answer.text.split("<title>")[1].split("</title>")[0]

    assert done("pause", scope="activation") == "Paused activation."
    assert done("resume", scope="activation") == "Resumed activation."
    assert done("release", tokens=str(tokens["held"])) == "Released 1 mail."
    assert done("drop", tokens=str(tokens["waiting"])) == "Dropped 1 mail."
    assert done("retry", tokens=str(tokens["rejected"])) == "Put back, or made due, 1 mail."
    with engine.connect() as connection:
        assert count(connection, "pauses WHERE scope = 'activation'") == 0
        assert count(connection, "jobs WHERE due_at = 'infinity'") == 0
        due = rows(connection, "SELECT token FROM jobs WHERE due_at <= now()")
    assert tokens["waiting"] not in {row.token for row in due}
    assert {tokens["held"], tokens["rejected"]} <= {row.token for row in due}


@pytest.mark.slow
def test_the_role_of_a_worker_is_enough_to_tell_whose_mail_it_is(as_granted: Window, tokens: dict[str, int]) -> None:
    shown = as_granted.ask(f"/mail/{tokens['recovery']}?who=1")
    assert shown.status == 200
    assert "It goes to known1@example.com, login known1." in shown.text


def test_the_role_of_a_worker_is_enough_for_the_checks_of_the_doctor(as_granted: Window) -> None:
    shown = as_granted.post("/doctor")
    assert shown.status == 200
    assert "Check again" in shown.text
    assert "lacks" not in shown.text
    assert "may not" not in shown.text


def test_where_no_worker_counts_the_window_does_so_with_the_role_of_a_worker(
    as_granted: Window, engine: Engine
) -> None:
    with engine.connect() as connection:
        connection.execute(text("UPDATE readings SET due_at = '-infinity', found = NULL"))
    told = as_granted.ask("/reading.json").json
    assert scene.QUEUE in {lane["queue"] for lane in told["reading"]["lanes"]}
