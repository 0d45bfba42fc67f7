"""`pause` and `resume`: stopping mails by hand, for the whole fleet."""

from typing import Annotated, Final

import typer
from sqlalchemy import Connection

from mailroom import settings
from mailroom.cli.terminal import say
from mailroom.cli.wiring import open_database
from mailroom.errors import MailroomError, SettingsError
from mailroom.fleet import pauses
from mailroom.queue import lanes

SCOPES: Final = f"{', '.join(pauses.SHARED)}, the name of an action, or queue:NAME"
Scope = Annotated[str, typer.Argument(metavar="SCOPE", help=f"One of: {SCOPES}.", show_default=False)]


def pause(
    scope: Scope,
    *,
    reason: Annotated[str, typer.Option(metavar="TEXT", help="Why. `mailroom status` shows it.")] = "by hand",
) -> None:
    """Stop the mails of a scope.

    No worker or sweep claims them until `mailroom resume`. Calls in flight finish.

    mailroom also pauses a scope by itself when SES refuses its mails, and resumes it by itself. A scope that you pause
    stays paused until you resume it, even if mailroom had paused it before.
    """
    with open_database(settings.load("database_url")) as engine, engine.connect() as connection:
        _check(connection, scope)
        pauses.open_pause(connection, scope, code=pauses.BY_HAND, reason=reason, probed=False)
    say(f"paused {scope}")


def resume(scope: Scope) -> None:
    """End a pause.

    It ends a pause that a person made, and one that mailroom made by itself. If the cause is still there, the next mail
    that meets it pauses the scope again. Exit 1 if SCOPE is not paused.
    """
    with open_database(settings.load("database_url")) as engine, engine.connect() as connection:
        _check(connection, scope)
        if not pauses.close_pause(connection, scope, by_hand=True):
            raise MailroomError(f"{scope} is not paused")
    say(f"resumed {scope}")


def _check(connection: Connection, scope: str) -> None:
    is_known = scope in lanes.read(connection).actions if pauses.is_action(scope) else scope != pauses.queue_scope("")
    if not is_known:
        raise SettingsError(f"{scope!r} is not a scope: give {SCOPES}")
