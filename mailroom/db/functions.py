"""The functions of `sql/`: how they are called, installed, and taken away."""

import re
from collections.abc import Iterable
from functools import cache
from importlib.resources import files
from typing import Any, Final

from psycopg import sql
from sqlalchemy import Connection, TextClause, text

_SIGNATURE: Final = re.compile(r"^CREATE OR REPLACE FUNCTION mailroom\.(\w+)\(([^)]*)\)$", re.MULTILINE)
_PATH: Final = "SET search_path = mailroom, pg_temp"


@cache
def statement(name: str) -> TextClause:
    """Return a call of the function in `sql/NAME.sql`, ready for its arguments as bind parameters.

    Each is cast to the type that the function asks for, so that none depends on how the driver writes a value.
    """
    [(found, arguments)] = _SIGNATURE.findall(_source(name))
    given = (argument.split(maxsplit=1) for argument in arguments.split(",") if argument.strip())
    binds = ", ".join(f"CAST(:{argument} AS {kind.strip()})" for argument, kind in given)
    return text(f"SELECT * FROM {found}({binds})")


def names() -> list[str]:
    """Return the names of the functions, one of each file."""
    return sorted(file.name.removesuffix(".sql") for file in files("mailroom").joinpath("sql").iterdir())


def install(connection: Connection, schema: str) -> None:
    """Make every function anew, in this schema. Whoever had the right to call one keeps it; nobody gets it."""
    _run(connection, (_in_schema(_source(name), schema) for name in names()))
    _run(connection, _for_each(connection, schema, "REVOKE EXECUTE ON FUNCTION {} FROM PUBLIC"))


def remove(connection: Connection, schema: str) -> None:
    """Take every function away, whatever its arguments are."""
    _run(connection, _for_each(connection, schema, "DROP FUNCTION {}"))


def _for_each(connection: Connection, schema: str, statement: str) -> list[str]:
    found = text(
        "SELECT CAST(CAST(pg_proc.oid AS regprocedure) AS text) FROM pg_proc"
        " JOIN pg_namespace ON pg_namespace.oid = pronamespace"
        " WHERE nspname = :schema AND proname = ANY (CAST(:names AS name[]))"
    )
    return [statement.format(each) for each in connection.scalars(found, {"schema": schema, "names": names()})]


def _run(connection: Connection, statements: Iterable[str]) -> None:
    driver: Any = connection.connection.driver_connection
    for each in statements:
        driver.execute(each.encode())


def _in_schema(source: str, schema: str) -> str:
    quoted = sql.Identifier(schema).as_string()
    return _SIGNATURE.sub(lambda found: f"CREATE OR REPLACE FUNCTION {quoted}.{found[1]}({found[2]})", source).replace(
        _PATH, f"SET search_path = {quoted}, pg_temp"
    )


def _source(name: str) -> str:
    return files("mailroom").joinpath("sql", f"{name}.sql").read_text(encoding="utf-8")
