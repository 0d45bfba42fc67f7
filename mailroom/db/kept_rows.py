"""Rows that must be there, which migrations make: how many each table has, and how to have them back."""

from collections.abc import Iterator
from typing import Any, Final

from sqlalchemy import Connection, CursorResult, Row

from mailroom.db import functions
from mailroom.db.namespace import qualified, quoted, schema_of
from mailroom.errors import DatabaseError

_ONE: Final = "INSERT INTO {table} DEFAULT VALUES"
# What makes the rows of each table; `sql/rows_astray.sql` says how many there are to be.
INSERTS: Final = {
    "feed": _ONE,
    "permits": "INSERT INTO {table} (bucket) VALUES ('mails'), ('bulk_calls') ON CONFLICT DO NOTHING",
    "readings": _ONE,
    "ses_account": _ONE,
    "site": _ONE,
}
# What was done to a schema that has its tables, and not the rows that migrations put into them.
WITHOUT_ROWS: Final = (
    "restored without its rows (--schema-only, --exclude-table-data); restore them too, or DROP SCHEMA {schema} CASCADE"
    " and `mailroom migrate`"
)
_TOO_MANY: Final = (
    "SET mailroom.triggers = off; DELETE all others FROM {table}; and make its primary key again, as alembic/versions"
    " has it"
)


def astray(connection: Connection) -> Iterator[tuple[str, str]]:
    """Yield what is wrong, and its remedy, for each table that lacks rows that must be there.

    If none of these tables has any, it yields that once, for all of them.
    """
    found = functions.call(connection, "rows_astray").all()
    if {row.name for row in found if not row.there} == INSERTS.keys():
        home = quoted(schema_of(connection))
        yield f"schema {home} has none of the rows that migrations make", f"it was {WITHOUT_ROWS.format(schema=home)}"
        return
    for row in found:
        yield _fault(connection, row.name, row.there, wanted=row.wanted)


def only(connection: Connection, found: CursorResult[Any], table: str) -> Row[Any]:
    """Return the row of a result that comes of the one row of a table. Raises DatabaseError, with the remedy."""
    rows = found.all()
    if len(rows) != 1:
        raise DatabaseError(": ".join(_fault(connection, table, len(rows), wanted=1)))
    return rows[0]


def _fault(connection: Connection, table: str, there: int, *, wanted: int) -> tuple[str, str]:
    named = qualified(connection, table)
    if there > wanted:
        return f"{table} has {there} rows, and nobody knows which of them count", _TOO_MANY.format(table=named)
    return f"{table} lacks a row, without which no mail is sent", INSERTS[table].format(table=named)
