"""What applications do to the database, the invariant of the queue, and other words that tests share."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

from sqlalchemy import Connection, text

from mailroom import queue
from mailroom.job import Batch, Position
from mailroom.queue.claim import Claim
from mailroom.queue.floors import LANES, Floors
from mailroom.queue.limits import Limits

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


def claim(connection: Connection, **how: Any) -> Claim:
    """Claim as a worker would that lets nothing wait; `how` differs from that."""
    usual = Limits(queue="mailroom", batch_limit=50, batch_timeout=timedelta(0), lease=timedelta(seconds=30))
    limits = replace(usual, **{name: how.pop(name) for name in list(how) if hasattr(usual, name)})
    return queue.claim(connection, limits, **{"worker": "test", "floors": Floors(), **how})


def batch_of(claim: Claim) -> Batch | None:
    """Return the batch of a claim that may open one at the most."""
    assert len(claim.batches) <= 1
    return claim.batches[0] if claim.batches else None


def start_over(floors: Floors) -> None:
    """Let the next claims begin at the beginning of the queue."""
    for lane in LANES:
        floors.lower(lane, Position(None, 0))


def rows(connection: Connection, sql: str, **binds: Any) -> list[Any]:
    """Run a query and return its rows."""
    return list(connection.execute(text(sql), binds).all())
