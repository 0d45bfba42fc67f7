"""What applications do to the database, the invariant of the queue, and what tests look at in it."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Connection, Engine, text

from mailroom.db import functions
from mailroom.ops import minutes

# Every enqueued token is in exactly one place: waiting, in flight, or over. Returns those that are not.
MISPLACED = text(
    """
    WITH place AS (
        SELECT token FROM jobs
        UNION ALL SELECT unnest(tokens) FROM batches
        UNION ALL SELECT token FROM deliveries
         WHERE NOT late AND retried_at IS NULL AND outcome NOT IN ('deferred', 'unconfirmed')
    )
    SELECT coalesce(place.token, tokens.id) AS token, count(place.token) AS places
      FROM place FULL JOIN tokens ON tokens.id = place.token
     GROUP BY 1 HAVING count(place.token) <> 1
    """
)

KEY = bytes.fromhex("deadbeef" * 8)
KEY_HEX = KEY.hex()


def misplaced(connection: Connection) -> list[tuple[int, int]]:
    """Return the tokens that are not in exactly one place, with the number of places."""
    return [(row.token, row.places) for row in connection.execute(MISPLACED)]


def add_accounts(connection: Connection, count: int, *, status: str = "provisioned", prefix: str = "user") -> list[int]:
    """Insert accounts in one statement, as an import does; return their ids."""
    rows = connection.execute(
        text(
            "INSERT INTO accounts (email, login, status)"
            " SELECT :prefix || n || '@example.com', :prefix || n, CAST(:status AS account_status)"
            " FROM generate_series(1, :count) AS n RETURNING id"
        ),
        {"prefix": prefix, "count": count, "status": status},
    )
    return sorted(row.id for row in rows)


def ask_recovery(connection: Connection, account: int) -> int:
    """Insert a recovery token for an account; return the token's id."""
    token: int = connection.execute(
        text("INSERT INTO tokens (action, account) VALUES ('password_recovery', :account) RETURNING id"),
        {"account": account},
    ).scalar_one()
    return token


def rows(connection: Connection, sql: str, **binds: Any) -> list[Any]:
    """Run a query and return its rows."""
    return list(connection.execute(text(sql), binds).all())


def execute(engine: Engine, *statements: str) -> None:
    """Run statements one after the other, each in a transaction of its own if the engine is the worker's."""
    with engine.connect() as connection:
        for statement in statements:
            connection.execute(text(statement))


def count(connection: Connection, what: str) -> int:
    """Return `SELECT count(*) FROM …`."""
    found: int = connection.execute(text(f"SELECT count(*) FROM {what}")).scalar_one()  # noqa: S608 - the tests' own words
    return found


def count_sent(connection: Connection) -> int:
    """How many mails are on record as sent."""
    return count(connection, "deliveries WHERE outcome = 'sent'")


def drained(connection: Connection) -> bool:
    """Whether nothing waits and nothing is in flight: asked at once, since a job may go from one to the other."""
    return count(connection, "(SELECT FROM jobs UNION ALL SELECT FROM batches) AS unfinished") == 0


@contextmanager
def transaction(
    engine: Engine, isolation_level: str = "READ COMMITTED", *, lock_timeout: str | None = None
) -> Iterator[Connection]:
    """A connection that commits when it is told to, and not before."""
    with engine.connect().execution_options(isolation_level=isolation_level) as connection:
        if lock_timeout is not None:
            connection.execute(text("SELECT set_config('lock_timeout', :timeout, true)"), {"timeout": lock_timeout})
        yield connection


def until_somebody_waits(engine: Engine, backends: int = 1) -> None:
    """Return once a backend of this database waits for a lock, or so many."""
    stuck = "SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    with engine.connect() as watcher:
        while len(rows(watcher, stuck)) < backends:
            watcher.execute(text("SELECT pg_sleep(0.01)"))


def recompute_minutes(connection: Connection) -> bool:
    """Count minutes that have closed, as a reading does, one step of them; return whether that was all."""
    given = minutes.arguments(minutes.STEP)
    binds = {"bounds": given["bounds"], "step": given["step"]}
    binds |= {"reach": given["minutes_reach"], "keep": given["minutes_keep"]}
    return bool(functions.call(connection, "minutes_recompute", binds).one().complete)
