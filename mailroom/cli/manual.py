"""What `--help` says besides the words of a command: settings with their defaults, exit codes, and an example."""

from datetime import timedelta
from typing import Any, Final

import typer
from typer.core import TyperGroup

from mailroom.settings import Settings, variable

EXIT_CODES: Final = "Exit codes: 0 fine, 1 failed, 2 wrong settings or usage."


class Manual(TyperGroup):
    """The group of all commands. Its help lists the settings after them."""

    # Any: the types of these two are click's or typer's own, as typer's version has it.
    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        """Write the settings, and then the epilog."""
        with formatter.section("Settings"):
            formatter.write_dl([(variable(name), _meaning(name)) for name in Settings.model_fields])
        super().format_epilog(ctx, formatter)


def ending(example: str, *, exit_codes: str = EXIT_CODES) -> str:
    """Return how the help of a command ends: with its exit codes, and with a line that can be pasted."""
    return f"{exit_codes}\n\n\b\nExample:\n  $ {example}"  # \b: a paragraph whose lines are kept


def setting(name: str, metavar: str, *, words: str | None = None) -> Any:
    """Return an option that overrides a setting. Its value is text, which the settings check."""
    shown = ", or ".join(filter(None, (variable(name), _default(name))))
    return typer.Option(metavar=metavar, help=words or _sentence(name), show_default=shown)


def _meaning(name: str) -> str:
    default = _default(name)
    return f"{_sentence(name)}  [default: {default}]" if default else _sentence(name)


def _sentence(name: str) -> str:
    words = str(Settings.model_fields[name].description)
    return f"{words[0].upper()}{words[1:]}."


def _default(name: str) -> str | None:
    """Return a default as a person writes it; None where there is none, or where the description tells it."""
    match Settings.model_fields[name].default:
        case None | "" | ():
            return None
        case timedelta() as duration:
            return str(duration // timedelta(milliseconds=1))
        case bool() as default:
            return str(default).lower()
        case default:
            return str(default)
