"""The command line as a whole: the commands, what a signal does to each, and how errors end."""

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Annotated, Any, Final

import typer
from sqlalchemy.exc import DBAPIError

from mailroom import signals
from mailroom.cli.log import last_words
from mailroom.cli.manual import EXIT_CODES, Manual, ending
from mailroom.cli.terminal import discard_output, printable, say
from mailroom.db.engine import first_line
from mailroom.errors import DatabaseError, MailroomError, SettingsError
from mailroom.settings import log_format
from mailroom.worker.telemetry import installed_version

# Typer's own, or that of click, as its version has it.
_USAGE_ERROR: Final[Any] = typer.BadParameter.__base__


class _StoppedError(SystemExit):
    """A signal has asked the process to stop. No handler of errors on the way takes it for one."""


def _say_version(asked: bool) -> None:
    if asked:
        say(f"mailroom {installed_version()}")
        raise typer.Exit


def _options(
    *,
    _version: Annotated[
        bool, typer.Option("--version", callback=_say_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """What every command has."""


SWEEP_EXIT_CODES: Final = "Exit codes: 0 drained, 3 due jobs are left, 1 failed, 2 wrong settings or usage."


@dataclass(frozen=True, slots=True)
class _Command:
    """A command, or a group of them: its name, the module and what it is there, and how its help ends."""

    name: str
    place: str
    example: str
    exit_codes: str = EXIT_CODES


# In the order in which the help has them.
COMMANDS: Final = (
    _Command("worker", "worker.worker", "mailroom worker --concurrency 4"),
    _Command("sweep", "worker.sweep", "mailroom sweep --max-seconds 50", SWEEP_EXIT_CODES),
    _Command("collect", "pipe.collect", "mailroom collect | mailroom send"),
    _Command("send", "pipe.send", "mailroom collect --no-listen | mailroom send"),
    _Command("events", "events.events", "mailroom events --max-seconds 50"),
    _Command("status", "status.show", "mailroom status --json"),
    _Command("window", "window.window", "mailroom window --port 8026"),
    _Command("pause", "pauses.pause", "mailroom pause activation --reason 'new template'"),
    _Command("resume", "pauses.resume", "mailroom resume activation"),
    _Command("doctor", "doctor.doctor", "mailroom doctor"),
    _Command("migrate", "database.migrate", "mailroom migrate"),
    _Command("prune", "database.prune", "mailroom prune --older-than 90d"),
    _Command("grants", "grants.grant", "mailroom grants --app shop --worker mailer --viewer grafana"),
    _Command("simulator", "local.simulator", "mailroom simulator --config-set default --events"),
    _Command("demo", "local.demo", "mailroom demo --accounts 100 --exit"),
    _Command("jobs", "jobs.app", "mailroom jobs list"),
    _Command("actions", "actions.app", "mailroom actions list"),
    _Command("suppressions", "suppressions.app", "mailroom suppressions list"),
    _Command("templates", "templates.app", "mailroom templates list"),
    _Command("tokens", "tokens.app", "mailroom tokens sign 42 | mailroom tokens verify"),
)


def command_line(words: Sequence[str]) -> typer.Typer:
    """Return the command line with the command that its first word names; with all of them where it names none.

    A command is loaded with what it needs, and a worker keeps what is loaded for ever.
    """
    made = typer.Typer(
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
    made.callback()(_options)
    for command in [each for each in COMMANDS if words[:1] == [each.name]] or COMMANDS:
        _add(made, command)
    return made


def _add(made: typer.Typer, command: _Command) -> None:
    module, _, name = command.place.partition(".")
    found = getattr(import_module(f"mailroom.cli.{module}"), name)
    epilog = ending(command.example, exit_codes=command.exit_codes)
    if isinstance(found, typer.Typer):
        made.add_typer(found, name=command.name, epilog=epilog)
    else:
        made.command(command.name, epilog=epilog)(found)


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
        return int(command_line(sys.argv[1:])(standalone_mode=False) or 0)
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
