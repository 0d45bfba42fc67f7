"""Callers with other ideas: no setting, role or path of theirs changes what the triggers do."""

import psycopg
import pytest
from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import IntegrityError, ProgrammingError

from tests.db.accounts import add, counts, status
from tests.db.migrating import connected
from tests.servers import migrate
from tests.world import misplaced, rows


def test_a_temporary_table_of_the_same_name_diverts_nothing(conn: Connection) -> None:
    for table in ("accounts", "tokens", "jobs"):
        conn.execute(text(f"CREATE TEMP TABLE {table} (LIKE mailroom.{table} INCLUDING DEFAULTS) ON COMMIT DROP"))

    conn.execute(text("INSERT INTO mailroom.accounts (email, login) VALUES ('ada@example.com', 'ada')"))
    conn.execute(text("UPDATE mailroom.tokens SET consumed_at = now()"))
    conn.execute(
        text("INSERT INTO mailroom.tokens (action, account) SELECT 'password_recovery', id FROM mailroom.accounts")
    )

    assert counts(conn) == (0, 0, 0)
    found = rows(
        conn,
        "SELECT status FROM mailroom.accounts JOIN mailroom.tokens ON account = accounts.id"
        " JOIN mailroom.jobs ON token = tokens.id",
    )
    assert [row.status for row in found] == ["active", "active"]


HOSTILE = """
CREATE SCHEMA hostile;
CREATE TABLE hostile.accounts (LIKE mailroom.accounts INCLUDING DEFAULTS);
CREATE TABLE hostile.tokens (LIKE mailroom.tokens INCLUDING DEFAULTS);
CREATE TABLE hostile.jobs (LIKE mailroom.jobs INCLUDING DEFAULTS);
CREATE FUNCTION hostile.now() RETURNS timestamptz LANGUAGE sql AS $$ SELECT timestamptz '1970-01-01' $$;
CREATE FUNCTION hostile.clock_timestamp() RETURNS timestamptz LANGUAGE sql AS $$ SELECT timestamptz '1970-01-01' $$;
CREATE FUNCTION hostile.pg_notify(text, text) RETURNS void LANGUAGE plpgsql AS $$ BEGIN RAISE 'diverted'; END $$;
CREATE FUNCTION hostile.lower(text) RETURNS text LANGUAGE plpgsql AS $$ BEGIN RAISE 'diverted'; END $$;
SET LOCAL search_path = hostile, pg_temp, mailroom, pg_catalog;
"""


def test_a_hostile_search_path_diverts_nothing(conn: Connection) -> None:
    conn.execute(text(HOSTILE))

    conn.execute(text("INSERT INTO mailroom.accounts (email, login) VALUES ('ada@example.com', 'ada')"))
    conn.execute(text("UPDATE mailroom.tokens SET consumed_at = pg_catalog.now()"))
    conn.execute(
        text("INSERT INTO mailroom.tokens (action, account) SELECT 'password_recovery', id FROM mailroom.accounts")
    )

    assert counts(conn) == (0, 0, 0)
    found = rows(
        conn,
        """
        SELECT status, activated_at = pg_catalog.now() AS activated_now,
               expires_at - interval '15 minutes' BETWEEN pg_catalog.now() AND pg_catalog.clock_timestamp() AS lives,
               due_at >= pg_catalog.now() AS due_now
          FROM mailroom.accounts JOIN mailroom.tokens ON account = accounts.id JOIN mailroom.jobs ON token = tokens.id
        """,
    )
    assert [tuple(row) for row in found] == [("active", True, True, True)] * 2


WEB = "CREATE ROLE mailroom_test_web; GRANT USAGE ON SCHEMA mailroom TO mailroom_test_web"


def test_a_role_that_may_only_insert_accounts_gets_tokens_and_jobs(conn: Connection) -> None:
    conn.execute(text(f"{WEB}; GRANT INSERT ON accounts TO mailroom_test_web"))
    conn.execute(text("SET LOCAL ROLE mailroom_test_web"))

    conn.execute(text("INSERT INTO accounts (email, login) VALUES ('ada@example.com', 'ada')"))

    for table in ("accounts", "tokens", "jobs"):
        with pytest.raises(ProgrammingError, match="permission denied"), conn.begin_nested():
            conn.execute(text(f"SELECT FROM {table}"))
    conn.execute(text("RESET ROLE"))
    assert counts(conn) == (1, 1, 1)
    assert misplaced(conn) == []


def test_a_role_that_may_only_insert_tokens_gets_jobs(conn: Connection) -> None:
    account = add(conn, status="active")
    conn.execute(text(f"{WEB}; GRANT INSERT ON tokens TO mailroom_test_web"))
    conn.execute(text("SET LOCAL ROLE mailroom_test_web"))

    insert = "INSERT INTO tokens (action, account) VALUES ('password_recovery', :account)"
    conn.execute(text(insert), {"account": account})

    conn.execute(text("RESET ROLE"))
    assert counts(conn) == (1, 1, 1)
    assert misplaced(conn) == []


def test_a_role_that_may_only_consume_tokens_activates_accounts(conn: Connection) -> None:
    account = add(conn)
    conn.execute(text(f"{WEB}; GRANT UPDATE (consumed_at) ON tokens TO mailroom_test_web"))
    conn.execute(text("SET LOCAL ROLE mailroom_test_web"))

    conn.execute(text("UPDATE tokens SET consumed_at = now()"))

    conn.execute(text("RESET ROLE"))
    assert status(conn, account) == "active"


@pytest.mark.parametrize(
    "function", ["make_activation_tokens", "activate_account", "enqueue_jobs", "token_starts", "forget_truncated"]
)
def test_nobody_can_put_our_triggers_on_a_table_of_their_own(conn: Connection, function: str) -> None:
    conn.execute(text("CREATE ROLE mallory; GRANT USAGE ON SCHEMA mailroom TO mallory"))
    conn.execute(text("SET LOCAL ROLE mallory"))
    conn.execute(text("CREATE TEMP TABLE bait (id bigint, account bigint)"))
    with pytest.raises(ProgrammingError, match=f"permission denied for function {function}"):
        conn.execute(text(f"CREATE TRIGGER t AFTER INSERT ON bait EXECUTE FUNCTION {function}()"))


INSERT = (
    "INSERT INTO {} (email, login, language, tenant, reference) VALUES ('Łukasz@例え.jp', 'ada', 'pt-BR', 't', 'r')"
)
WEB_IS_GONE = "DROP OWNED BY mailroom_test_web; DROP ROLE mailroom_test_web"


def test_who_writes_through_a_view_need_not_look_into_the_schema(conn: Connection) -> None:
    """A CHECK calls its function for whoever writes: what that looks up by name, they would have to see."""
    conn.execute(text("CREATE ROLE mailroom_test_web"))
    conn.execute(text("CREATE VIEW public.signups AS SELECT email, login, language, tenant, reference FROM accounts"))
    conn.execute(text("CREATE VIEW public.links AS SELECT action, account, address, data FROM tokens"))
    conn.execute(text("GRANT INSERT ON public.signups, public.links TO mailroom_test_web"))
    account = add(conn, status="active")
    conn.execute(text("SET LOCAL search_path = public; SET LOCAL ROLE mailroom_test_web"))

    conn.execute(text("INSERT INTO signups (email, login) VALUES ('bob@example.com', 'bob')"))
    conn.execute(text(INSERT.format("signups")))
    link = "INSERT INTO links VALUES ('password_recovery', :account, 'new@example.com', '{\"shop\": \"M\"}')"
    conn.execute(text(link.replace(": ", "\\: ")), {"account": account})
    for broken in ("email = 'a b@x'", "login = E'a\\nb'", "tenant = E'a\\nb'"):
        column, value = broken.split(" = ")
        others = {"email": "'x@y'", "login": "'x'"} | {column: value}
        insert = f"INSERT INTO signups ({', '.join(others)}) VALUES ({', '.join(others.values())})"  # noqa: S608 - ours
        with pytest.raises(IntegrityError, match=f"accounts_{column}_characters"), conn.begin_nested():
            conn.execute(text(insert))

    conn.execute(text("RESET ROLE; SET LOCAL search_path = mailroom, public"))
    assert counts(conn) == (3, 3, 3)
    assert misplaced(conn) == []


@pytest.mark.slow
def test_who_may_write_may_do_what_that_calls_also_where_new_functions_are_nobodys(empty_url: str) -> None:
    with connected(empty_url) as connection:
        connection.execute(text("ALTER DEFAULT PRIVILEGES REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC"))
    migrate(empty_url)
    with connected(empty_url) as connection:
        connection.execute(text(f"{WEB}; GRANT INSERT ON accounts, tokens TO mailroom_test_web"))
        try:
            connection.execute(text("SET ROLE mailroom_test_web"))
            connection.execute(text(INSERT.format("accounts")))
            connection.execute(text("INSERT INTO tokens (action, account) VALUES ('activation', 1)"))
        finally:
            connection.execute(text(f"RESET ROLE; {WEB_IS_GONE}"))
        assert counts(connection) == (1, 2, 2)


@pytest.mark.parametrize("queue", ["orders", "é", "mailroom"])
def test_a_backslash_of_a_rule_is_one_in_every_session(direct_url: str, engine: Engine, queue: str) -> None:
    """Rules are read as the session of the caller reads. A queue with a name of its own is held against all of them."""
    options = "-c standard_conforming_strings=off -c backslash_quote=off"
    with psycopg.connect(direct_url, autocommit=True, options=options) as application:
        application.execute("SELECT set_config('mailroom.queue', %s, false)", [queue])
        application.execute(INSERT.format("accounts"))
        for wrong in ("a b", "a\u2003b", "x" * 64):
            application.execute("SELECT set_config('mailroom.queue', %s, false)", [wrong])
            with pytest.raises(psycopg.errors.CheckViolation):
                application.execute("INSERT INTO accounts (email, login) VALUES ('bob@example.com', 'bob')")
        heard: list[str] = []
        application.add_notice_handler(lambda notice: heard.append(str(notice.message_primary)))
        application.execute("UPDATE jobs SET due_at = 'infinity'")
        assert heard == []
    with engine.connect() as connection:
        assert [row.queue for row in rows(connection, "SELECT queue FROM jobs")] == [queue]
