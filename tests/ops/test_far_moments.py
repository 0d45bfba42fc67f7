"""A moment that no program of ours can hold stops no lane and no page."""

from itertools import product

import psycopg
import pytest
from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import IntegrityError

from mailroom import queue
from mailroom.fleet import pauses
from mailroom.ops import refresh, suppressions, walk
from mailroom.ops.jobs import Filters
from mailroom.outcome import Rejected, Sent
from mailroom.queue import feed
from mailroom.queue.verdict import judge
from tests.claiming import enqueue, take
from tests.db.migrating import connected
from tests.servers import migrate
from tests.window.client import opened
from tests.world import execute, recompute_minutes, rows

FAR = ["-infinity", "0044-03-15 BC", "0999-12-31 00:00+00", "9000-01-02 00:00+00", "20000-01-01"]
TOKENS = "SELECT token FROM jobs ORDER BY due_at, token"
PUT = text("UPDATE jobs SET due_at = CAST(:moment AS timestamptz) WHERE token = :token")


@pytest.mark.parametrize("moment", FAR)
def test_no_job_can_be_due_at_one(conn: Connection, moment: str) -> None:
    [token] = enqueue(conn)
    with pytest.raises(IntegrityError, match="jobs_due_at"), conn.begin_nested():
        conn.execute(PUT, {"moment": moment, "token": token})
    assert [job.token for job in take(conn).jobs] == [token]


@pytest.mark.parametrize("moment", ["1000-01-01 00:00+00", "9000-01-01 00:00+00", "infinity"])
def test_the_first_the_last_and_that_of_a_held_one_can_be(conn: Connection, moment: str) -> None:
    [token] = enqueue(conn)
    conn.execute(PUT, {"moment": moment, "token": token})
    due = "SELECT token FROM jobs WHERE due_at = CAST(:moment AS timestamptz)"
    assert rows(conn, due, moment=moment) == [(token,)]


@pytest.mark.slow
def test_what_was_due_at_one_keeps_its_order_and_can_be_read(empty_url: str) -> None:
    """Of a release that let it be."""
    migrate(empty_url, "0007")
    with psycopg.connect(empty_url) as old:
        for token, moment in enumerate([*FAR, "2020-01-01", "infinity"]):
            old.execute("INSERT INTO mailroom.jobs VALUES (%s, %s, 'activation', 1, 0, 'mailroom')", [token, moment])
    migrate(empty_url)
    with connected(empty_url) as connection:
        assert [row.token for row in rows(connection, TOKENS)] == [0, 1, 2, 5, 3, 4, 6]
        waiting = rows(connection, "SELECT token, at FROM waiting_jobs WHERE state = 'waiting' ORDER BY at, token")
        assert [row.at.year for row in waiting] == [1000, 1000, 1000, 2020, 9000, 9000]


PAGES = ("/", "/flight", "/held", "/record", "/unconfirmed", "/flooded", "/account", "/metrics", "/reading.json")
# All but when jobs are due.
COLUMNS = """
SELECT table_name AS home, array_agg(CAST(column_name AS text)) AS columns
  FROM information_schema.columns
  JOIN information_schema.tables USING (table_schema, table_name)
 WHERE table_schema = 'mailroom' AND table_type = 'BASE TABLE' AND data_type = 'timestamp with time zone'
   AND (table_name, column_name) <> ('jobs', 'due_at')
 GROUP BY table_name
"""


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["-infinity", "0044-03-15 BC", "infinity"])
def test_where_all_moments_are_such_every_page_and_list_is_there(engine: Engine, moment: str) -> None:
    with engine.connect() as connection:
        tokens = enqueue(connection, 6)
        for outcome in (Sent("m"), Rejected("Code", "no")):
            queue.settle(connection, [(take(connection, batch_limit=1), [judge(outcome, attempt=0, jitter=0)])])
        take(connection, batch_limit=1)
        connection.execute(PUT, {"moment": "infinity", "token": tokens[-1]})
        connection.execute(text("INSERT INTO events (message_id, kind, at) VALUES ('m', 'delivery', now())"))
        suppressions.add(connection, "someone@example.org")
        pauses.open_pause(connection, "account", code="ByHand", reason="x")
        refresh.refresh(engine)
        changed = {
            row.home: ", ".join(f"{column} = '{moment}'" for column in row.columns) for row in rows(connection, COLUMNS)
        }
        for home, becomes in changed.items():
            connection.execute(text(f"UPDATE {home} SET {becomes}"))  # noqa: S608 - names of the catalogue
        assert {"accounts", "tokens", "batches", "deliveries", "pauses", "workers", "readings"} <= set(changed)
        assert {found.token for found in walk.find(connection, Filters())} == set(tokens[2:])
        finished = walk.find(connection, Filters(outcomes=("sent", "rejected")))
        assert {found.token for found in finished} == set(tokens[:2])
    with opened(engine, actions=engine) as window:
        for path in (*PAGES, *(f"/mail/{token}" for token in tokens)):
            assert window.ask(path).status == 200, path
    execute(engine, "UPDATE readings SET due_at = '-infinity'")
    failures: list[str] = []
    found = refresh.refresh(engine, fails=failures.append)
    assert (found is not None, failures) == (True, []), "what there is can be counted"


EVENT = text(
    "INSERT INTO events (message_id, kind, at, token, absorbed_at, look_at) VALUES"
    " (:id, 'reject', CAST(:at AS timestamptz), :token,"
    " CAST(:absorbed_at AS timestamptz), CAST(:look_at AS timestamptz))"
)


def test_what_says_that_a_mail_never_went_out_is_acted_on_whatever_its_moments_are(conn: Connection) -> None:
    """PostgreSQL 15 takes no infinite moment off another one."""
    [token] = enqueue(conn)
    queue.settle(conn, [(take(conn), [judge(Sent("m"), attempt=0, jitter=0)])])
    moments = ["-infinity", "0044-03-15 BC", "2020-01-01", "infinity"]
    for at, absorbed_at, look_at in product(moments, moments, moments[:-1]):
        for of in (token, None):
            binds = {"at": at, "absorbed_at": absorbed_at, "look_at": look_at, "token": of}
            conn.execute(EVENT, binds | {"id": f"{at}{absorbed_at}{look_at}{of}"})
    conn.execute(EVENT, {"at": "now", "absorbed_at": "infinity", "look_at": "-infinity", "token": None, "id": "m"})
    [found] = feed.take_back(conn, queue="mailroom")
    assert (found.token, found.outcome) == (token, "rejected")
    assert rows(conn, "SELECT FROM events WHERE look_at <= now()") == []


CLAIMED = text(
    "UPDATE deliveries SET created_at = now() - interval '3 minutes', claimed_at = CAST(:moment AS timestamptz)"
)


def test_minutes_are_counted_whatever_the_moments_of_a_delivery_are(engine: Engine) -> None:
    with engine.connect() as connection:
        enqueue(connection)
        queue.settle(connection, [(take(connection), [judge(Sent("m"), attempt=0, jitter=0)])])
    for moment in ("-infinity", "infinity"):
        execute(engine, "UPDATE readings SET minutes_until = NULL")
        with engine.connect() as connection:
            connection.execute(CLAIMED, {"moment": moment})
            while not recompute_minutes(connection):
                pass
            assert rows(connection, "SELECT outcome, mails FROM minutes") == [("sent", 1)]
