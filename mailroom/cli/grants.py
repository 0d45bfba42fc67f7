"""`grants`: what the roles of the application, the worker and who only looks may do."""

from collections.abc import Mapping
from typing import Annotated, Final

import typer
from psycopg import errors
from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError

from mailroom import settings
from mailroom.cli.terminal import say
from mailroom.cli.wiring import open_database
from mailroom.errors import SettingsError
from mailroom.ops import grants

MAX_TRIES: Final = 5
ROLE: Final = {"metavar": "ROLE", "show_default": "none"}


def grant(
    *,
    app: Annotated[
        str | None,
        typer.Option(help="Role of the application. It calls functions for accounts, mails and tokens.", **ROLE),
    ] = None,
    worker: Annotated[str | None, typer.Option(help="Role of workers and sweeps, and of operators.", **ROLE)] = None,
    viewer: Annotated[
        str | None, typer.Option(help="Role that runs status and window. It sees no address, secret or code.", **ROLE)
    ] = None,
    apply: Annotated[bool, typer.Option("--apply", help="Run the SQL, and print it.")] = False,
) -> None:
    """Print the SQL for the rights of roles.

    Each ROLE is granted what it needs and no more, in MAILROOM_SCHEMA. Rights that it already has
    are not taken away.

    The roles must exist. MAILROOM_DATABASE_URL must log in as the role that migrated: it owns the tables. Repeat
    this after each migration.
    """
    parts = {"app": app, "worker": worker, "viewer": viewer}
    if not any(parts.values()):
        raise SettingsError("name a role: --app ROLE, --worker ROLE or --viewer ROLE")
    if "public" in parts.values():
        raise SettingsError("public is everybody: grant to a role, and make others its members")
    with open_database(settings.load("database_url")) as engine:
        for statement in _granted(engine, parts, apply=apply):
            say(statement)


def _granted(engine: Engine, parts: Mapping[str, str | None], *, apply: bool) -> list[str]:
    """Return the statements, run if they are to be: anew where somebody else has just granted on the same thing."""
    for left in reversed(range(MAX_TRIES)):
        try:
            with (
                engine.connect().execution_options(isolation_level="READ COMMITTED") as connection,
                connection.begin(),
            ):
                named = ((part, role) for part, role in parts.items() if role)
                granting = [each for part, role in named for each in grants.statements(connection, part, role)]
                if apply:
                    grants.apply(connection, granting)
                return granting
        except DBAPIError as error:
            # "tuple concurrently updated", for which PostgreSQL has no code of its own.
            if not left or not isinstance(error.orig, errors.InternalError_):
                raise
    raise AssertionError("the last try returns or raises")
