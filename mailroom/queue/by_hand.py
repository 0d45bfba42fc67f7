"""What a person decides about jobs: that they are tried again, released or dropped.

Where the database fails after some of them were changed, DatabaseError says how many.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Final

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from mailroom.db import functions
from mailroom.db.engine import first_line
from mailroom.errors import DatabaseError

# Jobs changed by one statement, and so in one commit.
CHANGED_AT_ONCE: Final = 1_000


@dataclass(frozen=True, slots=True)
class Retried:
    """The tokens of jobs that were put back, and of those that waited and are due now."""

    put_back: list[int]
    made_due: list[int]


def retry(connection: Connection, wanted: Iterable[int], *, queue: str) -> Retried:
    """Put jobs back that are finished and were not sent, as tried once, and make waiting ones due; the rest is left.

    What is consumed or gone stays finished. The claim decides as for any job: a recovery that ran out expires again.
    """
    done = Retried([], [])
    for some in _chunks(wanted):
        with _telling(len(done.put_back) + len(done.made_due)):
            for row in functions.call(connection, "job_retry", {"tokens": some, "queue": queue}):
                (done.put_back if row.was_finished else done.made_due).append(row.token)
    return done


def release(connection: Connection, wanted: Iterable[int]) -> list[int]:
    """Let jobs that are held be sent again now, each alone; the rest is left. Return the tokens of these."""
    return _changed(connection, "job_release", wanted)


def drop(connection: Connection, wanted: Iterable[int]) -> list[int]:
    """Cancel jobs that wait or are held, on record as `Dropped`; what is in flight or finished is left."""
    return _changed(connection, "job_drop", wanted)


def _changed(connection: Connection, change: str, wanted: Iterable[int]) -> list[int]:
    changed: list[int] = []
    for some in _chunks(wanted):
        with _telling(len(changed)):
            changed += functions.call(connection, change, {"tokens": some}).scalars()
    return changed


@contextmanager
def _telling(changed: int) -> Iterator[None]:
    """Raise DatabaseError, which says how many were changed by then, where a later statement fails."""
    try:
        yield
    except DBAPIError as error:
        if not changed:
            raise
        words = f"the database failed: {first_line(error)}; {changed:,} jobs were changed before, and stay so"
        raise DatabaseError(words) from error


def _chunks(wanted: Iterable[int]) -> Iterator[list[int]]:
    left = iter(wanted)
    while some := list(islice(left, CHANGED_AT_ONCE)):
        yield some
