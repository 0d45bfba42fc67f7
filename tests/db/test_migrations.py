"""Migrations: up and down without a trace, and beside what runs."""

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
from alembic import command
from alembic.config import Config
from psycopg.conninfo import conninfo_to_dict
from sqlalchemy import Engine, event, text
from sqlalchemy.exc import InternalError, ProgrammingError

from mailroom.db.engine import connect_engine
from mailroom.errors import DatabaseError
from tests.db.migrating import (
    HEAD,
    PROCESS_SECONDS,
    RELATIONS,
    SCRIPTS,
    alembic,
    assert_at_revision,
    connected,
    objects,
    relations,
)
from tests.machine import ROOT
from tests.roles import a_role
from tests.running import eventually
from tests.servers import Server, migrate
from tests.world import add_accounts, ask_recovery, rows


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


@pytest.mark.parametrize("encoding", ["SQL_ASCII", "LATIN1"])
def test_a_database_of_another_encoding_is_refused_before_anything_is_made(
    server: Server, empty_url: str, encoding: str
) -> None:
    name = f"{conninfo_to_dict(empty_url)['dbname']}_encoded"
    server.execute(f"CREATE DATABASE {name} TEMPLATE template0 ENCODING '{encoding}' LOCALE 'C'")
    url = server.database_url(name)
    try:
        with pytest.raises(DatabaseError, match=f"whose encoding is UTF8, and this one is in {encoding}"):
            migrate(url)
        with psycopg.connect(url) as connection:
            made = connection.execute("SELECT nspname FROM pg_namespace WHERE nspname = 'mailroom'").fetchall()
        assert made == []
    finally:
        server.execute(f"DROP DATABASE {name} WITH (FORCE)")


ANATOMY = """
SELECT 'column' AS kind, attrelid::regclass::text || '.' || attname AS name,
       format_type(atttypid, atttypmod) || attnotnull || coalesce(pg_get_expr(adbin, adrelid), '') AS what
  FROM pg_attribute JOIN pg_class ON pg_class.oid = attrelid
  LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum
 WHERE relnamespace = 'mailroom'::regnamespace AND attnum > 0
UNION ALL SELECT 'constraint', conname, pg_get_constraintdef(oid) FROM pg_constraint
 WHERE connamespace = 'mailroom'::regnamespace
UNION ALL SELECT 'index', indexrelid::regclass::text, pg_get_indexdef(indexrelid) || indisvalid
  FROM pg_index JOIN pg_class ON pg_class.oid = indexrelid WHERE relnamespace = 'mailroom'::regnamespace
UNION ALL SELECT 'function', proname, pg_get_functiondef(oid) FROM pg_proc WHERE pronamespace = 'mailroom'::regnamespace
UNION ALL SELECT 'trigger', tgname, pg_get_triggerdef(oid) FROM pg_trigger WHERE NOT tgisinternal
UNION ALL SELECT 'comment', proname, obj_description(oid) FROM pg_proc WHERE pronamespace = 'mailroom'::regnamespace
 ORDER BY 1, 2
"""


def anatomy(url: str, looking: str) -> list[Any]:
    """Migrate as the role of a URL, and return all that is in the schema then, as the other sees it."""
    migrate(url)
    with connected(looking) as connection:
        return rows(connection, ANATOMY.replace("::", "\\:\\:"))


def finish(process: subprocess.Popen[str]) -> None:
    output, _ = process.communicate(timeout=PROCESS_SECONDS)
    assert process.returncode == 0, output


@pytest.mark.slow
def test_down_leaves_nothing_and_up_works_again(empty_url: str) -> None:
    migrate(empty_url)
    at_head = objects(empty_url)
    assert relations(empty_url) == RELATIONS

    migrate(empty_url, "base")
    assert objects(empty_url) == set()

    migrate(empty_url)
    assert objects(empty_url) == at_head


@pytest.mark.slow
@pytest.mark.early
def test_every_revision_goes_down_to_what_was_before_it(empty_url: str) -> None:
    before = []
    revisions = [script.revision for script in reversed(list(SCRIPTS.walk_revisions()))]
    for revision in revisions:
        before.append(objects(empty_url))
        migrate(empty_url, revision)

    with configured(empty_url) as config:
        for _ in revisions:
            command.downgrade(config, "-1")
            assert objects(empty_url) == before.pop()


@pytest.mark.slow
def test_down_takes_the_rows_along(empty_url: str) -> None:
    migrate(empty_url)
    with connected(empty_url) as connection:
        ask_recovery(connection, add_accounts(connection, 3)[0])

    migrate(empty_url, "base")

    assert objects(empty_url) == set()


@pytest.mark.slow
def test_a_downgrade_that_is_refused_at_some_step_is_refused_before_the_first(empty_url: str) -> None:
    """Else the functions are gone by then, and the revision is one that nobody has asked for."""
    migrate(empty_url)
    with connected(empty_url) as connection:
        connection.execute(text("CREATE VIEW public.people AS SELECT id FROM mailroom.accounts"))
        connection.execute(text("CREATE VIEW public.log AS SELECT * FROM mailroom.deliveries"))
    before = objects(empty_url)
    with (
        configured(empty_url) as config,
        pytest.raises((InternalError, ProgrammingError), match="other objects depend on"),
    ):
        command.downgrade(config, "0001")
    assert objects(empty_url) == before
    assert_at_revision(empty_url)
    with connected(empty_url) as connection:
        connection.execute(text("DROP VIEW public.log"))
    with configured(empty_url) as config:
        command.downgrade(config, "0001")
    with connected(empty_url) as connection:
        assert rows(connection, "SELECT version_num FROM mailroom_alembic_version") == [("0001",)]


@pytest.mark.slow
def test_the_command_line_migrates_up_and_down(empty_url: str) -> None:
    finish(alembic(empty_url, "upgrade", "head"))
    with connected(empty_url) as connection:
        assert rows(connection, "SELECT version_num FROM mailroom_alembic_version") == [(HEAD,)]

    finish(alembic(empty_url, "downgrade", "base"))
    assert objects(empty_url) == set()


@pytest.mark.slow
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


@pytest.mark.slow
def test_two_first_upgrades_at_once_both_succeed(empty_url: str) -> None:
    for process in [alembic(empty_url, "upgrade", "head") for _ in range(2)]:
        finish(process)
    assert_at_revision(empty_url)


@pytest.mark.slow
@pytest.mark.early
def test_an_upgrade_gives_up_on_another_that_does_not_end(empty_url: str) -> None:
    migrate(empty_url)
    with psycopg.connect(empty_url) as gate:
        gate.execute("LOCK TABLE mailroom_alembic_version IN SHARE UPDATE EXCLUSIVE MODE")
        process = alembic(empty_url, "-x", "patience_seconds=2", "upgrade", "head")
        output, _ = process.communicate(timeout=PROCESS_SECONDS)
    assert process.returncode == 1
    assert output.splitlines()[-1].startswith("mailroom: gave up after ")
    assert "another migration is still at work" in output


@pytest.mark.slow
def test_nobody_with_no_right_but_to_connect_can_hold_up_a_migration(server: Server, empty_url: str) -> None:
    with a_role(server) as (role, log_in), psycopg.connect(log_in(empty_url), autocommit=True) as stranger:
        stranger.execute("SELECT pg_advisory_lock(hashtext('mailroom migrate'))")
        migrate(empty_url)
        with psycopg.connect(empty_url, autocommit=True) as owner:
            owner.execute(f"GRANT USAGE ON SCHEMA mailroom TO {role}")
            owner.execute(f"GRANT SELECT ON mailroom_alembic_version TO {role}")
        with pytest.raises(psycopg.errors.InsufficientPrivilege), stranger.transaction():
            stranger.execute("LOCK TABLE mailroom_alembic_version IN SHARE UPDATE EXCLUSIVE MODE")
        with psycopg.connect(log_in(empty_url)) as reader:
            reader.execute("SELECT * FROM mailroom_alembic_version")
            migrate(empty_url)


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


LATER = """
from alembic import op
revision, down_revision = "9999", {head!r}
def upgrade():
    op.execute("ALTER TABLE jobs ADD later int")
"""


@pytest.mark.slow
@pytest.mark.early
@pytest.mark.parametrize(
    ("arguments", "reached"),
    [(("upgrade", "head"), "9999"), (("downgrade", f"-{len(list(SCRIPTS.walk_revisions())) - 1}"), "0001")],
)
def test_a_migration_waits_for_a_reader_and_nobody_waits_for_the_migration(
    empty_url: str, tmp_path: Path, arguments: tuple[str, str], reached: str
) -> None:
    migrate(empty_url)
    if reached == "9999":
        (tmp_path / "9999_later.py").write_text(LATER.format(head=HEAD))
    given = (ROOT / "alembic.ini").read_text(encoding="utf-8")
    scripts = f"version_locations = {ROOT / 'alembic' / 'versions'}{os.pathsep}{tmp_path}"
    ini = tmp_path / "alembic.ini"
    ini.write_text(given.replace("%(here)s", str(ROOT)).replace("[alembic]", f"[alembic]\n{scripts}"))
    with psycopg.connect(empty_url) as reader, psycopg.connect(empty_url, autocommit=True) as application:
        reader.execute("SELECT count(*) FROM jobs").fetchone()
        process = alembic(empty_url, "-c", str(ini), *arguments)
        assert process.stdout is not None
        application.execute("SET statement_timeout = '30s'")  # a lock is waited for no longer than 300 ms
        for n in range(3):
            assert "a lock is held by others, trying again in " in process.stdout.readline()
            for m in range(20):
                application.execute(
                    "INSERT INTO accounts (email, login) VALUES (%s, %s)", [f"{n}-{m}@x.org", f"{n}-{m}"]
                )
    finish(process)
    with connected(empty_url) as connection:
        assert rows(connection, "SELECT version_num FROM mailroom_alembic_version") == [(reached,)]
        assert rows(connection, "SELECT count(*) FROM tokens") == [(60,)]


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


@pytest.mark.slow
def test_a_migration_may_build_an_index_concurrently_and_be_tried_again(empty_url: str, tmp_path: Path) -> None:
    migrate(empty_url)
    (tmp_path / "9999_later.py").write_text(CONCURRENT.format(head=HEAD))
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
    migrate(empty_url)  # with the functions of this revision
    assert_at_revision(empty_url)


@pytest.mark.slow
@pytest.mark.early
def test_who_keeps_an_index_from_being_built_is_named_meanwhile(empty_url: str) -> None:
    """A dump that runs holds a snapshot; whoever tries mailroom beside it must not take it to be stuck."""
    with psycopg.connect(empty_url, application_name="a report") as report:
        report.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        report.execute("SELECT 1")
        process = alembic(empty_url, "upgrade", "head")
        assert process.stdout is not None
        said = process.stdout.readline()
        assert f"mailroom: waiting for session {report.info.backend_pid} (a report), whose transaction " in said
        assert process.poll() is None
    finish(process)
    assert_at_revision(empty_url)


@pytest.mark.slow
def test_a_migration_that_a_role_gives_too_little_time_names_the_setting(server: Server, empty_url: str) -> None:
    """Outside of a transaction nothing is pinned, and an index takes as long as it takes."""
    with (
        a_role(server, "SUPERUSER") as (role, log_in),
        psycopg.connect(empty_url) as report,
    ):
        server.execute(f"ALTER ROLE {role} SET statement_timeout = '1s'")
        migrate(empty_url, "0003")
        report.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        report.execute("SELECT 1")
        process = alembic(log_in(empty_url), "upgrade", "head")
        output, _ = process.communicate(timeout=PROCESS_SECONDS)
        report.rollback()
        assert process.returncode == 1
        assert "statement_timeout is too short for this role" in output.splitlines()[-1]
        server.execute(f"ALTER ROLE {role} RESET statement_timeout")
        finish(alembic(log_in(empty_url), "upgrade", "head"))
    assert_at_revision(empty_url)


@pytest.mark.slow
@pytest.mark.early
@pytest.mark.parametrize("redirection", ["2>&-", "2>/dev/full"])
def test_a_migration_whose_words_nobody_takes_waits_and_ends_all_the_same(empty_url: str, redirection: str) -> None:
    migrate(empty_url)
    with configured(empty_url) as config:
        command.downgrade(config, "0007")
    with psycopg.connect(empty_url) as reader:
        reader.execute("SELECT count(*) FROM mailroom.jobs").fetchone()
        process = subprocess.Popen(
            ["bash", "-c", f"exec {sys.executable} -m alembic upgrade head {redirection}"],
            cwd=ROOT,
            env=os.environ | {"MAILROOM_DATABASE_URL": empty_url},
        )
        with connected(empty_url) as connection:
            waiting = "SELECT FROM pg_locks WHERE NOT granted AND relation = 'mailroom.jobs'\\:\\:regclass"
            eventually(lambda: rows(connection, waiting), "it waits")
            eventually(lambda: not rows(connection, waiting), "it has given up, and says so")
            eventually(lambda: rows(connection, waiting), "it tries again")
    assert process.wait(PROCESS_SECONDS) == 0
    assert_at_revision(empty_url)


@pytest.mark.slow
def test_there_is_no_script_of_the_migrations(empty_url: str) -> None:
    process = alembic(empty_url, "upgrade", "head", "--sql")
    output, _ = process.communicate(timeout=PROCESS_SECONDS)
    assert (process.returncode, output.count("\n")) == (2, 1)
    assert output.startswith("mailroom: migrations look at the database as they go")


@contextmanager
def held_up(seconds: float) -> Iterator[None]:
    """Let one statement of a migration take so long, and the pause before it: longer than a time-out that is left."""
    times: list[float] = []

    def hold_up(_: object, cursor: Any, statement: str, *__: object) -> None:
        if not times and statement.lstrip().startswith("CREATE TABLE"):
            times.append(seconds)
            time.sleep(seconds)
            cursor.execute("SELECT pg_sleep(%s)", [seconds])

    event.listen(Engine, "before_cursor_execute", hold_up)
    try:
        yield
    finally:
        event.remove(Engine, "before_cursor_execute", hold_up)
    assert times


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [
        {"standard_conforming_strings": "off", "escape_string_warning": "off", "backslash_quote": "off"},
        {"client_encoding": "LATIN1", "datestyle": "German, DMY", "timezone": "Asia/Kathmandu"},
        {"client_encoding": "SQL_ASCII", "intervalstyle": "sql_standard", "bytea_output": "escape"},
        {"statement_timeout": "2s", "lock_timeout": "1", "idle_in_transaction_session_timeout": "2s"},
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
    slow = held_up(2.5) if "statement_timeout" in settings else contextlib.nullcontext()
    with a_role(server, "SUPERUSER") as (role, log_in), slow:
        for name, value in settings.items():
            server.execute(f"ALTER ROLE {role} SET {name} = '{value}'")
        assert anatomy(log_in(empty_url), empty_url) == expected


@pytest.mark.slow
def test_a_long_table_is_looked_through_whatever_time_a_role_gives_a_statement(server: Server, url: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(
            "INSERT INTO accounts (email, login) SELECT n || '@example.com', n FROM generate_series(1, 50000) AS n"
        )
    with a_role(server, "SUPERUSER") as (role, log_in):
        server.execute(f"ALTER ROLE {role} SET statement_timeout = '50ms'")
        with configured(log_in(url)) as config:
            command.downgrade(config, "0007")
        with configured(log_in(url)) as config:
            command.upgrade(config, "head")
    assert_at_revision(url)
    assert unproven(url) == []


@pytest.mark.slow
def test_what_a_migration_does_outside_of_its_transaction_can_be_done_twice(url: str) -> None:
    """It was cut off after the first part of it was committed: the revision is the one before."""
    for revision, run in (("0009", command.upgrade), ("0010", command.downgrade)):
        for _ in range(2):
            with psycopg.connect(url, autocommit=True) as connection:
                connection.execute("UPDATE mailroom.mailroom_alembic_version SET version_num = %s", [revision])
            with configured(url) as config:
                run(config, "0010" if run is command.upgrade else "0009")
            assert unproven(url) == []


def unproven(url: str) -> list[str]:
    """The constraints that rows have not been held against."""
    with psycopg.connect(url) as connection:
        return [name for (name,) in connection.execute("SELECT conname FROM pg_constraint WHERE NOT convalidated")]
