"""The command line as a whole: the commands, what a signal does to each, and how errors end."""

import os
import sys
from collections.abc import Sequence
from importlib.metadata import version
from typing import Annotated

import typer
from sqlalchemy.exc import DBAPIError

from mailroom import signals
from mailroom.cli import database, doctor, grants, jobs, local, pauses, pipe, status, tokens, worker
from mailroom.cli.log import last_words
from mailroom.cli.terminal import discard_output, printable, say
from mailroom.db.engine import first_line
from mailroom.errors import DatabaseError, MailroomError, SettingsError
from mailroom.settings import PREFIX, Settings

EXIT_CODES = "Exit codes: 0 fine, 1 failed, 2 wrong settings or usage."
VARIABLES = (
    f"{PREFIX}{name.upper()}: {field.description}"
    for name, field in Settings.model_fields.items()
    if field.validation_alias is None
)

app = typer.Typer(
    name="mailroom",
    help="Account mail from PostgreSQL through Amazon SES. Settings are MAILROOM_ variables; options override them.",
    epilog="\n\n".join(
        [
            *VARIABLES,
            "AWS_REGION, credentials and endpoints: as for every AWS tool. Durations are milliseconds.",
            EXIT_CODES,
        ]
    ),
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def _say_version(asked: bool) -> None:
    if asked:
        say(f"mailroom {version('mailroom')}")
        raise typer.Exit


@app.callback()
def _options(
    *,
    _version: Annotated[
        bool, typer.Option("--version", callback=_say_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """What every command has."""


app.command(epilog=EXIT_CODES)(worker.worker)
app.command()(worker.sweep)
app.command(epilog=EXIT_CODES)(pipe.collect)
app.command(epilog=EXIT_CODES)(pipe.send)
app.command("status", epilog=EXIT_CODES)(status.show)
app.command(epilog=EXIT_CODES)(pauses.pause)
app.command(epilog=EXIT_CODES)(pauses.resume)
app.command(epilog=EXIT_CODES)(doctor.doctor)
app.add_typer(jobs.app, name="jobs", epilog=EXIT_CODES)
app.add_typer(tokens.app, name="tokens", epilog=EXIT_CODES)
app.command(epilog=EXIT_CODES)(database.migrate)
app.command(epilog=EXIT_CODES)(database.prune)
app.command("grants", epilog=EXIT_CODES)(grants.grant)
app.command(epilog=EXIT_CODES)(local.simulator)
app.command(epilog=EXIT_CODES)(local.demo)


def main() -> None:
    """Run the command line. Exit codes: 0 fine, 1 failed, 2 wrong settings or usage; `sweep` adds 3."""
    try:
        with signals.answered_by(_stop(sys.argv[1:2])):
            app()
    except SettingsError as error:
        _end(error, 2)
    except MailroomError as error:
        _end(error, 1)
    except UnicodeEncodeError:
        _end(SettingsError("not UTF-8: an argument, a MAILROOM_ variable, or the encoding of the output"), 2)
    except DBAPIError as error:
        _end(DatabaseError(f"the database failed: {first_line(error)}"), 1)
    except OSError as error:
        _end(MailroomError(f"this machine failed: {error.strerror}"), 1)


def _stop(command: Sequence[str]) -> signals.Answer:
    """What a signal does until the command itself answers; whoever has something under way does that."""
    match command:
        case ["worker" | "sweep" | "collect" | "simulator"]:
            return _leave
        case ["send"]:  # what is in the pipe counts as sent
            return lambda: None
        case _:
            return _interrupt


def _leave() -> None:
    """End at once, and well: nothing is claimed yet, or any more."""
    last_words()
    os._exit(0)


def _interrupt() -> None:
    """Give up whatever is under way, a statement of the database too: psycopg cancels it."""
    raise SystemExit("mailroom: stopped")  # said as it ends, with 1


def _end(error: MailroomError, code: int) -> None:
    discard_output()
    last_words(f"mailroom: {printable(str(error))}")
    sys.exit(code)
