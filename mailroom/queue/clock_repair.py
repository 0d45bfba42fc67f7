"""Brings back what waits for a moment that is too far ahead, since the clock of the database was set back meanwhile."""

import logging
from collections.abc import Sequence
from datetime import timedelta
from typing import Final

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from mailroom.db import functions
from mailroom.db.engine import first_line
from mailroom.db.step_size import StepSize
from mailroom.queue import feed
from mailroom.queue.lanes import Lane
from mailroom.queue.limits import MAX_PROBE_WAIT, Limits
from mailroom.queue.look import UNTRIED_WAIT
from mailroom.queue.verdict import GRACE

log = logging.getLogger(__name__)

# How many moments one statement brings back: of each lane, of batches and of pauses.
MAX_REPAIRED: Final = 1_000


class ClockRepair:
    """Brings them back for one queue, with the waits that its limits have."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._step_size = StepSize(MAX_REPAIRED)
        self._failing = False

    def step(self, connection: Connection, lanes: Sequence[Lane]) -> bool:
        """Bring some back; whether there may be more. What the database refuses is logged once, and tried again later.

        Raises DBAPIError only if the connection is lost.
        """
        try:
            brought = repair(connection, self._limits, lanes, most=self._step_size.size)
        except DBAPIError as error:
            if error.connection_invalidated:
                raise
            if not self._failing:
                log.warning("the clock was set back, and what is too far ahead stays: %s", first_line(error))
            self._failing = True
            return self._step_size.shrink()
        self._failing = False
        self._step_size.grow()
        if brought:
            log.warning("the clock was set back, and what was too far ahead is brought back: moments=%d", brought)
        return brought > 0


def repair(connection: Connection, limits: Limits, lanes: Sequence[Lane], *, most: int = MAX_REPAIRED) -> int:
    """Bring back at most so many jobs of each lane, batches and pauses; return how many it was."""
    brought: int = functions.call(
        connection,
        "clock_repair",
        {
            "queue": limits.queue,
            "priorities": [priority.value for priority, _ in lanes],
            "actions": [action for _, action in lanes],
            "max_wait": limits.max_wait,
            "untried_wait": UNTRIED_WAIT,
            "max_probe_wait": MAX_PROBE_WAIT,
            "again_after": _again_after(connection, limits),
            "most": most,
        },
    ).scalar_one()
    return brought


def _again_after(connection: Connection, limits: Limits) -> timedelta:
    """Tell when what was tried comes due. Where the provider was ever heard, an event may still prove that it is out.

    Whether it is heard now cannot be told by a clock that was set back.
    """
    if limits.resend_after is None:
        return GRACE
    if limits.resend_after_heard is None or feed.state(connection).heard_seconds is None:
        return limits.resend_after
    return limits.resend_after_heard
