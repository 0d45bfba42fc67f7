"""A value at the end of what its column can hold is refused, or stops no mail, no command and no page."""

import json
import logging
from collections.abc import Iterator

import psycopg
import pytest
from sqlalchemy import Engine, text
from sqlalchemy.exc import DBAPIError

from mailroom import queue
from mailroom.db.engine import connect_engine
from mailroom.fleet import pauses
from mailroom.ops import refresh, suppressions
from mailroom.outcome import Deferred, Rejected, Sent
from mailroom.queue.verdict import judge
from mailroom.simulator import Simulator
from tests.claiming import enqueue, enqueue_recovery, take
from tests.cli.command import sending
from tests.cli.conftest import Here, here, ses
from tests.servers import Server, migrate
from tests.window.client import opened
from tests.world import count, execute, rows

__all__ = ["here", "ses"]

TABLES = [
    *("accounts", "actions", "batches", "deliveries", "events", "feed", "guesses", "jobs", "minutes", "pauses"),
    *("permits", "readings", "resumptions", "ses_account", "suppressions", "templates", "tokens", "workers"),
]
COLUMNS = """
SELECT table_name AS home, column_name AS name, trim(leading '_' FROM udt_name) AS type, data_type = 'ARRAY' AS list
  FROM information_schema.columns
  JOIN information_schema.tables USING (table_schema, table_name)
 WHERE table_schema = 'mailroom' AND table_type = 'BASE TABLE'
   AND trim(leading '_' FROM udt_name) IN ('int2', 'int4', 'int8', 'float8', 'json', 'timestamptz')
 ORDER BY 1, 2
"""
# By type, its two ends, and what else a program may not expect of it.
FAR = {
    "int2": ("-32768", "32767", "-1", "99"),
    "int4": ("-2147483648", "2147483647", "-1", "0"),
    "int8": ("-9223372036854775808", "9223372036854775807", "-1", "0"),
    "float8": ("-1e308", "1e308", "NaN", "Infinity"),
    "timestamptz": ("-infinity", "infinity", "0044-03-15 BC", "20000-01-01"),
    "json": ("[1]", '{"format": 1}', '{"format": 1, "read_at": 1e400, "lanes": {}}', '"a"'),
}
LISTS = ("array_fill({}, ARRAY[cardinality({name})])", "array_fill({}, ARRAY[cardinality({name}), 1])")
# What a sweep may say of what is in this database.
EXPECTED = ("mail token=", "reconciled ", "the clock was set back")
PAGES = (
    *("/", "/flight", "/held", "/record", "/unconfirmed", "/flooded", "/account", "/metrics", "/reading.json"),
    "/lane/mailroom/1/activation",
)
COMMANDS: tuple[tuple[str, ...], ...] = (
    *(("status",), ("status", "--json"), ("jobs", "list"), ("jobs", "list", "--outcome", "sent")),
    *(("jobs", "show", "1"), ("jobs", "show", "2"), ("suppressions", "list"), ("templates", "list")),
)


@pytest.fixture(scope="module")
def prepared(server: Server) -> Iterator[str]:
    """The name of a database with a row of every kind."""
    with server.database("values", of=server.template) as name:
        engine = connect_engine(server.database_url(name))
        fill(engine)
        engine.dispose()
        yield name


@pytest.fixture
def url(server: Server, prepared: str) -> Iterator[str]:
    with server.database("test", of=prepared) as name:
        yield server.database_url(name)


def fill(engine: Engine) -> None:
    with engine.connect() as connection:
        enqueue(connection, 8)
        enqueue_recovery(connection)
        for outcome in (Sent("m"), Rejected("Code", "no"), Deferred("MAILBOX", "full", charged=True)):
            queue.settle(connection, [(take(connection, batch_limit=1), [judge(outcome, attempt=0, jitter=0)])])
        take(connection, batch_limit=2)
        suppressions.add(connection, "someone@example.org")
        pauses.open_pause(connection, "password_recovery", code="TemplateDoesNotExist", reason="x")
    execute(
        engine,
        "UPDATE jobs SET due_at = 'infinity' WHERE token = (SELECT max(token) FROM jobs WHERE action = 'activation')",
        "INSERT INTO events (message_id, kind, at, token, look_at) VALUES ('m', 'delivery', now(), 1, NULL),"
        " ('other', 'rendering_failure', now(), 1, now()), ('nameless', 'reject', now(), NULL, now())",
        "INSERT INTO guesses (token, made) VALUES (3, 1)",
        "INSERT INTO workers VALUES ('w', 'mailroom', '1', now(), now(), 4, 1, true, true)",
        "INSERT INTO templates (name, action, languages, default_language)"
        " VALUES ('activationv1', 'activation', '{en,de}', 'en')",
        "UPDATE pauses SET probe_at = now()",
        "UPDATE deliveries SET created_at = created_at - interval '3 minutes'",
        "UPDATE tokens SET created_at = created_at - interval '4 minutes'",
        "UPDATE ses_account SET max_send_rate = 1000, max_24_hour_send = 100000",
    )
    refresh.refresh(engine)
    execute(engine, "INSERT INTO resumptions VALUES ('activation', now() - interval '1 day')")
    execute(
        engine, "UPDATE batches SET lease_until = now() - interval '5 s'", "UPDATE readings SET due_at = '-infinity'"
    )


def set_all(engine: Engine, tables: list[str], place: int) -> int:
    """Set each value of these tables to the one at this place of its type, or of one row; return how many can be."""
    changed = 0
    with engine.connect() as connection:
        for row in (each for each in rows(connection, COLUMNS) if each.home in tables):
            far = f"CAST('{FAR[row.type][place]}' AS {row.type})"
            becomes = [form.format(far, name=row.name) for form in LISTS] if row.list else [far]
            for where in ("", f" WHERE ctid = (SELECT min(ctid) FROM {row.home})"):  # noqa: S608 - names of the catalogue
                for value in becomes:
                    try:
                        connection.execute(
                            text(f"UPDATE {row.home} SET {row.name} = {value}{where}".replace(":", r"\:"))  # noqa: S608 - as above
                        )
                        changed += 1
                    except DBAPIError:
                        continue
    return changed


@pytest.mark.slow
@pytest.mark.parametrize("place", range(4))
def test_where_all_values_are_far_everything_goes_on(
    here: Here, ses: Simulator, engine: Engine, url: str, place: int, caplog: pytest.LogCaptureFixture
) -> None:
    set_all(engine, TABLES, place)
    assert_all_goes_on(here, ses, engine, url, caplog)


@pytest.mark.one_server  # what it does is done on each where all are
@pytest.mark.slow
@pytest.mark.parametrize("place", range(4))
@pytest.mark.parametrize("table", TABLES)
def test_where_the_values_of_a_table_are_far_everything_goes_on(
    here: Here, ses: Simulator, engine: Engine, url: str, table: str, place: int, caplog: pytest.LogCaptureFixture
) -> None:
    set_all(engine, [table], place)
    assert_all_goes_on(here, ses, engine, url, caplog)


def assert_all_goes_on(here: Here, ses: Simulator, engine: Engine, url: str, caplog: pytest.LogCaptureFixture) -> None:
    execute(engine, "UPDATE ses_account SET refresh_due_at = '-infinity'")  # as it is within a minute
    env = sending(url, ses)
    for command in COMMANDS:
        ended = here(*command, env=env)
        unknown = "show" in command and ended.err == f"mailroom: nothing is known of token {command[2]}\n"
        assert (ended.code, ended.err) == (0, "") or unknown, (command, ended.err)
    checked = json.loads(here("doctor", "--json", env=env).out)
    assert not [row for row in checked if "the database refuses" in row["message"]]
    failures: list[str] = []
    refresh.refresh(engine, fails=failures.append)
    assert failures == [], "all can be counted"
    with opened(engine, actions=engine) as window:
        answers = {path: window.ask(path).status for path in (*PAGES, *(f"/mail/{token}" for token in range(1, 9)))}
    assert not {path: status for path, status in answers.items() if status >= 500}
    ended = here("sweep", "--max-seconds", "5", env=env)
    assert ended.code in {0, 3} or "is paused" in ended.err
    execute(engine, "UPDATE pauses SET probe_at = now()")  # as it is within some minutes
    ended = here("sweep", "--max-seconds", "5", "--full", env=env)
    with engine.connect() as connection:
        assert ended.code in {0, 3}, (ended.err, rows(connection, "SELECT * FROM pauses"))
    assert not [record for record in caplog.records if record.exc_info]
    said = {record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING}
    assert not [line for line in said if not line.startswith(EXPECTED)]
    with engine.connect() as connection:
        assert count(connection, "batches") == 0
        assert count(connection, "jobs WHERE due_at <= now() - interval '1 second'") == 0


def test_that_there_are_such_values_in_these_tables_alone(engine: Engine) -> None:
    with engine.connect() as connection:
        found = {row.home for row in rows(connection, COLUMNS)}
    assert found == set(TABLES)


ODD = """
DELETE FROM permits WHERE bucket = 'mails';
INSERT INTO permits (bucket, granted, level, slowdown) VALUES ('mails', -1, 'NaN', 1e-300), ('letters', 0, 0, 1);
UPDATE ses_account SET granted_before = -5, max_send_rate = 'Infinity', fetched_at = now();
INSERT INTO pauses (scope, code, reason, probe_at, probes) VALUES ('identity', 'x', 'x', now(), -3);
INSERT INTO templates (name, action, languages, default_language) VALUES ('t', 'activation', '{{en},{de}}', 'en');
INSERT INTO minutes (at, queue, priority, action, outcome, code, mails, waits)
    VALUES (now(), '', 99, 'activation', 'sent', '', 1, '{}');
INSERT INTO jobs (token, due_at, action, priority, queue)
    VALUES (-9223372036854775808, now(), 'activation', 1, 'mailroom'), (7, now(), 'activation', 1, U&'a\\00A0b');
INSERT INTO batches (queue, worker, action, priority, due_at, tokens, attempts, lease_until, due_ats)
    VALUES ('mailroom', 'w', 'activation', -7, now(),
            '{{8},{NULL}}', '{{1},{NULL}}', now(), ARRAY[now(), now(), now()]);
INSERT INTO deliveries (token, action, outcome, attempt, priority) VALUES (9, 'activation', 'sent', 0, 99);
"""
NOW = """
SELECT (SELECT array_agg(bucket || granted || ' ' || level || ' ' || slowdown ORDER BY bucket) FROM permits) AS permits,
       (SELECT granted_before FROM ses_account WHERE max_send_rate IS NULL AND fetched_at IS NULL) AS account,
       (SELECT probes FROM pauses) AS probes, (SELECT languages FROM templates) AS languages,
       (SELECT count(*) FROM minutes) AS minutes,
       (SELECT array_agg(token || queue) FROM jobs) AS jobs,
       (SELECT array_agg(ROW(priority, tokens, attempts, due_ats)::text) FROM batches) AS batches,
       (SELECT priority FROM deliveries) AS logged
"""


@pytest.mark.slow
@pytest.mark.parametrize("schema", ["mailroom", "Post room"])
def test_what_was_set_before_a_release_that_refuses_it_is_brought_in_order(empty_url: str, schema: str) -> None:
    migrate(empty_url, "0008", schema=schema)
    with psycopg.connect(empty_url, options=f'-csearch_path="{schema.replace(" ", chr(92) + " ")}"') as old:
        old.execute(ODD.encode())
    migrate(empty_url, schema=schema)
    with psycopg.connect(empty_url, options=f'-csearch_path="{schema.replace(" ", chr(92) + " ")}"') as new:
        found = new.execute(NOW.encode()).fetchone()
        broken = new.execute("SELECT conname FROM pg_constraint WHERE NOT convalidated").fetchall()
    assert found == (
        ["bulk_calls0 0 1", "mails0 0 0.01"],
        *(0, 0, ["en", "de"], 0, ["7a_b"], ['(0,"{8,0}","{1,0}",)'], 3),
    )
    assert broken == []
