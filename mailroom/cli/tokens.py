"""`tokens verify` and `tokens sign`: looking at links by hand."""

import sys
from typing import Annotated, Any

import typer
from sqlalchemy import Row

from mailroom import settings
from mailroom import tokens as signing
from mailroom.cli.ids import positive
from mailroom.cli.manual import ending
from mailroom.cli.terminal import say
from mailroom.cli.wiring import open_database
from mailroom.db import functions
from mailroom.errors import MailroomError, SettingsError
from mailroom.job import Action
from mailroom.settings import Settings

STDIN = "-"

app = typer.Typer(help="Sign and verify tokens by hand.\n\nFor debugging the links in mails.", no_args_is_help=True)


# A token may begin with a hyphen, and is no option then.
@app.command(
    epilog=ending("mailroom tokens sign 42 | mailroom tokens verify"),
    context_settings={"ignore_unknown_options": True},
)
def verify(
    token: Annotated[
        str, typer.Argument(metavar="TOKEN", help="The 86 characters from a link. With - it is read from stdin.")
    ] = STDIN,
    code: Annotated[
        str | None, typer.Option(metavar="DIGITS", show_default="none", help="The five digits of a recovery.")
    ] = None,
) -> None:
    """Check the signature of a token.

    With --code it is checked as a recovery, without it as an activation. If MAILROOM_DATABASE_URL is set, the state of
    the token is shown too.

    Exit 1 if it is not valid.
    """
    given = settings.load("secret_key")
    if token == STDIN and sys.stdin is None:
        raise SettingsError("the standard input is closed: there is no token to read")
    text = sys.stdin.buffer.readline().decode(errors="replace").strip() if token == STDIN else token
    action = Action.ACTIVATION if code is None else Action.PASSWORD_RECOVERY
    secret = signing.verify(text, action=action, key=given.secret_key, code=code)
    say(f"signature valid for {action}")
    if given.database_url:
        say(_state(_find(given, secret=secret)))


@app.command(epilog=ending("mailroom tokens sign 42"))
def sign(token: Annotated[int, typer.Argument(metavar="ID", callback=positive, help="The id of the token.")]) -> None:
    """Print a token as its mail has it.

    For a recovery, its code is printed on a second line. Keep both secret: they open the account.
    """
    given = settings.load("database_url", "secret_key")
    row = _find(given, token=token)
    if row is None:
        raise MailroomError(f"there is no token {token}")
    action = Action(row.action)
    say(signing.sign(bytes(row.secret), action=action, key=given.signing_key, code=row.code))
    if action is Action.PASSWORD_RECOVERY:
        say(row.code)


def _find(given: Settings, *, token: int | None = None, secret: bytes | None = None) -> Row[Any] | None:
    with open_database(given) as engine, engine.connect() as connection:
        return functions.call(connection, "token_find", {"by_id": token, "by_secret": secret}).first()


def _state(row: Row[Any] | None) -> str:
    if row is None:
        return "the database has no such token"
    if row.consumed_at is not None:
        state = f"consumed at {row.consumed_at:%Y-%m-%d %H:%M:%S%z}"
    else:
        state = f"{'expired' if row.expired else 'good until'} {row.expires_at:%Y-%m-%d %H:%M:%S%z}"
    return f"token {row.id} of account {row.account}: {state}"
