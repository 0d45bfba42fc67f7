"""Ids and counts on the command line: what a bigint of PostgreSQL holds."""

from collections.abc import Iterable
from typing import Any, Final

import typer

MAX_ID: Final = 2**63 - 1


def positive(value: Any) -> Any:
    """Return what an option or argument was given: a number, a list of them, or None. For typer's `callback`.

    Its `min` and `max` would do, but the help shows them, and 19 digits tell nobody anything.
    """
    for number in value if isinstance(value, Iterable) else [value]:
        if number is not None and not 1 <= number <= MAX_ID:
            raise typer.BadParameter(f"give a whole number from 1 to {MAX_ID}")
    return value
