"""The traces of applications in which tokens were made, for who links a mail to its request."""

from collections.abc import Iterable

from sqlalchemy import Connection

from mailroom.db import functions
from mailroom.db.literals import numbers_literal


def find(connection: Connection, tokens: Iterable[int]) -> dict[int, str]:
    """Return by token the trace that it was made in, as in the header `traceparent`, where there was one."""
    rows = functions.call(connection, "trace_find", {"ids": numbers_literal(tokens)})
    return {row.token: row.trace for row in rows}
