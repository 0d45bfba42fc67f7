"""What is around the tables and can break what they are for: how ids are given, publications, a changed collation."""

from collections.abc import Iterator
from typing import Final

from sqlalchemy import Connection, text

from mailroom.db import schema
from mailroom.db.namespace import schema_of
from mailroom.finding import Finding, failed, warning
from mailroom.ops.doctor_cures import Cures

CHECK: Final = "tables"
_IDS: Final = text(
    """
    SELECT CAST(filled.relname AS text) AS home, format('%I.%I', pg_namespace.nspname, counter.relname) AS sequence,
           seqcache AS kept, seqincrement AS step
      FROM pg_catalog.pg_class AS filled
      JOIN pg_catalog.pg_depend ON refclassid = CAST('pg_catalog.pg_class' AS regclass) AND refobjid = filled.oid
                               AND refobjsubid > 0 AND classid = refclassid AND deptype IN ('a', 'i')
      JOIN pg_catalog.pg_class AS counter ON counter.oid = objid AND counter.relkind = 'S'
      JOIN pg_catalog.pg_namespace ON pg_namespace.oid = counter.relnamespace
      JOIN pg_catalog.pg_sequence ON seqrelid = counter.oid
      JOIN pg_catalog.pg_namespace AS home ON home.oid = filled.relnamespace
     WHERE home.nspname = :schema AND filled.relname IN ('tokens', 'deliveries') AND (seqcache > 1 OR seqincrement < 0)
     ORDER BY 1 DESC
    """
)
_PUBLISHED: Final = text(
    """
    SELECT tablename AS name, string_agg(CAST(pubname AS text), ', ' ORDER BY pubname) AS publications
      FROM pg_catalog.pg_publication_tables
      JOIN pg_catalog.pg_publication USING (pubname)
      JOIN pg_catalog.pg_namespace ON nspname = schemaname
      JOIN pg_catalog.pg_class ON relnamespace = pg_namespace.oid AND relname = tablename
     WHERE schemaname = :schema AND tablename = ANY (CAST(:names AS name[])) AND (pubupdate OR pubdelete)
       AND relreplident <> 'f'
       AND NOT EXISTS (
           SELECT FROM pg_catalog.pg_index
            WHERE indrelid = pg_class.oid
              AND CASE relreplident WHEN 'd' THEN indisprimary WHEN 'i' THEN indisreplident ELSE false END)
     GROUP BY tablename
     ORDER BY tablename
    """
)
_COLLATION: Final = text(
    """
    SELECT datcollversion AS made, pg_catalog.pg_database_collation_actual_version(oid) AS now,
           quote_ident(datname) AS name
      FROM pg_catalog.pg_database
     WHERE datname = current_database() AND datcollversion <> pg_catalog.pg_database_collation_actual_version(oid)
    """
)
# PostgreSQL 15 is the first that knows with which version a database was made.
_KNOWS_COLLATION: Final = (15,)


def examine(connection: Connection, cures: Cures) -> Iterator[Finding]:
    """Say what around the tables is not as mailroom needs it, and how to undo it."""
    yield from _ids(connection)
    yield from _published(connection, cures)
    yield from _collation(connection)


def _ids(connection: Connection) -> Iterator[Finding]:
    """Say where ids do not rise: sessions keep some, or they go down. A token with a higher id must be newer."""
    for row in connection.execute(_IDS, {"schema": schema_of(connection)}):
        how = f"each session keeps {row.kept} of them (CACHE)" if row.kept > 1 else "they go down"
        cure = f"ALTER SEQUENCE {row.sequence}" + (" CACHE 1" if row.kept > 1 else "")
        cure += f" INCREMENT {abs(row.step)}" if row.step < 0 else ""
        if row.home == "tokens":
            effect = "a newer mail may be taken for an older one, and cancelled"
            yield failed(CHECK, f"ids of tokens are not in order, since {how}: {effect}", cure)
        else:
            effect = "what was refused lately is counted wrongly"
            yield warning(CHECK, f"ids of {row.home} are not in order, since {how}: {effect}", cure)


def _published(connection: Connection, cures: Cures) -> Iterator[Finding]:
    binds = {"schema": schema_of(connection), "names": list(schema.metadata.tables)}
    for row in connection.execute(_PUBLISHED, binds):
        message = (
            f"{row.name} is published ({row.publications}) and has no replica identity: no row of it can be changed"
        )
        yield failed(CHECK, message, cures.alter(row.name, "REPLICA IDENTITY FULL"))


def _collation(connection: Connection) -> Iterator[Finding]:
    if (connection.dialect.server_version_info or ()) < _KNOWS_COLLATION:
        return
    for row in connection.execute(_COLLATION):
        message = (
            f"the collation of the database was {row.made} and is {row.now} now:"
            " indexes on words may not find what is there"
        )
        yield warning(
            CHECK, message, f"REINDEX DATABASE {row.name}; ALTER DATABASE {row.name} REFRESH COLLATION VERSION"
        )
