"""Migrations: up and down without a trace, in any schema, beside whatever the application has."""

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from psycopg.conninfo import make_conninfo
from sqlalchemy import Column, Connection, text
from sqlalchemy.exc import ProgrammingError

from mailroom import tokens
from mailroom.db import schema
from mailroom.db.engine import REVISION, VERSION_TABLE, check_revision, connect_engine
from mailroom.job import Action
from tests.machine import ROOT
from tests.roles import a_role
from tests.running import eventually
from tests.servers import Server, migrate
from tests.world import KEY, add_accounts, ask_recovery, misplaced, rows

SCRIPTS = ScriptDirectory.from_config(Config(str(ROOT / "alembic.ini")))

# All that a schema can hold of ours, but for what belongs to a table and goes with it.
OBJECTS = """
SELECT 'relation' AS kind, relname AS name FROM pg_class
 WHERE relnamespace = CAST(:schema AS regnamespace) AND relkind NOT IN ('i', 'S')
UNION ALL SELECT 'function', proname FROM pg_proc WHERE pronamespace = CAST(:schema AS regnamespace)
UNION ALL SELECT 'type', typname FROM pg_type
 WHERE typnamespace = CAST(:schema AS regnamespace) AND typtype <> 'c' AND typelem = 0
UNION ALL SELECT 'operator', oprname FROM pg_operator WHERE oprnamespace = CAST(:schema AS regnamespace)
"""
TABLES = {"locks", "accounts", "tokens", "guesses", "jobs", "batches", "deliveries", "pauses", "permits", "ses_account"}
ONLY_VERSIONS = {("relation", VERSION_TABLE)}


@contextmanager
def connected(url: str) -> Iterator[Connection]:
    """A connection for one look, on which every statement commits."""
    engine = connect_engine(url)
    with engine.connect() as connection:
        yield connection
    engine.dispose()


@contextmanager
def configured(url: str) -> Iterator[Config]:
    """What alembic's commands want, with a connection that is closed also when they fail."""
    engine = connect_engine(url, isolation_level="READ COMMITTED")
    config = Config(str(ROOT / "alembic.ini"))
    try:
        with engine.connect() as connection:
            config.attributes["connection"] = connection
            yield config
    finally:
        engine.dispose()


def objects(url: str, schema_name: str = "public") -> set[tuple[str, str]]:
    with connected(url) as connection:
        return {(row.kind, row.name) for row in rows(connection, OBJECTS, schema=schema_name)}


def tables(url: str, schema_name: str = "public") -> set[str]:
    return {name for kind, name in objects(url, schema_name) if kind == "relation"}


def assert_at_revision(url: str) -> None:
    engine = connect_engine(url)
    check_revision(engine)
    engine.dispose()


def in_schema(url: str, name: str) -> str:
    """Return the URL with the search_path that chooses a schema, which is made."""
    with connected(url) as connection:
        connection.execute(text(f'CREATE SCHEMA "{name}"'))
    return make_conninfo(url, options=f'-csearch_path="{name}",public'.replace(" ", "\\ "))


ANATOMY = """
SELECT 'column' AS kind, attrelid::regclass::text || '.' || attname AS name,
       format_type(atttypid, atttypmod) || attnotnull || coalesce(pg_get_expr(adbin, adrelid), '') AS what
  FROM pg_attribute JOIN pg_class ON pg_class.oid = attrelid
  LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum
 WHERE relnamespace = 'public'::regnamespace AND attnum > 0
UNION ALL SELECT 'constraint', conname, pg_get_constraintdef(oid) FROM pg_constraint
 WHERE connamespace = 'public'::regnamespace
UNION ALL SELECT 'index', indexrelid::regclass::text, pg_get_indexdef(indexrelid) || indisvalid
  FROM pg_index JOIN pg_class ON pg_class.oid = indexrelid WHERE relnamespace = 'public'::regnamespace
UNION ALL SELECT 'function', proname, pg_get_functiondef(oid) FROM pg_proc WHERE pronamespace = 'public'::regnamespace
UNION ALL SELECT 'trigger', tgname, pg_get_triggerdef(oid) FROM pg_trigger WHERE NOT tgisinternal
UNION ALL SELECT 'comment', proname, obj_description(oid) FROM pg_proc WHERE pronamespace = 'public'::regnamespace
 ORDER BY 1, 2
"""


def anatomy(url: str, looking: str) -> list[Any]:
    """Migrate as the role of a URL, and return all that is in the schema then, as the other sees it."""
    migrate(url)
    with connected(looking) as connection:
        return rows(connection, ANATOMY.replace("::", "\\:\\:"))


def alembic(url: str, *arguments: str) -> subprocess.Popen[str]:
    """Start `alembic` as an operator does."""
    return subprocess.Popen(
        [sys.executable, "-m", "alembic", *arguments],
        cwd=ROOT,
        env=os.environ | {"MAILROOM_DATABASE_URL": url},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(process: subprocess.Popen[str]) -> None:
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 0, output


# Up, down, up


def test_down_leaves_nothing_and_up_works_again(empty_url: str) -> None:
    migrate(empty_url)
    at_head = objects(empty_url)
    assert tables(empty_url) == TABLES | {VERSION_TABLE}

    migrate(empty_url, "base")
    assert objects(empty_url) == ONLY_VERSIONS

    migrate(empty_url)
    assert objects(empty_url) == at_head


@pytest.mark.early
def test_every_revision_goes_down_to_what_was_before_it(empty_url: str) -> None:
    before = []
    revisions = [script.revision for script in reversed(list(SCRIPTS.walk_revisions()))]
    for revision in revisions:
        before.append(objects(empty_url) | ONLY_VERSIONS)
        migrate(empty_url, revision)

    with configured(empty_url) as config:
        for _ in revisions:
            command.downgrade(config, "-1")
            assert objects(empty_url) == before.pop()


def test_down_takes_the_rows_along(empty_url: str) -> None:
    migrate(empty_url)
    with connected(empty_url) as connection:
        ask_recovery(connection, add_accounts(connection, 3)[0])

    migrate(empty_url, "base")

    assert objects(empty_url) == ONLY_VERSIONS


def test_the_command_line_migrates_up_and_down(empty_url: str) -> None:
    finish(alembic(empty_url, "upgrade", "head"))
    with connected(empty_url) as connection:
        assert rows(connection, "SELECT version_num FROM mailroom_alembic_version") == [(REVISION,)]

    finish(alembic(empty_url, "downgrade", "base"))
    assert objects(empty_url) == ONLY_VERSIONS


@pytest.mark.early
def test_two_upgrades_at_once_both_succeed(empty_url: str) -> None:
    """Only the owner of the versions can hold them up, and who waits says for what."""
    migrate(empty_url, "0001")
    with psycopg.connect(empty_url) as gate:
        gate.execute("LOCK TABLE mailroom_alembic_version IN SHARE UPDATE EXCLUSIVE MODE")
        both = [alembic(empty_url, "upgrade", "head") for _ in range(2)]
        waiting = [process.stdout.readline() for process in both if process.stdout]
        assert waiting == ["mailroom: waiting for another migration to end\n"] * 2

    for process in both:
        finish(process)
    assert_at_revision(empty_url)


def test_two_first_upgrades_at_once_both_succeed(empty_url: str) -> None:
    for process in [alembic(empty_url, "upgrade", "head") for _ in range(2)]:
        finish(process)
    assert_at_revision(empty_url)


@pytest.mark.early
def test_an_upgrade_gives_up_on_another_that_does_not_end(empty_url: str) -> None:
    migrate(empty_url)
    with psycopg.connect(empty_url) as gate:
        gate.execute("LOCK TABLE mailroom_alembic_version IN SHARE UPDATE EXCLUSIVE MODE")
        process = alembic(empty_url, "-x", "patience_seconds=2", "upgrade", "head")
        output, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    assert output.splitlines()[-1].startswith("mailroom: gave up after ")
    assert "another migration is still at work" in output


def test_nobody_with_no_right_but_to_connect_can_hold_up_a_migration(server: Server, empty_url: str) -> None:
    with a_role(server) as (role, log_in), psycopg.connect(log_in(empty_url), autocommit=True) as stranger:
        stranger.execute("SELECT pg_advisory_lock(hashtext('mailroom migrate'))")
        migrate(empty_url)
        with psycopg.connect(empty_url, autocommit=True) as owner:
            owner.execute(f"GRANT SELECT ON mailroom_alembic_version TO {role}")  # as the worker's role has it
        with pytest.raises(psycopg.errors.InsufficientPrivilege), stranger.transaction():
            stranger.execute("LOCK TABLE mailroom_alembic_version IN SHARE UPDATE EXCLUSIVE MODE")
        with psycopg.connect(log_in(empty_url)) as reader:
            reader.execute("SELECT * FROM mailroom_alembic_version")
            migrate(empty_url, "base")


def test_an_upgrade_that_fails_leaves_the_last_whole_migration(empty_url: str) -> None:
    """The first revision stays; of the second nothing does: the application has a table of that name."""
    migrate(empty_url, "0001")
    with connected(empty_url) as connection:
        connection.execute(text("CREATE TABLE deliveries (id int)"))
    before = objects(empty_url)

    with configured(empty_url) as config, pytest.raises(ProgrammingError, match='relation "deliveries" already exists'):
        command.upgrade(config, "head")

    assert objects(empty_url) == before
    with connected(empty_url) as connection:
        assert rows(connection, "SELECT version_num FROM mailroom_alembic_version") == [("0001",)]


@pytest.mark.early
@pytest.mark.parametrize(("start", "arguments"), [("0004", ("upgrade", "head")), ("head", ("downgrade", "-4"))])
def test_a_migration_waits_for_a_reader_and_nobody_waits_for_the_migration(
    empty_url: str, start: str, arguments: tuple[str, str]
) -> None:
    migrate(empty_url, start)
    with psycopg.connect(empty_url) as reader, psycopg.connect(empty_url, autocommit=True) as application:
        reader.execute("SELECT count(*) FROM jobs").fetchone()
        process = alembic(empty_url, *arguments)
        assert process.stdout is not None
        application.execute("SET statement_timeout = '2s'")  # far more than a lock is waited for
        for n in range(3):
            assert "a lock is held by others, trying again in " in process.stdout.readline()
            for m in range(20):
                application.execute(
                    "INSERT INTO accounts (email, login) VALUES (%s, %s)", [f"{n}-{m}@x.org", f"{n}-{m}"]
                )
    finish(process)
    with connected(empty_url) as connection:
        wanted = REVISION if start == "0004" else f"{int(REVISION) - 4:04}"
        assert rows(connection, "SELECT version_num FROM mailroom_alembic_version") == [(wanted,)]
        assert rows(connection, "SELECT count(*) FROM jobs") == [(60,)]


CONCURRENT = """
from alembic import op
revision, down_revision = "9999", {head!r}
def upgrade():
    with op.get_context().autocommit_block():
        op.execute("DROP INDEX CONCURRENTLY IF EXISTS later_idx")
        op.execute("CREATE INDEX CONCURRENTLY later_idx ON jobs (attempt)")
    op.execute("ALTER TABLE jobs ADD later int")
def downgrade():
    op.execute("DROP INDEX later_idx; ALTER TABLE jobs DROP later")
"""


def test_a_migration_may_build_an_index_concurrently_and_be_tried_again(empty_url: str, tmp_path: Path) -> None:
    migrate(empty_url)
    (tmp_path / "9999_later.py").write_text(CONCURRENT.format(head=REVISION))
    with psycopg.connect(empty_url) as reader, configured(empty_url) as config, ThreadPoolExecutor() as beside:
        config.set_main_option("version_locations", f"{ROOT / 'alembic' / 'versions'}{os.pathsep}{tmp_path}")
        config.set_main_option("path_separator", "os")
        reader.execute("SELECT count(*) FROM jobs").fetchone()
        upgrading = beside.submit(command.upgrade, config, "head")
        with connected(empty_url) as connection:
            known = "SELECT to_regclass('later_idx') AS first"
            eventually(lambda: [r for r in rows(connection, known) if r.first], "the index is built")
        reader.rollback()
        upgrading.result()
        with connected(empty_url) as connection:
            valid = "SELECT indisvalid, indisready FROM pg_index WHERE indexrelid = 'later_idx'\\:\\:regclass"
            assert rows(connection, valid) == [(True, True)]
            assert rows(connection, "SELECT version_num FROM mailroom_alembic_version") == [("9999",)]
        command.downgrade(config, "-1")
    assert_at_revision(empty_url)


def test_there_is_no_script_of_the_migrations(empty_url: str) -> None:
    process = alembic(empty_url, "upgrade", "head", "--sql")
    output, _ = process.communicate(timeout=60)
    assert (process.returncode, output.count("\n")) == (2, 1)
    assert output.startswith("mailroom: migrations look at the database as they go")


@pytest.mark.parametrize(
    "settings",
    [
        {"standard_conforming_strings": "off", "escape_string_warning": "off", "backslash_quote": "off"},
        {"client_encoding": "LATIN1", "datestyle": "German, DMY", "timezone": "Asia/Kathmandu"},
        {"client_encoding": "SQL_ASCII", "intervalstyle": "sql_standard", "bytea_output": "escape"},
        {"statement_timeout": "50", "lock_timeout": "1", "idle_in_transaction_session_timeout": "50"},
        {"array_nulls": "off", "transform_null_equals": "on", "quote_all_identifiers": "on", "xmloption": "document"},
        {"check_function_bodies": "off", "plpgsql.extra_errors": "all", "plpgsql.variable_conflict": "use_column"},
        {"default_transaction_isolation": "serializable", "default_transaction_deferrable": "on"},
        {"row_security": "off", "synchronous_commit": "off", "extra_float_digits": "-15"},
    ],
    ids=",".join,
)
def test_a_migration_makes_the_same_schema_whatever_a_role_sets(
    server: Server, empty_url: str, settings: dict[str, str]
) -> None:
    expected = anatomy(empty_url, empty_url)
    migrate(empty_url, "base")
    with a_role(server, "SUPERUSER") as (role, log_in):
        for name, value in settings.items():
            server.execute(f"ALTER ROLE {role} SET {name} = '{value}'")
        assert anatomy(log_in(empty_url), empty_url) == expected


# A good guest


def test_the_alembic_of_the_application_is_left_alone(empty_url: str) -> None:
    with connected(empty_url) as connection:
        connection.execute(text("CREATE TABLE alembic_version (version_num varchar(32) PRIMARY KEY)"))
        connection.execute(text("INSERT INTO alembic_version VALUES ('app0042')"))

    for revision in ("head", "base"):
        migrate(empty_url, revision)
        with connected(empty_url) as connection:
            assert rows(connection, "SELECT version_num FROM alembic_version") == [("app0042",)]


@pytest.mark.parametrize("name", ["mail", "Mail Room"])
def test_a_schema_of_its_own_leaves_public_alone(empty_url: str, name: str) -> None:
    before = objects(empty_url)
    url = in_schema(empty_url, name)

    migrate(url)
    assert tables(empty_url, f'"{name}"') == TABLES | {VERSION_TABLE}
    assert objects(empty_url) == before
    assert_at_revision(url)

    migrate(url, "base")
    assert objects(empty_url, f'"{name}"') == ONLY_VERSIONS
    assert objects(empty_url) == before


def test_two_mailrooms_live_in_two_schemas(url: str) -> None:
    other = in_schema(url, "mail")
    migrate(other)

    with connected(other) as connection:
        add_accounts(connection, 2)
        assert misplaced(connection) == []
    with connected(url) as connection:
        assert rows(connection, "SELECT (SELECT count(*) FROM accounts), (SELECT count(*) FROM jobs)") == [(0, 0)]


def test_another_search_path_is_no_obstacle(empty_url: str) -> None:
    """An application that names the schema in its statements needs it on no path."""
    migrate(in_schema(empty_url, "mail"))

    with connected(empty_url) as connection:
        connection.execute(text("INSERT INTO mail.accounts (email, login) VALUES ('ada@example.com', 'ada')"))
        [(secret,)] = rows(connection, "SELECT secret FROM mail.tokens JOIN mail.jobs ON token = tokens.id")
        [(account,)] = rows(connection, "SELECT mail.consume_token(:secret, 'activation')", secret=secret)
        assert rows(connection, "SELECT id, status FROM mail.accounts") == [(account, "active")]


def test_the_python_of_an_application_consumes_in_a_schema_of_its_own(empty_url: str) -> None:
    url = in_schema(empty_url, "mail")
    migrate(url)

    with connected(url) as connection:
        [account] = add_accounts(connection, 1)
        [(secret,)] = rows(connection, "SELECT secret FROM tokens")
        token = tokens.sign(secret, action=Action.ACTIVATION, key=KEY)
        assert tokens.consume(connection, token, action=Action.ACTIVATION, key=KEY) == account


def test_a_schema_that_does_not_exist_is_said_so(empty_url: str) -> None:
    url = make_conninfo(empty_url, options="-csearch_path=nowhere")

    process = alembic(url, "upgrade", "head")

    output, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "names no schema that exists" in output
    assert objects(empty_url) == set()


# What the code knows of them


def test_the_code_works_with_the_newest_revision() -> None:
    assert SCRIPTS.get_heads() == [REVISION]


def test_migrations_are_history_and_import_nothing_of_ours() -> None:
    files = sorted((ROOT / "alembic" / "versions").glob("*.py"))
    assert files
    for file in files:
        imported = set()
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                imported |= {name.name for name in node.names}
            elif isinstance(node, ast.ImportFrom):
                imported.add(node.module or "." * node.level)
        assert {name.split(".")[0] for name in imported} <= {"alembic", "logging"}, file.name


def test_the_tables_of_the_code_are_those_of_the_database(conn: Connection) -> None:
    """Either way: nothing missing, nothing more, no other type, index or key."""
    context = MigrationContext.configure(
        conn,
        opts={
            "compare_type": True,
            "include_name": lambda name, kind, _: not (kind == "table" and name == VERSION_TABLE),
        },
    )

    assert compare_metadata(context, schema.metadata) == []


def test_the_enums_of_the_code_are_those_of_the_database(conn: Connection) -> None:
    found = rows(
        conn,
        "SELECT typname, array_agg(enumlabel ORDER BY enumsortorder) AS labels"
        "  FROM pg_enum JOIN pg_type ON pg_type.oid = enumtypid GROUP BY typname",
    )

    known = (schema.account_status, schema.token_action, schema.delivery_outcome)
    assert {row.typname: list(row.labels) for row in found} == {kind.name: list(kind.enums) for kind in known}
    assert list(schema.token_action.enums) == [action.value for action in Action]


def default(column: Column[Any]) -> str | None:
    """Return what schema.py says fills the column, without quotes, casts and outer parentheses."""
    if column.identity is not None or column.server_default is None:
        return None
    return plain(str(getattr(column.server_default, "arg", "...")))


def plain(expression: str) -> str:
    return expression.partition("::")[0].strip("'()")


def test_every_column_of_the_code_is_filled_as_in_the_database(conn: Connection) -> None:
    """Alembic compares neither identities nor defaults that call a function. For long ones schema.py has dots."""
    found = rows(
        conn,
        """
        SELECT relname || '.' || attname AS name, attnotnull, CAST(attidentity AS text),
               pg_get_expr(adbin, adrelid) AS expression
          FROM pg_attribute
          JOIN pg_class ON pg_class.oid = attrelid
          LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum
         WHERE relnamespace = 'public'\\:\\:regnamespace AND relkind = 'r' AND attnum > 0 AND NOT attisdropped
           AND relname <> :versions
        """,
        versions=VERSION_TABLE,
    )
    columns = {
        f"{table.name}.{column.name}": column for table in schema.metadata.tables.values() for column in table.columns
    }

    assert {row.name for row in found} == columns.keys()
    for row in found:
        column = columns[row.name]
        identity = "" if column.identity is None else "a" if column.identity.always else "d"
        assert (row.attnotnull, row.attidentity) == (not column.nullable, identity), row.name
        known = default(column)
        if known is not None and known.endswith("..."):
            assert row.expression.startswith(known.removesuffix("...")), row.name
        else:
            assert (row.expression and plain(row.expression)) == known, row.name
