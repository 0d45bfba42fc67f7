"""What there is in the queue and what became of the mails, as one value."""

from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from mailroom.db.step_size import is_cut_off
from mailroom.job import Priority
from mailroom.ops import counting, reading
from mailroom.ops.feedback import Feedback
from mailroom.ops.health import Health
from mailroom.ops.reading import Paused, Reading

UNCOUNTED: Final = (
    "what there is cannot be counted: a walk over dead rows is cut off, or a table is locked; this is what was counted"
    " last"
)


@dataclass(frozen=True, slots=True)
class Waiting:
    """Jobs of one queue, priority and action, of which `later` are due later and `held` never. Of each kind 10,001 are
    counted at most: if there are more it is `capped`.

    `oldest_seconds` is how long the oldest has been due; 0 if none is.
    """

    queue: str
    priority: Priority
    action: str
    jobs: int
    due: int
    oldest_seconds: float
    later: int = 0
    held: int = 0
    capped: bool = False


@dataclass(frozen=True, slots=True)
class InFlight:
    """Batches that are claimed and not settled; `overdue` of them have outlived their lease and will be rescued."""

    batches: int
    jobs: int
    overdue: int


@dataclass(frozen=True, slots=True)
class Status:
    """All of it, as it was `age_seconds` ago. `outcomes` counts the deliveries of each period by outcome, late ones
    apart as `late`, and as `taken_back` mails that SES accepted and that never went out.

    `warnings` has what a person should look into, by code, and `health` and `feedback` the figures behind it.
    `jobs_estimate` is about how many jobs there are, where lanes are capped.
    """

    waiting: tuple[Waiting, ...]
    paused: tuple[Paused, ...]
    in_flight: InFlight
    outcomes: dict[str, dict[str, int]]
    warnings: dict[str, str]
    health: Health
    feedback: Feedback
    jobs_estimate: int
    age_seconds: float


def read(connection: Connection) -> Status:
    """Read what the fleet counted, if that is not old, or else count, at a bounded cost, however long the queue.

    Where nobody counts any more that is among the warnings.
    """
    found, warned = counted(connection)
    return of(found, warned=warned)


def counted(connection: Connection) -> tuple[Reading, dict[str, str]]:
    """Return what `read` is made of: a reading, and a warning if nobody else counts any more.

    If counting is cut off it is the last reading all the same, with another warning; a transaction is then rolled back.
    """
    kept = reading.read(connection)
    if kept is not None and timedelta(seconds=kept.age_seconds) <= reading.STALE_AFTER:
        return kept, {}
    try:
        return counting.count(connection), reading.too_old(kept)
    except DBAPIError as error:
        if kept is None or not is_cut_off(error):
            raise
    connection.rollback()
    return kept, reading.too_old(kept) | {"QueueUnread": UNCOUNTED}


def of(found: Reading, *, warned: dict[str, str] | None = None) -> Status:
    """Return the status that a reading tells."""
    waiting = [
        Waiting(
            lane.queue,
            lane.priority,
            lane.action,
            lane.due + lane.later + lane.held,
            lane.due,
            lane.oldest_seconds,
            later=lane.later,
            held=lane.held,
            capped=lane.capped,
        )
        for lane in found.lanes
    ]
    return Status(
        tuple(waiting),
        found.pauses,
        InFlight(found.flight.batches, found.flight.jobs, found.flight.overdue),
        found.outcomes,
        found.warnings | (warned or {}),
        found.health,
        found.feedback,
        found.jobs_estimate,
        found.age_seconds,
    )
