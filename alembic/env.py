"""Run the migrations on the database of MAILROOM_DATABASE_URL, in the schema that its search_path names first."""

import sys
from typing import NoReturn

from alembic import context
from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

from mailroom import database, settings
from mailroom.errors import DatabaseError, MailroomError, SettingsError


def pin_search_path(connection: Connection) -> None:
    """Leave the current schema alone on the search_path, so that functions can pin it with SET … FROM CURRENT."""
    schema = connection.scalar(text("SELECT current_schema()"))
    if schema is None:
        raise DatabaseError("the search_path of this connection names no schema that exists; create one first")
    connection.execute(
        text("SELECT set_config('search_path', quote_ident(:schema) || ', pg_temp', true)"), {"schema": schema}
    )


def run(connection: Connection) -> None:
    """Migrate in one transaction: a failure half-way leaves the database as it was."""
    context.configure(connection=connection, version_table=database.VERSION_TABLE)
    with context.begin_transaction():
        # Two deploys at once: the second waits here, and then finds nothing left to do.
        connection.execute(text("SELECT pg_advisory_xact_lock(hashtext('mailroom migrate'))"))
        pin_search_path(connection)
        context.run_migrations()


def main() -> None:
    given: Connection | None = context.config.attributes.get("connection")
    if given is not None:
        run(given)
        return
    try:
        run_from_settings()
    except SettingsError as error:
        end(str(error), 2)
    except MailroomError as error:
        end(str(error), 1)
    except DBAPIError as error:
        end(f"the database cannot be migrated: {database.first_line(error)}", 1)


def run_from_settings() -> None:
    engine = database.connect_engine(settings.load("database_url").database_url, isolation_level="READ COMMITTED")
    with engine.connect() as connection:
        run(connection)
    engine.dispose()


def end(message: str, code: int) -> NoReturn:
    """End as mailroom's own commands do: with one line, not with a traceback."""
    sys.stderr.write(f"mailroom: {message}\n")
    sys.exit(code)


main()
