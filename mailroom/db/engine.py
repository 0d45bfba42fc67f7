"""Connections and engines for any PostgreSQL URL, and whether a release may work on what it finds."""

import re
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any, Final
from weakref import WeakKeyDictionary

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.pq import TransactionStatus
from sqlalchemy import Engine, ExceptionContext, create_engine, event
from sqlalchemy.exc import DBAPIError, DisconnectionError
from sqlalchemy.pool import ConnectionPoolEntry

from mailroom.db import functions, namespace, refused
from mailroom.db.moments import MomentLoader
from mailroom.errors import DatabaseError, SettingsError

VERSION_TABLE: Final = "mailroom_alembic_version"
# The version of the functions that this code calls. It is raised by a release that calls one that was not there before;
# `sql/contract.sql` says with which versions a database can be worked on.
CONTRACT: Final = 5

URL_FORMS: Final = (
    "a postgresql:// URL or a libpq string such as 'host=… dbname=…', without quotes around it; a password in a URL has"
    " %40 for @, %2F for / and %25 for %, and after the question mark only what libpq knows, not schema= or pgbouncer="
)
NAME: Final = "mailroom"

# A peer that is gone without a word is noticed within half a minute, not after the two hours that TCP allows.
_DEFAULTS: Final[dict[str, Any]] = {
    "connect_timeout": 5,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 20_000,
}

# All that PgBouncer in transaction mode keeps for each client, and so all that may be set for a session: anything else
# would reach other clients of the same server connection. psycopg reads moments in this style alone, `1 day` must not
# be 23 hours, and no string may mean another because of what a role or a database sets. The encoding is asked for when
# connecting (see `connection_string`): before that not even this could be said.
_SESSION: Final = (
    "SELECT pg_catalog.pg_is_in_recovery(), pg_catalog.current_setting('transaction_read_only') = 'on';"
    " SET datestyle TO 'ISO, MDY'; SET timezone TO 'UTC'; SET standard_conforming_strings TO on"
)
# The first statement of a connection, too, is answered in a while or never.
_FIRST_ANSWER_WITHIN: Final = timedelta(seconds=10)
# How long a request to cancel a statement may take, and how long after it the server may take to answer.
CANCEL_WITHIN: Final = timedelta(seconds=2)
# A connection is not kept for ever: what a role may do and has set is as it was when it was made.
_RECYCLE_SECONDS: Final = 1800
# After these another connection may be better, perhaps to another server: it takes no writes (after a failover), shuts
# down, has lost its files, has no room left; and what only this session does not know yet.
_USELESS: Final = ("08", "0A000", "25006", "53", "57P0", "58", "XX")
CANCELLED: Final = "unless somebody cancelled it, statement_timeout is too short for this role"
MOVED: Final = "`mailroom migrate` lets functions find the tables of a schema that was renamed"
UNGRANTED: Final = "`mailroom grants` of the owner gives a role what it needs"
# When all connections of an engine were last to be replaced by new ones.
_renewed_at: "WeakKeyDictionary[Engine, float]" = WeakKeyDictionary()


class OutcomeUnknownError(psycopg.OperationalError):
    """No answer came to a statement, and the connection is closed: nobody knows whether it was executed, or will be."""


class ReadOnlyServerError(psycopg.OperationalError):
    """The server that was reached takes no writes in this session."""


def connection_string(url: str, *, application_name: str = NAME) -> str:
    """Return the libpq string for a `postgresql://`, `postgres://` or `postgresql+psycopg://` URL or a libpq string.

    The server shows `application_name`, unless the URL has one. Raises SettingsError for anything else, and for what
    libpq would read otherwise than it is meant, with a piece of a password as the name of a host; the message never
    repeats the value.
    """
    try:
        given = conninfo_to_dict(re.sub(r"^postgresql\+psycopg://", "postgresql://", url.rstrip("\r\n")))
    except psycopg.Error:
        given = {}
    if not given or _is_misread(url, given):
        raise SettingsError(f"MAILROOM_DATABASE_URL is not {URL_FORMS} (its value is not shown)")
    return make_conninfo(**(_DEFAULTS | {"application_name": application_name} | given | {"client_encoding": "UTF8"}))


def _is_misread(url: str, given: dict[str, Any]) -> bool:
    """Whether a part of it can only be the rest of a password that should have been escaped.

    A host begins with @ where it is an abstract Unix socket.
    """
    is_url = url.startswith(("postgresql://", "postgresql+psycopg://", "postgres://"))
    authority, _, rest = url.partition("?")[0].partition("://")[2].partition("/") if is_url else ("", "", "")
    hosts = f"{given.get('host', '')},{given.get('hostaddr', '')}".split(",")
    ports = str(given.get("port", "")).split(",")
    return (
        authority.count("@") > 1
        or "@" in rest
        or any("@" in host[1:] for host in hosts)
        or not all(port == "" or port.isdecimal() for port in ports)
    )


class BoundedConnection(psycopg.Connection[Any]):
    """A connection that does not wait for ever.

    The keepalives see a peer that is gone. A proxy that is there and passes nothing on looks alive to them, and so does
    a server on which a statement waits for a lock: a sender would hang in it until somebody looks.
    """

    answer_within: timedelta | None = None
    # Called before each wait for the server. SQLAlchemy's own events would cost more than half a statement each time.
    step: Callable[[], object] | None = None
    _cancels = _is_adrift = False

    def note(self, notice: psycopg.errors.Diagnostic) -> None:
        """Take note of a commit that waits for its standby no longer, whoever told it so: only a warning says that."""
        told = self._cancels or notice.source_function == "SyncRepWaitForLSN"
        self._is_adrift |= told and notice.severity_nonlocalized == "WARNING"

    def wait(self, gen: Any, interval: float = 0.1, timeout: float | None = None) -> Any:
        if self.step is not None:
            self.step()
        self._is_adrift = False
        within = None if timeout is not None or self.answer_within is None else self.answer_within.total_seconds()
        answer = self._wait(gen, interval, timeout) if within is None else self._wait_or_end(gen, interval, within)
        if self._is_adrift:
            self.close()
            raise OutcomeUnknownError("the commit is not yet on the standbys that it has to wait for")
        return answer

    def _wait_or_end(self, gen: Any, interval: float, within: float) -> Any:
        try:
            return self._wait(gen, interval, within)
        except psycopg.OperationalError as error:
            if error.sqlstate is not None:
                raise
            if self.pgconn.transaction_status == TransactionStatus.ACTIVE:
                return self._end(gen, interval)
            if self.closed:
                raise OutcomeUnknownError(*error.args) from error
            raise

    def _wait(self, gen: Any, interval: float, timeout: float | None) -> Any:
        """Wait for the server. It takes a file descriptor: a machine that has none left cannot even do that."""
        try:
            return super().wait(gen, interval, timeout)
        except OSError as error:
            self.close()
            raise OutcomeUnknownError(f"this machine cannot wait for an answer: {error.strerror}") from error

    def _end(self, gen: Any, interval: float) -> Any:
        """Cancel a statement, so that it neither holds up the server nor commits later, and return what became of it.

        Whatever the server answers now counts: that it was cancelled, an error, or its result, if it was faster. But a
        commit that was waiting for a standby is only told to wait no longer: it is not what the result says.
        """
        self._cancels = True
        try:
            self.cancel_safe(timeout=CANCEL_WITHIN.total_seconds())
            return self._wait(gen, interval, CANCEL_WITHIN.total_seconds())
        except psycopg.errors.QueryCanceled as error:  # the server says that a user has asked for it
            raise psycopg.errors.QueryCanceled("no answer came in time, so it was cancelled: is it locked?") from error
        except psycopg.Error as error:
            if error.sqlstate is not None:
                raise
            self.close()
            raise OutcomeUnknownError("no answer came in time, nor to a request to cancel") from error
        finally:
            self._cancels = False


def connect(
    conninfo: str,
    *,
    answer_within: timedelta | None = None,
    writes: bool = False,
    step: Callable[[], object] | None = None,
) -> BoundedConnection:
    """Return a connection on which a statement means what it says, whatever a role or a database sets.

    It holds nothing in the session that PgBouncer in transaction mode would pass on to others. Raises psycopg's errors;
    ReadOnlyServerError if it is to write, and the server takes no writes. `step` is called before whatever may hang.
    """
    if step is not None:
        step()
    try:
        connection = BoundedConnection.connect(conninfo, prepare_threshold=None, autocommit=True)
    except OSError as error:  # no file descriptor is left
        raise psycopg.OperationalError(f"this machine cannot connect: {error.strerror}") from error
    connection.add_notice_handler(connection.note)
    connection.add_notice_handler(refused.report)
    connection.adapters.register_loader("timestamptz", MomentLoader)
    connection.answer_within = _FIRST_ANSWER_WITHIN
    try:
        found = connection.execute(_SESSION).fetchone()
        if writes and found is not None and found[1]:
            why = "it is a standby" if found[0] else "default_transaction_read_only is on for it, this database or role"
            raise ReadOnlyServerError(f"this server takes no writes: {why}")
    except psycopg.Error:
        connection.close()
        raise
    connection.answer_within, connection.step = answer_within, step
    return connection


def connect_engine(
    url: str,
    *,
    schema: str = namespace.DEFAULT_SCHEMA,
    pool_size: int = 1,
    isolation_level: str = "AUTOCOMMIT",
    answer_within: timedelta | None = None,
    writes: bool = True,
    step: Callable[[], object] | None = None,
    application_name: str = NAME,
) -> Engine:
    """Return an engine for the mailroom in a schema, each statement a transaction unless another level is asked for.

    Its connections are those of `connect`; parameters stay out of error messages. A statement to which no answer comes
    for `answer_within` is cancelled: it fails, or OutcomeUnknownError is raised (as `orig` of an OperationalError) if
    not even that is answered. A server that takes no writes, or says that it is of no use, is left: the next statement
    makes a new connection. Unless it `writes`, it reads on a standby too. `step` is called before whatever may hang.
    """
    conninfo = connection_string(url, application_name=application_name)
    engine = create_engine(
        "postgresql+psycopg://",
        creator=lambda: connect(conninfo, answer_within=answer_within, writes=writes, step=step),
        isolation_level=isolation_level,
        execution_options=namespace.options(schema),
        hide_parameters=True,
        pool_size=pool_size,
        max_overflow=0,
        pool_recycle=_RECYCLE_SECONDS,
        pool_use_lifo=True,  # a server process that has just worked has the plans and the pages at hand
        use_native_hstore=False,
    )
    event.listen(engine, "handle_error", _leave_if_useless)
    event.listen(engine, "connect", lambda _, record: record.info.update(made_at=time.monotonic(), is_new=True))
    event.listen(engine, "checkout", lambda _, record, __: _leave_if_old(record, _renewed_at.get(engine, 0.0)))
    return engine


def renew_connections(engine: Engine) -> None:
    """Have every connection that there is now replaced by a new one, before it is used again."""
    _renewed_at[engine] = time.monotonic()


def _leave_if_old(record: ConnectionPoolEntry, renewed_at: float) -> None:
    if not record.info.pop("is_new", False) and record.info["made_at"] <= renewed_at:
        raise DisconnectionError  # SQLAlchemy makes another, and no third: what is new is used, whoever asks meanwhile


def _leave_if_useless(context: ExceptionContext) -> None:
    """Give up the whole pool where another connection may be better: they all lead to the same server."""
    sqlstate = getattr(context.original_exception, "sqlstate", None)
    if context.connection is not None and sqlstate is not None and sqlstate.startswith(_USELESS):
        context.is_disconnect = True


def check_contract(engine: Engine) -> None:
    """Raise DatabaseError, with the remedy, unless the database answers and this release may work on it."""
    try:
        with engine.connect() as connection:
            found = functions.call(connection, "contract").one()
    except DBAPIError as error:
        if isinstance(error.orig, psycopg.errors.UndefinedFunction | psycopg.errors.InvalidSchemaName):
            where = namespace.quoted(namespace.schema_of(engine))
            raise DatabaseError(
                f"the database is not migrated, or functions of mailroom are missing in its schema {where}:"
                " run `mailroom migrate`, or name the schema where they are in MAILROOM_SCHEMA"
            ) from error
        raise unusable(error) from error
    if found.newest < CONTRACT:
        raise DatabaseError("the database is of an older release of mailroom: run `mailroom migrate` of this one")
    if found.oldest > CONTRACT:
        raise DatabaseError("the database was migrated for newer releases of mailroom: install one of those here")


def unusable(error: DBAPIError) -> DatabaseError:
    """Return what is said of a database that does not even answer the first questions."""
    state = getattr(getattr(error.orig, "diag", None), "sqlstate", None)  # if it is the server that says so
    hint = {"57014": f": {CANCELLED}", "42501": f": {UNGRANTED}", "42P01": f": {MOVED}"}.get(state or "", "")
    return DatabaseError(f"the database cannot be used: {first_line(error)}{hint}")


def first_line(error: DBAPIError) -> str:
    """Return what the server or the network said, on one line."""
    return " ".join(str(error.orig).split("\n")[0].split())


def is_retryable(error: BaseException) -> bool:
    """Whether a settlement that failed may succeed later: always, unless its own values are at fault.

    The server is away or failing over, a partition is missing, a right was revoked, an index is corrupt: somebody will
    fix it, and what SES has answered must not be thrown away until then.
    """
    return isinstance(error, DBAPIError) and not isinstance(error.orig, psycopg.DataError)
