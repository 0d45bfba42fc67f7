"""Counting what a reading tells: one statement. `sql/reading_count.sql` has each number, and what bounds its cost."""

from datetime import timedelta
from typing import Any, Final

from sqlalchemy import Connection

from mailroom.db import functions
from mailroom.fleet import buckets
from mailroom.ops import reading
from mailroom.ops.reading import Reading
from mailroom.queue import feed

DAY: Final = timedelta(days=1)


def arguments(reach: timedelta) -> dict[str, Any]:
    """Return what the database needs to know to count; `reach` is as for `count`."""
    return {
        "reach": reach,
        "silence": feed.SILENCE,
        "recovery_per_second": buckets.RECOVERY_PER_SECOND,
        "format": reading.FORMAT,
    }


def count(connection: Connection, *, reach: timedelta = DAY) -> Reading:
    """Count it all, as it is in one snapshot.

    `reach` is how far back attempts are counted one by one where no minutes are.
    """
    found = functions.call(connection, "reading_count", {**arguments(reach), "began": None}).one().counted
    return reading.of(connection, found)
