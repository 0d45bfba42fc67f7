"""`pause` and `resume`: stopping mails by hand, for the whole fleet."""

from typing import Annotated

import typer

from mailroom import settings
from mailroom.cli.terminal import say
from mailroom.cli.wiring import open_database
from mailroom.errors import MailroomError, SettingsError
from mailroom.fleet import pauses

Scope = Annotated[
    str, typer.Argument(help=f"What to stop: {', '.join(pauses.scopes())}, or queue:NAME.", show_default=False)
]


def pause(
    scope: Scope,
    *,
    reason: Annotated[str, typer.Option(help="Why; status shows it.")] = "by hand",
) -> None:
    """Stop claiming what is in SCOPE, in every worker and sweep, until `mailroom resume`. Calls in flight finish.

    A scope that mailroom itself has paused, and would resume by itself, stays paused from now on.
    """
    _check(scope)
    with open_database(settings.load("database_url")) as engine, engine.connect() as connection:
        pauses.open_pause(connection, scope, code=pauses.BY_HAND, reason=reason, probed=False)
    say(f"paused {scope}")


def resume(scope: Scope) -> None:
    """End a pause, whoever made it. Exit 1 if SCOPE is not paused.

    If what paused it is still wrong, the next mail that meets it pauses it again.
    """
    _check(scope)
    with open_database(settings.load("database_url")) as engine, engine.connect() as connection:
        if not pauses.close_pause(connection, scope, by_hand=True):
            raise MailroomError(f"{scope} is not paused")
    say(f"resumed {scope}")


def _check(scope: str) -> None:
    if scope not in pauses.scopes() and not (scope.startswith("queue:") and scope.removeprefix("queue:")):
        raise SettingsError(f"{scope!r} is no scope: {', '.join(pauses.scopes())}, or queue:NAME")
