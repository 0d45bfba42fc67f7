"""What people see: tables that are not cut, and no control characters that somebody else has chosen."""

import fcntl
import io
import json
import os
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import typer

from mailroom.errors import MailroomError

if TYPE_CHECKING:
    from rich.table import Table


def say(words: str) -> None:
    """Print a line, whatever its words hold; MailroomError if the output cannot be written."""
    _print(printable(words))


def print_json(value: object, *, default: Callable[[datetime], str] | None = None) -> None:
    """Print it on one line, in ASCII, with all control characters escaped."""
    _print(json.dumps(value, default=default).replace("\x7f", "\\u007f"))


def new_table(*headers: str, title: str | None = None) -> "Table":
    """Return a table without rows."""
    from rich.table import Table  # noqa: PLC0415 - 2 MB, which a worker does without

    return Table(*headers, title=title, title_justify="left")


def print_table(table: "Table") -> None:
    """Print it whole: a line that is longer than the terminal is better than one that is cut."""
    from rich.console import Console  # noqa: PLC0415 - likewise

    out = Console(markup=False, emoji=False)  # a queue may have any name
    out.width = max(out.width, out.measure(table, options=out.options.update(width=10_000)).maximum)
    with out.capture() as printed:
        out.print(table)
    _print(printed.get().removesuffix("\n"))


def printable(words: str) -> str:
    """Show what a terminal would obey, or hide, as its escape: a queue's name and a login come from applications."""
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode("ascii") for letter in words
    )


def in_utc(at: datetime | None) -> str:
    """Return a moment as tables and sentences have it: in UTC, to the second. None is nothing."""
    return "" if at is None else f"{at.astimezone(UTC):%Y-%m-%d %H:%M:%SZ}"


def discard_output() -> None:
    """Forget what the output does not take: it would fail again, noisily, when Python exits."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def is_writable() -> bool:
    """Whether there is an output to write to, as far as can be known before."""
    try:
        mode = fcntl.fcntl(sys.stdout.fileno(), fcntl.F_GETFL)
    except OSError:  # no file: a test's
        return True
    return mode & os.O_ACCMODE != os.O_RDONLY


def write_utf8() -> None:
    """Write mails in UTF-8, whatever the locale: an address may have any letter."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(encoding="utf-8")


def _print(words: str) -> None:
    try:
        typer.echo(words)
    except OSError as error:
        raise MailroomError(f"the output cannot be written: {error.strerror}") from error
