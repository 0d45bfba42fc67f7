# ruff: noqa: RUF001 - letters that look alike are what it is about
"""The life of an account and its tokens, as the triggers keep it."""

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg.conninfo import conninfo_to_dict
from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import DataError, IntegrityError, ProgrammingError

from mailroom.ses.address import ascii_address
from tests.servers import Server, migrate
from tests.world import add_accounts, ask_recovery, misplaced, rows

PAST = datetime(2001, 2, 3, tzinfo=UTC)
MOMENTS = ("status_changed_at", "activated_at", "suspended_at", "unsuspended_at")

# Whatever could end a line or start a header, NUL apart: PostgreSQL has no text with one.
CONTROLS = [*range(0x01, 0x20), 0x7F, *range(0x80, 0xA0), 0x2028, 0x2029]
BLANKS = [0x20, 0xA0, 0x1680, *range(0x2000, 0x200C), 0x202F, 0x205F, 0x3000, 0xFEFF]


def add(connection: Connection, email: str = "ada@example.com", login: str = "ada", status: str = "provisioned") -> int:
    """Insert one account, the way an application does; return its id."""
    statement = text("INSERT INTO accounts (email, login, status) VALUES (:email, :login, :status) RETURNING id")
    return int(connection.execute(statement, {"email": email, "login": login, "status": status}).scalar_one())


def set_status(connection: Connection, account: int, status: str) -> None:
    connection.execute(text("UPDATE accounts SET status = :status WHERE id = :id"), {"status": status, "id": account})


def status(connection: Connection, account: int) -> str:
    [row] = rows(connection, "SELECT status FROM accounts WHERE id = :id", id=account)
    return str(row.status)


def account_moments(connection: Connection) -> tuple[datetime | None, ...]:
    """Return the four moments of the only account, in the order of MOMENTS."""
    [row] = rows(connection, "SELECT status_changed_at, activated_at, suspended_at, unsuspended_at FROM accounts")
    return tuple(row)


def now(connection: Connection) -> datetime:
    [row] = rows(connection, "SELECT now() AS now")
    moment: datetime = row.now
    return moment


def counts(connection: Connection) -> tuple[int, int, int]:
    """Return how many accounts, tokens and jobs there are."""
    [row] = rows(
        connection, "SELECT (SELECT count(*) FROM accounts), (SELECT count(*) FROM tokens), (SELECT count(*) FROM jobs)"
    )
    return tuple(row)


def consume_all(connection: Connection, action: str = "activation") -> None:
    connection.execute(text("UPDATE tokens SET consumed_at = now() WHERE action = :action"), {"action": action})


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


# Tokens


def test_columns_that_are_not_given_have_their_defaults(conn: Connection) -> None:
    conn.execute(text("INSERT INTO accounts (email, login) VALUES ('ada@example.com', 'ada')"))

    [row] = rows(conn, "SELECT * FROM accounts")
    assert row._asdict() == {
        "id": row.id,
        "email": "ada@example.com",
        "login": "ada",
        "status": "provisioned",
        "created_at": now(conn),
        **dict.fromkeys(MOMENTS),
    }
    [token] = rows(conn, "SELECT action, account, expires_at, consumed_at, created_at, address_hash FROM tokens")
    assert token._asdict() == {
        "address_hash": sha256(b"ada@example.com").digest()[:16],
        "action": "activation",
        "account": row.id,
        "expires_at": now(conn) + timedelta(minutes=15),
        "consumed_at": None,
        "created_at": now(conn),
    }


def test_provisioned_accounts_get_an_activation_token_each_and_others_none(conn: Connection) -> None:
    conn.execute(
        text(
            "INSERT INTO accounts (email, login, status) VALUES ('a@x', 'a', 'active'), ('b@x', 'b', 'provisioned'),"
            " ('c@x', 'c', 'suspended'), ('d@x', 'd', DEFAULT), ('e@x', 'e', 'active')"
        )
    )

    found = rows(conn, "SELECT login, action FROM tokens JOIN accounts ON accounts.id = account ORDER BY login")
    assert [tuple(row) for row in found] == [("b", "activation"), ("d", "activation")]
    assert misplaced(conn) == []


def test_an_account_that_becomes_provisioned_gets_no_second_token(conn: Connection) -> None:
    account = add(conn)
    for step in ("suspended", "active", "suspended", "provisioned"):
        set_status(conn, account, step)

    assert counts(conn) == (1, 1, 1)


def test_consuming_activations_activates_their_accounts(conn: Connection) -> None:
    """All of them in one statement, and nobody else."""
    accounts = add_accounts(conn, 5)
    consumed = accounts[:3]

    conn.execute(text("UPDATE tokens SET consumed_at = now() WHERE account = ANY(:consumed)"), {"consumed": consumed})

    active = rows(conn, "SELECT id, activated_at FROM accounts WHERE status = 'active' ORDER BY id")
    assert [tuple(row) for row in active] == [(account, now(conn)) for account in consumed]


def test_consuming_a_recovery_does_not_activate(conn: Connection) -> None:
    account = add(conn)
    ask_recovery(conn, account)

    consume_all(conn, "password_recovery")

    assert status(conn, account) == "provisioned"


def test_consuming_an_activation_leaves_a_suspended_account_suspended(conn: Connection) -> None:
    account = add(conn)
    set_status(conn, account, "suspended")

    consume_all(conn)

    assert status(conn, account) == "suspended"


def test_only_the_first_consumption_activates(conn: Connection) -> None:
    account = add(conn)
    consume_all(conn)
    set_status(conn, account, "provisioned")

    consume_all(conn)
    conn.execute(text("UPDATE tokens SET expires_at = now()"))

    assert status(conn, account) == "provisioned"


def test_deleting_an_account_takes_its_tokens_and_leaves_the_jobs(conn: Connection) -> None:
    """The claim is to find them and to say what became of them."""
    gone, kept = add_accounts(conn, 2)
    ask_recovery(conn, gone)

    conn.execute(text("DELETE FROM accounts WHERE id = :gone"), {"gone": gone})

    assert counts(conn) == (1, 1, 3)
    assert [row.account for row in rows(conn, "SELECT account FROM tokens")] == [kept]
    assert misplaced(conn) == []


# Ids that come again


EVERYWHERE = """
INSERT INTO batches (queue, worker, action, priority, due_at, tokens, attempts, lease_until)
VALUES ('mailroom', 'w', 'activation', 1, now(), '{1}', '{0}', 'infinity');
INSERT INTO deliveries (token, account, action, outcome, attempt)
SELECT id, account, action, 'sent', 1 FROM tokens;
"""


@pytest.mark.parametrize(
    "truncated", ["accounts RESTART IDENTITY CASCADE", "accounts, tokens, guesses", "tokens CASCADE"]
)
def test_truncating_leaves_nothing_that_names_the_ids(conn: Connection, truncated: str) -> None:
    [account, _] = add_accounts(conn, 2, status="active")
    ask_recovery(conn, account)
    conn.execute(text(EVERYWHERE))

    conn.execute(text(f"TRUNCATE {truncated}"))

    for table in ("jobs", "batches", "deliveries", "guesses", "tokens"):
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
            " ON CONFLICT (address_key(email)) DO UPDATE SET login = excluded.login"
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


# Addresses and logins


def refused(connection: Connection, characters: Iterable[int], *, email: str, login: str) -> set[int]:
    """Return which characters a CHECK refuses, put into the place of {} in an address or a login."""
    found = set()
    for code in characters:
        try:
            with connection.begin_nested():
                add(connection, email.format(chr(code)), login.format(chr(code)))
        except IntegrityError as error:
            assert isinstance(error.orig, psycopg.errors.CheckViolation)  # noqa: PT017
            found.add(code)
        else:
            connection.execute(text("DELETE FROM accounts"))
    return found


@pytest.mark.parametrize("email", ["ad{}a@example.com", "{}ada@example.com", "ada@example.com{}"])
def test_no_address_holds_a_control_character_or_a_blank(conn: Connection, email: str) -> None:
    wanted = {*CONTROLS, *BLANKS}

    assert refused(conn, wanted, email=email, login="ada") == wanted


@pytest.mark.parametrize("login", ["ad{}a", "{}ada", "ada{}"])
def test_no_login_holds_a_control_character(conn: Connection, login: str) -> None:
    assert refused(conn, CONTROLS, email="ada@example.com", login=login) == set(CONTROLS)


def test_a_login_may_hold_any_other_character(conn: Connection) -> None:
    harmless = [0x20, 0x22, 0x27, 0x2C, 0x3C, 0x5C, 0x7E, 0xA0, 0xE9, 0x200D, 0x4E2D, 0x1F98A]

    assert refused(conn, harmless, email="ada@example.com", login="ad{}a") == set()


def test_no_text_holds_a_nul(conn: Connection) -> None:
    with pytest.raises(DataError, match="NUL"):
        add(conn, "a\x00@example.com")


@pytest.mark.parametrize("email", ["", "@", "ada", "ada@", "@example.com", "ada.example.com"])
def test_an_address_has_something_on_both_sides_of_an_at(conn: Connection, email: str) -> None:
    with pytest.raises(IntegrityError, match="accounts_email_at"):
        add(conn, email)


def test_addresses_have_up_to_254_characters(conn: Connection) -> None:
    longest = "ada@" + "x" * 250
    add(conn, longest)

    with pytest.raises(IntegrityError, match="accounts_email_length"):
        add(conn, longest + "y", "grace")


def test_logins_have_1_to_254_characters_of_any_width(conn: Connection) -> None:
    add(conn, login="🦊" * 254)

    with pytest.raises(IntegrityError, match="accounts_login_length"), conn.begin_nested():
        add(conn, "grace@example.com", "🦊" * 255)
    with pytest.raises(IntegrityError, match="accounts_login_length"):
        add(conn, "grace@example.com", "")


def test_an_update_is_checked_like_an_insert(conn: Connection) -> None:
    add(conn)

    with pytest.raises(IntegrityError, match="accounts_email_characters"):
        conn.execute(text("UPDATE accounts SET email = E'ada@example.com\\nBcc: all@example.com'"))


def test_addresses_and_logins_are_unique_in_any_case(conn: Connection) -> None:
    add(conn, "Ada@Example.com", "ada")
    add(conn, "grace@example.com", "ŁUKASZ")

    for email in ("aDA@eXAMPLE.COM", "ada@example.com"):
        with pytest.raises(IntegrityError, match="accounts_email_key"), conn.begin_nested():
            add(conn, email, "other")
    for login in ("Ada", "łukasz"):
        with pytest.raises(IntegrityError, match="accounts_login_key"), conn.begin_nested():
            add(conn, "other@example.com", login)
    add(conn, "lukasz@example.com", "lukasz")


def test_no_collation_makes_two_of_one_address(server: Server, empty_url: str) -> None:
    """In Turkish the small letter of I is another one. A server that was built without ICU knows no Turkish."""
    name = "turkish_" + str(conninfo_to_dict(empty_url)["dbname"])
    with psycopg.connect(empty_url) as connection:
        newest = connection.info.server_version >= 150000  # before, a database had no ICU
        if not newest or not connection.execute("SELECT FROM pg_collation WHERE collname = 'tr-x-icu'").fetchall():
            return
    server.execute(f"CREATE DATABASE {name} TEMPLATE template0 LOCALE_PROVIDER icu ICU_LOCALE 'tr-TR' LOCALE 'C'")
    try:
        migrate(server.database_url(name))
        with psycopg.connect(server.database_url(name), autocommit=True) as turkish:
            assert turkish.execute("SELECT lower('INFO')").fetchone() == ("ınfo",)
            turkish.execute("INSERT INTO accounts (email, login) VALUES ('INFO@I.com', 'INFO')")
            for email, login in (("info@i.com", "other"), ("other@i.com", "info")):
                with pytest.raises(psycopg.errors.UniqueViolation):
                    turkish.execute("INSERT INTO accounts (email, login) VALUES (%s, %s)", (email, login))
    finally:
        server.execute(f"DROP DATABASE {name} WITH (FORCE)")


def keys(connection: Connection, addresses: list[str]) -> list[str]:
    asked = "SELECT address_key(a) AS key FROM unnest(CAST(:given AS text[])) WITH ORDINALITY AS x (a, n) ORDER BY n"
    return [row.key for row in rows(connection, asked, given=addresses)]


@pytest.mark.parametrize(
    "spelling",
    [
        "victim@example\u3002com",
        "victim@example\uff0ecom",
        "victim@example\uff61com",
        "victim@example.com.",
        "ＶＩＣＴＩＭ＠ｅｘａｍｐｌｅ.ｃｏｍ".replace("＠", "@"),
        "vic\u00adtim@exam\u00adple.com",
        "vic\u2060tim@exam\u2060ple.com",
        "vic\u200dtim@exam\u200cple.com",
        "vic\ufe0ftim@exam\U000e0100ple.com",
        "𝓿𝓲𝓬𝓽𝓲𝓶@ℯxample.com",
        "victim@EXAMPLE\u3002COM\u3002",
    ],
)
def test_one_mailbox_is_one_account_however_it_is_spelt(conn: Connection, spelling: str) -> None:
    add(conn, "victim@example.com", "victim")

    with pytest.raises(IntegrityError, match="accounts_email_key"):
        add(conn, spelling, "other")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("jo@BÜCHER.example", "jo@xn--bcher-kva.example"),
        ("jo@bu\u0308cher.example", "jo@XN--BCHER-KVA.example"),
        ("jo@例え.example", "jo@xn--r8jz45g.example"),
        ("JÖ@example.com", "jo\u0308@example.com"),
        ("ΟΔΟΣ@example.com", "οδοσ@example.com"),
        ("jo@FAẞ.example", "jo@faß.example"),
    ],
)
def test_a_domain_is_one_in_unicode_and_in_punycode(conn: Connection, one: str, other: str) -> None:
    assert len(set(keys(conn, [one, other]))) == 1


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("jo@faß.example", "jo@fass.example"),  # IDNA 2008 tells these two apart, and so do registries
        ("jo@نامه\u200cای.example", "jo@نامهای.example"),
        ("jo+x@example.com", "jo@example.com"),
        ("j.o@example.com", "jo@example.com"),
    ],
)
def test_mailboxes_that_differ_stay_apart(conn: Connection, one: str, other: str) -> None:
    assert len(set(keys(conn, [one, other]))) == 2


LETTERS = st.sampled_from(
    [
        *"aZ09-iIxXnN",
        *"àÀßẞçÇıİłŁœŒſ",
        *"αΑςσΣΐϐϲ",
        *"дДёЁѳᲀ",
        *"אبم例えトﾄｶﾞ한글한",
        *"ｉＺ１．。｡",
        *"\u00ad\u200c\u200d\u2060\ufe0f\u0301\u0308\u0327\u094d\u0915",
        *"ﬁℯ𝛓𝓿①Ꭰꭰ",
    ]
)


@settings(deadline=None, max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(domains=st.lists(st.text(LETTERS, min_size=1, max_size=8), max_size=100))
def test_the_key_of_what_can_be_mailed_is_what_ses_is_given(conn: Connection, domains: list[str]) -> None:
    """So that whatever leads to one mailbox has one key, and what leads to two has two."""
    mailed = {address: known for each in domains if (known := ascii_address(address := f"Jo@{each}.example"))}

    assert keys(conn, list(mailed)) == [known.lower() for known in mailed.values()]


@pytest.mark.parametrize("address", ["\ufdfa" * 200 + "@" + "\ufdfa" * 50, "é@" + "ü" * 250, "\U0001d160" * 252 + "@é"])
def test_no_address_and_no_login_is_too_much_for_the_index(conn: Connection, address: str) -> None:
    add(conn, address, address)

    with pytest.raises(IntegrityError, match="accounts_email_key"):
        add(conn, address, "other")


def test_accounts_are_found_by_their_key(conn: Connection) -> None:
    conn.execute(text("SET LOCAL enable_seqscan = off"))
    for key, column, index in (
        ("address_key", "email", "accounts_email_key"),
        ("login_key", "login", "accounts_login_key"),
    ):
        plan = rows(conn, f"EXPLAIN SELECT id FROM accounts WHERE {key}({column}) = {key}('Ada@example.com')")  # noqa: S608 - names
        assert any(f"using {index}" in row[0] or f"on {index}" in row[0] for row in plan), plan


# Codes and secrets


def default_of(connection: Connection, column: str) -> str:
    """Return the expression that fills a column of tokens, as the server has it."""
    [row] = rows(
        connection,
        """
        SELECT pg_get_expr(adbin, adrelid) AS expression
          FROM pg_attrdef JOIN pg_attribute ON attrelid = adrelid AND attnum = adnum
         WHERE adrelid = 'tokens'::regclass AND attname = :column
        """,
        column=column,
    )
    return str(row.expression)


@pytest.mark.early
def test_codes_are_five_digits_and_uniform(conn: Connection) -> None:
    """Chi-square over a million codes, in a thousand bins by their first digits and in a thousand by their last.

    A fair source exceeds the bound once in a million runs: 1226.1 is the 1 - 1e-6 quantile of the chi-square
    distribution with 999 degrees of freedom (Wilson and Hilferty's approximation; the normal quantile is 4.7534).
    """
    code = default_of(conn, "code").replace(":", "\\:")
    conn.execute(
        text(f"CREATE TEMP TABLE drawn ON COMMIT DROP AS SELECT {code} AS code FROM generate_series(1, 1000000)")  # noqa: S608 - the server's own
    )

    [(odd,)] = rows(conn, "SELECT count(*) FROM drawn WHERE code !~ '^[0-9]{5}$'")
    assert odd == 0
    [first, last] = rows(
        conn,
        """
        SELECT count(*) AS bins, sum((codes - 1000.0) ^ 2 / 1000) AS chi_square
          FROM (SELECT count(*) AS codes, grouping(left(code, 3)) AS side
                  FROM drawn GROUP BY GROUPING SETS (left(code, 3), right(code, 3))) AS bin
         GROUP BY side
        """,
    )
    assert (first.bins, last.bins) == (1000, 1000)
    assert max(first.chi_square, last.chi_square) < 1226.1


def test_secrets_are_32_bytes_and_differ(conn: Connection) -> None:
    add_accounts(conn, 1000)

    [row] = rows(conn, "SELECT count(DISTINCT secret) AS secrets, min(length(secret)), max(length(secret)) FROM tokens")
    assert tuple(row) == (1000, 32, 32)


def test_every_bit_of_a_secret_varies(conn: Connection) -> None:
    """A bit that is fixed would be the same a hundred times by chance once in 2^99 runs."""
    add_accounts(conn, 100)

    drawn = [int.from_bytes(row.secret, "big") for row in rows(conn, "SELECT secret FROM tokens")]
    ever_set, always_set = 0, (1 << 256) - 1
    for secret in drawn:
        ever_set |= secret
        always_set &= secret
    assert (ever_set, always_set) == ((1 << 256) - 1, 0)


@pytest.mark.parametrize("code", ["", "1234", "123456", "12a45", "#####", " 1234", "12345\n", "١٢٣٤٥"])
def test_a_code_of_another_shape_is_refused(conn: Connection, code: str) -> None:
    account = add(conn, status="active")

    with pytest.raises(IntegrityError, match="tokens_code_digits"):
        conn.execute(
            text("INSERT INTO tokens (action, account, code) VALUES ('password_recovery', :account, :code)"),
            {"account": account, "code": code},
        )


def test_a_secret_is_unique_and_32_bytes(conn: Connection) -> None:
    add_accounts(conn, 2)

    with pytest.raises(IntegrityError, match="tokens_secret_key"), conn.begin_nested():
        conn.execute(text("UPDATE tokens SET secret = sha256('')"))
    with pytest.raises(IntegrityError, match="tokens_secret_length"):
        conn.execute(text("UPDATE tokens SET secret = secret || '\\x00'"))


# Callers with other ideas


def test_a_temporary_table_of_the_same_name_diverts_nothing(conn: Connection) -> None:
    for table in ("accounts", "tokens", "jobs"):
        conn.execute(text(f"CREATE TEMP TABLE {table} (LIKE public.{table} INCLUDING DEFAULTS) ON COMMIT DROP"))

    conn.execute(text("INSERT INTO public.accounts (email, login) VALUES ('ada@example.com', 'ada')"))
    conn.execute(text("UPDATE public.tokens SET consumed_at = now()"))
    conn.execute(
        text("INSERT INTO public.tokens (action, account) SELECT 'password_recovery', id FROM public.accounts")
    )

    assert counts(conn) == (0, 0, 0)
    found = rows(
        conn,
        "SELECT status FROM public.accounts JOIN public.tokens ON account = accounts.id"
        " JOIN public.jobs ON token = tokens.id",
    )
    assert [row.status for row in found] == ["active", "active"]


HOSTILE = """
CREATE SCHEMA hostile;
CREATE TABLE hostile.accounts (LIKE public.accounts INCLUDING DEFAULTS);
CREATE TABLE hostile.tokens (LIKE public.tokens INCLUDING DEFAULTS);
CREATE TABLE hostile.jobs (LIKE public.jobs INCLUDING DEFAULTS);
CREATE FUNCTION hostile.now() RETURNS timestamptz LANGUAGE sql AS $$ SELECT timestamptz '1970-01-01' $$;
CREATE FUNCTION hostile.clock_timestamp() RETURNS timestamptz LANGUAGE sql AS $$ SELECT timestamptz '1970-01-01' $$;
CREATE FUNCTION hostile.token_life() RETURNS interval LANGUAGE sql AS $$ SELECT interval '-1 day' $$;
CREATE FUNCTION hostile.pg_notify(text, text) RETURNS void LANGUAGE plpgsql AS $$ BEGIN RAISE 'diverted'; END $$;
CREATE FUNCTION hostile.lower(text) RETURNS text LANGUAGE plpgsql AS $$ BEGIN RAISE 'diverted'; END $$;
SET LOCAL search_path = hostile, pg_temp, public, pg_catalog;
"""


def test_a_hostile_search_path_diverts_nothing(conn: Connection) -> None:
    conn.execute(text(HOSTILE))

    conn.execute(text("INSERT INTO public.accounts (email, login) VALUES ('ada@example.com', 'ada')"))
    conn.execute(text("UPDATE public.tokens SET consumed_at = pg_catalog.now()"))
    conn.execute(
        text("INSERT INTO public.tokens (action, account) SELECT 'password_recovery', id FROM public.accounts")
    )

    assert counts(conn) == (0, 0, 0)
    found = rows(
        conn,
        """
        SELECT status, activated_at = pg_catalog.now() AS activated_now,
               expires_at = pg_catalog.now() + interval '15 minutes' AS lives, due_at >= pg_catalog.now() AS due_now
          FROM public.accounts JOIN public.tokens ON account = accounts.id JOIN public.jobs ON token = tokens.id
        """,
    )
    assert [tuple(row) for row in found] == [("active", True, True, True)] * 2


def test_a_role_that_may_only_insert_accounts_gets_tokens_and_jobs(conn: Connection) -> None:
    conn.execute(text("CREATE ROLE mailroom_test_web; GRANT INSERT ON accounts TO mailroom_test_web"))
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
    conn.execute(text("CREATE ROLE mailroom_test_web; GRANT INSERT ON tokens TO mailroom_test_web"))
    conn.execute(text("SET LOCAL ROLE mailroom_test_web"))

    insert = "INSERT INTO tokens (action, account) VALUES ('password_recovery', :account)"
    conn.execute(text(insert), {"account": account})

    conn.execute(text("RESET ROLE"))
    assert counts(conn) == (1, 1, 1)
    assert misplaced(conn) == []


def test_a_role_that_may_only_consume_tokens_activates_accounts(conn: Connection) -> None:
    account = add(conn)
    conn.execute(text("CREATE ROLE mailroom_test_web; GRANT UPDATE (consumed_at) ON tokens TO mailroom_test_web"))
    conn.execute(text("SET LOCAL ROLE mailroom_test_web"))

    conn.execute(text("UPDATE tokens SET consumed_at = now()"))

    conn.execute(text("RESET ROLE"))
    assert status(conn, account) == "active"


@pytest.mark.parametrize(
    "function", ["make_activation_tokens", "activate_account", "enqueue_jobs", "remember_address", "forget_truncated"]
)
def test_nobody_can_put_our_triggers_on_a_table_of_their_own(conn: Connection, function: str) -> None:
    conn.execute(text("CREATE ROLE mallory"))
    conn.execute(text("SET LOCAL ROLE mallory"))
    conn.execute(text("CREATE TEMP TABLE bait (id bigint, account bigint)"))
    with pytest.raises(ProgrammingError, match=f"permission denied for function {function}"):
        conn.execute(text(f"CREATE TRIGGER t AFTER INSERT ON bait EXECUTE FUNCTION {function}()"))
