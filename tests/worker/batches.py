"""How many jobs there are in the tests of one claim, and what is left of them."""

from sqlalchemy import Connection

from tests.world import count, misplaced

LIMIT = 10
JOBS = 100


def left(connection: Connection) -> tuple[int, int, int]:
    """How many jobs wait, how many of them were charged, and how many are in flight."""
    assert misplaced(connection) == []
    return (
        count(connection, "jobs"),
        count(connection, "jobs WHERE attempt > 0"),
        count(connection, "batches"),
    )
