"""The commands. Nobody imports this."""

import sys

import typer

from mailroom.cli import database, local, pipe, status, tokens, work
from mailroom.errors import MailroomError, SettingsError

app = typer.Typer(
    name="mailroom",
    help="Account mail from PostgreSQL through Amazon SES. Settings are MAILROOM_ variables; options override them.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command()(work.worker)
app.command()(work.sweep)
app.command()(pipe.collect)
app.command()(pipe.send)
app.command("status")(status.show)
app.add_typer(tokens.app, name="tokens")
app.command()(database.migrate)
app.command()(local.simulator)
app.command()(local.demo)


def main() -> None:
    """Run the command line. Exit codes: 0 fine, 1 failed, 2 wrong settings or usage; `sweep` adds 3."""
    try:
        app()
    except SettingsError as error:
        _end(error, 2)
    except MailroomError as error:
        _end(error, 1)


def _end(error: MailroomError, code: int) -> None:
    sys.stderr.write(f"mailroom: {error}\n")
    sys.exit(code)
