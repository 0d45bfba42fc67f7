"""`pause` and `resume`: stopping mails by hand, for the whole fleet."""

import re
from typing import Annotated, Final

import typer
from sqlalchemy import Connection

from mailroom import settings
from mailroom.cli.terminal import say
from mailroom.cli.wiring import open_database
from mailroom.errors import MailroomError, SettingsError
from mailroom.fleet import pauses
from mailroom.queue import lanes

# As MAILROOM_QUEUE_NAME is checked.
MAX_QUEUE: Final = 63
SCOPES: Final = f"{', '.join(pauses.SHARED)}, the name of an action, priority:0 to priority:2, or queue:NAME"
Scope = Annotated[str, typer.Argument(metavar="SCOPE", help=f"One of: {SCOPES}.", show_default=False)]


def pause(
    scope: Scope,
    *,
    reason: Annotated[str, typer.Option(metavar="TEXT", help="Why. `mailroom status` shows it.")] = "by hand",
) -> None:
    """Stop the mails of a scope.

    No worker or sweep claims them until `mailroom resume`. Calls in flight finish.

    mailroom also pauses a scope by itself, when SES refuses its mails or too many bounce, and resumes it by itself. A
    scope that you pause stays paused until you resume it, even if mailroom had paused it before.

    priority:0 are urgent mails, priority:1 normal ones, and priority:2 bulk.
    """
    if len(reason) > pauses.MAX_REASON:
        raise SettingsError(f"--reason: give at most {pauses.MAX_REASON} characters: every page and status shows it")
    with open_database(settings.load("database_url")) as engine, engine.connect() as connection:
        _check(connection, scope)
        if len(scope) > len(pauses.queue_scope("")) + MAX_QUEUE:
            raise SettingsError(f"no queue has such a name: it has at most {MAX_QUEUE} characters")
        pauses.open_pause(connection, scope, code=pauses.BY_HAND, reason=reason, probed=False)
    say(f"paused {scope}")


def resume(scope: Scope) -> None:
    """End a pause.

    It ends a pause that a person made, and one that mailroom made by itself. If the cause is still there, the next mail
    that meets it pauses the scope again. A pause of a priority begins again only for mails that are sent after this.

    Exit 1 if SCOPE is not paused.
    """
    with open_database(settings.load("database_url")) as engine, engine.connect() as connection:
        if not pauses.close_pause(connection, scope, by_hand=True):  # also of a scope that there is no more
            _check(connection, scope)
            raise MailroomError(f"{scope} is not paused")
    say(f"resumed {scope}")


def _check(connection: Connection, scope: str) -> None:
    if not (_is_known(scope) or scope in lanes.read(connection).actions):
        raise SettingsError(f"{scope!r} is not a scope: give {SCOPES}")


def _is_known(scope: str) -> bool:
    """Whether it is a scope, whatever actions there are."""
    queue = pauses.queue_scope("")
    others = (*pauses.SHARED, *(lanes.priority_scope(each) for each in lanes.PAUSABLE))
    return scope in others or (scope.startswith(queue) and re.fullmatch(r"\S+", scope.removeprefix(queue)) is not None)
