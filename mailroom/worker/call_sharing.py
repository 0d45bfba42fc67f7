"""Whether the mails of an action share calls: not while SES refuses calls whole for several of their mails."""

import threading
from collections.abc import Sequence
from typing import Final

from mailroom.outcome import Outcome, Rejected, Sent

# One bad mail in a call that is refused whole is found in few calls; where there are more, each mail costs less alone.
TOO_MANY: Final = 2
# How many mails have to be accepted in a row before they share calls again; and how many where SES refuses every call
# for several mails.
APART: Final = 10
LONG_APART: Final = 100


class CallSharing:
    """Learns from searches, over all calls of a process. Safe to share between threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._apart: dict[str, int] = {}

    def is_worth_it(self, action: str) -> bool:
        """Whether the next mails of this action should share a call."""
        with self._lock:
            return not self._apart.get(action)

    def keep_apart(self, action: str, count: int) -> None:
        """Have the mails of this action go one by one until so many were accepted."""
        with self._lock:
            self._apart[action] = max(count, self._apart.get(action, 0))

    def note(self, action: str, outcomes: Sequence[Outcome], *, searched: bool) -> None:
        """Note what became of the mails of a batch, and whether a call of it was refused whole."""
        refused = sum(isinstance(outcome, Rejected) for outcome in outcomes)
        with self._lock:
            apart = self._apart.get(action, 0)
            if (searched and refused >= TOO_MANY) or (apart and refused):
                self._apart[action] = max(APART, apart)
            else:
                self._apart[action] = max(0, apart - sum(isinstance(outcome, Sent) for outcome in outcomes))
