"""Whether tables are as this release makes them, or somebody has changed them by hand."""

from collections.abc import Collection, Iterator
from typing import Final

from sqlalchemy import Column, Connection, Table

from mailroom.db import definitions, functions, schema
from mailroom.db.definitions import Definition, comparable, expected
from mailroom.db.namespace import quoted
from mailroom.finding import Finding, failed, ok, warning
from mailroom.ops import doctor_surroundings, doctor_types
from mailroom.ops.doctor_cures import AS_MADE, IF_UNWANTED, Cures, lenient

CHECK: Final = doctor_types.CHECK
# With fewer left than an import takes at once, sign-ups are about to fail; with fewer than these, somebody has to look.
IDS_AT_ONCE: Final = 1_000_000
MANY_IDS: Final = 100_000_000

# What an application fills, and may have rules of its own for.
_THEIRS: Final = {"accounts", "actions"}
_THEIR_COLUMNS: Final = {("accounts", "language"), ("accounts", "reference")}

_BODY_AGAIN: Final = "make it again as alembic/versions has it; then REINDEX what calls it"

# By kind, and by table and name.
_Found = dict[str, dict[tuple[str, str], Definition]]


def examine(connection: Connection) -> Iterator[Finding]:
    """Compare all tables with what this release knows of them."""
    kinds = ("table", "type", "not null", "default", "constraint", "rule")
    found: _Found = {kind: {} for kind in kinds}
    bodies = definitions.read(connection, "body")
    for each in definitions.read(connection, *kinds):
        found[each.kind][each.home, each.name] = each
    cures = Cures(connection)
    differing = [*_examine(found, cures, definitions.distorted(connection)), *_bodies(bodies)]
    differing += doctor_types.examine(connection, cures)
    wrong = list(lenient(connection, differing))
    wrong += _ids(connection, cures)
    wrong += doctor_surroundings.examine(connection, cures)
    yield from wrong or [ok(CHECK, "columns, keys and constraints are as the migrations made them")]


def _examine(found: _Found, cures: Cures, distorted: Collection[str]) -> Iterator[Finding]:
    for name, table in schema.metadata.tables.items():
        if (name, "") not in found["table"]:
            yield failed(CHECK, f"{name} is missing", AS_MADE)
            continue
        for column in table.columns:
            yield from _column(table, column, found, cures)
        yield from _strange_columns(table, found, cures)
        yield from _constraints(name, found, cures, distorted)
    yield from _rules(found, cures)


def _column(table: Table, column: Column[object], found: _Found, cures: Cures) -> Iterator[Finding]:
    key = (table.name, column.name)
    what = ".".join(key)
    if key not in found["type"]:
        yield failed(CHECK, f"{table.name} lacks the column {column.name}", AS_MADE)
        return
    there, kind = found["type"][key].printed, definitions.type_of(column)
    if there != kind:
        cure = cures.path + cures.alter(table.name, f"ALTER COLUMN {{0}} TYPE {kind} USING {{0}}::{kind}", column.name)
        remedy = (
            f"{cure} (it may write the table anew, under a lock; drop a view in its way, `mailroom migrate` makes it)"
        )
        yield failed(CHECK, f"{what} is of the type {there}, and should be {kind}", remedy)
    yield from _not_null(key, found["not null"].get(key), column.nullable, cures)
    yield from _default(key, found["default"].get(key), cures)


def _not_null(key: tuple[str, str], there: Definition | None, nullable: bool | None, cures: Cures) -> Iterator[Finding]:
    table, name = key
    what = f"{table}.{name}"
    if nullable and there is not None:
        level = warning if key in _THEIR_COLUMNS else failed
        cure = cures.alter(table, "ALTER COLUMN {} DROP NOT NULL", name)
        yield level(CHECK, f"{what} must be filled (NOT NULL): a row that lacks it is refused", cure)
    elif not nullable and there is None:
        cure = cures.alter(table, "ALTER COLUMN {} SET NOT NULL", name)
        yield failed(CHECK, f"{what} is no longer NOT NULL", cure)
    elif there is not None and not there.is_sound:
        cure = cures.alter(table, "ALTER COLUMN {} SET NOT NULL", name)
        yield warning(CHECK, f"{what} is NOT NULL for new rows alone (NOT VALID)", cure)


def _default(key: tuple[str, str], there: Definition | None, cures: Cures) -> Iterator[Finding]:
    """Check a default. One where mailroom has none is somebody's help for who writes by hand."""
    table, name = key
    should = expected("default").get(key)
    if should is None or (there is not None and there.text == comparable(should)):
        return
    is_identity = should.endswith("AS IDENTITY")
    setting = cures.path + cures.alter(table, "ALTER COLUMN {} SET DEFAULT ", name) + should
    if there is None:
        adding = cures.alter(table, f"ALTER COLUMN {{}} ADD {should}", name)
        cure = f"{adding}; then setval() of its sequence to the highest id" if is_identity else setting
        yield failed(CHECK, f"{table}.{name} lacks its default", AS_MADE if "STORED" in should else cure)
        return
    level = warning if is_identity or table in _THEIRS else failed
    if is_identity and there.printed.endswith("AS IDENTITY"):
        setting = cures.alter(table, f"ALTER COLUMN {{}} SET {should.removesuffix(' AS IDENTITY')}", name)
    elif is_identity or "STORED" in should:
        setting = AS_MADE
    yield level(CHECK, f"{table}.{name} is filled by {there.printed}, and should be by {should}", setting)


def _strange_columns(table: Table, found: _Found, cures: Cures) -> Iterator[Finding]:
    for home, name in found["not null"]:
        if home == table.name and name not in table.columns and (home, name) not in found["default"]:
            message = f"{home}.{name} is not mailroom's, and without a default no row comes in"
            yield failed(CHECK, message, cures.alter(home, "ALTER COLUMN {} DROP NOT NULL", name))


def _constraints(table: str, found: _Found, cures: Cures, distorted: Collection[str]) -> Iterator[Finding]:
    """Check the constraints of a table. One is there by any name, if its definition is the same."""
    there = {name: each for (home, name), each in found["constraint"].items() if home == table}
    should = {name: printed for (home, name), printed in expected("constraint").items() if home == table}
    split = found["table"][table, ""].text == "p"
    wanted = {name: comparable(printed) for name, printed in should.items()}
    for name, printed in should.items():
        if wanted[name] in {each.text for each in there.values()}:
            continue
        if (
            split
            and printed.startswith("PRIMARY KEY")
            and any(each.text.startswith("PRIMARY") for each in there.values())
        ):
            continue  # it has the column besides that the table is split by
        if name in there and table in distorted:
            continue
        if name in there:
            cure = cures.add_constraint(table, name, printed, instead=True)
            yield failed(CHECK, f"the constraint {name} of {table} is {there[name].printed}, not {printed}", cure)
        else:
            cure = cures.add_constraint(table, name, printed)
            yield failed(CHECK, f"{table} lacks {_called(name, printed)}", cure)
    for name, each in there.items():
        if each.text in wanted.values() and not each.is_sound:
            cure = cures.alter(table, "VALIDATE CONSTRAINT {}", name)
            yield warning(CHECK, f"the constraint {name} of {table} is for new rows alone (NOT VALID)", cure)
        elif each.text not in wanted.values() and name not in should:
            yield from _strange_constraint(table, each, cures)


def _called(name: str, printed: str) -> str:
    if printed.startswith("PRIMARY KEY"):
        return "its primary key"
    return "its foreign key" if printed.startswith("FOREIGN KEY") else f"the constraint {name}"


def _strange_constraint(table: str, each: Definition, cures: Cures) -> Iterator[Finding]:
    """Report a constraint that is not ours. Of a key, the index is reported instead."""
    if each.text.startswith(("UNIQUE", "PRIMARY KEY")):
        return
    level = failed if each.text.startswith("EXCLUDE") else warning
    message = f"the constraint {each.name} of {table} is not mailroom's, and may refuse its rows: {each.printed}"
    yield level(CHECK, message, IF_UNWANTED + cures.alter(table, "DROP CONSTRAINT {}", each.name))


def _rules(found: _Found, cures: Cures) -> Iterator[Finding]:
    for (table, name), each in found["rule"].items():
        if table in schema.metadata.tables and each.is_sound:
            message = f"the rule {name} changes what is done to {table}: rows may be lost, and commands refused"
            yield failed(CHECK, message, f"DROP RULE {quoted(name)} ON {cures.named(table)}")


def _bodies(there: list[Definition]) -> Iterator[Finding]:
    """Check the functions that constraints and indexes call. Others may have some of the same name."""
    for (_, name), should in expected("body").items():
        found = [each.text for each in there if each.name == name]
        if comparable(should) not in found:
            state = "is another one" if found else "is missing"
            message = f"the function {name} {state}, and constraints or indexes go by it"
            yield failed(CHECK, message, _BODY_AGAIN)
    if not doctor_types.folds_as_made(there):
        message = "the function lowered is another one, and constraints or indexes go by it"
        yield failed(CHECK, message, _BODY_AGAIN)


def _ids(connection: Connection, cures: Cures) -> Iterator[Finding]:
    """Say where ids run out. No table uses up a bigint: a sequence was set too high, or made to end sooner."""
    for row in functions.call(connection, "doctor_ids"):
        if row.home in schema.metadata.tables and row.remaining < MANY_IDS:
            message = f"{row.home} has {row.remaining} ids left: after them no row comes in"
            again = (
                f"SELECT setval('{row.sequence}', …), to an id after which as many are free in {cures.named(row.home)}"
            )
            cure = again if row.is_widest else f"ALTER SEQUENCE {row.sequence} AS bigint NO MAXVALUE"
            yield (failed if row.remaining < IDS_AT_ONCE else warning)(CHECK, message, cure)
