"""What a person decides about jobs: that they are tried again, released or dropped.

What somebody else has locked is passed over, unless it is asked for alone: then it is waited for. Where the database
fails after some were changed, DatabaseError says how many.

`done`, where it is given, has the tokens of each step once that is committed: for whom somebody may stop half way.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import Any, Final

from sqlalchemy import Connection, Row
from sqlalchemy.exc import DBAPIError

from mailroom.db import functions
from mailroom.db.engine import first_line
from mailroom.db.step_size import StepSize
from mailroom.errors import DatabaseError

# Jobs changed by one statement, and so in one commit; fewer where the database cuts it off.
CHANGED_AT_ONCE: Final = 1_000


@dataclass(frozen=True, slots=True)
class Retried:
    """The tokens of jobs that were put back, and of those that waited and are due now."""

    put_back: list[int] = field(default_factory=list)
    made_due: list[int] = field(default_factory=list)


def retry(connection: Connection, wanted: Iterable[int], *, queue: str, done: Retried | None = None) -> Retried:
    """Put jobs back that are finished and were not sent, as tried once, and make waiting ones due; the rest is left.

    What is consumed or gone stays finished. The claim decides as for any job: a recovery that ran out expires again.
    """
    done = done or Retried()
    for row in _in_steps(
        wanted, lambda some: functions.call(connection, "job_retry", {"tokens": some, "queue": queue}).all()
    ):
        (done.put_back if row.was_finished else done.made_due).append(row.token)
    return done


def release(connection: Connection, wanted: Iterable[int], *, done: list[int] | None = None) -> list[int]:
    """Let jobs that are held be sent again now, each alone; the rest is left. Return the tokens of these."""
    return _change(connection, "job_release", wanted, done)


def drop(connection: Connection, wanted: Iterable[int], *, done: list[int] | None = None) -> list[int]:
    """Cancel jobs that wait or are held, on record as `Dropped`; what is in flight or finished is left."""
    return _change(connection, "job_drop", wanted, done)


def _change(connection: Connection, change: str, wanted: Iterable[int], done: list[int] | None) -> list[int]:
    done = [] if done is None else done
    for row in _in_steps(wanted, lambda some: functions.call(connection, change, {"tokens": some}).all()):
        done.append(row.token)
    return done


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


def _in_steps(wanted: Iterable[int], change: Callable[[list[int]], Sequence[Row[Any]]]) -> Iterator[Row[Any]]:
    """Change jobs, fewer at a time where the database cuts off more; yield what comes of each step."""
    coming, told = iter(wanted), 0
    left = list(islice(coming, CHANGED_AT_ONCE))
    several = len(left) > 1
    step_size = StepSize(len(left))  # or one that is locked would be tried again and again, with fewer of no others
    while left:
        with _telling(told):
            changed, found = step_size.take(partial(_change_some, change, left, several), from_one=True)
        yield from found
        told += len(found)
        left = [*left[changed:], *islice(coming, changed)]


def _change_some(
    change: Callable[[list[int]], Sequence[Row[Any]]], left: list[int], several: bool, most: int
) -> tuple[int, Sequence[Row[Any]]]:
    some = left[:most]
    # One alone is waited for: named twice, the last of several is not.
    return most, change(some * 2 if several and len(some) == 1 else some)
