"""Applications whose transactions last."""

import pytest
from sqlalchemy import Connection, text

from tests.world import add_accounts, rows


@pytest.mark.parametrize(
    "call",
    [
        "INSERT INTO accounts (email, login) VALUES ('ada@example.com', 'ada')",
        "SELECT add_account('ada@example.com', 'ada')",
        "SELECT request_mail('password_recovery', :account)",
        "INSERT INTO tokens (action, account) VALUES ('password_recovery', :account)",
    ],
)
def test_a_link_lives_from_the_moment_at_which_it_is_asked_for(conn: Connection, call: str) -> None:
    """Not from the beginning of the transaction: one that lasted as long as a link would ask for dead links."""
    [account] = add_accounts(conn, 1, status="active")
    conn.execute(text("SELECT pg_sleep(0.1)"))
    [(asked_at,)] = rows(conn, "SELECT clock_timestamp()")
    conn.execute(text(call), {"account": account} if ":account" in call else {})
    lives = "SELECT expires_at BETWEEN :at + interval '15 min' AND clock_timestamp() + interval '15 min' FROM tokens"
    assert rows(conn, lives, at=asked_at) == [(True,)]
