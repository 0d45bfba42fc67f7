"""A moment that no program of ours can hold stops no lane and no page."""

import psycopg
import pytest
from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import IntegrityError

from mailroom import queue
from mailroom.outcome import Sent
from mailroom.queue.verdict import judge
from tests.claiming import enqueue, take
from tests.db.migrating import connected
from tests.servers import migrate
from tests.window.client import opened
from tests.world import rows

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


def test_what_was_due_at_one_keeps_its_order_and_is_mailed(empty_url: str) -> None:
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


def test_a_mail_that_was_due_at_one_has_its_life(engine: Engine) -> None:
    with engine.connect() as connection:
        [token] = enqueue(connection)
        queue.settle(connection, [(take(connection), [judge(Sent("m"), attempt=0, jitter=0)])])
        connection.execute(text("UPDATE deliveries SET due_at = '-infinity'"))
    with opened(engine) as window:
        assert "accepted" in window.ask(f"/mail/{token}").text
