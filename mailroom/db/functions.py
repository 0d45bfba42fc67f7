"""The functions of `sql/` and the views of `sql/views/`: how they are called, installed, and taken away."""

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from importlib.resources import files
from typing import Any, Final

from psycopg import errors, sql
from sqlalchemy import ColumnClause, Connection, CursorResult, TextClause, TextualSelect, column, text
from sqlalchemy.exc import DBAPIError

from mailroom.db.namespace import quoted, quoted_in_text, schema_of

_SIGNATURE: Final = re.compile(r"^CREATE OR REPLACE FUNCTION mailroom\.(\w+)\(([^)]*)\)$", re.MULTILINE)
_RESULT: Final = re.compile(r"^    RETURNS TABLE \(\n(.*?)\n    \)$", re.MULTILINE | re.DOTALL)
_TRIGGER: Final = re.compile(r"^    RETURNS trigger$", re.MULTILINE)
_DEFAULT: Final = re.compile(r" DEFAULT .*")
_PATH: Final = "SET search_path = mailroom, pg_temp"
# The one function that calls others of ours by name, and is made by migrations, and not by a file.
_KEY: Final = "mailbox_key(text)"
_VIEW: Final = re.compile(r"^CREATE OR REPLACE VIEW mailroom\.(\w+) AS$", re.MULTILINE)

_FUNCTIONS: Final = (
    "SELECT CAST(CAST(pg_proc.oid AS regprocedure) AS text) FROM pg_proc"
    " JOIN pg_namespace ON pg_namespace.oid = pronamespace"
    " WHERE nspname = :schema AND proname = ANY (CAST(:names AS name[]))"
    " AND obj_description(pg_proc.oid, 'pg_proc') LIKE 'mailroom: %'"
)
_VIEWS: Final = (
    "SELECT CAST(CAST(pg_class.oid AS regclass) AS text) FROM pg_class"
    " JOIN pg_namespace ON pg_namespace.oid = relnamespace"
    " WHERE nspname = :schema AND relname = ANY (CAST(:names AS name[])) AND relkind = 'v'"
    " AND obj_description(pg_class.oid, 'pg_class') LIKE 'mailroom: %'"
)
# Ours with other arguments than their file asks for now, and whom else they let call them. A dump that was restored
# without comments has left them unmarked: then they are known by what all of ours pin.
_OUTGROWN: Final = (
    "SELECT CAST(CAST(pg_proc.oid AS regprocedure) AS text) AS signature, proname,"
    " ARRAY(SELECT quote_ident(rolname) || CASE WHEN is_grantable THEN ' WITH GRANT OPTION' ELSE '' END"
    "         FROM aclexplode(proacl) JOIN pg_roles ON pg_roles.oid = grantee WHERE grantee <> proowner) AS granted"
    " FROM pg_proc"
    " JOIN pg_namespace ON pg_namespace.oid = pronamespace"
    " JOIN unnest(CAST(:names AS name[]), CAST(:signatures AS text[])) AS wanted (name, now) ON wanted.name = proname"
    " WHERE nspname = :schema AND to_regprocedure(wanted.now) IS DISTINCT FROM pg_proc.oid"
    " AND (obj_description(pg_proc.oid, 'pg_proc') LIKE 'mailroom: %'"
    "      OR (prosecdef AND 'search_path=' || quote_ident(nspname) || ', pg_temp' = ANY (proconfig)))"
)


def call(
    connection: Connection, name: str, arguments: Mapping[str, Any] | None = None, *, beside: str | None = None
) -> CursorResult[Any]:
    """Call the function in `sql/NAME.sql`, in the schema that this connection is for, and return its rows.

    Each argument is cast to the type that the function asks for, so that none depends on how the driver writes a value.
    `beside` is another function, which returns nothing: the same statement calls it, with its own of the arguments.
    """
    return connection.execute(_statement(name, beside, schema_of(connection)), arguments)


@cache
def _statement(name: str, beside: str | None, schema: str) -> TextClause | TextualSelect:
    """Return the call, with the columns of its result: what is known of them is kept, and not made for each result."""
    called = _called(name, schema)
    if beside is None:
        statement = text(f"SELECT * FROM {called}")  # noqa: S608 - our own file  # nosec B608
    else:
        both = f"{_called(beside, schema)} AS beside, {called} AS called"
        statement = text(f"SELECT called.* FROM {both}")  # noqa: S608 - our own files  # nosec B608
    returned = _RESULT.search(_source(name))
    if returned is None:
        return statement
    columns: list[ColumnClause[Any]] = [column(each.split(maxsplit=1)[0]) for each in returned[1].split(",")]
    return statement.columns(*columns)


def _called(name: str, schema: str) -> str:
    [(found, arguments)] = _SIGNATURE.findall(_source(name))
    binds = ", ".join(f"CAST(:{argument} AS {kind})" for argument, kind in _arguments(arguments))
    return f"{quoted_in_text(schema)}.{found}({binds})"


def _arguments(source: str) -> list[tuple[str, str]]:
    """Return the name and the type of each argument, without what it is if it is not given."""
    given = (argument.split(maxsplit=1) for argument in source.split(",") if argument.strip())
    return [(name, _DEFAULT.sub("", kind.strip())) for name, kind in given]


def signature(name: str, schema: str) -> str:
    """Return the name of a function with the types of its arguments, which tell it from others of that name."""
    [(found, arguments)] = _SIGNATURE.findall(_source(name))
    kinds = ", ".join(kind for _, kind in _arguments(arguments))
    return f"{quoted(schema)}.{quoted(found)}({kinds})"


def names() -> list[str]:
    """Return the names of the functions, one of each file."""
    return _files("sql")


def bodies() -> dict[str, str]:
    """Return what PostgreSQL keeps as the source of each: all between the dollars."""
    return {name: _source(name).split("$$")[1] for name in names()}


@cache
def triggers() -> list[str]:
    """Return the names of those that a trigger calls. The triggers are part of the tables, which migrations make."""
    return [name for name in names() if _TRIGGER.search(_source(name))]


def views() -> list[str]:
    """Return the names of the views, one of each file."""
    return _files("sql/views")


def install(connection: Connection) -> None:
    """Make every function and view again, in the schema that this connection is for, where the tables are.

    Whoever had the right to use one keeps it; nobody gets it. Each has a comment that says what it is and whose: others
    may have functions of the same name, with other arguments.

    An argument may have come at the end, with a default: who calls it without goes on doing so, and keeps the right to.
    What migrations made as the schema had another name finds its own under this one.
    """
    schema = schema_of(connection)
    granting = _drop_outgrown(connection, schema)
    _run(connection, (_ours(name, schema) for name in names()))
    _run(connection, _for_each(connection, "REVOKE EXECUTE ON FUNCTION {} FROM PUBLIC", _FUNCTIONS, names()))
    _run(connection, granting)
    _run(connection, (_ours(f"views/{name}", schema) for name in views()))
    home = quoted(schema)
    _run(connection, [f"ALTER FUNCTION {home}.{_KEY} SET search_path = {home}, pg_temp"])


def remove(connection: Connection) -> None:
    """Take every function of ours away, whatever its arguments are, and every view; but what triggers call stays."""
    gone = [name for name in names() if name not in triggers()]
    _run(connection, _for_each(connection, "DROP VIEW {}", _VIEWS, views()))
    _run(connection, _for_each(connection, "DROP FUNCTION {}", _FUNCTIONS, gone))


def is_granted_meanwhile(error: BaseException) -> bool:
    """Whether somebody else has just granted on the same function: for that PostgreSQL has these words, and no code."""
    found = error.orig if isinstance(error, DBAPIError) else None
    return isinstance(found, errors.InternalError_) and "tuple concurrently updated" in str(found)


def _drop_outgrown(connection: Connection, schema: str) -> list[str]:
    """Drop functions that have other arguments now; return what grants the new ones to whom the old ones were.

    Beside each other, a call that fits both would be ambiguous, or reach the old one.
    """
    signatures = {name: signature(name, schema) for name in names()}
    binds = {"schema": schema, "names": list(signatures), "signatures": list(signatures.values())}
    found = connection.execute(text(_OUTGROWN), binds).all()
    _run(connection, [f"DROP FUNCTION {row.signature}" for row in found])
    return [f"GRANT EXECUTE ON FUNCTION {signatures[row.proname]} TO {role}" for row in found for role in row.granted]


def _for_each(connection: Connection, statement: str, query: str, known: Sequence[str]) -> list[str]:
    found = connection.scalars(text(query), {"schema": schema_of(connection), "names": known})
    return [statement.format(each) for each in found]


def _run(connection: Connection, statements: Iterable[str]) -> None:
    for each in statements:  # as they are: a percent sign is no place for a value
        connection.exec_driver_sql(each, execution_options={"no_parameters": True})


def _in_schema(source: str, schema: str) -> str:
    home = quoted(schema)
    source = _SIGNATURE.sub(lambda found: f"CREATE OR REPLACE FUNCTION {home}.{found[1]}({found[2]})", source)
    source = _VIEW.sub(lambda found: f"CREATE OR REPLACE VIEW {home}.{found[1]} AS", source)
    return source.replace(_PATH, f"SET search_path = {home}, pg_temp")


def _ours(name: str, schema: str) -> str:
    return _in_schema(_source(name), schema) + _comment(name, schema)


def _comment(name: str, schema: str) -> str:
    """Return the statement that marks a function or a view as ours, with the first line of its file."""
    source = _source(name)
    title = source.split("\n", 1)[0].removeprefix("-- ")
    if name.startswith("views/"):
        what = sql.SQL("VIEW {}").format(sql.Identifier(schema, name.removeprefix("views/")))
    else:
        what = sql.SQL("FUNCTION {}").format(sql.SQL(signature(name, schema)))
    return sql.SQL("\nCOMMENT ON {} IS {};").format(what, sql.Literal(f"mailroom: {title}")).as_string()


def _files(folder: str) -> list[str]:
    found = (file.name for file in files("mailroom").joinpath(folder).iterdir())
    return sorted(name.removesuffix(".sql") for name in found if name.endswith(".sql"))


def _source(name: str) -> str:
    return files("mailroom").joinpath("sql", f"{name}.sql").read_text(encoding="utf-8")
