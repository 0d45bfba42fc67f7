"""The schema that mailroom lives in: which one a connection is for, and how SQL names it and what is in it."""

from typing import Any, Final

from psycopg import sql
from sqlalchemy import Connection, Engine

DEFAULT_SCHEMA: Final = "mailroom"

# SQLAlchemy's own option: it names the schema wherever a table of ours, none of which has one, stands in a statement.
_OPTION: Final = "schema_translate_map"


def options(schema: str) -> dict[str, Any]:
    """Return the execution options of an engine, or a connection, for the mailroom in this schema."""
    return {_OPTION: {None: schema}}


def schema_of(connection: Connection | Engine) -> str:
    """Return the schema that a connection, or an engine, is for: it was given the `options` of it, or ValueError."""
    schema: str | None = connection.get_execution_options().get(_OPTION, {}).get(None)
    if schema is None:
        raise ValueError("this engine is for no schema of mailroom: make it with mailroom.db.engine.connect_engine")
    return schema


def quoted(schema: str) -> str:
    """Return its name as an identifier of SQL."""
    return sql.Identifier(schema).as_string()


def quoted_in_text(schema: str) -> str:
    """Return the same for SQLAlchemy's `text`, to which a colon means a bind."""
    return quoted(schema).replace(":", "\\:")


def qualified(connection: Connection, name: str) -> str:
    """Return a plain name of ours as SQL finds it whatever its search_path is."""
    return f"{quoted(schema_of(connection))}.{name}"
