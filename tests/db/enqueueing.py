"""Transactions that enqueue jobs."""

from collections.abc import Callable

from psycopg import sql

URGENT, NORMAL, BULK = 0, 1, 2
Hears = Callable[[], list[str]]
ADD = """
INSERT INTO accounts (email, login)
SELECT {prefix} || n || '@example.com', {prefix} || n FROM generate_series(1, {count}) AS n
"""
# A job that waits, put there in the same moment as what comes after it.
WAITING = """
INSERT INTO jobs (token, due_at, action, priority, queue) VALUES (-1, {due_at}, {action}, {priority}, {queue})
"""


def add(count: int = 1, prefix: str = "user") -> sql.Composed:
    return sql.SQL(ADD).format(prefix=sql.Literal(prefix), count=count)


def waiting(
    *,
    due_at: str = "clock_timestamp()",
    queue: str = "mailroom",
    priority: int = NORMAL,
    action: str = "activation",
) -> sql.Composed:
    given = {"due_at": sql.SQL(due_at), "queue": sql.Literal(queue), "action": sql.Literal(action)}
    return sql.SQL(WAITING).format(priority=priority, **given)
