"""What time it is by the database's clock, known without asking it each time."""

import time
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Final

from sqlalchemy import Connection, func, select

ASK_AGAIN: Final = timedelta(minutes=1)


class DatabaseClock:
    """As it was told last, with what has passed since by the monotonic clock. Safe to share between threads."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._told: tuple[float, datetime] | None = None

    def refresh(self, connection: Connection) -> None:
        """Ask the database, if that was not done for a while. Raises DBAPIError."""
        began = self._clock()
        if self._told is not None and began - self._told[0] < ASK_AGAIN.total_seconds():
            return
        now: datetime = connection.execute(select(func.clock_timestamp())).scalar_one()
        self._told = ((began + self._clock()) / 2, now)

    def seconds_since(self, moment: datetime) -> float | None:
        """How long ago a moment of the database was, never less than 0; None before the clock is known."""
        if self._told is None:
            return None
        at, told = self._told
        return max(0.0, (told - moment).total_seconds() + self._clock() - at)
