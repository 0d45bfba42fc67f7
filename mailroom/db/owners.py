"""Whose mailroom is: functions and views have the rights of their owner, and have to reach the tables."""

from typing import Final

from sqlalchemy import Connection, text

from mailroom.db import functions, schema
from mailroom.db.engine import VERSION_TABLE
from mailroom.db.namespace import schema_of

_ACT: Final = text(
    """
    SELECT set_config('role', min(CAST(rolname AS text)), true)
      FROM (SELECT relowner FROM pg_class
             WHERE relnamespace = to_regnamespace(quote_ident(:schema)) AND relname = ANY (CAST(:names AS name[]))
             UNION
            SELECT proowner FROM pg_proc
             WHERE pronamespace = to_regnamespace(quote_ident(:schema))
               AND obj_description(oid, 'pg_proc') LIKE 'mailroom: %') AS owned (owner)
      JOIN pg_roles ON pg_roles.oid = owner
    HAVING count(*) = 1 AND min(CAST(rolname AS text)) <> current_user
    """
)
_LACKING: Final = text(
    """
    SELECT rolname AS owner, array_agg(name ORDER BY name) AS tables
      FROM (SELECT DISTINCT proowner AS id FROM pg_catalog.pg_proc
              JOIN pg_catalog.pg_namespace ON pg_namespace.oid = pronamespace
             WHERE nspname = :schema AND pg_catalog.obj_description(pg_proc.oid, 'pg_proc') LIKE 'mailroom: %') AS owned
      JOIN pg_catalog.pg_roles ON pg_roles.oid = owned.id
     CROSS JOIN LATERAL (
           SELECT CAST(relname AS text) AS name
             FROM pg_catalog.pg_class
             JOIN pg_catalog.pg_namespace ON pg_namespace.oid = relnamespace
            WHERE nspname = :schema AND relname = ANY (CAST(:names AS name[])) AND relkind IN ('r', 'p')
              AND NOT (has_table_privilege(owned.id, pg_class.oid, 'SELECT')
                       AND has_table_privilege(owned.id, pg_class.oid, 'INSERT')
                       AND has_table_privilege(owned.id, pg_class.oid, 'UPDATE')
                       AND has_table_privilege(owned.id, pg_class.oid, 'DELETE'))) AS lacked
     GROUP BY rolname
     ORDER BY rolname
    """
)


def act_as_owner(connection: Connection) -> None:
    """Become, until this transaction ends, the role to which all that there is of mailroom's belongs, if it is one.

    So what is made belongs to it, whoever migrates. Where parts belong to several, who migrates is left to know.
    """
    connection.execute(
        _ACT, {"schema": schema_of(connection), "names": [*_tables(), *functions.views(), VERSION_TABLE]}
    )


def lacking(connection: Connection) -> list[tuple[str, list[str]]]:
    """Return each owner of functions that has not all rights on the tables, and which tables these are."""
    binds = {"schema": schema_of(connection), "names": _tables()}
    return [(row.owner, row.tables) for row in connection.execute(_LACKING, binds)]


def _tables() -> list[str]:
    return list(schema.metadata.tables)
