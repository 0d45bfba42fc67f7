"""Where claims and looks begin in each lane, that is each priority and action: shared by the senders of a process."""

import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from functools import cache
from typing import Final

from mailroom.db.literals import numbers_literal, words_literal
from mailroom.job import Position
from mailroom.queue.lanes import Lane

# Commits land out of order by this much without a claim missing them; what is later waits for the sweep.
SLACK: Final = timedelta(seconds=1)


class Floors:
    """Where the last claim in each lane ended, or a look found nothing before.

    Rows before that are dead but perhaps not vacuumed; walking them again at each claim is what makes a queue crawl
    while somebody holds an old snapshot. A look from the beginning of the queue finds what committed late below them.
    A claim does not rely on them for what is younger than `slack`.
    """

    def __init__(self, slack: timedelta = SLACK) -> None:
        self.slack = slack
        self._lock = threading.Lock()
        self._floors: dict[Lane, Position] = {}

    def read(self, lanes: Iterable[Lane]) -> dict[Lane, Position]:
        """Return the floors of these lanes as they are now; of a new one it is the beginning."""
        with self._lock:
            return {lane: self._floors.setdefault(lane, Position(None, 0)) for lane in lanes}

    def advance(self, lane: Lane, *, seen: Position, end: Position) -> bool:
        """Move a floor up to `end`, unless it has changed since it was `seen`: a lower one must not be undone."""
        with self._lock:
            moves = _is_below(seen, end) and self._floors.get(lane) is seen
            if moves:
                self._floors[lane] = end
        return moves

    def lower(self, lane: Lane, to: Position) -> None:
        """Move a floor down to `to` if it is above: what lies behind that waits.

        It is another floor then, also where it does not move: a claim under way has not seen what waits.
        """
        with self._lock:
            now = self._floors.get(lane, Position(None, 0))
            self._floors[lane] = replace(to if _is_below(to, now) else now)

    def lower_all(self, seen: Mapping[Lane, Position]) -> None:
        """Move floors down to where they were seen: what lies behind that waits again, perhaps."""
        for lane, floor in seen.items():
            self.lower(lane, floor)

    def found(self, lane: Lane, first: Position, *, seen: Position) -> None:
        """Move a floor to where whoever began at the beginning found the first job: up, unless it has changed since
        it was `seen`, and down in any case.
        """
        if not self.advance(lane, seen=seen, end=first):
            self.lower(lane, first)


def floors_at(lane: Lane, place: Position) -> Floors:
    """Return floors for a claim that is to begin in a lane with the job at this place, however young that is."""
    floors = Floors(slack=timedelta(0))
    floors.advance(lane, seen=floors.read([lane])[lane], end=replace(place, token=place.token - 1))
    return floors


def _is_below(one: Position, other: Position) -> bool:
    if one.due_at is None or other.due_at is None:
        return one.due_at is None and other.due_at is not None
    return (one.due_at, one.token) < (other.due_at, other.token)


def as_binds(floors: dict[Lane, Position], lanes: Sequence[Lane]) -> dict[str, str]:
    """Return these lanes and their floors as `claim` and `look` bind them."""
    positions = [floors[lane] for lane in lanes]
    return {
        **lanes_as_binds(tuple(lanes)),
        "floors_due_at": words_literal(
            None if position.due_at is None else position.due_at.isoformat() for position in positions
        ),
        "floors_token": numbers_literal(position.token for position in positions),
    }


@cache
def lanes_as_binds(lanes: tuple[Lane, ...]) -> dict[str, str]:
    """Return these lanes as they are bound."""
    return {
        "priorities": numbers_literal(priority.value for priority, _ in lanes),
        "actions": words_literal(action for _, action in lanes),
    }
