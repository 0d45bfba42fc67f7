"""What must hold of a database before mailroom changes anything in it: each fault in words, with its remedy."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import psycopg
from sqlalchemy import Connection, Engine, event, text
from sqlalchemy.exc import DBAPIError

from mailroom.db import functions, kept_rows, schema
from mailroom.db.engine import check_contract, renew_connections, unusable
from mailroom.errors import DatabaseError


class UnsafeSessionError(psycopg.OperationalError):
    """A session in which the guarantee does not hold, though it did when the program began."""


@dataclass(frozen=True, slots=True)
class Fault:
    """What is wrong, and its remedy."""

    message: str
    remedy: str


@dataclass(frozen=True, slots=True)
class _Demand:
    """Which values of a setting are fine, by their names or from a number up (0 is no limit); and what others do."""

    why: str
    values: tuple[str, ...] = ()
    least: int | None = None

    def met_by(self, setting: str) -> bool:
        if self.least is None:
            return setting in self.values
        return float(setting) >= self.least or (self.least > 0 and float(setting) == 0)


# Milliseconds. What is longer than this is for whoever set it to judge: what takes longer fails, and is tried again.
_TOO_SHORT: Final = "hardly a statement would come to its end"
DEMANDS: Final = {
    "synchronous_commit": _Demand(
        "what is on record would be forgotten in a crash, and sent again",
        ("on", "local", "remote_write", "remote_apply"),
    ),
    "default_transaction_read_only": _Demand("nothing can be claimed", ("off",)),
    "default_transaction_isolation": _Demand(
        "claims would fail beside each other", ("read committed", "read uncommitted")
    ),
    "session_replication_role": _Demand("no trigger fires", ("origin", "local")),
    "client_min_messages": _Demand(
        "nobody would hear that a commit is not yet on its standby",
        ("notice", "warning", "log", "info", "debug", "debug1", "debug2", "debug3", "debug4", "debug5"),
    ),
    "array_nulls": _Demand("NULL in a list would be a word", ("on",)),
    "extra_float_digits": _Demand("rates would be read rounded", least=0),
    "restrict_nonsystem_relation_kind": _Demand("no view of mailroom's can be read", ("", "foreign-table")),
    "statement_timeout": _Demand(_TOO_SHORT, least=10),
    "transaction_timeout": _Demand(_TOO_SHORT, least=10),
    "idle_in_transaction_session_timeout": _Demand(_TOO_SHORT, least=10),
    "idle_session_timeout": _Demand("connections would be lost between one mail and the next", least=10_000),
}
ENCODING: Final = "UTF8"
# What comes with the connection, or from a pooler, counts more than what a role carries.
_OUTSIDE: Final = ("client", "session")
_FROM_OUTSIDE: Final = "take it out of PGOPTIONS, of the options in MAILROOM_DATABASE_URL, or of the pooler"


def check(engine: Engine) -> None:
    """Raise DatabaseError, with the remedy, unless the database answers, may be worked on, and keeps what it is told.

    For whatever changes something. From then on each new connection of the engine is refused where it is set otherwise:
    it may be to another server, after a failover, or a role may carry something else than it did.
    """
    check_contract(engine)
    try:
        with engine.connect() as connection:
            found = next(faults(connection), None)
        if found is not None:
            raise DatabaseError(f"{found.message}: {found.remedy}")
        # A pooler that allows no transaction would let mails leave, and refuse what finds those that are lost.
        with engine.connect().execution_options(isolation_level="READ COMMITTED") as connection, connection.begin():
            connection.scalar(text("SELECT 1"))
    except DBAPIError as error:
        raise unusable(error) from error
    event.listen(engine, "connect", lambda connection, _: _refuse_unsafe(connection))


def leave_unsafe(engine: Engine) -> None:
    """Have all connections replaced if what is set in one of them is not what `check` demands any more.

    A server may be told at any moment, and its sessions follow at once. Raises DBAPIError.
    """
    with engine.connect() as connection:
        driver = connection.connection.driver_connection
        unsafe = isinstance(driver, psycopg.Connection) and _unmet(driver) is not None
    if unsafe:
        renew_connections(engine)


def _refuse_unsafe(connection: psycopg.Connection[Any]) -> None:
    try:
        if unmet := _unmet(connection):
            raise UnsafeSessionError(unmet)
    except psycopg.Error:
        connection.close()
        raise


def _unmet(connection: psycopg.Connection[Any]) -> str | None:
    """Return what is wrong with the first setting of a session that is not as it must be."""
    query = "SELECT name, setting FROM pg_catalog.pg_settings WHERE name = ANY (%s) ORDER BY name"
    for name, setting in connection.execute(query, [list(DEMANDS)]):
        if not DEMANDS[name].met_by(setting):
            return f"{name} is {setting}: {DEMANDS[name].why}"
    return None


def faults(connection: Connection) -> Iterator[Fault]:
    """Yield what is wrong with the server, the session as its role and database set it, and the tables."""
    row = functions.call(
        connection, "preflight", {"settings": list(DEMANDS), "relations": list(schema.metadata.tables)}
    )
    found = row.one()
    if found.in_recovery:
        yield Fault("the server is a standby and takes no writes", "name the primary")
    if found.encoding != ENCODING:
        message = f"server_encoding is {found.encoding}: not every name and answer can be stored"
        yield Fault(message, f"a database made with ENCODING '{ENCODING}'")
    for name, setting, source in zip(found.names, found.given, found.sources, strict=True):
        if not DEMANDS[name].met_by(setting):
            good = DEMANDS[name].values[0] if DEMANDS[name].values else "0"
            yield Fault(
                f"{name} is {setting} for this role (set by: {source}): {DEMANDS[name].why}",
                _FROM_OUTSIDE if source in _OUTSIDE else f"ALTER ROLE … IN DATABASE … SET {name} = '{good}'",
            )
    if found.hidden:
        yield Fault(
            f"row-level security hides rows of {', '.join(found.hidden)} from the owner of mailroom's functions",
            "ALTER TABLE … NO FORCE ROW LEVEL SECURITY, or give the owner BYPASSRLS",
        )
    if found.unlogged:
        message = f"{', '.join(found.unlogged)} would be empty after a crash of the server (UNLOGGED)"
        yield Fault(message, "ALTER TABLE … SET LOGGED")
    for message, remedy in kept_rows.astray(connection):
        yield Fault(message, remedy)
