"""Counting for the whole fleet: one process does, and keeps what it found for all of them."""

import time
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Final

from sqlalchemy import Connection, Engine, func, select
from sqlalchemy.exc import DBAPIError

from mailroom.db import functions
from mailroom.db.bounded import SOON, bounded
from mailroom.db.step_size import is_cut_off
from mailroom.ops import minutes, reading
from mailroom.ops.counting import count
from mailroom.ops.reading import Reading

EVERY: Final = timedelta(seconds=15)
# So much sooner it is due, so that who comes every 15 seconds is never a moment too early for it, and then late by 15.
EARLIER: Final = timedelta(seconds=1)
# What is slow is counted less often: a reading takes no more than a hundredth of the time, unless it would be too old.
MAX_SHARE: Final = 0.01
LONGEST: Final = timedelta(seconds=50)
# All statements of a reading may take so long together, or it is cut off. Who counts looks for work, too.
ANSWER_WITHIN: Final = timedelta(seconds=2)
# How long minutes are made up for that closed while nobody counted; the rest is for the next time.
MAX_CATCHING_UP: Final = timedelta(seconds=0.5)
# Where not all of them are, so far back attempts are counted one by one.
REACH: Final = timedelta(minutes=10)


def refresh(engine: Engine, *, fails: Callable[[str], object] = lambda _: None) -> Reading | None:
    """Count, if that is due and nobody else of the fleet does; return what is known then. None: it was not its turn.

    What cannot be counted is kept on record beside the last reading, and `fails` is told the class of the error. Raises
    DBAPIError if not even that can be. Whatever somebody has locked, it comes back in a few seconds.
    """
    with engine.connect() as connection, bounded(connection, SOON):
        binds = {"every": EVERY - EARLIER, "longest": LONGEST + EVERY}
        if not functions.call(connection, "reading_take", binds).one().taken:
            return None
    began = time.monotonic()
    try:
        with engine.connect() as connection, bounded(connection, SOON):
            before = reading.read(connection)
            _catch_up(connection)
        found = _count(engine, before)
    except DBAPIError as error:
        failure = type(error.orig).__name__
        fails(failure)
        _keep(engine, None, failure=failure, due_after=LONGEST)
    else:
        took = timedelta(seconds=time.monotonic() - began)
        # All of it, since that is when the next one is due: who takes it to be late would take the workers to be gone.
        _keep(engine, replace(found, seconds=took.total_seconds()), failure="", due_after=_due_after(took))
    with engine.connect() as connection, bounded(connection, SOON):
        return reading.read(connection)


def _due_after(took: timedelta) -> timedelta:
    return min(max(EVERY - EARLIER - took, took / MAX_SHARE), LONGEST)


def _catch_up(connection: Connection) -> None:
    ends = time.monotonic() + MAX_CATCHING_UP.total_seconds()
    while not _recompute(connection) and time.monotonic() < ends:
        pass


def _recompute(connection: Connection) -> bool:
    """Count minutes; one of them where several are cut off, for a machine that never gets so far."""
    try:
        return minutes.recompute(connection)
    except DBAPIError as error:
        if not is_cut_off(error):
            raise
    return minutes.recompute(connection, step=timedelta(minutes=1))


def _count(engine: Engine, before: Reading | None) -> Reading:
    """Count in one snapshot that cannot change anything."""
    snapshot = engine.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
    with snapshot.connect() as connection, connection.begin(), bounded(connection, ANSWER_WITHIN, together=True):
        within = f"{ANSWER_WITHIN // timedelta(milliseconds=1)}ms"
        connection.execute(select(func.set_config("statement_timeout", within, True)))
        return count(connection, before=before, reach=REACH)


def _keep(engine: Engine, found: Reading | None, *, failure: str, due_after: timedelta) -> None:
    binds = {
        "read_at": None if found is None else found.read_at,
        "counted": None if found is None else reading.as_json(found),
        "failure": failure,
        "due_after": due_after,
    }
    with engine.connect() as connection, bounded(connection, SOON):
        functions.call(connection, "reading_keep", binds)
