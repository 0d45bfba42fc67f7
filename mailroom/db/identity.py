"""Which database a connection leads to, whatever name and address it has there."""

from typing import Final

from psycopg import errors
from sqlalchemy import Connection, text
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
