"""The connection of an application that consumes a token, and transactions ahead of its own or beside it."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from sqlalchemy import Connection, text
from sqlalchemy.exc import SQLAlchemyError

from mailroom.errors import TokenConflictError, TokenError

_LOWER: Final = text("SET TRANSACTION ISOLATION LEVEL READ COMMITTED")
_ACT: Final = text("SELECT set_config('role', :role, true)")
# SQLSTATEs of what PostgreSQL has undone since others were at work: serialization_failure, deadlock_detected.
_CONFLICTS: Final = {"40001", "40P01"}


@contextmanager
def unstreamed(connection: Connection) -> Iterator[None]:
    """Have no cursor made for each statement, as an engine does that streams its results: a savepoint fits in none."""
    if not connection.get_execution_options().get("stream_results"):
        yield
        return
    connection.execution_options(stream_results=False)
    try:
        yield
    finally:
        connection.execution_options(stream_results=True)


def commits_by_itself(connection: Connection) -> bool:
    """Whether each statement is a transaction."""
    return bool(getattr(connection.connection.dbapi_connection, "autocommit", False))


@contextmanager
def refused(connection: Connection) -> Iterator[None]:
    """Make whatever the database or the way to it raises a TokenError: a connection beside has the driver's errors.

    It is a TokenConflictError where it is worth trying again.
    """
    driver = connection.dialect.loaded_dbapi
    # Before SQLAlchemy 2.1, what asyncpg raises where it cannot connect is its own.
    unwrapped = getattr(driver, "asyncpg", None)
    own = () if unwrapped is None else (unwrapped.PostgresError, unwrapped.InterfaceError)
    try:
        yield
    except (SQLAlchemyError, driver.Error, OSError, *own) as error:
        raise (TokenConflictError if _is_conflict(error) else TokenError) from error


@contextmanager
def ahead(connection: Connection) -> Iterator[Connection | None]:
    """Give the caller's session for a transaction that commits before theirs.

    None: theirs has begun, or each statement commits. Behind PgBouncer a transaction has a connection to the server
    from its first statement on. If each waits for a second one, as `beside` does, all who come that way wait.
    """
    if commits_by_itself(connection) or not _is_idle(connection):
        yield None
        return
    own = Connection(connection.engine, connection.connection)  # not to be closed: it is the caller's
    with own.execution_options(stream_results=False).begin() as transaction:
        try:
            own.execute(_LOWER)  # whatever the session's level is: at others a count may be refused
        except SQLAlchemyError:  # the engine has asked something as it began
            transaction.rollback()
        else:
            yield own
            return
    yield None


def _is_idle(connection: Connection) -> bool:
    """Whether the caller's transaction has not begun at the server, as far as its driver tells."""
    # An engine with a level of its own would take from the caller the one that was asked for besides.
    level = connection.engine.get_execution_options().get("isolation_level")
    if level is not None and level != connection.get_execution_options().get("isolation_level"):
        return False
    driver: Any = connection.connection.driver_connection
    if hasattr(driver, "is_in_transaction"):  # asyncpg
        return not driver.is_in_transaction()
    return getattr(getattr(driver, "info", None), "transaction_status", None) == 0  # of libpq


@contextmanager
def beside(connection: Connection, *, role: str) -> Iterator[Connection]:
    """Give another connection to the same database, with a transaction that commits when that is done with.

    It is none of the pool's: callers who hold one each and wait for a second would wait for each other. `role` is that
    which the caller has become, if any: who logs in may have no rights of its own. It is set for the transaction alone,
    or a pooler might pass it on.
    """
    pool = connection.engine.pool.recreate()
    try:
        with Connection(connection.engine, pool.connect()) as own:
            own.execution_options(isolation_level="READ COMMITTED", stream_results=False)
            with own.begin():
                if role != "none":
                    own.execute(_ACT, {"role": role})
                yield own
    finally:
        pool.dispose()


def _is_conflict(error: BaseException) -> bool:
    """Whether others were in the way, by the SQLSTATE: drivers do not call it alike."""
    raised = getattr(error, "orig", None) or error
    return (getattr(raised, "sqlstate", None) or getattr(raised, "pgcode", None)) in _CONFLICTS
