"""Whether it is this process's turn to probe a pause that is due: others come first while it may be at fault itself."""

import threading
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Final

# How long a probe is left to others. None of them may be there.
LEFT_TO_OTHERS: Final = timedelta(seconds=1)


class ProbeTurn:
    """Written by who looks, and taken by one sender. Safe to share between threads."""

    def __init__(self, may_be_at_fault: Callable[[], bool], clock: Callable[[], float] = time.monotonic) -> None:
        """`clock` tells monotonic seconds."""
        self._may_be_at_fault = may_be_at_fault
        self._clock = clock
        self._due = threading.Event()
        self._since: float | None = None

    def see(self, probeable: int) -> int:
        """Take note of how many probes are due; return how many of them this process may make now."""
        if not probeable:
            self._since = None
            return 0
        if self._since is None:
            self._since = self._clock()
        if self.rest:
            return 0
        self._due.set()
        return probeable

    @property
    def rest(self) -> timedelta | None:
        """For how long a probe that is due is still left to others; None: there is none, or it is not."""
        since = self._since
        if since is None or not self._may_be_at_fault():
            return None
        left = timedelta(seconds=since - self._clock()) + LEFT_TO_OTHERS
        return left if left > timedelta(0) else None

    def take(self) -> bool:
        """Take the turn, if there is one."""
        taken = self._due.is_set()
        if taken:
            self._due.clear()
            self._since = None
        return taken
