"""Whether the database does what is asked of it: said once when it does not, and once when all of that works again."""

import logging
import threading
from collections.abc import Hashable

from sqlalchemy.exc import DBAPIError

from mailroom.db.engine import first_line

log = logging.getLogger(__name__)


class Outage:
    """Keeps apart what has failed: a server that is read-only answers a look, and no claim. Safe between threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._failing: set[Hashable] = set()

    def fails(self, what: Hashable, error: DBAPIError) -> bool:
        """Take note that this failed; return whether it had failed before, and other connections may be better."""
        with self._lock:
            if not self._failing:
                log.warning("database error, trying until it is gone: %s", first_line(error))
            again = what in self._failing
            self._failing.add(what)
        return again

    def works(self, what: Hashable) -> None:
        """Take note that this works."""
        with self._lock:
            if what not in self._failing:
                return
            self._failing.remove(what)
            if not self._failing:
                log.info("database back")

    @property
    def failing(self) -> set[Hashable]:
        """What fails."""
        with self._lock:
            return set(self._failing)
