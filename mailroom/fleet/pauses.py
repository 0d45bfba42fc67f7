"""Pauses of the whole fleet: what is paused, why and since when; opening, trying and closing one.

The claim and the look pass over what is paused, so a pause holds from the commit that opens it.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from sqlalchemy import Connection, select

from mailroom.db import functions
from mailroom.db.views import open_pauses
from mailroom.job import Action, Position, Priority
from mailroom.outcome import Scope
from mailroom.queue.floors import as_binds
from mailroom.queue.lanes import Lane
from mailroom.queue.limits import MAX_PROBE_WAIT

FIRST_PROBE: Final = timedelta(seconds=2)
# The longest wait between two probes where mails are refused: mostly it is they who are bad, and the others must not
# wait for them.
MAX_REFUSAL_PROBE_WAIT: Final = timedelta(seconds=10)
# How many mails a probe tries that were refused before: one of them may be bad, and not what is paused.
TRIED_AGAIN: Final = 3
# What cannot be probed is paused, and resumed, by hand.
BY_HAND: Final = "ByHand"
# How long a person's reason may be: every reading carries it.
MAX_REASON: Final = 300
# The scopes that are not of one action, or of one queue.
SHARED: Final = tuple(scope.value for scope in Scope if scope is not Scope.ACTION)

# Where to begin in each lane: at the beginning in those that are not there.
Begin = Mapping[Lane, Position]
AT_THE_BEGINNING: Final[Begin] = {}


@dataclass(frozen=True, slots=True)
class Pause:
    """One pause. Without `probe_at` no mail is to try whether it can end."""

    scope: str
    code: str
    reason: str
    opened_at: datetime
    probe_at: datetime | None


def scope_name(scope: Scope, action: str) -> str:
    """Return what is paused, as the table has it: a fault of one action has the action's name."""
    return action if scope is Scope.ACTION else scope.value


def covering(action: Action) -> list[str]:
    """Return the scopes that keep an action's mails from being sent, queues aside; with a sender of its own, fewer."""
    return [scope_name(each, action) for each in Scope if each is not Scope.IDENTITY or action.source is None]


def queue_scope(queue: str) -> str:
    """Return the scope of a queue."""
    return f"queue:{queue}"


def is_action(scope: str) -> bool:
    """Whether a scope is the name of an action: no action has a colon in it, or one of the other names."""
    return scope not in SHARED and ":" not in scope


def open_pause(
    connection: Connection,
    scope: str,
    *,
    code: str,
    reason: str,
    probed: bool = True,
    probe_after: timedelta = FIRST_PROBE,
) -> bool:
    """Pause a scope; return False if it is paused already. The first probe is due after `probe_after`.

    Without `probed` it stays until it is resumed by hand, also if it was paused before with probes.
    """
    binds = {"scope": scope, "code": code, "reason": reason, "probe_after": probe_after if probed else None}
    return functions.call(connection, "pause_open", binds).first() is not None


def probe(
    connection: Connection,
    *,
    queue: str,
    lanes: Sequence[Lane],
    refusals: Collection[str],
    begin: Begin = AT_THE_BEGINNING,
) -> str | None:
    """Take the right to try one scope whose probe is due, with a job of this queue; None if there is none.

    `refusals`: the codes with which a mail is refused for its own sake, for which a pause is probed more often.
    `begin` is where to look from in each lane.
    """
    scope: str | None = functions.call(
        connection,
        "pause_probe",
        {
            "first_wait": FIRST_PROBE,
            "max_wait": MAX_PROBE_WAIT,
            "max_refusal_wait": MAX_REFUSAL_PROBE_WAIT,
            "refusals": list(refusals),
            "queue": queue,
            **_lanes(lanes, begin),
        },
    ).scalar()
    return scope


def places(
    connection: Connection,
    *,
    queue: str,
    lanes: Sequence[Lane],
    most: int,
    refusals: Collection[str],
    begin: Begin = AT_THE_BEGINNING,
) -> list[tuple[Lane, Position]]:
    """Return where jobs wait in these lanes that a probe should try, spread over all: first those never refused."""
    binds = {"queue": queue, "codes": list(refusals), "most": most, "again": TRIED_AGAIN, **_lanes(lanes, begin)}
    rows = functions.call(connection, "pause_probe_places", binds)
    return [((Priority(row.priority), row.action), Position(row.due_at, row.token)) for row in rows]


def close_pause(connection: Connection, scope: str, *, by_hand: bool = False) -> bool:
    """End a pause; return whether there was one. A pause that was made by hand ends by hand."""
    return functions.call(connection, "pause_close", {"scope": scope, "by_hand": by_hand}).first() is not None


def read(connection: Connection) -> list[Pause]:
    """Return what is paused, the oldest first."""
    paused = open_pauses.c
    columns = (paused.scope, paused.code, paused.reason, paused.opened_at, paused.probe_at)
    return [Pause(*row) for row in connection.execute(select(*columns).order_by(paused.opened_at))]


def _lanes(lanes: Sequence[Lane], begin: Begin) -> dict[str, str]:
    return as_binds({lane: begin.get(lane, Position(None, 0)) for lane in lanes}, lanes)
