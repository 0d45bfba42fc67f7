"""What came too late to decide by itself, and does all the same: acceptances whose batch had been rescued."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from sqlalchemy import Connection

from mailroom.db import functions
from mailroom.db.moments import EARLIEST, LATEST
from mailroom.db.step_size import StepSize

log = logging.getLogger(__name__)

# How old a failure may be that an acceptance amends: SQS keeps what proves it for 14 days.
HORIZON: Final = timedelta(days=15)

# How many held jobs, and how many failures, one statement looks at: some hundredths of a second.
MAX_LOOKED_AT: Final = 5_000

# What PostgreSQL has of bigint: before the first token, and after the last.
_NO_TOKEN: Final = -(2**63)
_ALL_TOKENS: Final = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Applied:
    """How many held jobs came due, and how many failures became sent, since SES had accepted the mail."""

    freed: int
    amended: int


class LateAcceptances:
    """Lets acceptances that came late decide: held jobs that were accepted come due, and failures become sent.

    In steps, each of which goes on where the last one ended: what is held, and has failed, may be without end.
    """

    def __init__(self) -> None:
        self._begin()

    def _begin(self) -> None:
        self._held_after, self._failed_after = _NO_TOKEN, EARLIEST

    @property
    def has_ended(self) -> bool:
        """Whether all has been looked at. Then the next step begins again."""
        return (self._held_after, self._failed_after) == (_ALL_TOKENS, LATEST)

    def step(self, connection: Connection, *, most: int = MAX_LOOKED_AT) -> Applied:
        """Look at so many held jobs and so many failures. What somebody has locked is left to the next time."""
        if self.has_ended:
            self._begin()
        binds = {"horizon": HORIZON, "most": most, "held_after": self._held_after, "failed_after": self._failed_after}
        row = functions.call(connection, "late_acceptances", binds).one()
        self._held_after = _ALL_TOKENS if row.last_held is None else row.last_held
        self._failed_after = LATEST if row.last_failed is None else row.last_failed
        found = Applied(row.freed, row.amended)
        if found != Applied(0, 0):
            log.info("accepted late, of what is held or had failed: freed=%d sent=%d", found.freed, found.amended)
        return found


def apply(connection: Connection, *, most: int = MAX_LOOKED_AT, goes_on: Callable[[], bool] = lambda: True) -> Applied:
    """Look at all, `most` at a time or less, as long as it `goes_on`; return what came of it."""
    every, step_size, freed, amended = LateAcceptances(), StepSize(most), 0, 0
    while goes_on() and not every.has_ended:
        found = step_size.take(lambda size: every.step(connection, most=size))
        freed, amended = freed + found.freed, amended + found.amended
    return Applied(freed, amended)
