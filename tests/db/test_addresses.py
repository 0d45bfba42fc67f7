# ruff: noqa: RUF001 - letters that look alike are what it is about
"""What the CHECKs let into an address and a login, and which addresses are one mailbox."""

from collections.abc import Iterable

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg.conninfo import conninfo_to_dict
from sqlalchemy import Connection, text
from sqlalchemy.exc import DataError, IntegrityError

from mailroom.ses.address import ascii_address
from tests.db.accounts import add
from tests.servers import Server, migrate
from tests.world import rows

# Whatever could end a line or start a header, NUL apart: PostgreSQL has no text with one.
CONTROLS = [*range(0x01, 0x20), 0x7F, *range(0x80, 0xA0), 0x2028, 0x2029]
BLANKS = [0x20, 0xA0, 0x1680, *range(0x2000, 0x200C), 0x202F, 0x205F, 0x3000, 0xFEFF]


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
            turkish.execute("INSERT INTO mailroom.accounts (email, login) VALUES ('INFO@I.com', 'INFO')")
            for email, login in (("info@i.com", "other"), ("other@i.com", "info")):
                with pytest.raises(psycopg.errors.UniqueViolation):
                    turkish.execute("INSERT INTO mailroom.accounts (email, login) VALUES (%s, %s)", (email, login))
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
