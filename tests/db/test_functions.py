"""The functions: as their files have them, and as a migration installs them, in any schema and for any caller."""

import re
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from sqlalchemy import Connection, Engine, event, text

from mailroom import queue
from mailroom.db import functions, namespace
from mailroom.db.engine import connect_engine
from mailroom.db.namespace import DEFAULT_SCHEMA
from mailroom.ops import health, maintenance
from mailroom.outcome import Sent
from tests.claiming import claim, look, settle, take
from tests.db.migrating import connected, objects
from tests.db.test_enqueue import client
from tests.db.test_migrations import configured
from tests.machine import ROOT
from tests.roles import a_role
from tests.servers import Server, migrate
from tests.world import add_accounts, misplaced, rows

FILES = sorted((ROOT / "mailroom" / "sql").glob("*.sql"))
INSTALLED = """
SELECT proname AS name, pg_get_functiondef(pg_proc.oid) AS source, proowner AS owner, prosecdef AS definer,
       proconfig AS settings, CAST(proacl AS text[]) AS rights
  FROM pg_proc
  JOIN pg_namespace ON pg_namespace.oid = pronamespace
 WHERE nspname = :schema AND proname = ANY (:names)
 ORDER BY proname, pg_proc.oid
"""


def installed(connection: Connection, schema: str = DEFAULT_SCHEMA) -> list[Any]:
    return rows(connection, INSTALLED, schema=schema, names=functions.names())


# The files


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_file_says_what_its_function_is_for_and_makes_it_and_nothing_else(file: Path) -> None:
    first, *lines = file.read_text(encoding="utf-8").splitlines()
    assert first.startswith("-- ")
    begins = next(number for number, line in enumerate(lines) if not line.startswith("--"))
    assert lines[begins].startswith(f"CREATE OR REPLACE FUNCTION mailroom.{file.stem}(")
    assert [number for number, line in enumerate(lines) if "$$" in line][1:] == [len(lines) - 1]
    assert lines[-1] == "END $$;"


def test_the_first_line_of_each_file_which_becomes_its_comment_is_a_whole_sentence() -> None:
    first = {file.stem: file.read_text(encoding="utf-8").split("\n", 1)[0] for file in FILES[0].parent.rglob("*.sql")}
    assert [name for name, line in first.items() if not line.endswith(".")] == []


def test_psql_runs_each_file_as_it_stands(server: Server, empty_url: str) -> None:
    migrate(empty_url)
    with connected(empty_url) as connection:
        by_migration = [row.source for row in installed(connection)]
        functions.remove(connection)
    files = [word for file in FILES for word in ("-f", str(file))]
    client(server, "psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", empty_url, *files)
    with connected(empty_url) as connection:
        assert [row.source for row in installed(connection)] == by_migration


# What a migration installs


@pytest.fixture
def all_of_them(conn: Connection) -> list[Any]:
    found = installed(conn)
    assert [row.name for row in found] == [file.stem for file in FILES]
    return found


def test_each_does_its_work_with_the_rights_of_its_owner_and_the_settings_that_it_relies_on(
    all_of_them: list[Any],
) -> None:
    pinned = {"search_path=mailroom, pg_temp", "enable_seqscan=off", "jit=off", "row_security=off"}
    for row in all_of_them:
        settings = set(row.settings)
        assert (row.name, row.definer, pinned - settings) == (row.name, True, set())
        assert {"plan_cache_mode=force_generic_plan", "plan_cache_mode=force_custom_plan"} & settings, row.name


def test_none_needs_md5_which_a_server_in_fips_mode_refuses(engine: Engine) -> None:
    with engine.connect() as connection:
        connection.execute(text("ALTER FUNCTION pg_catalog.md5(text) RENAME TO refused"))
        connection.execute(text("ALTER FUNCTION pg_catalog.md5(bytea) RENAME TO refused"))
        add_accounts(connection, 1)
        before = look(connection).kinds
        assert settle(connection, take(connection), Sent("m"))
        connection.execute(text("UPDATE actions SET per_day = 7 WHERE number = 2"))
        assert look(connection).kinds != before
        assert [row.name for row in installed(connection) if "md5" in re.sub("--.*", "", row.source)] == []


def test_nobody_but_their_owner_may_call_one(conn: Connection, all_of_them: list[Any]) -> None:
    conn.execute(text("CREATE ROLE nobody_in_particular"))
    may = "SELECT oid FROM pg_proc WHERE proname = ANY (:names) AND has_function_privilege(:role, oid, 'EXECUTE')"
    names = [row.name for row in all_of_them]
    assert rows(conn, may, names=names, role="nobody_in_particular") == []
    assert len(rows(conn, may, names=names, role=conn.scalar(text("SELECT current_user")))) == len(FILES)


CHANGES = [
    "DROP FUNCTION claim",
    "CREATE OR REPLACE FUNCTION contract() RETURNS TABLE (oldest int, newest int) LANGUAGE sql AS 'SELECT 9, 9'",
    "ALTER FUNCTION look SECURITY INVOKER",
    "ALTER FUNCTION settle RESET ALL",
    "ALTER FUNCTION settle SET enable_seqscan = on",
    "GRANT EXECUTE ON FUNCTION claim TO PUBLIC",
]


@pytest.mark.parametrize("change", CHANGES, ids=[" ".join(change.split()[:6]) for change in CHANGES])
def test_an_upgrade_that_finds_no_step_to_take_makes_them_anew(url: str, engine: Engine, change: str) -> None:
    with engine.connect() as connection:
        before = installed(connection)
        connection.execute(text(change))
        assert installed(connection) != before
        migrate(url)
        assert installed(connection) == before


@pytest.mark.parametrize("marked", [True, False])
def test_a_function_that_has_one_argument_more_takes_the_place_of_the_old_one_and_its_rights(
    server: Server, url: str, engine: Engine, marked: bool
) -> None:
    """Beside each other a call without it would find the old one; and who may call that must not wait for a grant."""
    with a_role(server) as (role, log_in), engine.connect() as connection:
        log_in(url)
        before = installed(connection)
        [now] = [row.source for row in before if row.name == "settle"]
        connection.execute(text("DROP FUNCTION settle"))
        driver: Any = connection.connection.driver_connection
        driver.execute(
            now.replace(", call_ms integer[] DEFAULT NULL::integer[]", "")
            .replace(", settle.call_ms)", ")")
            .replace("message_id, error_code, error, call_ms)", "message_id, error_code, error)")
        )
        if marked:  # a dump may have been restored without comments
            connection.execute(text("COMMENT ON FUNCTION settle IS 'mailroom: as it was'"))
        connection.execute(text(f"GRANT EXECUTE ON FUNCTION settle TO {role} WITH GRANT OPTION"))
        old = connection.scalar(text("SELECT CAST(CAST('settle' AS regproc) AS oid)"))
        migrate(url)
        after = installed(connection)
        assert [(row.name, row.source) for row in after] == [(row.name, row.source) for row in before]
        [rights] = [row.rights for row in after if row.name == "settle"]
        assert any(right.startswith(f"{role}=X*/") for right in rights)
        assert connection.scalar(text("SELECT count(*) FROM pg_proc WHERE oid = :old"), {"old": old}) == 0
        assert not any(right.startswith("=") for right in rights)


def test_a_function_of_the_same_name_that_is_not_ours_stays(url: str, engine: Engine) -> None:
    with engine.connect() as connection:
        theirs = "CREATE FUNCTION mailroom.settle(integer) RETURNS integer LANGUAGE sql AS 'SELECT 1'"
        connection.execute(text(theirs))
        migrate(url)
        assert connection.scalar(text("SELECT mailroom.settle(1)")) == 1


def test_who_may_call_one_may_do_so_after_an_upgrade(server: Server, url: str, engine: Engine) -> None:
    with a_role(server) as (role, log_in), engine.connect() as connection:
        role_url = log_in(url)
        connection.execute(text(f"GRANT USAGE ON SCHEMA mailroom TO {role}"))
        connection.execute(text(f"GRANT EXECUTE ON FUNCTION contract TO {role}"))
        before = installed(connection)
        migrate(url)
        assert installed(connection) == before
        with connected(role_url) as theirs:
            assert len(rows(theirs, "SELECT * FROM contract()")) == 1
            assert not theirs.scalar(text("SELECT has_function_privilege(to_regproc('look')::oid, 'EXECUTE')"))


@pytest.mark.slow
def test_below_the_revision_that_they_are_for_there_are_none(server: Server, empty_url: str) -> None:
    """Though somebody may call them."""
    before = [name for name in functions.triggers() if name != "rows_stay"]
    with a_role(server) as (role, log_in):
        log_in(empty_url)
        for step in ("0008", "base"):  # what the triggers of that revision call stays
            migrate(empty_url)
            with connected(empty_url) as connection:
                connection.execute(text(f"GRANT EXECUTE ON FUNCTION look TO {role}"))
            with configured(empty_url) as config:
                command.downgrade(config, step)
            with connected(empty_url) as connection:
                assert [row.name for row in installed(connection)] == (before if step == "0008" else [])
        assert objects(empty_url) == set()


@pytest.mark.slow
def test_what_others_have_by_the_same_name_is_left_alone(empty_url: str) -> None:
    def theirs() -> list[Any]:
        with connected(empty_url) as connection:
            found = rows(connection, INSTALLED, schema="public", names=["health"])
            assert connection.scalar(text("SELECT has_function_privilege('health(integer)', 'EXECUTE')"))
            return [row for row in found if not row.definer]

    with connected(empty_url) as connection:
        connection.execute(text("CREATE FUNCTION health(details integer) RETURNS integer RETURN details"))
        connection.execute(text("COMMENT ON FUNCTION health IS 'how we are'"))
    before = theirs()
    migrate(empty_url)
    migrate(empty_url)
    assert theirs() == before
    migrate(empty_url, "base")
    assert theirs() == before


# In any schema, for any caller


def work(engine: Engine) -> None:
    """Do what a worker does where one mail waits."""
    with engine.connect() as connection:
        assert look(connection).ready == 1
        assert settle(connection, take(connection), Sent("m"))
        assert queue.rescue(connection) == []
        assert claim(connection).taken == 0
        health.read(connection)
    assert maintenance.reconcile(engine, queue="mailroom").enqueued == ()


TEMPORARY = "; ".join(
    [
        *(f"CREATE TEMP TABLE {table} (LIKE mailroom.{table})" for table in ("jobs", "batches", "tokens", "pauses")),
        "CREATE TYPE pg_temp.token_action AS ENUM ('nothing')",
    ]
)


def test_what_a_caller_has_for_itself_is_not_looked_at(url: str, engine: Engine) -> None:
    event.listen(engine, "connect", lambda driver, _: driver.execute(TEMPORARY))
    with connected(url) as application:
        add_accounts(application, 1)
        work(engine)
        assert misplaced(application) == []
    with engine.connect() as connection:
        assert rows(connection, "SELECT FROM jobs") == []
        assert rows(connection, "SELECT FROM mailroom.deliveries") != []


@pytest.mark.slow
def test_two_schemas_in_one_session_are_two_mailrooms(url: str, engine: Engine) -> None:
    """Though a session keeps the plans of both."""
    migrate(url, schema="other")
    with engine.connect() as connection:
        connection.execute(text("INSERT INTO other.accounts (email, login) VALUES ('ada@example.com', 'ada')"))
        for _ in range(2):
            for schema, ready in ((DEFAULT_SCHEMA, 0), ("other", 1)):
                assert look(connection.execution_options(**namespace.options(schema))).ready == ready


def test_a_schema_that_was_renamed_works_once_it_is_migrated(server: Server) -> None:
    """As after a restore, which has no other way to another schema."""
    with server.database("renamed", of=server.template) as name:
        url = server.database_url(name)
        with connected(url) as connection:
            connection.execute(text('ALTER SCHEMA mailroom RENAME TO "Mail\'s"'))
        migrate(url, schema="Mail's")
        engine = connect_engine(url, schema="Mail's")
        with engine.connect() as connection:
            connection.execute(text('SET search_path = "Mail\'s"'))
            for login in ("ada", "Łukasz"):
                person = {"email": f"{login}@例え.jp", "login": login}
                connection.execute(text("INSERT INTO accounts (email, login) VALUES (:email, :login)"), person)
            token = "INSERT INTO tokens (action, account, address) SELECT 'activation', id, 'ł@x' FROM accounts"
            connection.execute(text(token))
            assert len([job for batch in claim(connection).batches for job in batch.jobs]) == 4
        engine.dispose()
