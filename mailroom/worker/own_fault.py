"""Tells whether a fault is this machine's own: SES has accepted such mails of others, and since then none of ours."""

import threading
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from typing import Final

from sqlalchemy import Engine

from mailroom.fleet import clock, pauses
from mailroom.job import Action
from mailroom.outcome import Scope
from mailroom.worker import acceptances

# What a machine can be alone with, by its settings and credentials, for the mails of all actions.
OF_A_MACHINE: Final = frozenset({Scope.ACCOUNT, Scope.CONFIGURATION_SET, Scope.IDENTITY})


class OwnFault:
    """Remembers for each scope when this process was last accepted or faulted, and reads in the log of others.

    A process looks back no further than that. So where all meet a fault, it is nobody's own for longer than until the
    next one. Safe to share between threads.
    """

    def __init__(
        self, engine: Engine, *, known: Callable[[], Mapping[str, Action]], clock: Callable[[], float] = clock.seconds
    ) -> None:
        """`known` returns the kinds of mail that there are. `clock` tells monotonic seconds."""
        self._engine = engine
        self._known = known
        self._clock = clock
        self._lock = threading.Lock()
        self._started = clock()
        # For each scope two moments: from when to look for what others have sent, in a call that began before the last
        # answer and in one that began after it.
        self._since: dict[str, tuple[float, float]] = {}

    @property
    def is_suspected(self) -> bool:
        """Whether a fault was met, and no mail of that scope accepted since."""
        with self._lock:
            return any(before != last for before, last in self._since.values())

    def accepted(self, action: Action) -> None:
        """Take note that a mail of this action was accepted: the machine was sound."""
        now = self._clock()
        with self._lock:
            self._since |= dict.fromkeys(pauses.covering(action), (now, now))

    def is_own(self, action: str, scope: Scope, *, began: float) -> bool:
        """Whether a fault, met in a call that began at that moment, is this machine's own. Raises DBAPIError."""
        name, now = pauses.scope_name(scope, action), self._clock()
        with self._lock:
            known = before, last = self._since.get(name, (self._started, self._started))
        since = last if began >= last else before
        alike, within = self._alike(action, scope), timedelta(seconds=now - since)
        with self._engine.connect() as connection:
            found = acceptances.newest(connection, alike, within)
        with self._lock:  # not before: the next fault looks back to where nobody could look for this one
            if began >= last and self._since.get(name, known) == known:
                self._since[name] = (last, now)
        return found is not None

    def others_are_accepted(self, action: str, scope: Scope, *, queue: str) -> bool:
        """Whether a mail of this queue that would meet the same fault was accepted lately. Raises DBAPIError."""
        alike = self._alike(action, scope)
        with self._engine.connect() as connection:
            return acceptances.newest(connection, alike, queue=queue) is not None

    def is_of_all(self, scope: Scope) -> bool:
        """Whether the mails of all actions would meet a fault of this scope: one that is not an action's own."""
        return scope is not Scope.IDENTITY or all(each.source is None for each in self._known().values())

    def _alike(self, action: str, scope: Scope) -> Sequence[str]:
        """Return the actions whose mails would meet the same fault."""
        if scope is Scope.ACTION:
            return [action]
        return [name for name, one in self._known().items() if scope is not Scope.IDENTITY or one.source is None]
