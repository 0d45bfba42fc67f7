"""What is wrong is said in one line, with the right exit code: 2 for settings and usage, 1 for what failed."""

import sys
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import Engine, text

from mailroom.ops import grants
from mailroom.simulator import Simulator
from tests.cli.command import MAILROOM, NO_AWS, Ended, end, run, sending, start
from tests.cli.conftest import Here
from tests.machine import closed_port
from tests.roles import a_role
from tests.servers import Server
from tests.world import KEY_HEX, add_accounts

ROOT = Path(__file__).parents[2]
WORKING = ["worker", "sweep", "collect"]
LOOKING = ["status", "jobs list", "jobs retry 1", "prune --older-than 90d", "tokens sign 1"]
WITH_DATABASE = [*WORKING, *LOOKING]
SENDING = ["worker", "sweep", "send"]
SIGNING = [*WORKING, "tokens verify x", "tokens sign 1"]


def upgrade_by_alembic(env: dict[str, str], revision: str = "head") -> Ended:
    return run([sys.executable, "-m", "alembic", "upgrade", revision], env=env, cwd=ROOT)


@pytest.fixture
def env(ses: Simulator) -> dict[str, str]:
    """Settings that lack nothing; the database cannot be reached."""
    return sending(f"postgresql://ada:hunter2@127.0.0.1:{closed_port()}/app", ses)


@pytest.mark.parametrize("command", [*WITH_DATABASE, "migrate"])
def test_no_database_named(here: Here, env: dict[str, str], command: str) -> None:
    del env["MAILROOM_DATABASE_URL"]
    here(*command.split(), env=env).assert_one_line(2, "MAILROOM_DATABASE_URL is not set")


@pytest.mark.parametrize("command", [*WITH_DATABASE, "migrate"])
def test_a_database_of_another_kind(here: Here, env: dict[str, str], command: str) -> None:
    env["MAILROOM_DATABASE_URL"] = "mysql://ada:hunter2@localhost/app"
    ended = here(*command.split(), env=env)
    ended.assert_one_line(2, "MAILROOM_DATABASE_URL", "postgresql://")
    assert "hunter2" not in ended.err


@pytest.mark.parametrize("command", [*WITH_DATABASE, "migrate"])
def test_a_database_that_cannot_be_reached(here: Here, env: dict[str, str], command: str) -> None:
    ended = here(*command.split(), env=env)
    ended.assert_one_line(1, "the database cannot be", "Connection refused")
    assert "hunter2" not in ended.err


def test_a_database_that_is_not_migrated(here: Here, ses: Simulator, empty_url: str) -> None:
    for command in WITH_DATABASE:
        here(*command.split(), env=sending(empty_url, ses)).assert_one_line(1, "not migrated", "mailroom migrate")


def test_a_database_of_another_version(here: Here, ses: Simulator, url: str, engine: Engine) -> None:
    with engine.connect() as connection:
        connection.execute(text("UPDATE mailroom_alembic_version SET version_num = '9999'"))
        connection.execute(
            text(
                "CREATE OR REPLACE FUNCTION contract() RETURNS TABLE (oldest int, newest int)"
                " LANGUAGE sql AS 'SELECT 9, 9'"
            )
        )
    for command in WITH_DATABASE:
        here(*command.split(), env=sending(url, ses)).assert_one_line(1, "newer releases of mailroom")
    here("migrate", env=sending(url, ses)).assert_one_line(1, "revision", "9999")


def test_a_database_that_fails_after_it_was_reached(here: Here, ses: Simulator, url: str, engine: Engine) -> None:
    with engine.connect() as connection:
        connection.execute(text("DROP TABLE deliveries CASCADE"))
        add_accounts(connection, 1)
    for command, gone in {"status": "deliveries", "sweep": "deliveries"}.items():
        here(command, env=sending(url, ses)).assert_one_line(1, "the database failed", gone)


def test_a_schema_that_is_not_migrated_is_named(here: Here, ses: Simulator, url: str) -> None:
    env = sending(url, ses) | {"MAILROOM_SCHEMA": 'else"where'}
    for command in WITH_DATABASE:
        here(*command.split(), env=env).assert_one_line(1, 'its schema "else""where"', "`mailroom migrate`")


@pytest.mark.slow
@pytest.mark.parametrize("schema", ["mailroom", "Their own"])
def test_a_schema_that_cannot_be_made(here: Here, server: Server, empty_url: str, schema: str) -> None:
    """What it says to do instead is enough."""
    with a_role(server) as (role, log_in), psycopg.connect(empty_url, autocommit=True) as superuser:
        env = {"MAILROOM_DATABASE_URL": log_in(empty_url), "MAILROOM_SCHEMA": schema}
        said = "cannot be migrated: permission denied for database"
        remedy = f'CREATE SCHEMA "{schema}" AUTHORIZATION'
        here("migrate", env=env).assert_one_line(1, said, remedy)
        by_alembic = upgrade_by_alembic(env)
        assert (by_alembic.code, remedy in by_alembic.err) == (1, True), by_alembic
        superuser.execute(f"{remedy} {role}".encode())
        assert here("migrate", env=env).code == 0


def test_a_server_that_is_too_old_to_migrate(here: Here, empty_url: str) -> None:
    """It answers, and says that it is of an older version."""
    with psycopg.connect(empty_url, autocommit=True) as owner:
        owner.execute("SET allow_system_table_mods = on")
        owner.execute(
            "CREATE OR REPLACE FUNCTION pg_catalog.version() RETURNS text LANGUAGE sql STABLE"
            " AS $$ SELECT 'PostgreSQL 13.14 on x86_64-pc-linux-gnu' $$"
        )
    ended = here("migrate", env={"MAILROOM_DATABASE_URL": empty_url})
    ended.assert_one_line(1, "needs PostgreSQL 14 or newer, and this server is 13.14")


@pytest.mark.parametrize("right", ["settle", "settle_late", "rescue"])
@pytest.mark.parametrize("command", WORKING)
def test_a_role_that_could_send_what_it_may_not_put_on_record(
    here: Here, server: Server, ses: Simulator, engine: Engine, url: str, command: str, right: str
) -> None:
    """As where a new release starts, and what it calls is not granted yet: it would send each mail again and again."""
    with a_role(server) as (role, log_in):
        with engine.connect() as connection:
            add_accounts(connection, 3)
            grants.apply(connection, grants.statements(connection, "worker", role))
            connection.execute(text(f"REVOKE EXECUTE ON FUNCTION {right} FROM {role}"))
        env = sending(log_in(url), ses)
        here(command, env=env).assert_one_line(1, f"lacks EXECUTE ON FUNCTION {right}: `mailroom grants`")
    assert ses.ledger.counts().mails == 0


@pytest.mark.parametrize("command", SIGNING)
def test_no_key(here: Here, env: dict[str, str], command: str) -> None:
    del env["MAILROOM_SECRET_KEY"]
    here(*command.split(), env=env).assert_one_line(2, "MAILROOM_SECRET_KEY is not set", "64 hex digits")


@pytest.mark.parametrize("key", ["c0ffee" * 10, "c0ffee" * 11, "hunter2!" * 8])
@pytest.mark.parametrize("command", [*SIGNING, "send", "status", "migrate"])
def test_a_key_of_another_shape_is_not_repeated(here: Here, env: dict[str, str], command: str, key: str) -> None:
    ended = here(*command.split(), env=env | {"MAILROOM_SECRET_KEY": key})
    ended.assert_one_line(2, "MAILROOM_SECRET_KEY: its value is not accepted: 64 hex digits")
    assert "c0ffee" not in ended.err
    assert "hunter2" not in ended.err


@pytest.mark.parametrize("command", WORKING)
def test_a_lease_that_a_call_may_outlive(here: Here, env: dict[str, str], command: str) -> None:
    env["MAILROOM_LEASE"] = "25000"
    here(command, env=env).assert_one_line(2, "MAILROOM_LEASE: 25000 ms", "at least 28000 ms: the longest SES call")


@pytest.mark.parametrize("command", WORKING)
def test_a_batch_larger_than_a_call(here: Here, env: dict[str, str], command: str) -> None:
    here(command, "--batch-limit", "51", env=env).assert_one_line(2, "MAILROOM_BATCH_LIMIT: '51'", "50")
    here(command, env=env | {"MAILROOM_BATCH_LIMIT": "51"}).assert_one_line(2, "MAILROOM_BATCH_LIMIT: '51'", "50")


def test_an_option_overrides_what_is_wrong(here: Here, env: dict[str, str]) -> None:
    env["MAILROOM_BATCH_LIMIT"] = "51"
    here("sweep", "--batch-limit", "50", env=env).assert_one_line(1, "Connection refused")


@pytest.mark.parametrize("command", SENDING)
def test_no_region(here: Here, env: dict[str, str], command: str) -> None:
    del env["AWS_REGION"]
    here(command, env=env).assert_one_line(2, "AWS_REGION")


def test_a_region_that_is_empty_is_none_at_all(here: Here, env: dict[str, str]) -> None:
    here("sweep", env=env | {"AWS_REGION": ""}).assert_one_line(2, "You must specify a region", "AWS_REGION")


@pytest.mark.parametrize("endpoint", ["localhost:8025", "http://user:canary@[::1", "http://a..b"])
def test_an_endpoint_that_is_no_url(here: Here, env: dict[str, str], endpoint: str) -> None:
    ended = here("sweep", env=env | {"AWS_ENDPOINT_URL_SESV2": endpoint})
    ended.assert_one_line(2, "AWS_ENDPOINT_URL_SESV2", "not a URL such as http://127.0.0.1:8025")
    assert "canary" not in ended.err


@pytest.mark.parametrize("command", SENDING)
def test_no_credentials(here: Here, env: dict[str, str], command: str) -> None:
    del env["AWS_ACCESS_KEY_ID"], env["AWS_SECRET_ACCESS_KEY"]
    here(command, env=env).assert_one_line(2, "no AWS credentials")


@pytest.mark.parametrize(
    "usage",
    [
        "nothing",
        "worker --nothing",
        "worker --concurrency 0",
        "worker --concurrency two",
        "sweep --max-seconds -1",
        "tokens nothing",
        "tokens sign",
        "tokens sign one",
        "tokens verify x --cod 12345",
        "simulator --port 65536",
        "demo --accounts 0",
        "",
    ],
)
def test_wrong_usage(here: Here, usage: str) -> None:
    ended = here(*usage.split(), env={})
    assert ended.code == 2
    assert "Usage" in ended.out + ended.err
    assert "Traceback" not in ended.err


def test_a_variable_that_nothing_reads_is_named(here: Here, caplog: pytest.LogCaptureFixture) -> None:
    here("worker", env={"MAILROOM_BATCH_LIMITS": "5", "MAILROOM_TEST_X": "1"})
    assert caplog.messages == ["unknown variable MAILROOM_BATCH_LIMITS: is it misspelt?"]


@pytest.mark.slow
@pytest.mark.early
def test_processes_end_so_too(url: str) -> None:
    key = "c0ffee" * 10
    refused = {"MAILROOM_DATABASE_URL": f"postgresql://127.0.0.1:{closed_port()}/app", "MAILROOM_SECRET_KEY": KEY_HEX}
    run([*MAILROOM, "collect"], env={"MAILROOM_SECRET_KEY": key}).assert_one_line(2, "MAILROOM_SECRET_KEY")
    run([*MAILROOM, "collect"], env=refused).assert_one_line(1, "Connection refused")
    with start("worker", env=NO_AWS | {"MAILROOM_DATABASE_URL": url, "MAILROOM_SECRET_KEY": KEY_HEX}) as process:
        ended = end(process)
    ended.assert_one_line(2, "AWS_REGION")


@pytest.mark.slow
@pytest.mark.early
def test_alembic_ends_so_too(empty_url: str) -> None:
    upgrade_by_alembic({}).assert_one_line(2, "MAILROOM_DATABASE_URL is not set")
    refused = {"MAILROOM_DATABASE_URL": f"postgresql://ada:hunter2@127.0.0.1:{closed_port()}/app"}
    ended = upgrade_by_alembic(refused)
    ended.assert_one_line(1, "the database cannot be migrated", "Connection refused")
    assert "hunter2" not in ended.err
    reserved = {"MAILROOM_DATABASE_URL": empty_url, "MAILROOM_SCHEMA": "pg_mail"}
    upgrade_by_alembic(reserved).assert_one_line(2, "MAILROOM_SCHEMA: 'pg_mail' is not accepted")
    with psycopg.connect(empty_url, autocommit=True) as application:
        application.execute("CREATE TABLE jobs ()")
    taken = {"MAILROOM_DATABASE_URL": empty_url, "MAILROOM_SCHEMA": "public"}
    upgrade_by_alembic(taken).assert_one_line(1, "jobs", "another schema in MAILROOM_SCHEMA")
    assert upgrade_by_alembic({"MAILROOM_DATABASE_URL": empty_url}).code == 0
