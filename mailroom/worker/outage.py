"""Whether the database does what is asked of it: said once when it does not, and once when all of that works again."""

import logging
import threading
from collections.abc import Hashable

from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError

from mailroom.db.engine import first_line, renew_connections
from mailroom.db.preflight import UnsafeSessionError
from mailroom.worker.vitals import LOOK, Vitals

log = logging.getLogger(__name__)


class Outage:
    """Knows of each step whether it fails: a read-only server answers a look, and no claim. Safe between threads."""

    def __init__(self, engine: Engine, vitals: Vitals) -> None:
        self._engine = engine
        self._vitals = vitals
        self._lock = threading.Lock()
        self._failing: set[Hashable] = set()
        self._unsafe = False

    def fails(self, what: Hashable, error: DBAPIError) -> None:
        """Take note that this failed.

        Leave the connections there are for new ones where one failure follows another, whatever it is called: a role's
        settings or rights may have been fixed since they were made, or the name led to another server then.
        """
        if what != LOOK:
            self._vitals.refused()
        unsafe = isinstance(error.orig, UnsafeSessionError)  # what began as another error, and a person has to mend
        with self._lock:
            if not self._failing or (unsafe and not self._unsafe):
                log.warning("database error, trying until it is gone: %s", first_line(error))
            self._unsafe |= unsafe
            again = what in self._failing
            self._failing.add(what)
        if again:
            renew_connections(self._engine)

    def works(self, what: Hashable) -> None:
        """Take note that this works."""
        if what != LOOK:
            self._vitals.served()
        with self._lock:
            if what not in self._failing:
                return
            self._failing.remove(what)
            if not self._failing:
                self._unsafe = False
                log.info("database back")

    @property
    def failing(self) -> set[Hashable]:
        """What fails."""
        with self._lock:
            return set(self._failing)
