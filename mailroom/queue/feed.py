"""What the provider is heard to say of mails, and how long one that may be out waits for that."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Final

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from mailroom.db import functions
from mailroom.db.engine import first_line
from mailroom.event import Event, EventKind
from mailroom.queue import events
from mailroom.queue.events import Absorbed
from mailroom.queue.limits import Limits
from mailroom.queue.verdict import MAX_ATTEMPTS

log = logging.getLogger(__name__)

# Within this time after a mail went out something must have been heard, of it or of another.
SILENCE: Final = timedelta(minutes=10)
# Contradicted acceptances acted on by one statement.
MAX_TAKEN_BACK: Final = 500
# Events that say that a mail never went out.
CONTRADICTING: Final = {EventKind.REJECT, EventKind.RENDERING_FAILURE}


@dataclass(frozen=True, slots=True)
class FeedState:
    """How old the last reading of the queue and the last event of ours are (None: never), and what was counted. What is
    ahead of the clock is no younger than that.

    `silent`: mails went out longer ago than SILENCE, and nothing was heard since. `live`: heard, and not silent.
    """

    polled_seconds: float | None
    heard_seconds: float | None
    silent: bool
    live: bool
    added: int
    known: int
    elsewhere: int
    unknown: int


@dataclass(frozen=True, slots=True)
class TakenBack:
    """A mail that SES accepted and that never went out, and why. `outcome` None: it is tried again."""

    token: int
    action: str
    kind: str
    outcome: str | None


def state(connection: Connection) -> FeedState:
    """Return what is known of the feed; empty counts where there never was one."""
    row = functions.call(connection, "feed_state", {"silence": SILENCE}).one()
    found = FeedState(**row._mapping)
    return replace(found, polled_seconds=_age(found.polled_seconds), heard_seconds=_age(found.heard_seconds))


def _age(seconds: float | None) -> float | None:
    return None if seconds is None else abs(seconds)


def take_back(connection: Connection, *, queue: str, most: int = MAX_TAKEN_BACK) -> list[TakenBack]:
    """Act on events that say that accepted mails never went out: log each mail, which comes back or has failed."""
    binds = {"most": most, "max_attempts": MAX_ATTEMPTS, "queue": queue}
    found = [TakenBack(**row._mapping) for row in functions.call(connection, "take_back", binds)]
    for mail in found:
        outcome = mail.outcome or "taken_back"
        log.warning("mail token=%d action=%s outcome=%s code=%s", mail.token, mail.action, outcome, mail.kind)
    return found


def absorb(connection: Connection, told: Sequence[Event], *, queue: str) -> Absorbed:
    """Take events into the record; where one says that a mail never went out, act on that at once.

    Its action is paused then, and not a minute later, when a sweep would do so: each mail until then would be lost.
    """
    found = events.absorb(connection, told)
    if any(event.kind in CONTRADICTING for event in told):
        try:
            take_back(connection, queue=queue)
        except DBAPIError as error:
            log.warning("what never went out is left to the next sweep: %s", first_line(error))
    return found


class ResendWait:
    """How long a mail that may be out waits before it is sent again; `current` None: until somebody decides.

    While the provider is heard it tells of what it accepted, and a longer wait saves mails sent twice.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self.current = limits.resend_after

    def refresh(self, connection: Connection) -> None:
        """See whether the provider is heard."""
        if self._limits.resend_after is not None and self._limits.resend_after_heard is not None:
            self.learn(state(connection))

    def learn(self, heard: FeedState) -> None:
        """Take note whether the provider is heard."""
        if self._limits.resend_after is not None and self._limits.resend_after_heard is not None:
            self.current = self._limits.resend_after_heard if heard.live else self._limits.resend_after
