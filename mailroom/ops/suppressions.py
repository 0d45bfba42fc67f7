"""What an operator sees of addresses that are not mailed, and does about it. Of an address only a hash is kept."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from sqlalchemy import Connection

from mailroom.db import functions

REASONS: Final = ("added", "bounce", "soft_bounces", "complaint")
# Rows of one statement.
PAGE: Final = 1_000


@dataclass(frozen=True, slots=True)
class Suppression:
    """What is known of an address: `hash` is the beginning of its hash. `reason` None: it may be mailed.

    `type` and `subtype` are what SES told of the event that is the reason, `since` when that was. The others are the
    newest of their kind: bounces for good, bounces in a row, complaints, and what people and deliveries did about it.
    """

    hash: str
    reason: str | None
    type: str
    subtype: str
    since: datetime | None
    bounced_at: datetime | None
    soft_at: datetime | None
    complained_at: datetime | None
    added_at: datetime | None
    lifted_at: datetime | None
    released_at: datetime | None


def find(
    connection: Connection, *, reasons: Sequence[str] = (), after: str | None = None, limit: int, page: int = PAGE
) -> Iterator[Suppression]:
    """Return up to `limit` suppressed addresses by hash, from behind that of `after`, a page a statement."""
    while limit > 0:
        binds = {"after": after, "reasons": list(reasons) or None, "most": min(limit, page)}
        found = [Suppression(**row._mapping) for row in functions.call(connection, "suppression_list", binds)]
        yield from found
        if len(found) < min(limit, page):
            return
        limit, after = limit - len(found), found[-1].hash


def find_address(connection: Connection, address: str) -> Suppression:
    """Return what is known of an address."""
    return Suppression(**functions.call(connection, "suppression_find", {"address": address}).one()._mapping)


def add(connection: Connection, address: str) -> tuple[str, bool]:
    """Suppress an address; return its hash, and whether it was not so by hand already."""
    row = functions.call(connection, "suppression_add", {"address": address}).one()
    return row.hash, row.added


def release(connection: Connection, address: str) -> tuple[str, str | None]:
    """Let an address be mailed again; return its hash, and why it was suppressed (None: it was not)."""
    row = functions.call(connection, "suppression_release", {"address": address}).one()
    return row.hash, row.was
