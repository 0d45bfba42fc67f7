"""Statements that end in time: what somebody looks at is not worth more."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Final

from sqlalchemy import Connection, event

from mailroom.db.engine import BoundedConnection

# For what a person looks at.
ANSWER_WITHIN: Final = timedelta(seconds=2)
# For a statement on one row, or by a key: it takes milliseconds, unless it waits for somebody.
SOON: Final = timedelta(seconds=1)
_LEAST: Final = timedelta(milliseconds=1)


@contextmanager
def bounded(connection: Connection, within: timedelta = ANSWER_WITHIN, *, together: bool = False) -> Iterator[None]:
    """Have each statement cancelled that takes longer: it raises DBAPIError, of QueryCanceled, as by statement_timeout.

    `together`: all of them together may take no longer. It works through any pooler, and needs no transaction; but only
    on connections of `connect_engine`. On any other it does nothing.
    """
    driver = connection.connection.driver_connection
    if not isinstance(driver, BoundedConnection):
        yield
        return
    usual, ends = driver.answer_within, time.monotonic() + within.total_seconds()

    def bound(*_: object) -> None:
        left = max(timedelta(seconds=ends - time.monotonic()), _LEAST) if together else within
        driver.answer_within = left if usual is None else min(left, usual)

    bound()
    event.listen(connection, "before_cursor_execute", bound)
    try:
        yield
    finally:
        event.remove(connection, "before_cursor_execute", bound)
        driver.answer_within = usual
