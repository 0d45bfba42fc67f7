"""Accounts as an application inserts them, and what the tests of their triggers look at."""

from datetime import datetime

from sqlalchemy import Connection, text

from tests.world import rows


def add(connection: Connection, email: str = "ada@example.com", login: str = "ada", status: str = "provisioned") -> int:
    """Insert one account, the way an application does; return its id."""
    statement = text("INSERT INTO accounts (email, login, status) VALUES (:email, :login, :status) RETURNING id")
    return int(connection.execute(statement, {"email": email, "login": login, "status": status}).scalar_one())


def set_status(connection: Connection, account: int, status: str) -> None:
    connection.execute(text("UPDATE accounts SET status = :status WHERE id = :id"), {"status": status, "id": account})


def status(connection: Connection, account: int) -> str:
    [row] = rows(connection, "SELECT status FROM accounts WHERE id = :id", id=account)
    return str(row.status)


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
