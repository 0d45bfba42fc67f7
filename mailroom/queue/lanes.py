"""Lanes of the queue, each a priority and an action, and which of them goes first."""

from collections.abc import Iterable, Mapping, Sequence
from copy import copy
from itertools import product
from typing import Final

from sqlalchemy import Connection

from mailroom.db import functions
from mailroom.job import Action, Priority

Lane = tuple[Priority, str]
# After so many urgent claims in a row, the other lanes come first once: a flood of urgent mail starves nobody.
URGENT_RUN: Final = 4

# The priorities that a whole can be paused of: what is in quarantine belongs to its action's.
PAUSABLE: Final = (Priority.URGENT, Priority.NORMAL, Priority.BULK)


def priority_scope(priority: Priority) -> str:
    """Return the scope of all mails of a priority, as pauses name it."""
    return f"priority:{priority.value}"


class Lanes:
    """The lanes that there are with these kinds of mail: all, those that are served as urgent, and the others."""

    def __init__(self, actions: Iterable[Action]) -> None:
        self.actions: Mapping[str, Action] = {str(action): action for action in actions}
        self.all: tuple[Lane, ...] = tuple(product(Priority, self.actions))
        self.urgent = tuple(lane for lane in self.all if self.rank(lane) is Priority.URGENT)
        self.others = tuple(lane for lane in self.all if self.rank(lane) is not Priority.URGENT)

    def among(self, some: Sequence[Lane]) -> "Lanes":
        """Return the same with these lanes alone, as far as there still are such."""
        lanes = copy(self)
        lanes.all = tuple(lane for lane in some if lane[1] in self.actions)
        return lanes

    def rank(self, lane: Lane) -> Priority:
        """Return the priority with which a lane is served: one in quarantine is claimed alone, not last."""
        priority, action = lane
        return self.actions[action].priority if priority is Priority.QUARANTINE else priority


def read(connection: Connection) -> Lanes:
    """Return the lanes of the kinds of mail that the database has now."""
    listed = functions.call(connection, "action_list").all()
    senders = {row.name: row for row in functions.call(connection, "action_senders")}
    return Lanes(
        Action(
            row.name,
            number=row.number,
            template=row.template,
            path=row.path,
            has_code=row.has_code,
            priority=row.priority,
            source=senders[row.name].source if row.name in senders else None,
            reply_to=senders[row.name].reply_to if row.name in senders else None,
        )
        for row in listed
    )
