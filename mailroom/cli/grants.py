"""`grants`: what the roles of the application, the worker and who only looks may do."""

from typing import Annotated, Final

import typer

from mailroom import settings
from mailroom.cli.terminal import say
from mailroom.cli.wiring import open_database
from mailroom.errors import SettingsError
from mailroom.ops import grants

ROLE: Final = {"metavar": "ROLE", "show_default": False}


def grant(
    *,
    app: Annotated[str | None, typer.Option(help="Inserts accounts, asks for tokens, consumes them.", **ROLE)] = None,
    worker: Annotated[str | None, typer.Option(help="Runs worker, sweep and the operator's commands.", **ROLE)] = None,
    viewer: Annotated[str | None, typer.Option(help="Runs status: no address, secret or code.", **ROLE)] = None,
    apply: Annotated[bool, typer.Option("--apply", help="Grant it, instead of printing the SQL.")] = False,
) -> None:
    """Print the SQL that grants each ROLE what it needs and no more, in the schema of MAILROOM_DATABASE_URL; or run it.

    The roles must exist; MAILROOM_DATABASE_URL is the owner's, who migrated. Repeat it after each migration. Nothing is
    taken away that a role has had before.
    """
    parts = {"app": app, "worker": worker, "viewer": viewer}
    if not any(parts.values()):
        raise SettingsError("name a role: --app ROLE, --worker ROLE or --viewer ROLE")
    if "public" in parts.values():
        raise SettingsError("public is everybody: grant to a role, and make whom you want a member of it")
    with (
        open_database(settings.load("database_url")) as engine,
        engine.connect().execution_options(isolation_level="READ COMMITTED") as connection,
        connection.begin(),
    ):
        granting = [each for part, role in parts.items() if role for each in grants.statements(connection, part, role)]
        if apply:
            grants.apply(connection, granting)
    for statement in granting:
        say(statement)
