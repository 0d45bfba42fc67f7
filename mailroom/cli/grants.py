"""`grants`: what the roles of the application, the worker and who only looks may do."""

from collections.abc import Mapping
from typing import Annotated, Final

import typer
from sqlalchemy import Engine
from tenacity import Retrying, retry_if_exception, stop_after_attempt

from mailroom import settings
from mailroom.cli.terminal import say
from mailroom.cli.wiring import open_database
from mailroom.db import functions
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
    for part, role in parts.items():
        if role == "":
            raise SettingsError(f"--{part}: '' is not accepted: name a role")
    if not any(parts.values()):
        raise SettingsError("name a role: --app ROLE, --worker ROLE or --viewer ROLE")
    if "public" in parts.values():
        raise SettingsError("public is everybody: grant to a role, and make others its members")
    again = Retrying(
        retry=retry_if_exception(functions.is_granted_meanwhile), stop=stop_after_attempt(MAX_TRIES), reraise=True
    )
    with open_database(settings.load("database_url")) as engine:
        for statement in again(_granted, engine, parts, apply=apply):
            say(statement)


def _granted(engine: Engine, parts: Mapping[str, str | None], *, apply: bool) -> list[str]:
    """Return the statements, run if they are to be."""
    with (
        engine.connect().execution_options(isolation_level="READ COMMITTED") as connection,
        connection.begin(),
    ):
        named = ((part, role) for part, role in parts.items() if role)
        granting = [each for part, role in named for each in grants.statements(connection, part, role)]
        if apply:
            grants.apply(connection, granting)
    return granting
