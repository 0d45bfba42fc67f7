"""Columns that an application adds to tables of ours: whatever their names, no function takes one for its own."""

import re

from psycopg import sql
from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import DBAPIError

from mailroom.db import functions, schema
from tests.db.test_preflight import life
from tests.machine import ROOT
from tests.servers import migrate
from tests.world import add_accounts, ask_recovery, execute, rows

THEIRS = ("accounts", "tokens", "actions")
# Of a type that is compared with nothing: what reads one by mistake fails.
KIND = "point"
# Nobody can have a column of such a name.
KEPT = {"ctid", "oid", "tableoid", "xmax", "xmin", "cmax", "cmin"}


def words() -> set[str]:
    """All names in functions and views, and all others besides: what is a column somewhere, too."""
    files = (ROOT / "mailroom" / "sql").rglob("*.sql")
    lines = (line.partition("--")[0] for file in files for line in file.read_text(encoding="utf-8").splitlines())
    columns = {column.name for table in schema.metadata.tables.values() for column in table.columns}
    return {word for line in lines for word in re.findall(r"[a-z_][a-z_0-9]*", line)} | columns


def add_all(connection: Connection) -> None:
    for table in THEIRS:
        own = {column.name for column in schema.metadata.tables[table].columns}
        added = [f"ADD {sql.Identifier(word).as_string()} {KIND}" for word in sorted(words() - own - KEPT)]
        assert len(added) > 300
        connection.exec_driver_sql(f"ALTER TABLE {table} {', '.join(added)}")


CALLS = """
SELECT format('SELECT * FROM mailroom.%%I(%%s)', proname, (
           SELECT string_agg('CAST(NULL AS ' || substring(argument FROM '^\\S+ (.*)$') || ')', ', ')
             FROM unnest(string_to_array(pg_get_function_identity_arguments(pg_proc.oid), ', ')) AS argument))
  FROM pg_proc
 WHERE pronamespace = CAST('mailroom' AS regnamespace) AND proname = ANY (%(names)s)
   AND prorettype <> CAST('trigger' AS regtype)
 ORDER BY proname
"""


def called(engine: Engine) -> dict[str, str | None]:
    """Call every function with nothing, undo that, and return the SQLSTATE of each that fails."""
    found: dict[str, str | None] = {}
    with engine.connect().execution_options(isolation_level="READ COMMITTED") as connection:
        for (call,) in connection.exec_driver_sql(CALLS, {"names": functions.names()}).all():
            try:
                with connection.begin_nested() as one:
                    connection.exec_driver_sql(call)
                    one.rollback()
                found[call] = None
            except DBAPIError as error:
                found[call] = getattr(error.orig, "sqlstate", None)
        connection.rollback()
    return found


def test_whatever_columns_an_application_adds_nothing_is_taken_for_another(url: str, engine: Engine) -> None:
    before = life(engine), called(engine)
    with engine.connect() as connection:
        add_all(connection)
    migrate(url)
    assert (life(engine), called(engine)) == before


def test_an_account_is_changed_asked_for_and_removed_and_no_other_whatever_columns_there_are(
    engine: Engine, connection: Connection
) -> None:
    """`owner` is what an application may well call a column; here each account owns itself."""
    ada, bob = add_accounts(connection, 2, status="active")
    execute(engine, "ALTER TABLE accounts ADD owner bigint", "ALTER TABLE tokens ADD owner bigint")
    execute(engine, "UPDATE accounts SET owner = id")
    for account in (ada, bob):
        ask_recovery(connection, account)
    execute(engine, "UPDATE tokens SET owner = account")

    assert connection.scalar(text("SELECT change_account(:bob, language => 'de')"), {"bob": bob})
    assert rows(connection, "SELECT id FROM accounts WHERE language = 'de'") == [(bob,)]
    token = connection.scalar(text("SELECT request_mail('password_recovery', :bob)"), {"bob": bob})
    assert rows(connection, "SELECT account FROM tokens WHERE id >= :token", token=token) == [(bob,)]
    assert connection.scalar(text("SELECT revoke_tokens(:bob)"), {"bob": bob}) == 2
    assert connection.scalar(text("SELECT remove_account(:bob)"), {"bob": bob})
    assert rows(connection, "SELECT id FROM accounts") == [(ada,)]
    assert rows(connection, "SELECT account FROM tokens") == [(ada,)]


def test_who_signs_up_gets_a_mail_whatever_columns_accounts_have(engine: Engine, connection: Connection) -> None:
    execute(engine, "ALTER TABLE accounts ADD kind text DEFAULT 'private', ADD silent boolean, ADD lives int")
    add_accounts(connection, 2)
    assert len(rows(connection, "SELECT FROM jobs")) == 2
