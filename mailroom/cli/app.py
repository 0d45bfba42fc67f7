"""The command line as a whole: the commands, what a signal does to each, and how errors end."""

import os
import sys
from collections.abc import Sequence
from typing import Annotated, Any, Final

import typer
from sqlalchemy.exc import DBAPIError

from mailroom import signals
from mailroom.cli import (
    actions,
    database,
    doctor,
    events,
    grants,
    jobs,
    local,
    pauses,
    pipe,
    status,
    suppressions,
    templates,
    tokens,
    window,
    worker,
)
from mailroom.cli.log import last_words
from mailroom.cli.manual import Manual, ending
from mailroom.cli.terminal import discard_output, printable, say
from mailroom.db.engine import first_line
from mailroom.errors import DatabaseError, MailroomError, SettingsError
from mailroom.settings import log_format
from mailroom.worker.telemetry import installed_version

app = typer.Typer(
    name="mailroom",
    cls=Manual,
    help="Send account mail from PostgreSQL through Amazon SES.\n\n"
    "Settings are environment variables. An option overrides its variable.",
    epilog="Durations are whole milliseconds. AWS credentials and endpoints are set as for every AWS tool.\n\n"
    + ending("mailroom demo --exit"),
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # its tables cut off names at 80 columns
)


# Typer's own, or that of click, as its version has it.
_USAGE_ERROR: Final[Any] = typer.BadParameter.__base__


class _StoppedError(SystemExit):
    """A signal has asked the process to stop. No handler of errors on the way takes it for one."""


def _say_version(asked: bool) -> None:
    if asked:
        say(f"mailroom {installed_version()}")
        raise typer.Exit


@app.callback()
def _options(
    *,
    _version: Annotated[
        bool, typer.Option("--version", callback=_say_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """What every command has."""


app.command(epilog=ending("mailroom worker --concurrency 4"))(worker.worker)
app.command(epilog=ending("mailroom sweep --max-seconds 50", exit_codes=worker.SWEEP_EXIT_CODES))(worker.sweep)
app.command(epilog=ending("mailroom collect | mailroom send"))(pipe.collect)
app.command(epilog=ending("mailroom collect --no-listen | mailroom send"))(pipe.send)
app.command(epilog=ending("mailroom events --max-seconds 50"))(events.events)
app.command("status", epilog=ending("mailroom status --json"))(status.show)
app.command(epilog=ending("mailroom window --port 8026"))(window.window)
app.command(epilog=ending("mailroom pause activation --reason 'new template'"))(pauses.pause)
app.command(epilog=ending("mailroom resume activation"))(pauses.resume)
app.command(epilog=ending("mailroom doctor"))(doctor.doctor)
app.add_typer(jobs.app, name="jobs", epilog=ending("mailroom jobs list"))
app.add_typer(actions.app, name="actions", epilog=ending("mailroom actions list"))
app.add_typer(suppressions.app, name="suppressions", epilog=ending("mailroom suppressions list"))
app.add_typer(templates.app, name="templates", epilog=ending("mailroom templates list"))
app.add_typer(tokens.app, name="tokens", epilog=ending("mailroom tokens sign 42 | mailroom tokens verify"))
app.command(epilog=ending("mailroom migrate"))(database.migrate)
app.command(epilog=ending("mailroom prune --older-than 90d"))(database.prune)
app.command("grants", epilog=ending("mailroom grants --app shop --worker mailer --viewer grafana"))(grants.grant)
app.command(epilog=ending("mailroom simulator --config-set default --events"))(local.simulator)
app.command(epilog=ending("mailroom demo --accounts 100 --exit"))(local.demo)


def main() -> None:
    """Run the command line. Exit codes: 0 fine, 1 failed, 2 wrong settings or usage; `sweep` adds 3."""
    try:
        with signals.answered_by(_stop(sys.argv[1:2])):
            code = _run()
    except SettingsError as error:
        _end(error, 2)
    except _StoppedError:
        _end(MailroomError("stopped"), 1)
    except MailroomError as error:
        _end(error, 1)
    except UnicodeEncodeError:
        _end(SettingsError("an argument, a MAILROOM_ variable or the encoding of the output is not UTF-8"), 2)
    except DBAPIError as error:
        _end(DatabaseError(f"the database failed: {first_line(error)}"), 1)
    except OSError as error:
        _end(MailroomError(f"the operating system reports: {error.strerror}"), 1)
    else:
        sys.exit(code)


def _run() -> int:
    """Run the command line and return its exit code. What is wrong with its words typer says, or the log as JSON."""
    try:
        return int(app(standalone_mode=False) or 0)
    except _USAGE_ERROR as error:
        if log_format() == "json":
            raise SettingsError(error.format_message()) from error
        error.show()
        return int(error.exit_code)


def _stop(command: Sequence[str]) -> signals.Answer:
    """What a signal does until the command itself answers; whoever has something under way does that."""
    match command:
        case ["worker" | "sweep" | "collect" | "events" | "simulator" | "window"]:
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
    raise _StoppedError


def _end(error: MailroomError, code: int) -> None:
    discard_output()
    last_words(f"mailroom: {printable(str(error))}")
    sys.exit(code)
