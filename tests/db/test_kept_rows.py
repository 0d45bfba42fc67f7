"""Rows that must be there: they cannot be taken away, and where they are gone all the same, it is said which."""

import json

import pytest
from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import DBAPIError, IntegrityError

from mailroom.db import kept_rows, preflight
from mailroom.errors import DatabaseError
from mailroom.event import Event, EventKind
from mailroom.fleet import buckets
from mailroom.fleet.buckets import Bucket
from mailroom.queue import events, feed
from mailroom.simulator import Simulator
from tests.cli.command import sending
from tests.cli.conftest import Here, here, ses
from tests.world import add_accounts, count, execute, rows

__all__ = ["here", "ses"]

TABLES = sorted(kept_rows.INSERTS)
COMMANDS = [("worker",), ("sweep",), ("collect",), ("jobs", "retry", "1"), ("prune", "--older-than", "90d")]


def empty(engine: Engine, table: str) -> None:
    """Take its rows away as somebody does who has switched the triggers off."""
    execute(engine, f"ALTER TABLE {table} DISABLE TRIGGER USER")
    execute(engine, f"DELETE FROM {table}")  # noqa: S608 - our own names
    execute(engine, f"ALTER TABLE {table} ENABLE TRIGGER USER")


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("statement", ["DELETE FROM {}", "TRUNCATE {}", "TRUNCATE {} CASCADE"])
def test_they_cannot_be_taken_away(conn: Connection, table: str, statement: str) -> None:
    before = count(conn, table)
    with pytest.raises(DBAPIError, match=f"without the rows of {table} no mail is sent"), conn.begin_nested():
        conn.execute(text(statement.format(table)))
    assert count(conn, table) == before > 0


@pytest.mark.parametrize("table", TABLES)
def test_who_restores_rows_may_put_others_in_their_place(conn: Connection, table: str) -> None:
    conn.execute(text("SET LOCAL mailroom.triggers = off"))
    conn.execute(text(f"CREATE TEMP TABLE dumped ON COMMIT DROP AS SELECT * FROM {table}"))  # noqa: S608 - our own names
    conn.execute(text(f"TRUNCATE {table}"))
    conn.execute(text(f"INSERT INTO {table} SELECT * FROM dumped"))  # noqa: S608 - our own names
    assert list(kept_rows.astray(conn)) == []


def test_what_belongs_to_accounts_can_be_emptied(conn: Connection) -> None:
    """As before rows are restored: docs/operating.md."""
    add_accounts(conn, 2)
    conn.execute(text("TRUNCATE accounts CASCADE"))
    conn.execute(text("TRUNCATE pauses, events, suppressions, resumptions, minutes"))
    assert (count(conn, "jobs"), list(kept_rows.astray(conn))) == (0, [])


def test_a_bucket_is_one_of_those_there_are(conn: Connection) -> None:
    for statement in ("UPDATE permits SET bucket = 'letters'", "INSERT INTO permits (bucket) VALUES ('letters')"):
        with pytest.raises(IntegrityError), conn.begin_nested():
            conn.execute(text(statement))


@pytest.mark.slow
@pytest.mark.parametrize("table", TABLES)
def test_a_table_without_them_is_named_and_how_to_have_them_back(
    here: Here, ses: Simulator, engine: Engine, url: str, table: str
) -> None:
    env = sending(url, ses)
    empty(engine, table)
    for command in COMMANDS:
        here(*command, env=env).assert_one_line(1, f"{table} lacks a row", f'INSERT INTO "mailroom".{table} ')
    assert here("status", env=env).code == 0
    found = {row["check"]: row for row in json.loads(here("doctor", "--json", env=env).out)}
    assert (found["guarantee"]["level"], found["triggers"]["level"]) == ("failed", "ok")
    assert f"{table} lacks a row" in found["guarantee"]["message"]
    execute(engine, found["guarantee"]["remedy"])
    preflight.check(engine)


def test_one_bucket_of_two_that_is_gone_is_put_back(engine: Engine) -> None:
    execute(engine, "ALTER TABLE permits DISABLE TRIGGER USER", "DELETE FROM permits WHERE bucket = 'mails'")
    with engine.connect() as connection:
        with pytest.raises(DatabaseError, match="permits lacks a row"):
            buckets.take(connection, Bucket.MAILS, 1, own_rate=None, urgent=True)
        [(_, remedy)] = kept_rows.astray(connection)
    execute(engine, remedy)
    preflight.check(engine)


@pytest.mark.slow
@pytest.mark.parametrize("table", sorted(set(TABLES) - {"permits"}))
def test_a_second_row_is_named_too(here: Here, ses: Simulator, engine: Engine, url: str, table: str) -> None:
    """Of a restore that failed to make the key."""
    execute(engine, f"ALTER TABLE {table} DROP CONSTRAINT {table}_pkey", f"INSERT INTO {table} DEFAULT VALUES")
    env = sending(url, ses)
    here("sweep", env=env).assert_one_line(1, f"{table} has 2 rows", "mailroom.triggers = off")
    assert here("status", env=env).code == 0
    assert f"{table} has 2 rows" in here("doctor", env=env).out


def test_what_can_be_borne_without_them_is(engine: Engine) -> None:
    """Without a row of the feed there was never one. Mails without the name of the database would be nobody's."""
    empty(engine, "feed")
    with engine.connect() as connection:
        told = Event(EventKind.DELIVERY, "m", rows(connection, "SELECT now() AS at")[0].at)
        assert feed.absorb(connection, [told], queue="mailroom").unknown == 1
        found = feed.state(connection)
    assert (found.polled_seconds, found.heard_seconds, found.silent, found.live) == (None, None, False, False)
    assert (found.added, found.known, found.elsewhere, found.unknown) == (0, 0, 0, 0)
    empty(engine, "site")
    with engine.connect() as connection, pytest.raises(DatabaseError, match="site lacks a row"):
        events.site(connection)
