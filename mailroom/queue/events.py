"""Events of the provider, taken into the record as evidence: what follows from them is for sweeps."""

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import Connection

from mailroom.db import functions, kept_rows
from mailroom.db.literals import words_literal
from mailroom.event import Event


@dataclass(frozen=True, slots=True)
class Absorbed:
    """What became of events: new to the record, there already, of another database, or of no mail that is known here.

    What is of another database or unknown decides nothing, and never will.
    """

    added: int = 0
    known: int = 0
    elsewhere: int = 0
    unknown: int = 0


def absorb(connection: Connection, events: Sequence[Event]) -> Absorbed:
    """Take events into the record, in one statement. They may come in any order, and again; one of them may be new."""
    found = functions.call(connection, "absorb", _as_binds(events)).one()
    return Absorbed(found.added, found.known, found.elsewhere, found.unknown)


def site(connection: Connection) -> UUID:
    """Return what tells the mails of this database from those of others that share the account of the provider.

    Raises DatabaseError, with the remedy, if it has no such name any more.
    """
    found: UUID = kept_rows.only(connection, functions.call(connection, "site"), "site").id
    return found


def _as_binds(events: Sequence[Event]) -> dict[str, str]:
    return {
        "kinds": words_literal(event.kind for event in events),
        "message_ids": words_literal(event.message_id for event in events),
        "moments": words_literal(event.at.isoformat() for event in events),
        "tokens": words_literal(_or_none(event.token) for event in events),
        "fences": words_literal(_or_none(event.fence) for event in events),
        "sites": words_literal(_or_none(event.site) for event in events),
        "addresses": words_literal(event.address for event in events),
        "types": words_literal(event.type for event in events),
        "subtypes": words_literal(event.subtype for event in events),
        "statuses": words_literal(event.status for event in events),
    }


def _or_none(found: object) -> str | None:
    return None if found is None else str(found)
