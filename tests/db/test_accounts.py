"""The life of an account, as the triggers keep it, however it is inserted."""

from datetime import UTC, datetime
from typing import Any

import psycopg
import pytest
from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import IntegrityError, ProgrammingError

from tests.db.accounts import add, consume_all, counts, now, set_status, status
from tests.world import add_accounts, ask_recovery, misplaced, rows

PAST = datetime(2001, 2, 3, tzinfo=UTC)


def account_moments(connection: Connection) -> tuple[datetime | None, ...]:
    """Return the four moments of the only account, in the order of MOMENTS."""
    [row] = rows(connection, "SELECT status_changed_at, activated_at, suspended_at, unsuspended_at FROM accounts")
    return tuple(row)


# Moments


@pytest.mark.parametrize(
    ("before", "had", "to", "after", "has"),
    [
        # status, and then: changed, activated, suspended, unsuspended
        ("provisioned", "- - - -", "active", "active", "now now - -"),
        ("provisioned", "- - - -", "suspended", "suspended", "now - now -"),
        ("provisioned", "past - - past", "active", "active", "now now - past"),
        ("provisioned", "past - - past", "suspended", "suspended", "now - now -"),
        ("active", "past past - -", "suspended", "suspended", "now past now -"),
        ("active", "past past - past", "suspended", "suspended", "now past now -"),
        ("active", "past past - -", "provisioned", "provisioned", "now past - -"),
        ("suspended", "past past past -", "active", "active", "now past - now"),
        ("suspended", "past past past -", "provisioned", "provisioned", "now past - now"),
        ("suspended", "past - past -", "provisioned", "provisioned", "now - - now"),
        # Never activated: not active yet.
        ("suspended", "past - past -", "active", "provisioned", "now - - now"),
        # The same status is no change.
        ("provisioned", "- - - -", "provisioned", "provisioned", "- - - -"),
        ("provisioned", "past - - past", "provisioned", "provisioned", "past - - past"),
        ("active", "past past - past", "active", "active", "past past - past"),
        ("suspended", "past past past -", "suspended", "suspended", "past past past -"),
    ],
)
def test_a_change_of_status_keeps_the_moments(
    conn: Connection, before: str, had: str, to: str, after: str, has: str
) -> None:
    moments: dict[str, datetime | None] = {"now": now(conn), "past": PAST, "-": None}
    account = add(conn, status=before)
    arrange = "UPDATE accounts SET (status_changed_at, activated_at, suspended_at, unsuspended_at) = (:a, :b, :c, :d)"
    conn.execute(text(arrange), dict(zip("abcd", (moments[word] for word in had.split()), strict=True)))

    set_status(conn, account, to)

    assert status(conn, account) == after
    assert account_moments(conn) == tuple(moments[word] for word in has.split())


def test_an_unsuspended_account_that_was_never_activated_can_still_be(conn: Connection) -> None:
    account = add(conn)
    for step in ("suspended", "active"):
        set_status(conn, account, step)
    assert status(conn, account) == "provisioned"

    consume_all(conn)

    assert status(conn, account) == "active"


def test_an_account_inserted_active_was_activated(conn: Connection) -> None:
    account = add(conn, status="active")
    assert account_moments(conn) == (None, now(conn), None, None)

    for step in ("suspended", "active"):
        set_status(conn, account, step)

    assert status(conn, account) == "active"


def test_an_account_inserted_suspended_was_never_activated(conn: Connection) -> None:
    account = add(conn, status="suspended")
    assert account_moments(conn) == (None, None, now(conn), None)

    set_status(conn, account, "active")

    assert status(conn, account) == "provisioned"


def test_an_account_brought_from_elsewhere_keeps_its_moments(conn: Connection) -> None:
    insert = """
        INSERT INTO accounts (email, login, status, activated_at, suspended_at)
        VALUES ('a@example.com', 'a', 'active', :past, NULL), ('b@example.com', 'b', 'suspended', :past, :past)
    """
    conn.execute(text(insert), {"past": PAST})

    found = rows(conn, "SELECT activated_at, suspended_at FROM accounts ORDER BY login")
    assert [tuple(row) for row in found] == [(PAST, None), (PAST, PAST)]


def test_a_change_of_something_else_is_no_change_of_status(conn: Connection) -> None:
    account = add(conn)

    conn.execute(text("UPDATE accounts SET login = 'grace', email = 'grace@example.com'"))

    assert status(conn, account) == "provisioned"
    assert account_moments(conn) == (None, None, None, None)


# Ids that come again

EVERYWHERE = """
INSERT INTO batches (queue, worker, action, priority, due_at, tokens, attempts, lease_until)
VALUES ('mailroom', 'w', 'activation', 1, now(), '{1}', '{0}', 'infinity');
INSERT INTO deliveries (token, account, action, outcome, attempt)
SELECT id, account, action, 'sent', 1 FROM tokens;
INSERT INTO events (message_id, kind, at, token) SELECT 'm' || id, 'bounce', now(), id FROM tokens;
"""


@pytest.mark.parametrize(
    "truncated", ["accounts RESTART IDENTITY CASCADE", "accounts, tokens, guesses", "tokens CASCADE"]
)
def test_truncating_leaves_nothing_that_names_the_ids(conn: Connection, truncated: str) -> None:
    [account, _] = add_accounts(conn, 2, status="active")
    ask_recovery(conn, account)
    conn.execute(text(EVERYWHERE))

    conn.execute(text(f"TRUNCATE {truncated}"))

    for table in ("jobs", "batches", "deliveries", "events", "guesses", "tokens"):
        assert rows(conn, f"SELECT FROM {table}") == []
    add_accounts(conn, 60, prefix="new")
    assert misplaced(conn) == []


@pytest.mark.parametrize("count", [1, 60])
@pytest.mark.parametrize("isolation", ["READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"])
def test_ids_that_come_again_take_the_place_of_stale_jobs(engine: Engine, isolation: str, count: int) -> None:
    with engine.connect() as connection:
        add_accounts(connection, 3)
        connection.execute(text("UPDATE jobs SET due_at = 'infinity', attempt = 4, priority = 3, queue = 'other'"))
        connection.execute(text("DELETE FROM accounts"))
        connection.execute(text("ALTER SEQUENCE tokens_id_seq RESTART"))

    with engine.connect().execution_options(isolation_level=isolation) as connection:
        add_accounts(connection, count, prefix="new")
        connection.commit()

    with engine.connect() as connection:
        [(wrong,)] = rows(
            connection,
            "SELECT count(*) FROM tokens LEFT JOIN jobs ON token = tokens.id"
            " WHERE token IS NULL OR due_at > now() OR attempt > 0 OR jobs.queue <> 'mailroom' OR priority > 2",
        )
        assert wrong == 0


# Ways to insert


def test_an_insert_that_fails_leaves_nothing_behind(conn: Connection) -> None:
    add(conn, "taken@example.com", "taken")
    good_and_bad = "INSERT INTO accounts (email, login) VALUES ('a@example.com', 'a'), ('TAKEN@example.com', 'b')"

    with pytest.raises(IntegrityError, match="accounts_email_key"), conn.begin_nested():
        conn.execute(text(good_and_bad))

    assert counts(conn) == (1, 1, 1)


@pytest.mark.parametrize("table", ["accounts", "tokens", "jobs"])
def test_a_later_trigger_that_fails_leaves_nothing_behind(conn: Connection, table: str) -> None:
    conn.execute(
        text("CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'no more room'; END $$")
    )
    conn.execute(text(f"CREATE TRIGGER zz_fail AFTER INSERT ON {table} FOR EACH STATEMENT EXECUTE FUNCTION fail()"))

    with pytest.raises(ProgrammingError, match="no more room"), conn.begin_nested():
        add_accounts(conn, 3)

    assert counts(conn) == (0, 0, 0)


def test_on_conflict_do_nothing_makes_tokens_for_new_accounts_only(conn: Connection) -> None:
    add(conn, "a@example.com", "a")

    conn.execute(
        text(
            "INSERT INTO accounts (email, login) VALUES ('A@example.com', 'x'), ('b@example.com', 'b')"
            " ON CONFLICT DO NOTHING"
        )
    )

    found = rows(conn, "SELECT login FROM tokens JOIN accounts ON accounts.id = account ORDER BY login")
    assert [row.login for row in found] == ["a", "b"]
    assert counts(conn) == (2, 2, 2)


def test_on_conflict_do_update_makes_tokens_for_new_accounts_only(conn: Connection) -> None:
    add(conn, "a@example.com", "a")

    conn.execute(
        text(
            "INSERT INTO accounts (email, login) VALUES ('A@example.com', 'x'), ('b@example.com', 'b')"
            " ON CONFLICT (address_key(email), tenant) DO UPDATE SET login = excluded.login"
        )
    )

    found = rows(conn, "SELECT login FROM tokens JOIN accounts ON accounts.id = account ORDER BY login")
    assert [row.login for row in found] == ["b", "x"]
    assert counts(conn) == (2, 2, 2)


def test_copy_makes_tokens_like_an_insert(conn: Connection) -> None:
    driver: psycopg.Connection[Any] = conn.connection.dbapi_connection  # type: ignore[assignment]  # psycopg's own
    with driver.cursor() as cursor, cursor.copy("COPY accounts (email, login, status) FROM STDIN") as copy:
        for number in range(60):
            copy.write_row((f"{number}@example.com", str(number), "active" if number % 3 == 0 else "provisioned"))

    assert counts(conn) == (60, 40, 40)
    assert misplaced(conn) == []
