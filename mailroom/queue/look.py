"""See what there is to do in the queue, and when there will be more. Changes nothing in the database."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Final

from sqlalchemy import Connection, Row

from mailroom.db import functions
from mailroom.job import Position, Priority
from mailroom.queue.claim import MAX_BUSY_WAIT
from mailroom.queue.floors import SLACK, Floors, as_binds
from mailroom.queue.lanes import Lane
from mailroom.queue.limits import MAX_PROBE_WAIT
from mailroom.queue.verdict import MAX_DELAY, UNCHARGED_DELAY

# A look moves the floor of each lane up to the first job that it sees, but no nearer to now than this: what commits
# later than that waits for the sweep.
SETTLED_AFTER: Final = timedelta(seconds=30)
# For how long a job waits at most that was not charged yet: for another attempt, or for who has locked what it needs.
UNTRIED_WAIT: Final = max(UNCHARGED_DELAY, MAX_BUSY_WAIT)


@dataclass(frozen=True, slots=True)
class View:
    """What a look found: lanes with a batch to claim now, when there is more to do (None: nothing waits).

    `rescuable`: leases have run out. `probeable`: a pause can be tried. `ahead`: there are moments so far in the future
    that the clock must have been set back since. `kinds` is another one once a kind of mail was added or changed.
    """

    ready: int
    next: timedelta | None
    rescuable: bool
    probeable: bool
    ahead: bool = False
    kinds: str | None = field(default=None, compare=False)


def look(
    connection: Connection,
    *,
    queue: str,
    batch_limit: int,
    batch_timeout: timedelta,
    floors: Floors,
    lanes: Sequence[Lane],
    from_start: bool = False,
    max_wait: timedelta = MAX_DELAY,
) -> View:
    """See what there is to do in these lanes, and if nothing, when there will be. Changes nothing in the database.

    The floors move up to what it saw, so that the claims that follow do not walk over the same dead rows. `from_start`
    looks below them as well, for jobs that committed late or came back, and moves them down to those. No job that waits
    for another attempt waits for longer than `max_wait`.
    """
    seen = floors.read(lanes)
    start = dict.fromkeys(lanes, Position(None, 0)) if from_start else seen
    row = functions.call(
        connection,
        "look",
        {
            "queue": queue,
            "batch_limit": batch_limit,
            "batch_timeout": batch_timeout,
            "slack": SLACK,
            "settled_after": SETTLED_AFTER,
            "max_wait": max_wait,
            "untried_wait": UNTRIED_WAIT,
            "max_probe_wait": MAX_PROBE_WAIT,
            **as_binds(start, lanes),
        },
    ).one()
    _move_floors(row, floors, seen, from_start=from_start)
    upcoming = None if row.next_seconds is None else timedelta(seconds=row.next_seconds)
    return View(row.ready, upcoming, row.rescuable, row.probeable, row.ahead, row.kinds)


def _move_floors(row: Row[Any], floors: Floors, seen: dict[Lane, Position], *, from_start: bool) -> None:
    """Move the floors to the first job that a look saw in each lane."""
    heads = zip(row.heads_priority, row.heads_action, row.heads_due_at, row.heads_token, strict=True)
    for priority, action, due_at, token in heads:
        lane, head = (Priority(priority), action), Position(due_at, token)
        if from_start:
            floors.found(lane, head, seen=seen[lane])
        else:
            floors.advance(lane, seen=seen[lane], end=head)
