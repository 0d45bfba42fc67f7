"""Rows as mailroom's triggers would make them, by the million: with the triggers off, and so in a fraction of the time.

Tokens get a day to live: one that runs out while it waits for its measurement would be renewed at its claim.
"""

from typing import Any, Final

import psycopg
from sqlalchemy import text

from mailroom.db.engine import connect_engine

# A database that was told what SES allows asks nobody: without limits, so that no rate is measured.
UNLIMITED: Final = text(
    "UPDATE ses_account SET fetched_at = now(), refresh_due_at = 'infinity', max_send_rate = -1, max_24_hour_send = -1,"
    " sent_last_24_hours = 0, sending_enabled = true, production_access = true, enforcement = 'HEALTHY'"
)

ACCOUNTS: Final = """
INSERT INTO accounts (email, login)
SELECT 'user' || n || '@example.com', 'user' || n FROM generate_series(%(first)s::bigint, %(last)s::bigint) AS n
"""
TOKENS: Final = """
INSERT INTO tokens (action, account, expires_at, address_hash)
SELECT 'activation', id, now() + interval '1 day', token_address_hash(email) FROM accounts
WHERE id > %(account)s ORDER BY id
"""
JOBS: Final = """
INSERT INTO jobs (token, due_at, action, priority, queue)
SELECT id, now() - interval '1 minute', action, 2, 'mailroom' FROM tokens WHERE id > %(token)s ORDER BY id
"""
HISTORY: Final = """
INSERT INTO deliveries (token, account, batch, created_at, action, outcome, attempt, message_id)
SELECT -n, -n, n / 50, now() - interval '30 days' + n * interval '10 milliseconds', 'activation', 'sent', 0,
       '0100018c' || lpad(n::text, 52, '0')
  FROM generate_series(%(first)s::bigint, %(last)s::bigint) AS n
"""


def migrated(url: str) -> None:
    """Migrate a database, and say that its account has no limits."""
    from mailroom.cli.database import upgrade  # noqa: PLC0415 - not for those that only work

    upgrade(url)
    engine = connect_engine(url)
    with engine.connect() as connection:
        connection.execute(UNLIMITED)
    engine.dispose()


def fill(url: str, count: int) -> None:
    """Let so many more bulk activations wait, due for a minute, each with its account and token."""
    with psycopg.connect(url) as connection:
        connection.execute("SET session_replication_role = replica")  # no triggers
        last = {"account": _last(connection, "accounts"), "token": _last(connection, "tokens")}
        connection.execute(ACCOUNTS, {"first": last["account"] + 1, "last": last["account"] + count})
        connection.execute(TOKENS, last)
        connection.execute(JOBS, last)


def fill_history(url: str, count: int) -> None:
    """Let so many mails have been sent in the past 30 days. Their tokens are gone: they were pruned."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("SET session_replication_role = replica")
        for first in range(1, count + 1, 1_000_000):
            connection.execute(HISTORY, {"first": first, "last": min(count, first + 999_999)})


def add_active_accounts(url: str, count: int) -> None:
    """Add accounts that may ask for a recovery, and have no job."""
    with psycopg.connect(url) as connection:
        connection.execute(
            "INSERT INTO accounts (email, login, status)"
            " SELECT 'active' || n || '@example.com', 'active' || n, 'active' FROM generate_series(1, %s) AS n",
            [count],
        )


def _last(connection: psycopg.Connection[Any], table: str) -> int:
    row = connection.execute(f"SELECT coalesce(max(id), 0) FROM {table}".encode()).fetchone()  # noqa: S608 - our tables
    assert row is not None
    return int(row[0])
