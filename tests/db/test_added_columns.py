"""Columns that an application adds, of whatever name: no function takes one for what it calls so itself."""

import re

import pytest
from sqlalchemy import Connection, Engine, text

from mailroom.db import functions, schema
from tests.db.accounts import add, counts
from tests.db.test_preflight import life
from tests.world import add_accounts, execute, misplaced, rows

ARGUMENTS = re.compile(r"FUNCTION mailroom\.\w+\(([^)]*)\)")


def words_of_functions() -> set[str]:
    """What functions call their variables and arguments, and what the columns of all tables are called."""
    found = {column.name for table in schema.metadata.tables.values() for column in table.columns}
    for name, body in functions.bodies().items():
        [arguments] = ARGUMENTS.findall(functions._source(name))
        declared = body.partition("\nDECLARE\n")[2].partition("\nBEGIN\n")[0].splitlines()
        found |= {line.split()[0] for line in (*arguments.split(","), *declared) if line.strip()[:1].isalpha()}
    return found


@pytest.mark.slow
def test_columns_of_any_name_change_nothing(engine: Engine) -> None:
    expected = life(engine)
    words = words_of_functions()
    assert {"owner", "kind", "reference"} < words
    for table, known in schema.metadata.tables.items():
        adding = (f'ADD COLUMN "{word}" text' for word in sorted(words - set(known.columns.keys())))
        execute(engine, f"ALTER TABLE {table} {', '.join(adding)}")
    assert life(engine) == expected


OWN = """
ALTER TABLE accounts ADD owner bigint, ADD kind text, ADD silent boolean, ADD owners bigint[], ADD locked boolean;
ALTER TABLE tokens ADD name text, ADD owner bigint, ADD priority smallint, ADD has_code boolean DEFAULT false;
ALTER TABLE actions ADD id bigint GENERATED ALWAYS AS IDENTITY, ADD languages text[];
"""


def test_who_has_an_owner_is_not_taken_for_another(conn: Connection) -> None:
    conn.execute(text(OWN))
    accounts = add_accounts(conn, 3, status="active")
    conn.execute(text("UPDATE accounts SET owner = id, owners = ARRAY[id], reference = 'r-' || id"))
    named = {"reference": f"r-{accounts[0]}"}

    conn.execute(text("SELECT request_mail('password_recovery', reference => :reference)"), named)
    conn.execute(text("SELECT change_account(reference => :reference, email => 'new@example.com')"), named)
    assert rows(conn, "SELECT account FROM tokens") == [(accounts[0],)]
    assert rows(conn, "SELECT id FROM accounts WHERE email = 'new@example.com'") == [(accounts[0],)]
    conn.execute(text("INSERT INTO tokens (action, account, owner) SELECT 'password_recovery', id, id FROM accounts"))
    assert rows(conn, "SELECT revoke_tokens(reference => :reference)", **named) == [(2,)]
    assert rows(conn, "SELECT remove_account(reference => :reference)", **named) == [(True,)]
    assert rows(conn, "SELECT id FROM accounts ORDER BY id") == [(account,) for account in accounts[1:]]
    assert rows(conn, "SELECT count(*) FROM tokens") == [(2,)]


def test_kinds_that_are_asked_for_together_need_no_column_of_theirs(conn: Connection) -> None:
    conn.execute(text(OWN))
    account = add(conn)
    both = "INSERT INTO tokens (action, account) SELECT name, :account FROM actions"
    conn.execute(text(both), {"account": account})
    assert counts(conn) == (1, 3, 3)
    assert misplaced(conn) == []
