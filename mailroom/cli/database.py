"""`migrate` and `prune`: the schema, also where there is no checkout, and how much history is in it."""

import logging
from pathlib import Path
from typing import Annotated, Final

import typer
from psycopg.errors import DependentObjectsStillExist, InsufficientPrivilege, QueryCanceled
from sqlalchemy.exc import DBAPIError

import mailroom
from mailroom import settings
from mailroom.cli.log import start_log
from mailroom.cli.manual import setting
from mailroom.cli.terminal import say
from mailroom.cli.wiring import open_database, progress
from mailroom.db.engine import CANCELLED, connect_engine, first_line
from mailroom.db.namespace import DEFAULT_SCHEMA, quoted
from mailroom.errors import DatabaseError
from mailroom.ops.maintenance import prune_all

UNOWNED: Final = (
    "migrate as the owner of schema {schema}; before the first time, CREATE SCHEMA {schema} AUTHORIZATION …, or have"
    " CREATE on the database"
)


def migrate() -> None:
    """Bring the schema to this version.

    It is MAILROOM_SCHEMA in the database of MAILROOM_DATABASE_URL, and is made if it is missing. `alembic upgrade head`
    does the same in a checkout.
    """
    start_log()
    given = settings.load("database_url")
    revision = upgrade(given.database_url, given.schema_name)
    typer.echo(f"the database is at revision {revision}")


def prune(
    *,
    older_than: Annotated[
        str | None, setting("prune_after", "DAYS", words="Delete mails that finished longer ago than this, as in 90d.")
    ] = None,
) -> None:
    """Delete old deliveries and their tokens.

    Once a token has been finished for DAYS, it and its deliveries are deleted. This cannot be undone.

    It deletes a few thousand rows at a time, and commits each time. It may run at any moment, and may be stopped at any
    moment.
    """
    given = settings.load("database_url", "prune_after", prune_after=older_than)
    assert given.prune_after is not None  # noqa: S101 - it is required
    deliveries = tokens = 0
    ended = False
    try:
        with open_database(given) as engine, progress() as tell:
            for step in prune_all(engine, older_than=given.prune_after):
                deliveries, tokens = deliveries + step.deliveries, tokens + step.tokens
                tell(f"deleted {deliveries:,} deliveries and {tokens:,} tokens")
        ended = True
    finally:
        if ended or deliveries:  # also what was deleted before something came in the way, or somebody stopped it
            say(f"deleted {deliveries:,} deliveries and {tokens:,} tokens")


def upgrade(url: str, schema: str = DEFAULT_SCHEMA) -> str | None:
    """Run the migrations that come with the package, and return the revision that they lead to.

    Raises DatabaseError if that cannot be done.
    """
    # Which it has, as it says once it is imported, is no news.
    logging.getLogger("alembic.runtime.plugins").setLevel(logging.WARNING)
    from alembic import command  # noqa: PLC0415 - 8 MB: only who migrates pays
    from alembic.config import Config  # noqa: PLC0415
    from alembic.script import ScriptDirectory  # noqa: PLC0415
    from alembic.util import CommandError  # noqa: PLC0415

    config = Config()
    config.set_main_option("script_location", str(_scripts()).replace("%", "%%"))
    engine = connect_engine(url, schema=schema, isolation_level="READ COMMITTED")
    try:
        with engine.connect() as connection:
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
    except DBAPIError as error:
        raise unmigrated(error, schema) from error
    except CommandError as error:
        raise DatabaseError(f"the database cannot be migrated: {error}") from error
    finally:
        engine.dispose()
    return ScriptDirectory.from_config(config).get_current_head()


def unmigrated(error: DBAPIError, schema: str) -> DatabaseError:
    """Return what is said of a database that refuses a step of a migration of that schema."""
    match error.orig:
        case QueryCanceled():
            hint = f": {CANCELLED}"
        case InsufficientPrivilege():
            hint = f": {UNOWNED.format(schema=quoted(schema))}"
        case DependentObjectsStillExist() as kept:
            hint = f": {' '.join((kept.diag.message_detail or '').split())}"
        case _:
            hint = ""
    return DatabaseError(f"the database cannot be migrated: {first_line(error)}{hint}")


def _scripts() -> Path:
    """The migrations: inside the package where it was installed from a wheel, beside it in a checkout."""
    package = Path(mailroom.__file__).parent
    installed = package / "alembic"
    return installed if installed.exists() else package.parent / "alembic"
