"""Whether each may do what is its part: this role, the owner of mailroom's functions, and everybody."""

from collections.abc import Iterator
from typing import Final

from sqlalchemy import Connection, func, select, text

from mailroom.db import owners
from mailroom.db.namespace import quoted, schema_of
from mailroom.finding import Finding, failed, ok, warning
from mailroom.ops import grants
from mailroom.ops.doctor_cures import IF_UNWANTED, Cures

CHECK: Final = "rights"
GRANT: Final = "mailroom grants --worker ROLE --apply"
# A dump that is restored without rights (`pg_restore -x`) leaves new functions to everybody, as PostgreSQL does.
_EVERYBODYS: Final = text(
    """
    SELECT CAST(proname AS text) AS name
      FROM pg_catalog.pg_proc
      JOIN pg_catalog.pg_namespace ON pg_namespace.oid = pronamespace
     WHERE nspname = :schema AND pg_catalog.obj_description(pg_proc.oid, 'pg_proc') LIKE 'mailroom: %'
       AND has_function_privilege('public', pg_proc.oid, 'EXECUTE')
     ORDER BY proname
    """
)
# No role needs them, the worker's neither: functions read them. A default privilege gives what nobody asked for.
_READERS: Final = text(
    """
    SELECT DISTINCT coalesce(quote_ident(rolname), 'PUBLIC') AS name
      FROM (SELECT relowner, relacl AS rights
              FROM pg_catalog.pg_class
              JOIN pg_catalog.pg_namespace ON pg_namespace.oid = relnamespace
             WHERE nspname = :schema AND relname = 'tokens'
             UNION ALL
            SELECT relowner, attacl
              FROM pg_catalog.pg_attribute
              JOIN pg_catalog.pg_class ON pg_class.oid = attrelid
              JOIN pg_catalog.pg_namespace ON pg_namespace.oid = relnamespace
             WHERE nspname = :schema AND relname = 'tokens' AND attname IN ('secret', 'code')) AS given
     CROSS JOIN LATERAL pg_catalog.aclexplode(given.rights) AS each
      LEFT JOIN pg_catalog.pg_roles ON pg_roles.oid = each.grantee
     WHERE each.privilege_type = 'SELECT' AND each.grantee <> given.relowner
     ORDER BY 1
    """
)


def examine(connection: Connection) -> Iterator[Finding]:
    """Say what this role lacks to be a worker, what the owner lacks, and what everybody may do."""
    found = [*_of_this_role(connection), *_of_owners(connection), *_of_everybody(connection), *_of_readers(connection)]
    yield from found or [ok(CHECK, "this role may do what a worker does")]


def remedy(connection: Connection) -> str:
    """Return what to do where the database refuses something for want of a right."""
    return next((each.remedy for each in _of_owners(connection)), GRANT)


def _of_this_role(connection: Connection) -> Iterator[Finding]:
    lacking = grants.lacking(connection, "worker")
    if lacking:
        role = connection.scalar(select(func.current_user()))
        yield failed(CHECK, f"{role} lacks: {'; '.join(lacking)}", GRANT)


def _of_owners(connection: Connection) -> Iterator[Finding]:
    """Functions have the rights of their owner: a table that was made over to another role is out of their reach."""
    cures = Cures(connection)
    for owner, tables in owners.lacking(connection):
        message = f"{owner}, the owner of mailroom's functions, lacks rights on: {', '.join(tables)}"
        cure = "; ".join(f"ALTER TABLE {cures.named(table)} OWNER TO {quoted(owner)}" for table in tables)
        yield failed(CHECK, message, cure)


def _of_everybody(connection: Connection) -> Iterator[Finding]:
    names = connection.execute(_EVERYBODYS, {"schema": schema_of(connection)}).scalars().all()
    if names:
        yield failed(CHECK, f"everybody may call: {', '.join(names)}", "mailroom migrate")


def _of_readers(connection: Connection) -> Iterator[Finding]:
    readers = connection.execute(_READERS, {"schema": schema_of(connection)}).scalars().all()
    if readers:
        names = ", ".join(readers)
        message = f"the secrets and codes of tokens, which functions alone read, may be read by: {names}"
        what = f"{Cures(connection).named('tokens')} FROM {names}"
        cure = f"REVOKE SELECT, SELECT (secret, code) ON {what}; see default privileges, too (\\ddp)"
        yield warning(CHECK, message, IF_UNWANTED + cure)
