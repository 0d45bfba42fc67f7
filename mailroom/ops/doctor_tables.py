"""Whether tables and functions are as this release makes them, or somebody has changed them by hand."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from sqlalchemy import CheckConstraint, Connection, Table, UniqueConstraint, text

from mailroom.db import functions, schema
from mailroom.db.namespace import schema_of
from mailroom.finding import Finding, failed, ok, warning

CHECK: Final = "tables"
_AS_MADE: Final = "make it again as alembic/versions has it; doctor reads names, so a name that was changed is missing"
_COLUMNS: Final = text(
    """
    SELECT relname AS home, attname AS name, atthasdef OR attidentity <> '' AS filled, attnotnull AS needed
      FROM pg_catalog.pg_attribute
      JOIN pg_catalog.pg_class ON pg_class.oid = attrelid
      JOIN pg_catalog.pg_namespace ON pg_namespace.oid = relnamespace
     WHERE nspname = :schema AND relkind IN ('r', 'p') AND attnum > 0 AND NOT attisdropped
    """
)
_CONSTRAINTS: Final = text(
    """
    SELECT relname AS home, conname AS name, CAST(contype AS text) AS kind
      FROM pg_catalog.pg_constraint
      JOIN pg_catalog.pg_class ON pg_class.oid = conrelid
      JOIN pg_catalog.pg_namespace ON pg_namespace.oid = relnamespace
     WHERE nspname = :schema
    """
)
_BODIES: Final = text(
    """
    SELECT proname AS name, prosrc AS body, prosecdef AS definer
      FROM pg_catalog.pg_proc
      JOIN pg_catalog.pg_namespace ON pg_namespace.oid = pronamespace
     WHERE nspname = :schema AND pg_catalog.obj_description(pg_proc.oid, 'pg_proc') LIKE 'mailroom: %'
    """
)


@dataclass(slots=True)
class _There:
    """What there is of a table: of each column whether it fills itself, and whether it must be filled; and its keys."""

    columns: dict[str, tuple[bool, bool]] = field(default_factory=dict)
    constraints: dict[str, str] = field(default_factory=dict)


def examine(connection: Connection) -> Iterator[Finding]:
    """Compare all tables with what this release knows of them."""
    there = {name: _There() for name in schema.metadata.tables}
    binds = {"schema": schema_of(connection)}
    for row in connection.execute(_COLUMNS, binds):
        if row.home in there:
            there[row.home].columns[row.name] = (row.filled, row.needed)
    for row in connection.execute(_CONSTRAINTS, binds):
        if row.home in there:
            there[row.home].constraints[row.name] = row.kind
    wrong = [each for name, table in schema.metadata.tables.items() for each in _compare(table, there[name])]
    if wrong:
        yield failed(CHECK, "; ".join(sorted(wrong)), _AS_MADE)
        return
    yield ok(CHECK, "columns, keys and constraints are as the migrations made them")


def _compare(table: Table, there: _There) -> Iterator[str]:
    """Yield what is wrong with a table, in words."""
    if not there.columns:
        yield f"{table.name} is missing"
        return
    for column in table.columns:
        if column.name not in there.columns:
            yield f"{table.name} lacks the column {column.name}"
        elif column.server_default is not None and not there.columns[column.name][0]:
            yield f"{table.name}.{column.name} lacks its default"
    for name, (filled, needed) in there.columns.items():
        if name not in table.columns and needed and not filled:
            yield f"{table.name}.{name} is not mailroom's, and without a default no row comes in"
    yield from _compare_constraints(table, there)


def _compare_constraints(table: Table, there: _There) -> Iterator[str]:
    if table.primary_key.columns and "p" not in there.constraints.values():
        yield f"{table.name} lacks its primary key"
    if table.foreign_keys and "f" not in there.constraints.values():
        yield f"{table.name} lacks its foreign key"
    for each in table.constraints:
        if isinstance(each, CheckConstraint | UniqueConstraint) and each.name not in {None, *there.constraints}:
            yield f"{table.name} lacks the constraint {each.name}"


def examine_bodies(connection: Connection) -> Iterator[Finding]:
    """Say which functions are not those of this release: of another one, or changed by hand."""
    bodies = functions.bodies()
    rows = connection.execute(_BODIES, {"schema": schema_of(connection)})
    changed = sorted(
        row.name for row in rows if row.name in bodies and (row.body != bodies[row.name] or not row.definer)
    )
    if changed:
        message = f"not as in this release, which may be right where another one has migrated: {', '.join(changed)}"
        yield warning("functions", message, "mailroom migrate, of the newest release that is in use")
