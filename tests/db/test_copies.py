"""Copies of a database, and users that were there before: what is refused, and what mails nobody, as docs have it."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import Engine, text
from sqlalchemy.exc import InternalError, ProgrammingError

from mailroom.db.engine import MOVED, VERSION_TABLE
from mailroom.simulator import Simulator
from tests.claiming import take
from tests.cli.command import sending
from tests.cli.conftest import Here, here, ses
from tests.db.migrating import HEAD, PROCESS_SECONDS, alembic, assert_at_revision, connected, objects
from tests.db.test_enqueue import client
from tests.machine import ROOT
from tests.servers import Server, migrate
from tests.world import add_accounts, ask_recovery, execute, rows

__all__ = ["here", "ses"]

PAGE = (ROOT / "docs" / "operating.md").read_text()
WITHOUT_ROWS = ["--schema-only", "--exclude-table-data=mailroom.*"]


def said(words: str) -> str:
    """The SQL of docs/operating.md that has these words."""
    [found] = [block for block in re.findall(r"```sql\n(.*?)```", PAGE, re.DOTALL) if words in block]
    return str(found)


@pytest.fixture(params=WITHOUT_ROWS)
def without_rows(request: pytest.FixtureRequest, server: Server, url: str, tmp_path: Path) -> Iterator[str]:
    """The URL of a copy that has all of mailroom's tables, and no row in any."""
    dump = str(tmp_path / "dump")
    client(server, "pg_dump", "-Fc", str(request.param), "-f", dump, url)
    with server.database("copy") as name:
        client(server, "pg_restore", "-d", server.database_url(name), dump)
        yield server.database_url(name)


@pytest.mark.slow
def test_where_no_row_was_restored_everybody_says_so_and_how_to_go_on(
    here: Here, ses: Simulator, without_rows: str
) -> None:
    env = sending(without_rows, ses)
    cure = 'DROP SCHEMA "mailroom" CASCADE'
    here("migrate", env=env).assert_one_line(1, f"no revision in {VERSION_TABLE}", "without its rows", cure)
    output, _ = alembic(without_rows, "downgrade", "base").communicate(timeout=PROCESS_SECONDS)
    assert output.count("\n") == 1
    assert cure in output
    for command in ("worker", "sweep", "collect"):
        here(command, env=env).assert_one_line(1, "none of the rows", "without its rows", cure)
    found = [row for row in json.loads(here("doctor", "--json", env=env).out) if row["level"] == "failed"]
    wrong = {row["check"]: row["message"] for row in found}
    assert len([row for row in found if row["check"] == "guarantee"]) == 1
    assert "none of the rows" in wrong["guarantee"]
    assert wrong["actions"] == "there is no kind of mail: nobody who signs up is mailed"

    with psycopg.connect(without_rows, autocommit=True) as owner:
        owner.execute(cure.encode())
    assert here("migrate", env=env).out == f"the database is at revision {HEAD}\n"
    assert here("sweep", env=env).code == 0


@pytest.mark.slow
def test_a_copy_for_staging_mails_nobody_and_knows_no_address(
    here: Here, ses: Simulator, engine: Engine, url: str
) -> None:
    with engine.connect() as connection:
        add_accounts(connection, 60)
        ask_recovery(connection, add_accounts(connection, 1, status="active", prefix="active")[0])
        before = connection.scalar(text("SELECT id FROM site"))
        connection.execute(text(said("example.invalid").replace(":", "\\:")))
        for full in ([], ["--full"]):
            assert here("sweep", *full, env=sending(url, ses)).code == 0
        assert ses.ledger.mails == []
        assert connection.scalar(text("SELECT count(*) FROM accounts WHERE email NOT LIKE '%.invalid'")) == 0
        assert connection.scalar(text("SELECT count(*) FROM accounts WHERE login LIKE 'user%'")) == 0
        assert connection.scalar(text("SELECT id FROM site")) != before
        connection.execute(text("SELECT add_account('tester@example.com', 'tester')"))
    assert here("sweep", env=sending(url, ses)).code == 0
    assert [mail.recipients for mail in ses.ledger.mails] == [("tester@example.com",)]


def test_users_that_were_there_before_are_brought_in_and_mailed_nothing(engine: Engine) -> None:
    execute(
        engine,
        "CREATE TABLE public.users (id serial, email text)",
        "INSERT INTO public.users (email) SELECT 'user' || n || '@example.com' FROM generate_series(1, 60) AS n",
        "INSERT INTO public.users (email) VALUES ('USER1@example.com'), ('nobody'), (NULL), (E'a\\nb@example.com')",
        said("FROM users"),
        said("FROM users"),
    )
    with engine.connect() as connection:
        assert connection.scalar(text("SELECT count(*) FROM accounts WHERE status = 'active'")) == 60
        assert connection.scalar(text("SELECT count(*) FROM tokens")) == 0
        assert connection.scalar(text("SELECT request_mail('password_recovery', reference => '7')")) is not None


def test_who_empties_every_table_is_told_what_empties_them_for_tests(engine: Engine) -> None:
    with engine.connect() as connection, pytest.raises(psycopg.errors.RestrictViolation) as refused:
        connection.connection.driver_connection.execute("TRUNCATE mailroom.actions")  # type: ignore[union-attr]
    assert refused.value.diag.message_hint == "TRUNCATE mailroom.accounts CASCADE empties what tests fill."


DEPENDS = (
    "CREATE TABLE public.members (account bigint CONSTRAINT members_account_fkey REFERENCES mailroom.accounts)",
    "CREATE VIEW public.late AS SELECT * FROM mailroom.waiting_jobs",
)


@pytest.mark.slow
@pytest.mark.parametrize(("made", "named"), list(zip(DEPENDS, ("members_account_fkey", "late"), strict=True)))
def test_what_keeps_mailroom_from_being_taken_away_is_named(
    server: Server, empty_url: str, made: str, named: str
) -> None:
    migrate(empty_url)
    with psycopg.connect(empty_url, autocommit=True) as application:
        application.execute(made.encode())
    process = alembic(empty_url, "downgrade", "base")
    output, _ = process.communicate(timeout=PROCESS_SECONDS)
    last = output.splitlines()[-1]
    assert process.returncode == 1
    assert last.startswith("mailroom: the database cannot be migrated: cannot drop ")
    assert named in last


OTHERS_DEPEND = (
    *DEPENDS,
    "CREATE VIEW public.all_tokens AS SELECT id FROM mailroom.tokens",
    "CREATE TABLE public.people (email text); CREATE INDEX ON public.people (mailroom.address_key(email))",
    "CREATE TABLE public.kinds (kind mailroom.token_action)",
    "CREATE TABLE mailroom.logins (seen timestamptz) INHERITS (mailroom.accounts)",
    "CREATE FUNCTION mailroom.is_address(given integer) RETURNS boolean RETURN true",
)


@pytest.mark.slow
@pytest.mark.parametrize("made", OTHERS_DEPEND)
def test_what_may_not_be_taken_away_as_a_whole_stays_as_a_whole(empty_url: str, made: str) -> None:
    """Else the queue, the log and the functions are gone by the time that the last step is refused."""
    migrate(empty_url)
    with connected(empty_url) as connection:
        add_accounts(connection, 2)
        connection.execute(text(made))
        take(connection)
    before = objects(empty_url)
    with pytest.raises((InternalError, ProgrammingError), match=r"other objects depend on|is not unique"):
        migrate(empty_url, "base")
    assert objects(empty_url) == before
    assert_at_revision(empty_url)
    with connected(empty_url) as connection:
        assert rows(connection, "SELECT cardinality(tokens) FROM batches") == [(2,)]


@pytest.mark.slow
def test_an_event_trigger_of_the_application_that_fails_is_named_at_once(here: Here, empty_url: str) -> None:
    with psycopg.connect(empty_url, autocommit=True) as application:
        application.execute(
            "CREATE FUNCTION public.log_ddl() RETURNS event_trigger LANGUAGE plpgsql"
            " AS $$ BEGIN INSERT INTO ddl_log DEFAULT VALUES; END $$;"
            "CREATE EVENT TRIGGER logs ON ddl_command_end EXECUTE FUNCTION public.log_ddl()"
        )
    here("migrate", env={"MAILROOM_DATABASE_URL": empty_url}).assert_one_line(1, 'relation "ddl_log" does not exist')


@pytest.mark.slow
def test_a_schema_that_was_renamed_asks_for_a_migration(here: Here, ses: Simulator, url: str) -> None:
    with psycopg.connect(url, autocommit=True) as owner:
        owner.execute("ALTER SCHEMA mailroom RENAME TO post")
    env = sending(url, ses) | {"MAILROOM_SCHEMA": "post"}
    here("sweep", env=env).assert_one_line(1, 'relation "feed" does not exist: `mailroom migrate`')
    asked = {row["remedy"] for row in json.loads(here("doctor", "--json", env=env).out) if row["check"] == "restore"}
    assert asked == {MOVED}
    assert here("migrate", env=env).code == 0
    assert here("sweep", env=env).code == 0
