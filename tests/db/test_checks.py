"""One call checks a row of a table that mails go through; it names the rule that is broken, and nothing of the row."""

import psycopg
import pytest
from sqlalchemy import Connection, text
from sqlalchemy.exc import IntegrityError

from tests.claiming import enqueue, take
from tests.world import rows

BROKEN = [
    ("accounts", "email = repeat('x', 254) || '@x'", "accounts_email_length"),
    ("accounts", "email = 'x'", "accounts_email_at"),
    ("accounts", "email = 'a b@x'", "accounts_email_characters"),
    ("accounts", "login = ''", "accounts_login_length"),
    ("accounts", "login = repeat('x', 255)", "accounts_login_length"),
    ("accounts", "login = E'a\\nb'", "accounts_login_characters"),
    ("accounts", "language = 'x'", "accounts_language_tag"),
    ("accounts", "tenant = repeat('x', 255)", "accounts_tenant_length"),
    ("accounts", "tenant = E'\\x7f'", "accounts_tenant_characters"),
    ("accounts", "reference = ''", "accounts_reference_length"),
    ("accounts", "reference = E'\\u2028'", "accounts_reference_characters"),
    ("tokens", "address = 'nobody'", "tokens_address_is_one"),
    ("tokens", "data = '[]'", "tokens_data_fills_a_template"),
    ("tokens", "code = '1234'", "tokens_code_digits"),
    ("tokens", "code = '1234a'", "tokens_code_digits"),
    ("tokens", "code = '1234\u0665'", "tokens_code_digits"),
    ("tokens", "secret = '\\x00'", "tokens_secret_length"),
    ("jobs", "due_at = '-infinity'", "jobs_due_at"),
    ("jobs", "due_at = '9000-01-02'", "jobs_due_at"),
    ("jobs", "priority = 4", "jobs_priority_check"),
    ("jobs", "priority = -1", "jobs_priority_check"),
    ("jobs", "queue = E'a\\u2003b'", "jobs_queue"),
    ("jobs", "queue = ''", "jobs_queue_check"),
    ("jobs", "token = -9223372036854775808", "jobs_token"),
    ("batches", "tokens = '{}'", "batches_arrays"),
    ("batches", "attempts = '{1, 2}'", "batches_arrays"),
    ("batches", "priority = 4", "batches_values"),
    ("batches", "tokens = '{NULL}'", "batches_values"),
    ("batches", "due_ats = '{now, now}'", "batches_values"),
]
SOUND = [
    ("accounts", "email = 'a@' || repeat('x', 252), login = repeat('é', 254), language = 'pt-BR', tenant = 'a b'"),
    ("accounts", "tenant = 'x', reference = 'y', email = 'Łukasz@例え.jp', login = E'\\u00a0'"),
    ("tokens", "address = 'other@example.com', data = '{\"shop\": \"Müller\"}'"),
    ("tokens", "consumed_at = now()"),
    ("jobs", "due_at = 'infinity', priority = 3, token = -1, queue = 'é'"),
    ("batches", "due_ats = NULL, priority = 0"),
]


def furnish(connection: Connection, table: str) -> None:
    """Have one row in the table, and in those that it needs."""
    enqueue(connection)
    if table == "batches":
        take(connection)


@pytest.mark.parametrize(("table", "change", "rule"), BROKEN)
def test_which_rule_is_broken_is_said_by_name_and_nothing_of_the_row(
    conn: Connection, table: str, change: str, rule: str
) -> None:
    furnish(conn, table)

    with pytest.raises(IntegrityError) as caught, conn.begin_nested():
        conn.execute(text(f"UPDATE {table} SET {change}"))  # noqa: S608 - ours

    error = caught.value.orig
    assert isinstance(error, psycopg.errors.CheckViolation)
    assert (error.diag.constraint_name, error.diag.table_name) == (rule, table)
    assert str(error).splitlines()[0] == f'new row for relation "{table}" violates check constraint "{rule}"'
    assert error.diag.message_detail is None


@pytest.mark.parametrize(("table", "change"), SOUND)
def test_what_keeps_to_every_rule_is_taken(conn: Connection, table: str, change: str) -> None:
    furnish(conn, table)

    assert conn.execute(text(f"UPDATE {table} SET {change}")).rowcount == 1  # noqa: S608 - ours


def test_all_rules_of_a_table_are_one_check(conn: Connection) -> None:
    """PostgreSQL reads each anew for each statement."""
    checks = """
    SELECT relname AS home, count(*) AS checks
      FROM pg_constraint
      JOIN pg_class ON pg_class.oid = conrelid
     WHERE contype = 'c' AND convalidated AND relname IN ('accounts', 'tokens', 'jobs', 'batches')
     GROUP BY 1
    """
    assert {row.home: row.checks for row in rows(conn, checks)} == dict.fromkeys(
        ("accounts", "tokens", "jobs", "batches"), 1
    )
