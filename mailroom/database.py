"""The engine for any PostgreSQL URL, the statements in `sql/`, and what must hold before work starts."""

import re
from datetime import timedelta
from functools import cache
from importlib.resources import files
from typing import Any, Final

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.pq import TransactionStatus
from sqlalchemy import Engine, TextClause, create_engine, text
from sqlalchemy.exc import DBAPIError

from mailroom.errors import DatabaseError, SettingsError

VERSION_TABLE: Final = "mailroom_alembic_version"
REVISION: Final = "0007"

# A peer that is gone without a word is noticed within half a minute, not after the two hours that TCP allows.
_DEFAULTS: Final[dict[str, Any]] = {
    "application_name": "mailroom",
    "connect_timeout": 5,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 20_000,
}


def connection_string(url: str) -> str:
    """Return the libpq string for a `postgresql://`, `postgres://` or `postgresql+psycopg://` URL or a libpq string.

    Raises SettingsError for anything else; the message never repeats the value, which may hold a password.
    """
    try:
        given = conninfo_to_dict(re.sub(r"^postgresql\+psycopg://", "postgresql://", url))
    except psycopg.Error:
        given = {}
    if not given:
        raise SettingsError(
            "MAILROOM_DATABASE_URL is not a postgresql:// URL or a libpq string such as 'host=… dbname=…'"
            " (its value is not shown)"
        )
    return make_conninfo(**(_DEFAULTS | given))


class BoundedConnection(psycopg.Connection[Any]):
    """A connection that does not wait for ever.

    The keepalives see a peer that is gone. A proxy that is there and passes nothing on looks alive to them, and a
    sender would hang in it until somebody looks.
    """

    answer_within: timedelta | None = None

    def wait(self, gen: Any, interval: float = 0.1, timeout: float | None = None) -> Any:
        if timeout is None and self.answer_within is not None:
            timeout = self.answer_within.total_seconds()
        try:
            return super().wait(gen, interval, timeout)
        except psycopg.OperationalError:
            if self.pgconn.transaction_status == TransactionStatus.ACTIVE:  # the answer may still come: to nobody
                self.close()
            raise


def connect_engine(
    url: str,
    *,
    pool_size: int = 1,
    isolation_level: str = "AUTOCOMMIT",
    answer_within: timedelta | None = None,
) -> Engine:
    """Return an engine on which every statement is a transaction of its own, unless another level is asked for.

    It holds nothing in the session (no prepared statements, no settings), so that PgBouncer may hand each
    transaction to another server connection. Parameters stay out of error messages. A connection on which no answer
    comes for `answer_within` is given up with an OperationalError: nobody knows whether the statement was executed.
    """
    conninfo = connection_string(url)

    def connect() -> psycopg.Connection[Any]:
        connection = BoundedConnection.connect(conninfo, prepare_threshold=None, autocommit=True)
        connection.answer_within = answer_within
        # The application's database may have another; psycopg reads this one alone. PgBouncer keeps it for a client.
        try:
            connection.execute("SET datestyle TO ISO")
        except psycopg.Error:
            connection.close()
            raise
        return connection

    return create_engine(
        "postgresql+psycopg://",
        creator=connect,
        isolation_level=isolation_level,
        hide_parameters=True,
        pool_size=pool_size,
        max_overflow=0,
        use_native_hstore=False,
    )


@cache
def statement(name: str) -> TextClause:
    """Return the statement of `sql/NAME.sql`, ready for bind parameters."""
    return text(files("mailroom").joinpath("sql", f"{name}.sql").read_text(encoding="utf-8"))


def check_revision(engine: Engine) -> None:
    """Raise DatabaseError, with the cure, unless the database answers and is at this version's revision."""
    try:
        with engine.connect() as connection:
            found = connection.scalar(text(f"SELECT version_num FROM {VERSION_TABLE}"))  # noqa: S608 - a constant  # nosec B608
            isolation = connection.scalar(text("SHOW default_transaction_isolation"))
    except DBAPIError as error:
        if isinstance(error.orig, psycopg.errors.UndefinedTable):
            raise DatabaseError("the database is not migrated: run `alembic upgrade head`") from error
        raise DatabaseError(f"the database cannot be used: {first_line(error)}") from error
    if found != REVISION:
        older = found is None or found < REVISION
        cure = "run `alembic upgrade head` with it" if older else "install the version that migrated it"
        raise DatabaseError(f"the database is at revision {found}, this version of mailroom needs {REVISION}: {cure}")
    if isolation != "read committed":
        raise DatabaseError(
            f"transactions of this role are {isolation} by default, and mailroom needs read committed:"
            " ALTER ROLE … SET default_transaction_isolation = 'read committed'"
        )


def first_line(error: DBAPIError) -> str:
    """Return what the server or the network said, on one line."""
    return " ".join(str(error.orig).split("\n")[0].split())


def is_worth_repeating(error: BaseException) -> bool:
    """Whether a settlement that failed may succeed later: always, unless its own values are at fault.

    The server is away or failing over, a partition is missing, a right was revoked, an index is corrupt: somebody will
    mend it, and what SES has answered must not be thrown away until then.
    """
    return isinstance(error, DBAPIError) and not isinstance(error.orig, psycopg.DataError)
