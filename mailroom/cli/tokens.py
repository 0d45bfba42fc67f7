"""`tokens verify` and `tokens sign`: looking at links by hand."""

import sys
from typing import Annotated, Any

import typer
from sqlalchemy import ColumnElement, Row, func, select

from mailroom import settings
from mailroom import tokens as signing
from mailroom.cli.terminal import MAX_ID, say
from mailroom.cli.wiring import open_database
from mailroom.db.schema import tokens as table
from mailroom.errors import MailroomError, SettingsError
from mailroom.job import Action
from mailroom.settings import Settings

STDIN = "-"

app = typer.Typer(help="Check and make the tokens in links, for debugging.", no_args_is_help=True)


# A token may begin with a hyphen, and is no option then.
@app.command(context_settings={"ignore_unknown_options": True})
def verify(
    token: Annotated[str, typer.Argument(help="The 86 characters of a link; - reads them from stdin.")] = STDIN,
    code: Annotated[str | None, typer.Option(help="The five digits, for a recovery.")] = None,
) -> None:
    """Check a token's signature; with a database, say also what has become of it. Exit 1 if it is not valid.

    Without --code it is checked as an activation, with it as a recovery.
    """
    given = settings.load("secret_key")
    if token == STDIN and sys.stdin is None:
        raise SettingsError("the standard input is closed: there is no token to read")
    text = sys.stdin.buffer.readline().decode(errors="replace").strip() if token == STDIN else token
    action = Action.ACTIVATION if code is None else Action.PASSWORD_RECOVERY
    secret = signing.verify(text, action=action, key=given.secret_key, code=code)
    say(f"signature valid for {action}")
    if given.database_url:
        say(_state(_find(given, table.c.secret == secret)))


@app.command()
def sign(token: Annotated[int, typer.Argument(min=1, max=MAX_ID, help="The id of a row of tokens.")]) -> None:
    """Print a token as its mail has it, and for a recovery its code on a second line. Mind them: they open accounts."""
    given = settings.load("database_url", "secret_key")
    row = _find(given, table.c.id == token)
    if row is None:
        raise MailroomError(f"there is no token {token}")
    action = Action(row.action)
    say(signing.sign(bytes(row.secret), action=action, key=given.signing_key, code=row.code))
    if action is Action.PASSWORD_RECOVERY:
        say(row.code)


def _find(given: Settings, condition: ColumnElement[bool]) -> Row[Any] | None:
    with open_database(given) as engine, engine.connect() as connection:
        return connection.execute(
            select(table, (table.c.expires_at <= func.now()).label("expired")).where(condition)
        ).first()


def _state(row: Row[Any] | None) -> str:
    if row is None:
        return "the database has no such token"
    if row.consumed_at is not None:
        state = f"consumed at {row.consumed_at:%Y-%m-%d %H:%M:%S%z}"
    else:
        state = f"{'expired' if row.expired else 'good until'} {row.expires_at:%Y-%m-%d %H:%M:%S%z}"
    return f"token {row.id} of account {row.account}: {state}"
