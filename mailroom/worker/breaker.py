"""The circuit breaker of a process: it holds the senders back while the account, not a mail, is at fault."""

import logging
import threading
from datetime import timedelta
from typing import Final

log = logging.getLogger(__name__)

FIRST_WAIT: Final = timedelta(seconds=1)
MAX_WAIT: Final = timedelta(seconds=30)


class Breaker:
    """Closed at first. A fault opens it; while it is open one sender at a time may try, less and less often.

    `now` is in monotonic seconds. It says why once when it opens, and once when it is over. The faults of calls that
    were in flight when it opened tell nothing new, and do not make it longer.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._faults = 0
        self._until = 0.0
        self._trying = False

    def wait_to_try(self, now: float) -> timedelta:
        """Ask to try; return how long a sender has to wait first. Zero lets it try, and the others wait meanwhile."""
        with self._lock:
            if self._faults == 0:
                return timedelta(0)
            if now < self._until:
                return timedelta(seconds=self._until - now)
            self._until = now + self._length().total_seconds()
            self._trying = True
            return timedelta(0)

    def nothing_to_try(self) -> None:
        """Take note that no call came of it: the next who has something to try with need not wait."""
        with self._lock:
            if self._trying:
                self._trying = False
                self._until = 0.0

    def trip(self, code: str, reason: str, *, now: float, jitter: float) -> None:
        """Note that the account is at fault; `jitter` in 0..1 takes up to half of the wait off."""
        with self._lock:
            if self._faults == 0:
                log.warning("backing off code=%s reason=%r", code, reason)
            elif not self._trying and now < self._until:
                return
            self._trying = False
            self._faults += 1
            self._until = now + self._length().total_seconds() * (1 - jitter / 2)

    def reset(self) -> None:
        """Note that the account is fine."""
        with self._lock:
            if self._faults > 0:
                log.info("resumed faults=%d", self._faults)
            self._faults = 0

    @property
    def is_open(self) -> bool:
        """Whether the last thing known is a fault."""
        return self._faults > 0

    def _length(self) -> timedelta:
        return min(FIRST_WAIT * 2.0 ** min(self._faults - 1, 16), MAX_WAIT)
