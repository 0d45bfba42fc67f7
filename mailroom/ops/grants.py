"""What each role may do, no more than it needs: the application, the worker, and who only looks.

Functions do their work with the rights of their owner, and so do views: the worker and the viewer have no right on a
table. What a role needs and is not named here is refused to it.
"""

import re
from collections.abc import Collection, Iterator
from typing import Any, Final

from psycopg import errors, sql
from sqlalchemy import Connection, text

from mailroom.db import functions
from mailroom.db.namespace import schema_of
from mailroom.errors import DatabaseError

# What operators read, and whatever draws curves: no address, secret or code.
_VIEWS: Final = {f"TABLE {name}": "SELECT" for name in functions.views()}
# What an application asks for. Indexes and checks call functions of their own for whoever writes, and these are
# everybody's. What it does to its accounts is a function too: it needs no right on a table, and sees no secret.
_APP: Final = {
    f"FUNCTION {name}": "EXECUTE"
    for name in (
        "action_path",
        "add_account",
        "change_account",
        "consume_token",
        "count_guess",
        "guesses_left",
        "remove_account",
        "request_mail",
        "revoke_tokens",
        "uncount_guess",
    )
}
# What others than the owner never call: triggers call these, or other functions do.
_INNER: Final = (
    *("action_room", "find_account", "good_token", "lane_scope", "most_guesses", "never_out", "suppression_review"),
    *("batches_newest", "feed_note", "jobs_end", "late_acceptances_apply", "prune_tokens", "reconcile_tokens"),
    *("sender_scope", "take_back_mails", "tokens_renew"),
    *functions.triggers(),
)
GRANTS: Final[dict[str, dict[str, str]]] = {
    "app": _APP,
    # The worker, sweeps, collect and prune, and the commands of an operator: all that is done to the queue.
    "worker": {
        f"FUNCTION {name}": "EXECUTE"
        for name in functions.names()
        if f"FUNCTION {name}" not in _APP and name not in _INNER
    }
    | _VIEWS,
    # `status`, `jobs list`, `jobs show`, `suppressions list`, `templates list` and `diff`; what `send` asks; pages.
    "viewer": {
        f"FUNCTION {name}": "EXECUTE"
        for name in (
            *("contract", "action_list", "action_senders", "feed_state", "health", "reading_count"),
            *("reading_lanes", "reading_unconfirmed", "reputation", "suppression_list", "template_list"),
            *(name for name in functions.names() if name.startswith("browse_")),
        )
    }
    | _VIEWS,
}

# What a mail takes from its claim to its record: without all of it, one would be sent, and again, and nobody know.
VITAL: Final = frozenset({"claim", "look", "rescue", "settle", "settle_late"})

# In one statement: they are more than a hundred, and each would be a way to the server and back. Of what is not there
# nobody has a right.
_LACKING: Final = text(
    """
    SELECT pg_catalog.format('%s%s ON %s %s', privilege, ' (' || NULLIF("column", '') || ')', kind, name)
      FROM unnest(CAST(:privileges AS text[]), CAST(:columns AS text[]), CAST(:kinds AS text[]),
                  CAST(:names AS text[]), CAST(:on AS text[]))
           WITH ORDINALITY AS asked (privilege, "column", kind, name, "on", place)
     WHERE CASE
           WHEN kind = 'FUNCTION'
           THEN pg_catalog.has_function_privilege(CAST(pg_catalog.to_regprocedure("on") AS oid), privilege)
           WHEN "column" <> ''
           THEN pg_catalog.has_column_privilege(CAST(pg_catalog.to_regclass("on") AS oid), "column", privilege)
           ELSE pg_catalog.has_table_privilege(CAST(pg_catalog.to_regclass("on") AS oid), privilege)
           END IS NOT TRUE
     ORDER BY place
    """
)

# SQLSTATE of the warning that a GRANT did less than it says.
_NOT_GRANTED: Final = "01007"


def statements(connection: Connection, part: str, role: str) -> list[str]:
    """Return the GRANTs that let a role play a part of GRANTS, in the schema that this connection is for."""
    schema = schema_of(connection)
    rights = [(privileges, *named.split(" ")) for named, privileges in GRANTS[part].items()]
    return [
        _grant("USAGE", "SCHEMA", sql.Identifier(schema), role),
        *(_grant(privileges, kind, _named(kind, name, schema), role) for privileges, kind, name in rights),
    ]


def lacking(connection: Connection, part: str, only: Collection[str] | None = None) -> list[str]:
    """Return what the role of this connection may not do of a part of GRANTS, in the words of a GRANT.

    `only`: the names that are asked for.
    """
    schema = schema_of(connection)
    asked = [
        (privilege, column, kind, name, _named(kind, name, schema).as_string())
        for named, privileges in GRANTS[part].items()
        for kind, name in [named.split(" ")]
        if only is None or name in only
        for privilege, column in _single(privileges)
    ]
    columns = zip(("privileges", "columns", "kinds", "names", "on"), map(list, zip(*asked, strict=True)), strict=True)
    return list(connection.scalars(_LACKING, dict(columns)))


def _single(privileges: str) -> Iterator[tuple[str, str]]:
    """Take a list of privileges apart: each, with each column that it is for, or an empty name."""
    for privilege, columns in re.findall(r"([A-Z]+)(?: \(([^)]*)\))?", privileges):
        for column in columns.split(", "):
            yield privilege, column


def apply(connection: Connection, granting: list[str]) -> None:
    """Run them, as they were returned: a role may have a percent sign in its name, or a colon.

    Raises DatabaseError, in the transaction of the caller, if this role may not grant one of them: PostgreSQL warns of
    that and goes on.
    """
    driver: Any = connection.connection.driver_connection
    notices: list[str | None] = []

    def note(notice: errors.Diagnostic) -> None:
        notices.append(notice.sqlstate)

    driver.add_notice_handler(note)
    try:
        for statement in granting:
            connection.execution_options(no_parameters=True).exec_driver_sql(statement)
            if _NOT_GRANTED in notices:
                raise DatabaseError(
                    f"nothing is granted: this role may not {statement.rstrip(';')}; run it as the owner"
                )
    finally:
        driver.remove_notice_handler(note)


def _named(kind: str, name: str, schema: str) -> sql.Composable:
    """Return the name as SQL takes it: a function with its arguments, since others may have some of the same name."""
    return sql.SQL(functions.signature(name, schema)) if kind == "FUNCTION" else sql.Identifier(schema, name)


def _grant(privileges: str, kind: str, on: sql.Composable, role: str) -> str:
    parts = {"privileges": sql.SQL(privileges), "kind": sql.SQL(kind), "on": on, "role": sql.Identifier(role)}
    return sql.SQL("GRANT {privileges} ON {kind} {on} TO {role};").format(**parts).as_string()
