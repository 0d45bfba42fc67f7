"""Databases on their way from one revision to another, and what is in them."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import Connection

from mailroom.db.engine import VERSION_TABLE, check_contract, connect_engine
from mailroom.db.functions import views
from mailroom.db.namespace import DEFAULT_SCHEMA
from tests.machine import ROOT
from tests.world import rows

SCRIPTS = ScriptDirectory.from_config(Config(str(ROOT / "alembic.ini")))
# How long one migration of a process of its own may take, beside all others that run.
PROCESS_SECONDS = 150
HEAD = str(SCRIPTS.get_current_head())
# All that a schema can hold of ours, but for what belongs to a table and goes with it.
OBJECTS = """
SELECT kind, name
  FROM (SELECT 'relation', relname, relnamespace FROM pg_class WHERE relkind NOT IN ('i', 'S')
        UNION ALL SELECT 'function', proname, pronamespace FROM pg_proc
        UNION ALL SELECT 'type', typname, typnamespace FROM pg_type WHERE typtype <> 'c' AND typelem = 0
        UNION ALL SELECT 'operator', oprname, oprnamespace FROM pg_operator
        UNION ALL SELECT 'schema', nspname, oid FROM pg_namespace) AS found (kind, name, home)
  JOIN pg_namespace ON pg_namespace.oid = home
 WHERE nspname = :schema
"""
TABLES = {
    "locks",
    "actions",
    "accounts",
    "tokens",
    "guesses",
    "jobs",
    "batches",
    "deliveries",
    "pauses",
    "permits",
    "ses_account",
    "site",
    "events",
    "suppressions",
    "feed",
    "resumptions",
    "templates",
    "workers",
    "readings",
    "minutes",
}
# A type of rows is a relation to PostgreSQL.
RELATIONS = TABLES | {VERSION_TABLE, "claimed_job"} | set(views())


@contextmanager
def connected(url: str, schema: str = DEFAULT_SCHEMA) -> Iterator[Connection]:
    """A connection for one look, on which every statement commits."""
    engine = connect_engine(url, schema=schema)
    try:
        with engine.connect() as connection:
            yield connection
    finally:
        engine.dispose()


def objects(url: str, schema_name: str = DEFAULT_SCHEMA) -> set[tuple[str, str]]:
    with connected(url) as connection:
        return {(row.kind, row.name) for row in rows(connection, OBJECTS, schema=schema_name)}


def relations(url: str, schema_name: str = DEFAULT_SCHEMA) -> set[str]:
    return {name for kind, name in objects(url, schema_name) if kind == "relation"}


def assert_at_revision(url: str, schema: str = DEFAULT_SCHEMA) -> None:
    engine = connect_engine(url, schema=schema)
    try:
        check_contract(engine)
    finally:
        engine.dispose()


def alembic(url: str, *arguments: str, **settings: str) -> subprocess.Popen[str]:
    """Start `alembic` as an operator does."""
    return subprocess.Popen(
        [sys.executable, "-m", "alembic", *arguments],
        cwd=ROOT,
        env=os.environ | {"MAILROOM_DATABASE_URL": url} | settings,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
