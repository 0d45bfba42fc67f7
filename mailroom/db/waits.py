"""Says for whom a session waits: what outlasts a moment, and holds up nobody, is waited for, but not in silence."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import psycopg
from sqlalchemy import Connection, Row, text
from sqlalchemy.exc import SQLAlchemyError

# How often it is looked, and so about how long is waited in silence.
EVERY_SECONDS: Final = 2.0

# What has a time-out of its own, and is tried again, ends sooner. Whose times are hidden from this role is named all
# the same. A prepared transaction has no session, and pid 0.
_WAITS_FOR: Final = """
SELECT DISTINCT of.pid, coalesce(nullif(application_name, ''), 'unknown') AS application,
       CAST(extract(epoch FROM clock_timestamp() - xact_start) AS integer) AS seconds
  FROM pg_locks AS wanted
 CROSS JOIN LATERAL unnest(pg_blocking_pids(wanted.pid)) AS of (pid)
  LEFT JOIN pg_stat_activity ON pg_stat_activity.pid = of.pid
 WHERE wanted.pid = :pid AND NOT wanted.granted AND wanted.waitstart < clock_timestamp() - interval '1 second'
 ORDER BY pid
"""


@contextmanager
def told(connection: Connection, say: Callable[[str], object]) -> Iterator[None]:
    """Say for whom this connection waits, meanwhile: one line for each whom it waits for.

    It asks on a connection of its own, which it makes when something takes long. Behind PgBouncer nothing can be told.
    """
    driver: Any = connection.connection.driver_connection
    ended = threading.Event()
    watching = threading.Thread(target=_watch, args=(connection, driver.info.backend_pid, say, ended), daemon=True)
    watching.start()
    try:
        yield
    finally:
        ended.set()
        watching.join(EVERY_SECONDS)  # or it hangs, as its server does


def _watch(waiting: Connection, pid: int, say: Callable[[str], object], ended: threading.Event) -> None:
    if ended.wait(EVERY_SECONDS):
        return
    pool, named = waiting.engine.pool.recreate(), set[int]()
    try:
        with Connection(waiting.engine, pool.connect()) as own:
            own.execution_options(isolation_level="AUTOCOMMIT")
            while True:
                for other in own.execute(text(_WAITS_FOR), {"pid": pid}):
                    if other.pid not in named:
                        say(f"waiting for {_name(other)}")
                        named.add(other.pid)
                if ended.wait(EVERY_SECONDS):
                    return
    except (SQLAlchemyError, psycopg.Error) as error:  # the latter of who gets no connection; all else goes on
        say(f"what is waited for cannot be told: {type(error).__name__}")
    finally:
        pool.dispose()


def _name(other: Row[Any]) -> str:
    if other.pid == 0:
        return "a prepared transaction"
    since = "" if other.seconds is None else f", whose transaction has been open for {other.seconds} s"
    return f"session {other.pid} ({other.application}){since}"
