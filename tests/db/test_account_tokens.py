"""The tokens of an account, as the triggers make them: their life, their codes, their secrets."""

from datetime import timedelta
from hashlib import sha256

import pytest
from sqlalchemy import Connection, text
from sqlalchemy.exc import IntegrityError

from tests.db.accounts import add, consume_all, counts, now, set_status, status
from tests.world import add_accounts, ask_recovery, misplaced, rows

MOMENTS = ("status_changed_at", "activated_at", "suspended_at", "unsuspended_at")

# Tokens


def test_columns_that_are_not_given_have_their_defaults(conn: Connection) -> None:
    clock = "SELECT clock_timestamp()"
    before = conn.scalar(text(clock))
    conn.execute(text("INSERT INTO accounts (email, login) VALUES ('ada@example.com', 'ada')"))
    after = conn.scalar(text(clock))

    [row] = rows(conn, "SELECT * FROM accounts")
    assert row._asdict() == {
        "id": row.id,
        "email": "ada@example.com",
        "login": "ada",
        "status": "provisioned",
        "language": None,
        "tenant": "",
        "reference": None,
        "created_at": now(conn),
        **dict.fromkeys(MOMENTS),
    }
    [token] = rows(conn, "SELECT action, account, expires_at, consumed_at, created_at, address_hash FROM tokens")
    assert token._asdict() == {
        "address_hash": sha256(b"ada@example.com").digest()[:16],
        "action": "activation",
        "account": row.id,
        "expires_at": token.expires_at,
        "consumed_at": None,
        "created_at": now(conn),
    }
    assert before < token.expires_at - timedelta(minutes=15) < after


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


@pytest.mark.one_server
@pytest.mark.slow
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
