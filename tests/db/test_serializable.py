"""Applications at SERIALIZABLE do not fail each other."""

from collections.abc import Callable
from typing import Any

import psycopg
import pytest

from tests.db.enqueueing import Hears, add, waiting

Work = Callable[["psycopg.Connection[Any]", int], object]
ROWS, ROUNDS = 4000, 25
# Enough of each that no two who meet have to do with the same page of an index: PostgreSQL tells no rows of it apart.
CROWD = f"""
INSERT INTO accounts (email, login, status)
SELECT n || '@crowd.example', 'crowd' || n, CASE WHEN n % 2 = 0 THEN 'active' ELSE 'provisioned' END::account_status
  FROM generate_series(1, {ROWS}) AS n;
INSERT INTO tokens (action, account) SELECT 'password_recovery', id FROM accounts WHERE id % 6 = 0;
UPDATE tokens SET consumed_at = now() WHERE account % 6 = 0;
INSERT INTO tokens (action, account) SELECT 'password_recovery', id FROM accounts WHERE status = 'active';
UPDATE tokens SET code = '00000';
"""  # noqa: S608 - a constant


def sign_up(connection: psycopg.Connection[Any], number: int) -> None:
    connection.execute(add(prefix=f"new{number}-"))


def recover(connection: psycopg.Connection[Any], number: int) -> None:
    every = "INSERT INTO tokens (action, account) SELECT 'password_recovery', id FROM accounts WHERE login = %s"
    connection.execute(every, (f"crowd{2 * number}",))


def use(action: str) -> Work:
    def work(connection: psycopg.Connection[Any], number: int) -> None:
        [secret] = chosen(connection, action)[0 if number <= ROUNDS else -1]
        found = connection.execute("SELECT account FROM consume_token(%s, %s, '00000')", (secret, action)).fetchone()
        assert found is not None

    return work


def chosen(connection: psycopg.Connection[Any], action: str) -> list[tuple[bytes]]:
    """The newest token of each account, by their secrets, so that first and last are far apart in each index."""
    with psycopg.connect(connection.info.dsn, password=connection.info.password, autocommit=True) as other:
        return other.execute(
            "SELECT secret FROM (SELECT DISTINCT ON (account) account, secret FROM tokens"
            " WHERE action = %s AND consumed_at IS NULL ORDER BY account, id DESC) AS newest"
            " ORDER BY account < (SELECT avg(id) FROM accounts), secret",
            (action,),
        ).fetchall()


@pytest.mark.slow
@pytest.mark.parametrize(
    "work",
    [sign_up, recover, use("activation"), use("password_recovery")],
    ids=["sign up", "recover", "activate", "use"],
)
def test_two_at_once_do_not_fail_each_other_at_serializable(
    url: str, application: psycopg.Connection[Any], work: Work
) -> None:
    for table in ("accounts", "tokens", "jobs"):  # or pages of an index would be emptied and shared in the midst of it
        application.execute(f"ALTER TABLE {table} SET (autovacuum_enabled = off)".encode())
    application.execute(CROWD)
    application.execute("ANALYZE")
    with psycopg.connect(url) as one, psycopg.connect(url) as other:
        for connection in (one, other):
            connection.isolation_level = psycopg.IsolationLevel.SERIALIZABLE
        for number in range(1, ROUNDS + 1):
            application.execute("DELETE FROM jobs")  # as a worker does, so that nothing waits
            for connection in (one, other):
                connection.execute("SELECT")
            work(one, number)
            work(other, ROWS // 2 - 2 * number)
            one.commit()
            other.commit()


def test_a_snapshot_that_is_old_keeps_nobody_asleep(
    url: str, application: psycopg.Connection[Any], hears: Hears
) -> None:
    """A job that it shows may have been done long ago."""
    with psycopg.connect(url) as connection:
        connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        application.execute(waiting(due_at="clock_timestamp() + interval '200 ms'"))
        connection.execute("SELECT FROM jobs")
        application.execute("DELETE FROM jobs")
        connection.execute(add())
        connection.commit()

    assert hears() == ["1"]
