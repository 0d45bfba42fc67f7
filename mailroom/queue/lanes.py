"""Lanes of the queue, each a priority and an action, and which of them goes first."""

from itertools import product
from typing import Final

from mailroom.job import Action, Priority

Lane = tuple[Priority, Action]
LANES: Final[tuple[Lane, ...]] = tuple(product(Priority, Action))
# After so many urgent claims in a row, the other lanes come first once: a flood of recoveries starves nobody.
URGENT_RUN: Final = 4


def rank(lane: Lane) -> Priority:
    """Return the priority with which a lane is served: one in quarantine is claimed alone, not last."""
    priority, action = lane
    if priority is not Priority.QUARANTINE:
        return priority
    return Priority.URGENT if action is Action.PASSWORD_RECOVERY else Priority.NORMAL


URGENT_LANES: Final = tuple(lane for lane in LANES if rank(lane) is Priority.URGENT)
OTHER_LANES: Final = tuple(lane for lane in LANES if rank(lane) is not Priority.URGENT)
