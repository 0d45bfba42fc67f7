"""Whether mailroom can be taken away, or back: asked before any of it is, for what is gone no error brings back."""

from collections.abc import Sequence
from contextlib import suppress
from typing import Final, NoReturn

from alembic.runtime.migration import MigrationContext, MigrationStep
from sqlalchemy import Connection, text

from mailroom.db import functions, schema
from mailroom.db.definitions import VARYING, expected
from mailroom.db.namespace import schema_of

_TABLES: Final = (
    "SELECT CAST(CAST(pg_class.oid AS regclass) AS text) FROM pg_class"
    " JOIN pg_namespace ON pg_namespace.oid = relnamespace"
    " WHERE nspname = :schema AND relname = ANY (CAST(:names AS name[])) AND relkind IN ('r', 'p')"
)
# By name alone, as the migrations have them.
_FUNCTIONS: Final = (
    "SELECT DISTINCT quote_ident(proname) FROM pg_proc"
    " JOIN pg_namespace ON pg_namespace.oid = pronamespace"
    " WHERE nspname = :schema AND proname = ANY (CAST(:names AS name[])) AND prokind = 'f'"
)
_TYPES: Final = (
    "SELECT CAST(CAST(pg_type.oid AS regtype) AS text) FROM pg_type"
    " JOIN pg_namespace ON pg_namespace.oid = typnamespace"
    " WHERE nspname = :schema AND typname = ANY (CAST(:names AS name[]))"
)


def try_out(connection: Connection) -> None:
    """Take all of it away at once, and take that back. Raises DBAPIError where something of others is in the way.

    For a moment it locks every table; it waits for none longer than the transaction's lock_timeout.
    """
    ours = [*functions.triggers(), *VARYING, *(name for _, name in expected("body"))]
    try:
        functions.remove(connection)
        _drop(connection, "TABLE", _TABLES, list(schema.metadata.tables))
        _drop(connection, "FUNCTION", _FUNCTIONS, ours)
        _drop(connection, "TYPE", _TYPES, list(schema.TYPES))
    finally:
        connection.rollback()


class _OutsideError(Exception):
    """A step goes on outside of its transaction."""


def try_steps(connection: Connection, migration: MigrationContext, steps: Sequence[MigrationStep]) -> None:
    """Take these steps down in one transaction, and take that back. Raises DBAPIError as `try_out` does.

    What a step does outside of its transaction, and after that, is left out. It locks as `try_out` does.
    """

    def leave_out() -> NoReturn:
        raise _OutsideError

    migration.autocommit_block = leave_out  # type: ignore[method-assign]
    try:
        functions.remove(connection)
        for step in steps:
            with suppress(_OutsideError):
                step.migration_fn()
    finally:
        del migration.autocommit_block
        connection.rollback()


def _drop(connection: Connection, kind: str, query: str, names: list[str]) -> None:
    """Drop all that there are, in one statement: what depends on others of them is in nobody's way."""
    found = connection.scalars(text(query), {"schema": schema_of(connection), "names": names}).all()
    if found:
        connection.exec_driver_sql(f"DROP {kind} {', '.join(found)}", execution_options={"no_parameters": True})
