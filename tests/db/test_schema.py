"""What the code knows of the tables is what the migrations make."""

import ast
from typing import Any

from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Column, Connection

from mailroom.db import schema
from mailroom.db.engine import VERSION_TABLE
from tests.machine import ROOT
from tests.world import rows


def test_migrations_are_history_and_import_nothing_of_ours() -> None:
    files = sorted((ROOT / "alembic" / "versions").glob("*.py"))
    assert files
    for file in files:
        imported = set()
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                imported |= {name.name for name in node.names}
            elif isinstance(node, ast.ImportFrom):
                imported.add(node.module or "." * node.level)
        assert {name.split(".")[0] for name in imported} <= {"alembic", "dataclasses", "logging"}, file.name


def test_the_tables_of_the_code_are_those_of_the_database(conn: Connection) -> None:
    """Either way: nothing missing, nothing more, no other type, index or key."""
    context = MigrationContext.configure(
        conn,
        opts={
            "compare_type": True,
            "include_name": lambda name, kind, _: not (kind == "table" and name == VERSION_TABLE),
        },
    )

    assert compare_metadata(context, schema.metadata) == []


def test_the_enums_of_the_code_are_those_of_the_database(conn: Connection) -> None:
    found = rows(
        conn,
        "SELECT typname, array_agg(enumlabel ORDER BY enumsortorder) AS labels"
        "  FROM pg_enum JOIN pg_type ON pg_type.oid = enumtypid GROUP BY typname",
    )

    known = (schema.account_status, schema.delivery_outcome, schema.event_kind)
    assert {row.typname: list(row.labels) for row in found} == {kind.name: list(kind.enums) for kind in known}


def default(column: Column[Any]) -> str | None:
    """Return what schema.py says fills the column, without quotes, casts and outer parentheses."""
    if column.identity is not None or column.server_default is None:
        return None
    return plain(str(getattr(column.server_default, "arg", "...")))


def plain(expression: str) -> str:
    return expression.partition("::")[0].strip("'()")


def test_every_column_of_the_code_is_filled_as_in_the_database(conn: Connection) -> None:
    """Alembic compares neither identities nor defaults that call a function. For long ones schema.py has dots."""
    found = rows(
        conn,
        """
        SELECT relname || '.' || attname AS name, attnotnull, CAST(attidentity AS text),
               pg_get_expr(adbin, adrelid) AS expression
          FROM pg_attribute
          JOIN pg_class ON pg_class.oid = attrelid
          LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum
         WHERE relnamespace = 'mailroom'\\:\\:regnamespace AND relkind = 'r' AND attnum > 0 AND NOT attisdropped
           AND relname <> :versions
        """,
        versions=VERSION_TABLE,
    )
    columns = {
        f"{table.name}.{column.name}": column for table in schema.metadata.tables.values() for column in table.columns
    }

    assert {row.name for row in found} == columns.keys()
    for row in found:
        column = columns[row.name]
        identity = "" if column.identity is None else "a" if column.identity.always else "d"
        assert (row.attnotnull, row.attidentity) == (not column.nullable, identity), row.name
        known = default(column)
        if known is not None and known.endswith("..."):
            assert row.expression.startswith(known.removesuffix("...")), row.name
        else:
            assert (row.expression and plain(row.expression)) == known, row.name
