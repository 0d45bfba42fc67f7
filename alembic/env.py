"""Run the migrations on the database of MAILROOM_DATABASE_URL, in MAILROOM_SCHEMA, which is made if it is missing.

Each is a transaction of its own, and made again from its beginning when it cannot have a lock. What one does outside of
a transaction (`autocommit_block`, for CREATE INDEX CONCURRENTLY) it must therefore be able to do twice, and with the
schema named: only in a transaction is the search_path that schema, whatever else it is.
"""

import re
import sys
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, Final, NoReturn

from alembic import context
from alembic.runtime.migration import MigrationContext, MigrationStep
from psycopg import errors
from sqlalchemy import Connection, event, text
from sqlalchemy.exc import DBAPIError
from tenacity import RetryCallState, Retrying, retry_if_exception, stop_after_delay, wait_exponential, wait_fixed

from mailroom import settings
from mailroom.cli import log
from mailroom.cli.database import unmigrated
from mailroom.db import functions, kept_rows, owners, preflight, removal, schema, waits
from mailroom.db.engine import VERSION_TABLE, connect_engine
from mailroom.db.namespace import quoted, quoted_in_text, schema_of
from mailroom.errors import DatabaseError, MailroomError, SettingsError

# What the migrations are written in, such as functions without quotes around them.
OLDEST: Final = (14,)
# While a migration waits for a lock, everybody who comes after it waits too, sign-ups among them.
LOCK_WITHIN: Final = timedelta(milliseconds=300)
# How long it tries, unless `alembic -x patience_seconds=…` says otherwise, and the longest pause between two tries.
PATIENCE: Final = timedelta(minutes=10)
LONGEST_PAUSE: Final = timedelta(seconds=20)

# Whatever a role or a database sets, a migration makes the same schema, sees all rows or fails, and is not cut off.
PINNED: Final = """
SELECT set_config(name, setting, true)
  FROM (VALUES ('search_path', quote_ident(:schema) || ', pg_temp'), ('lock_timeout', :lock_within),
               ('statement_timeout', '0'), ('transaction_timeout', '0'),
               ('idle_in_transaction_session_timeout', '0'), ('synchronous_commit', 'on'), ('row_security', 'off'),
               ('array_nulls', 'on'), ('transform_null_equals', 'off'), ('intervalstyle', 'postgres'),
               ('xmloption', 'content'), ('check_function_bodies', 'on'), ('default_table_access_method', 'heap'),
               ('plpgsql.extra_errors', 'none'), ('plpgsql.extra_warnings', 'none'))
       AS pinned (name, setting)
 WHERE name LIKE 'plpgsql.%' OR lower(name) IN (SELECT lower(pg_settings.name) FROM pg_settings)
"""
# What the migrations are to make, and whatever has such a name in the schema before they ever ran there.
NAMES: Final = {
    *schema.metadata.tables,
    *(str(index.name) for table in schema.metadata.tables.values() for index in table.indexes),
    *schema.TYPES,
    *functions.names(),
    *functions.views(),
}
STRANGERS: Final = """
SELECT string_agg(DISTINCT name, ', ' ORDER BY name)
  FROM (SELECT relname, relnamespace FROM pg_class
        UNION ALL SELECT typname, typnamespace FROM pg_type
        UNION ALL SELECT proname, pronamespace FROM pg_proc) AS found (name, home)
  JOIN pg_namespace ON pg_namespace.oid = home
 WHERE nspname = :schema AND name = ANY (CAST(:names AS name[]))
   AND NOT EXISTS (SELECT FROM pg_class WHERE relnamespace = home AND relname = :versions)
"""
# As Alembic would make it: what is locked must be there.
VERSIONS: Final = f"""
CREATE TABLE IF NOT EXISTS {{schema}}.{VERSION_TABLE} (
    version_num varchar(32) NOT NULL CONSTRAINT {VERSION_TABLE}_pkc PRIMARY KEY
)
"""
# A mode that is in its own way and in that of no reader. Only who owns the table may take it, or who may change it.
LOCK: Final = f"LOCK TABLE {{schema}}.{VERSION_TABLE} IN SHARE UPDATE EXCLUSIVE MODE"


def pin(connection: Connection) -> None:
    """Pin, as a transaction begins, what its statements rely on, and whose they are. Outside nothing may be set."""
    driver: Any = connection.connection.driver_connection
    if not driver.autocommit:
        given = {
            "schema": schema_of(connection),
            "lock_within": f"{LOCK_WITHIN // timedelta(milliseconds=1)}ms",
        }
        connection.execute(text(PINNED), given)
        owners.act_as_owner(connection)


@contextmanager
def pinned(connection: Connection) -> Iterator[None]:
    """Pin it for every transaction of this connection."""
    event.listen(connection, "begin", pin)
    try:
        yield
    finally:
        event.remove(connection, "begin", pin)


@contextmanager
def alone(connection: Connection) -> Iterator[None]:
    """Hold off other migrations of this schema, on a connection of its own: a migration's transaction ends too soon."""
    pool = connection.engine.pool.recreate()
    try:
        with Connection(connection.engine, pool.connect()) as own, pinned(own):
            own.execution_options(isolation_level="READ COMMITTED")
            waiting = Retrying(
                retry=retry_if_exception(is_in_the_way_at_first),
                wait=wait_fixed(1 - LOCK_WITHIN.total_seconds()),
                stop=stop_after_delay(patience().total_seconds()),
                before_sleep=lambda state: say("waiting for another migration to end") if is_second(state) else None,
                retry_error_callback=lambda state: give_up(state, "another migration is still at work"),
            )
            waiting(lock_versions, own)
            refuse_rowless(own)
            yield
            if is_unused(own):
                trying()(leave, own)
    finally:
        pool.dispose()


def lock_versions(own: Connection) -> None:
    """Lock the table of versions, which is made if it is missing, and the schema too."""
    own.rollback()
    refuse_strangers(own)
    home = quoted_in_text(schema_of(own))
    if not own.scalar(text("SELECT EXISTS (SELECT FROM pg_namespace WHERE nspname = :name)"), {"name": schema_of(own)}):
        own.execute(text(f"CREATE SCHEMA IF NOT EXISTS {home}"))
    own.execute(text(VERSIONS.format(schema=home)))
    own.commit()
    own.execute(text(LOCK.format(schema=home)))


def refuse_encoding(connection: Connection) -> None:
    """Raise DatabaseError where not every name and answer can be stored, before anything is made."""
    there = connection.scalar(text("SELECT getdatabaseencoding()"))
    connection.rollback()
    if there != preflight.ENCODING:
        raise DatabaseError(
            f"mailroom needs a database whose encoding is {preflight.ENCODING}, and this one is in {there}"
        )


def refuse_strangers(own: Connection) -> None:
    """Raise DatabaseError if the application has something in this schema that has a name of ours."""
    found = own.scalar(text(STRANGERS), {"schema": schema_of(own), "names": list(NAMES), "versions": VERSION_TABLE})
    if found is not None:
        raise DatabaseError(
            f"schema {quoted(schema_of(own))} has something of these names that is not mailroom's: {found};"
            " name another schema in MAILROOM_SCHEMA, or move it"
        )


def refuse_rowless(own: Connection) -> None:
    """Raise DatabaseError if tables of ours are there, and no revision is on record: a dump had no rows."""
    names = {"schema": schema_of(own), "names": list(NAMES), "versions": ""}
    if is_unused(own) and own.scalar(text(STRANGERS), names) is not None:
        home = quoted(schema_of(own))
        raise DatabaseError(
            f"schema {home} has tables of mailroom, and no revision in {VERSION_TABLE}: it was"
            f" {kept_rows.WITHOUT_ROWS.format(schema=home)}"
        )
    # A query keeps its snapshot until the next statement, and an index that is built concurrently would wait for that.
    own.execute(text(LOCK.format(schema=quoted_in_text(schema_of(own)))))


def is_unused(own: Connection) -> bool:
    """Whether nothing is migrated."""
    versions = f"{quoted_in_text(schema_of(own))}.{VERSION_TABLE}"
    return not own.scalar(text(f"SELECT EXISTS (SELECT FROM {versions})"))  # noqa: S608 - our own  # nosec B608


def leave(own: Connection) -> None:
    """Take away the table of versions, and the schema if nothing else is in it and it is not everybody's."""
    lock_versions(own)
    if not is_unused(own):
        return
    home = quoted_in_text(schema_of(own))
    own.execute(text(f"DROP TABLE {home}.{VERSION_TABLE}"))
    if schema_of(own) != "public":
        try:
            with own.begin_nested():
                own.execute(text(f"DROP SCHEMA {home}"))
        except DBAPIError as error:
            if not isinstance(error.orig, errors.DependentObjectsStillExist | errors.InsufficientPrivilege):
                raise
    own.commit()


def migrate(connection: Connection) -> None:
    """Take the steps that were asked for, each until it is done; what fails leaves the database at the one before."""
    configure(connection)
    ordered = context.get_context().opts["fn"]
    keep_isolation_level(connection)
    left: list[MigrationStep] | None = None

    def steps(heads: tuple[str, ...], migration: MigrationContext) -> Iterator[MigrationStep]:
        nonlocal left
        if left is None:  # once: `-2` must not be two more when the second of them is tried again
            wanted = list(ordered(heads, migration))
            if wanted and wanted[-1].is_downgrade:  # or what is refused last is refused when the rest is lost
                if wanted[-1].to_revisions:
                    removal.try_steps(connection, migration, wanted)
                else:
                    removal.try_out(connection)
            left = wanted
        while left:
            if left[0].is_downgrade:
                remove_functions(connection)
            yield left[0]
            del left[0]

    def attempt() -> None:
        connection.rollback()
        configure(connection, fn=steps, on_version_apply=keep_functions)
        context.run_migrations()
        connection.commit()  # where there was no step, it has only looked
        with connection.begin():  # a function may have been lost all the same
            keep_functions(ctx=context.get_context(), heads=set(context.get_context().get_current_heads()))

    trying()(attempt)


def keep_isolation_level(connection: Connection) -> None:
    """Ask for it once, where time-outs are pinned. In the transaction in which Alembic asks again, they are not."""
    connection.rollback()
    with connection.begin():
        level = connection.get_isolation_level()
    connection.get_isolation_level = lambda: level  # type: ignore[method-assign]


def trying() -> Retrying:
    """Return what tries again where others hold a lock, each time after a longer pause."""
    return Retrying(
        retry=retry_if_exception(is_in_the_way),
        wait=wait_exponential(multiplier=0.5, max=LONGEST_PAUSE.total_seconds()),
        stop=stop_after_delay(patience().total_seconds()),
        before_sleep=lambda state: say(f"a lock is held by others, trying again in {state.upcoming_sleep:g} s"),
        retry_error_callback=lambda state: give_up(state, "others still hold a lock that is needed"),
    )


def keep_functions(*, ctx: MigrationContext, heads: Collection[str], **_: object) -> None:
    """Install the functions with the revision that they are for, in its transaction.

    On the way up they stay as they are until then: a worker that runs goes on calling them.
    """
    connection = ctx.connection
    assert connection is not None  # noqa: S101 - there is no offline mode
    if set(heads) == set(context.script.get_heads()):
        functions.install(connection)


def remove_functions(connection: Connection) -> None:
    """Take them away before a step down, which may take away what they use, or views show."""
    functions.remove(connection)
    connection.commit()


def configure(connection: Connection, **more: Any) -> None:
    context.configure(
        connection=connection,
        version_table=VERSION_TABLE,
        version_table_schema=schema_of(connection),
        transaction_per_migration=True,
        **more,
    )


def is_in_the_way(error: BaseException) -> bool:
    """Whether it is others who keep something from being done, for now."""
    locked = isinstance(error, DBAPIError) and isinstance(error.orig, errors.LockNotAvailable | errors.DeadlockDetected)
    return locked or functions.is_granted_meanwhile(error)


def is_in_the_way_at_first(error: BaseException) -> bool:
    """The same, and of two who make the first table at once, one finds that of the other, or that it took it away.

    What has a context comes of a function, such as that of an event trigger of the application's.
    """
    made = errors.UniqueViolation | errors.DuplicateTable | errors.DuplicateSchema
    gone = errors.UndefinedTable | errors.InvalidSchemaName
    found = error.orig if isinstance(error, DBAPIError) else None
    return is_in_the_way(error) or (isinstance(found, made | gone) and found.diag.context is None)


def is_second(state: RetryCallState) -> bool:
    return state.attempt_number == 2


def give_up(state: RetryCallState, why: str) -> NoReturn:
    raise DatabaseError(f"gave up after {state.seconds_since_start or 0:.0f} s: {why}; run it again")


def patience() -> timedelta:
    given = context.get_x_argument(as_dictionary=True).get("patience_seconds")
    if given is None:
        return PATIENCE
    if re.fullmatch(r"[0-9]{1,6}", given) is None:
        raise SettingsError(f"patience_seconds: {given!r} is not accepted: a whole number of seconds, at most 999999")
    return timedelta(seconds=int(given))


def run(connection: Connection) -> None:
    if (connection.dialect.server_version_info or OLDEST) < OLDEST:
        there = ".".join(map(str, connection.dialect.server_version_info or ()))
        raise DatabaseError(f"mailroom needs PostgreSQL {OLDEST[0]} or newer, and this server is {there}")
    configure(connection)
    if context.get_context().opts.get("dont_mutate"):  # who only asks waits for nobody
        context.run_migrations()
        return
    refuse_encoding(connection)
    with alone(connection), pinned(connection), waits.told(connection, say):
        migrate(connection)


def main() -> None:
    given: Connection | None = context.config.attributes.get("connection")
    if given is not None:
        run(given)
        return
    if context.is_offline_mode():
        end("migrations look at the database as they go, so there is no script of them: run them without --sql", 2)
    try:
        run_from_settings()
    except SettingsError as error:
        end(str(error), 2)
    except MailroomError as error:
        end(str(error), 1)


def run_from_settings() -> None:
    given = settings.load("database_url")
    engine = connect_engine(given.database_url, schema=given.schema_name, isolation_level="READ COMMITTED")
    try:
        with engine.connect() as connection:
            run(connection)
    except DBAPIError as error:
        raise unmigrated(error, given.schema_name) from error
    finally:
        engine.dispose()


def say(message: str) -> None:
    log.say_on_stderr(f"mailroom: {message}")


def end(message: str, code: int) -> NoReturn:
    """End as mailroom's own commands do: with one line, not with a traceback."""
    say(message)
    sys.exit(code)


main()
