"""Which database a connection leads to, whatever name and address it has there."""

from typing import Final

from psycopg import errors
from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import DBAPIError

# A standby, and whatever else has the files of the same server, has the same number.
_IDENTITY: Final = text(
    """
    SELECT system_identifier, pg_database.oid
      FROM pg_catalog.pg_control_system()
     CROSS JOIN pg_catalog.pg_database
     WHERE datname = current_database()
    """
)


def identity(connection: Connection) -> tuple[int, int] | None:
    """Return what tells a database from all others, also on a standby; None where this role may not ask."""
    try:
        server, database = connection.execute(_IDENTITY).one()
    except DBAPIError as error:
        if not isinstance(error.orig, errors.InsufficientPrivilege | errors.FeatureNotSupported):
            raise
        return None
    return server, database


class SameDatabase:
    """Whether two engines lead to the same database, as far as their roles may ask.

    It is asked when somebody needs to know, since neither may answer before, and not again once it is known to be so.
    """

    def __init__(self, one: Engine, other: Engine) -> None:
        self._engines = one, other
        self._known = one.pool is other.pool

    def holds(self) -> bool:
        """Raises DBAPIError, and TimeoutError of SQLAlchemy where no connection comes free."""
        if not self._known:
            one, other = map(_of, self._engines)
            self._known = one is None or other is None or one == other
        return self._known


def _of(engine: Engine) -> tuple[int, int] | None:
    with engine.connect() as connection:
        return identity(connection)
