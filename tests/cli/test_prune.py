"""`prune`: it deletes what is old, says how much, and wants to be told how old."""

import pytest
from sqlalchemy import Engine, text

from mailroom.simulator import Simulator
from tests.cli.command import sending
from tests.cli.conftest import Here
from tests.world import add_accounts, count, execute, misplaced


@pytest.fixture
def env(here: Here, ses: Simulator, url: str, engine: Engine) -> dict[str, str]:
    """Twelve mails were sent a hundred days ago, and one today."""
    env = sending(url, ses)
    with engine.connect() as connection:
        add_accounts(connection, 12)
        assert here("sweep", env=env).code == 0
        connection.execute(text("UPDATE deliveries SET created_at = now() - interval '100 days'"))
        connection.execute(text("UPDATE tokens SET expires_at = now() - interval '100 days'"))
        add_accounts(connection, 1, prefix="new")
    assert here("sweep", env=env).code == 0
    return env


@pytest.mark.slow
def test_it_deletes_what_is_old_and_nothing_is_mailed_again(
    here: Here, ses: Simulator, engine: Engine, env: dict[str, str]
) -> None:
    ended = here("prune", "--older-than", "90d", env=env)
    assert (ended.code, ended.out, ended.err) == (0, "deleted 12 deliveries and 12 tokens\n", "")
    assert here("sweep", "--full", env=env).code == 0
    assert ses.ledger.counts().mails == 13
    with engine.connect() as connection:
        assert misplaced(connection) == []
        assert (count(connection, "tokens"), count(connection, "deliveries")) == (1, 1)


@pytest.mark.slow
def test_the_setting_does_where_the_option_is_missing(here: Here, env: dict[str, str]) -> None:
    assert here("prune", env=env | {"MAILROOM_PRUNE_AFTER": "101d"}).out == "deleted 0 deliveries and 0 tokens\n"
    assert here("prune", env=env | {"MAILROOM_PRUNE_AFTER": "99d"}).out == "deleted 12 deliveries and 12 tokens\n"


@pytest.mark.slow
def test_without_an_age_nothing_is_deleted(here: Here, engine: Engine, env: dict[str, str]) -> None:
    here("prune", env=env).assert_one_line(2, "MAILROOM_PRUNE_AFTER is not set")
    here("prune", "--older-than", "90", env=env).assert_one_line(2, "'90' is not accepted: a number of days")
    with engine.connect() as connection:
        assert count(connection, "deliveries") == 13


@pytest.mark.slow
def test_what_may_not_go_is_told_with_what_was_deleted_before_it_and_behind_it(
    here: Here, engine: Engine, env: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mailroom.ops.maintenance.SCAN_LIMIT", 5)
    execute(
        engine,
        "CREATE TABLE kept (token bigint REFERENCES tokens)",
        "INSERT INTO kept SELECT token FROM deliveries ORDER BY id OFFSET 5 LIMIT 5",
    )
    ended = here("prune", "--older-than", "90d", env=env)
    assert (ended.code, ended.out) == (1, "deleted 7 deliveries and 7 tokens\n")  # before and behind those
    assert "violates foreign key constraint" in ended.err
