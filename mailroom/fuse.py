"""Doubts refusals in a row: one mail may be bad; five different ones refused alike are a bad configuration."""

import threading
from collections.abc import Sequence
from typing import Final

from mailroom.job import Action, Deferred, Outcome, Rejected, Scope, Sent

BLOWS_AT: Final = 5


class Fuse:
    """Weighs the refusals of each action, over all calls of a process.

    A mail that SES accepts shows that the configuration is sound, and ends the row. The first refusal of a row is
    believed; the next are tried again, and count. With the fifth recipient that is refused the
    fuse blows: the action is at fault, and what its batch was refused costs nothing.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._rows: dict[Action, set[str]] = {}

    def weigh(self, action: Action, addresses: Sequence[str], outcomes: Sequence[Outcome]) -> list[Outcome]:
        """Return the outcomes of the mails of a batch, as they are to be believed."""
        with self._lock:
            if any(isinstance(outcome, Sent) for outcome in outcomes):
                self._rows.pop(action, None)
                return list(outcomes)
            believed = [
                self._is_first(action, address) if isinstance(outcome, Rejected) else True
                for address, outcome in zip(addresses, outcomes, strict=True)
            ]
            recipients = self._rows.get(action, set())
            if len(recipients) >= BLOWS_AT:
                del self._rows[action]  # what comes after the pause is judged anew
        return [
            outcome if not isinstance(outcome, Rejected) else _weighed(outcome, len(recipients), believes)
            for outcome, believes in zip(outcomes, believed, strict=True)
        ]

    def _is_first(self, action: Action, address: str) -> bool:
        """Add a refusal to its row; whether it is alone there. SES has several codes for one thing: all go on a row."""
        recipients = self._rows.setdefault(action, set())
        recipients.add(address)
        return len(recipients) == 1


def blown(code: str) -> Deferred:
    """Return what is said of the fifth mail in a row that is refused, and of those that it was refused with."""
    return Deferred(code, "SES refuses one mail after another", charged=False, scope=Scope.ACTION)


def _weighed(refused: Rejected, recipients: int, believed: bool) -> Outcome:
    if recipients >= BLOWS_AT:
        return blown(refused.code)
    if believed:
        return refused
    return Deferred(refused.code, "refused like the mail before: perhaps not for its own sake", charged=True)
