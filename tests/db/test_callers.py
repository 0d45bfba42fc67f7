"""Callers with other ideas: no setting, role or path of theirs changes what the triggers do."""

import pytest
from sqlalchemy import Connection, text
from sqlalchemy.exc import ProgrammingError

from tests.db.accounts import add, counts, status
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
               expires_at = pg_catalog.now() + interval '15 minutes' AS lives, due_at >= pg_catalog.now() AS due_now
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
