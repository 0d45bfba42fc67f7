"""Mails that were sent, jobs that were lost, and time that passes over them."""

from datetime import timedelta

from sqlalchemy import Connection, Engine, text

from mailroom.ops import maintenance
from mailroom.outcome import Sent
from tests.claiming import settle_alike, take
from tests.world import add_accounts, ask_recovery, count, rows

AGED = timedelta(days=90)


def lose_jobs(connection: Connection, what: str, *, count: int = 1) -> list[int]:
    """Insert with the trigger that would make the jobs disabled; return the tokens."""
    before = rows(connection, "SELECT coalesce(max(id), 0) AS id FROM tokens")[0].id
    connection.execute(text("ALTER TABLE tokens DISABLE TRIGGER enqueue_jobs"))
    if what == "activation":
        add_accounts(connection, count, prefix=f"lost{before}n")
    else:
        ask_recovery(connection, add_accounts(connection, 1, status="active", prefix=f"lost{before}n")[0])
    connection.execute(text("ALTER TABLE tokens ENABLE TRIGGER enqueue_jobs"))
    return [row.id for row in rows(connection, "SELECT id FROM tokens WHERE id > :before ORDER BY id", before=before)]


def age(connection: Connection, days: int) -> None:
    """Let everything there is have happened so many days ago."""
    ago = {"ago": timedelta(days=days)}
    connection.execute(text("UPDATE deliveries SET created_at = created_at - :ago"), ago)
    connection.execute(
        text(
            "UPDATE tokens SET created_at = created_at - :ago, expires_at = expires_at - :ago,"
            " consumed_at = consumed_at - :ago"
        ),
        ago,
    )


def mail(connection: Connection, accounts: int, prefix: str = "user") -> list[int]:
    """Have so many activations sent; return the tokens."""
    add_accounts(connection, accounts, prefix=prefix)
    batch = take(connection)
    assert settle_alike(connection, batch, Sent("m"))
    return [job.token for job in batch.jobs]


def prune(engine: Engine, older_than: timedelta = AGED) -> tuple[int, int]:
    steps = list(maintenance.prune_all(engine, older_than=older_than))
    return sum(step.deliveries for step in steps), sum(step.tokens for step in steps)


def everything(connection: Connection) -> tuple[int, int, int]:
    return count(connection, "tokens"), count(connection, "jobs"), count(connection, "deliveries")
