"""Counting for the whole fleet: one process does, and keeps what it found for all of them."""

from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any, Final

from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError

from mailroom.db import functions
from mailroom.db.bounded import SOON, bounded
from mailroom.db.step_size import is_cut_off
from mailroom.ops import counting, minutes, reading
from mailroom.ops.reading import Reading

EVERY: Final = timedelta(seconds=15)
# A count is due so much sooner: a worker that comes every 15 seconds must not be a moment too early, and then 15 late.
EARLIER: Final = timedelta(seconds=1)
# What is slow is counted less often: a reading takes no more than a hundredth of the time, unless it would be too old.
MAX_SHARE: Final = 0.01
LONGEST: Final = timedelta(seconds=50)
# A reading that takes longer is cut off: who counts looks for work, too.
ANSWER_WITHIN: Final = timedelta(seconds=2)
# How long minutes are made up for that closed while nobody counted; the rest is for the next time.
MAX_CATCHING_UP: Final = timedelta(seconds=0.5)
# How far back attempts are counted one by one, where not all minutes are made up.
REACH: Final = timedelta(minutes=10)


def refresh(engine: Engine, *, fails: Callable[[str], object] = lambda _: None) -> Reading | None:
    """Do as `count_if_due` and return what is known then. None: it was not its turn."""
    if not count_if_due(engine, fails=fails):
        return None
    with engine.connect() as connection, bounded(connection, SOON):
        return reading.read(connection)


def count_if_due(engine: Engine, *, fails: Callable[[str], object] = lambda _: None) -> bool:
    """Count, if that is due and nobody else of the fleet does: one statement. Return whether it was its turn.

    What cannot be counted is kept on record beside the last reading, and `fails` is told the class of the error. Raises
    DBAPIError if not even that can be. Whatever somebody has locked, it comes back in a few seconds.
    """
    try:
        return _count(engine)
    except DBAPIError as error:
        failure = type(error.orig).__name__
    fails(failure)
    with engine.connect() as connection, bounded(connection, SOON):
        functions.call(connection, "reading_failed", {"failure": failure, "due_after": LONGEST})
    return True


def count_with_report(engine: Engine, seen: Mapping[str, Any]) -> bool:
    """Count as `count_if_due` does, in the statement that tells that a worker lives: `seen` are its arguments.

    Raises DBAPIError where one of the two cannot be done: then neither is, and nothing is kept of the failure.
    """
    return _count_by(engine, minutes.STEP, seen)


def _count(engine: Engine) -> bool:
    """Count; minutes one by one where all is cut off, for a machine that never gets so far."""
    try:
        return _count_by(engine, minutes.STEP)
    except DBAPIError as error:
        if not is_cut_off(error):
            raise
    return _count_by(engine, timedelta(minutes=1))


def _count_by(engine: Engine, step: timedelta, seen: Mapping[str, Any] | None = None) -> bool:
    binds: dict[str, Any] = minutes.arguments(step) | counting.arguments(REACH)
    binds |= {"every": EVERY - EARLIER, "max_share": MAX_SHARE, "longest": LONGEST, "longest_due": LONGEST + EVERY}
    binds |= {"catching_up": MAX_CATCHING_UP, **(seen or {})}
    beside = None if seen is None else "worker_seen"
    with engine.connect() as connection, bounded(connection, ANSWER_WITHIN):
        found = functions.call(connection, "reading_refresh", binds, beside=beside).one()
    return bool(found.taken)
