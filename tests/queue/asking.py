"""Recoveries that are asked for, and what a claim does about them."""

from sqlalchemy import Connection

from mailroom.outcome import Sent
from mailroom.queue.claim import Claim
from tests.claiming import claim, settle_alike, waited
from tests.world import add_accounts, ask_recovery

SENT = Sent("m-1")


def ask(connection: Connection, account: int, count: int = 1) -> list[int]:
    """Ask for recoveries, due a minute ago; return their tokens."""
    tokens = [ask_recovery(connection, account) for _ in range(count)]
    waited(connection)
    return tokens


def active(connection: Connection, prefix: str = "user") -> int:
    return add_accounts(connection, 1, status="active", prefix=prefix)[0]


def mailed(found: Claim) -> list[int]:
    return [job.token for batch in found.batches for job in batch.jobs]


def over(found: Claim) -> list[tuple[int, str, str]]:
    return [(each.token, each.outcome, each.error_code) for each in found.finished]


def mail(connection: Connection, account: int, count: int = 1) -> None:
    """Ask for one recovery after another, and let each be sent."""
    for _ in range(count):
        [token] = ask(connection, account)
        found = claim(connection)
        assert mailed(found) == [token]
        [batch] = found.batches
        assert settle_alike(connection, batch, SENT)
