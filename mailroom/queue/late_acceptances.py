"""What came too late to decide by itself, and does all the same: acceptances whose batch had been rescued."""

import logging
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from sqlalchemy import Connection

from mailroom.db import functions

log = logging.getLogger(__name__)

# How old an acceptance may be to be acted on: whoever sweeps once a week sees each.
HORIZON: Final = timedelta(days=7)

MAX_APPLIED: Final = 1_000


@dataclass(frozen=True, slots=True)
class Applied:
    """How many held jobs came due, and how many failures became sent, since SES had accepted the mail."""

    freed: int
    amended: int


def apply(connection: Connection, *, most: int = MAX_APPLIED) -> Applied:
    """Let acceptances that came late decide: held jobs that were accepted come due, and failures become sent.

    At most so many of each at a time; what somebody has locked is left to the next time.
    """
    row = functions.call(connection, "late_acceptances", {"horizon": HORIZON, "most": most}).one()
    found = Applied(row.freed, row.amended)
    if found != Applied(0, 0):
        log.info("accepted late, of what is held or had failed: freed=%d sent=%d", found.freed, found.amended)
    return found
