"""`tokens verify` and `tokens sign`: looking at links by hand."""

import contextlib
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
from mailroom.errors import MailroomError, SettingsError, TokenError
from mailroom.job import Action
from mailroom.ops import jobs
from mailroom.queue import lanes
from mailroom.settings import Settings

STDIN = "-"
# Longer than a token with blanks around it; a line may have no end.
MAX_LINE = 4_096
# What else it takes, which consuming it tells.
PROVISO = ", while its account has the address that it had when this was made, and the status that its action needs"

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
        str | None, typer.Option(metavar="DIGITS", show_default="none", help="The five digits, if the mail has a code.")
    ] = None,
    path: Annotated[
        str | None,
        typer.Option(metavar="PATH", show_default="all there are", help="The path of its action, as in /activate."),
    ] = None,
) -> None:
    """Check the signature of a token.

    It is checked for each action of the database: with a code for those that have one, else for those that have none.
    A second line of stdin is the code, as `sign` prints it; it is read if the token alone is not valid. No database is
    needed with --path. If MAILROOM_DATABASE_URL is set, the state of the token is shown too.

    Exit 1 if it is not valid.
    """
    given = settings.load("secret_key")
    if token == STDIN and sys.stdin is None:
        raise SettingsError("the standard input is closed: there is no token to read")
    may_be_followed = token == STDIN and code is None and not sys.stdin.isatty()  # who types ends with the first line
    text = _read_line() if token == STDIN else token
    try:
        secret, signed = _verified(text, path, given, code)
    except TokenError:
        code = _read_line() if may_be_followed else ""  # not before: whoever writes may have no more to say, and wait
        if not code:
            raise
        secret, signed = _verified(text, path, given, code)
    say(f"signature valid for {signed}")
    if given.database_url:
        say(_state(given, secret))


@app.command(epilog=ending("mailroom tokens sign 42"))
def sign(token: Annotated[int, typer.Argument(metavar="ID", callback=positive, help="The id of the token.")]) -> None:
    """Print a token as its mail has it.

    If its action has a code, that is printed on a second line. Keep both secret: they open the account.
    """
    given = settings.load("database_url", "secret_key")
    row = _find(given, token=token)
    if row is None:
        raise MailroomError(f"there is no token {token}")
    with open_database(given, writes=False) as engine, engine.connect() as connection:
        action = lanes.read(connection).actions.get(row.action)
    if action is None:
        raise MailroomError(f"token {token} is of an action that there is no row of: {row.action}")
    code = row.code if action.has_code else None
    say(signing.sign(bytes(row.secret), path=action.path, key=given.signing_key, code=code))
    if code is not None:
        say(code)


def _read_line() -> str:
    return sys.stdin.buffer.readline(MAX_LINE).decode(errors="replace").strip()


def _actions(given: Settings, has_code: bool) -> list[Action]:
    if not given.database_url:
        raise SettingsError("MAILROOM_DATABASE_URL is not set: name the path of the token's action with --path")
    with open_database(given, writes=False) as engine, engine.connect() as connection:
        return [action for action in lanes.read(connection).actions.values() if action.has_code == has_code]


def _verified(token: str, path: str | None, given: Settings, code: str | None) -> tuple[bytes, str]:
    """Return the secret of a token, and the action that it was signed for, or the path if one is given."""
    paths = {each.path: str(each) for each in _actions(given, code is not None)} if path is None else {path: path}
    for each, signed in paths.items():
        with contextlib.suppress(TokenError):
            return signing.verify(token, path=each, key=given.secret_key, code=code), signed
    raise TokenError


def _find(given: Settings, *, token: int | None = None, secret: bytes | None = None) -> Row[Any] | None:
    with open_database(given, writes=False) as engine, engine.connect() as connection:
        return functions.call(connection, "token_find", {"by_id": token, "by_secret": secret}).first()


def _state(given: Settings, secret: bytes) -> str:
    """Say how a token stands, as far as this role may know: of whose it is it sees neither address nor status."""
    row = _find(given, secret=secret)
    if row is None:
        return "the database has no such token"
    if row.consumed_at is not None:
        state = f"consumed at {row.consumed_at:%Y-%m-%d %H:%M:%S%z}"
    elif row.expired:
        state = f"expired {row.expires_at:%Y-%m-%d %H:%M:%S%z}"
    elif _is_outdone(given, row):
        state = "good no more: a newer one of its action was used"
    else:
        state = f"good until {row.expires_at:%Y-%m-%d %H:%M:%S%z}{PROVISO}"
    return f"token {row.id} of account {row.account}: {state}"


def _is_outdone(given: Settings, row: Row[Any]) -> bool:
    with open_database(given, writes=False) as engine, engine.connect() as connection:
        known = jobs.find_token(connection, row.id)
        return known is not None and jobs.has_newer(connection, known, row.action, used=True)
