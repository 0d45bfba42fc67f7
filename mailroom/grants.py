"""What each role may do, no more than it needs: the application, the worker, and who only looks.

A table or a function that a role needs and that is not named here is refused to it.
"""

from typing import Final

from psycopg import sql
from sqlalchemy import Connection, text

from mailroom.database import VERSION_TABLE

# PostgreSQL asks for UPDATE on some column of a row that is locked: due_at of jobs, lease_until of batches.
# Who adds rows to a table that makes its own ids needs nothing for that.
GRANTS: Final[dict[str, dict[str, str]]] = {
    # It owns its accounts and asks for tokens. What it may not see of a token is what a mail proves: secret and code.
    # It revokes a token by deleting it. What follows from its rows is done by triggers, with the rights of their owner.
    "app": {
        "TABLE accounts": "SELECT, INSERT, UPDATE (email, login, status), DELETE",
        "TABLE tokens": "SELECT (id, action, account, expires_at, consumed_at, created_at),"
        " INSERT (action, account), DELETE",
        "FUNCTION guesses_left": "EXECUTE",
        "FUNCTION count_guess": "EXECUTE",
        "FUNCTION consume_token": "EXECUTE",
    },
    # The worker, sweeps, collect and prune, and the commands of an operator.
    "worker": {
        "TABLE accounts": "SELECT (id, email, login, status)",
        "TABLE tokens": "SELECT, UPDATE (expires_at), DELETE",
        "TABLE jobs": "SELECT, INSERT, UPDATE (due_at), DELETE",
        "TABLE batches": "SELECT, INSERT, UPDATE (lease_until), DELETE",
        "TABLE deliveries": "SELECT, INSERT, UPDATE (retried_at), DELETE",
        "TABLE pauses": "SELECT, INSERT, UPDATE, DELETE",
        "TABLE permits": "SELECT, UPDATE",
        "TABLE ses_account": "SELECT, UPDATE",
        f"TABLE {VERSION_TABLE}": "SELECT",
    },
    # `status` and `jobs list`, and whatever draws curves of them: no address, secret or code.
    "viewer": {
        "TABLE accounts": "SELECT (id, status)",
        "TABLE tokens": "SELECT (id, action, account, expires_at, consumed_at, created_at)",
        "TABLE jobs": "SELECT",
        "TABLE batches": "SELECT",
        "TABLE deliveries": "SELECT",
        "TABLE pauses": "SELECT",
        f"TABLE {VERSION_TABLE}": "SELECT",
    },
}


def statements(connection: Connection, part: str, role: str) -> list[str]:
    """Return the GRANTs that let a role play a part of GRANTS, in the schema where this connection finds mailroom."""
    schema = connection.execute(
        text(
            "SELECT nspname FROM pg_namespace JOIN pg_class ON relnamespace = pg_namespace.oid"
            " WHERE pg_class.oid = CAST(:table AS regclass)"
        ),
        {"table": VERSION_TABLE},
    ).scalar_one()
    rights = [(privileges, *named.split(" ")) for named, privileges in GRANTS[part].items()]
    return [
        _grant("USAGE", "SCHEMA", sql.Identifier(schema), role),
        *(_grant(privileges, kind, sql.Identifier(schema, name), role) for privileges, kind, name in rights),
    ]


def apply(connection: Connection, granting: list[str]) -> None:
    """Run them, as they were returned: a role may have a percent sign in its name, or a colon."""
    for statement in granting:
        connection.execution_options(no_parameters=True).exec_driver_sql(statement)


def _grant(privileges: str, kind: str, on: sql.Identifier, role: str) -> str:
    parts = {"privileges": sql.SQL(privileges), "kind": sql.SQL(kind), "on": on, "role": sql.Identifier(role)}
    return sql.SQL("GRANT {privileges} ON {kind} {on} TO {role};").format(**parts).as_string()
