"""What people see: tables that are not cut, and no control characters that somebody else has chosen."""

from rich.console import Console
from rich.table import Table


def print_table(table: Table) -> None:
    """Print it whole: a line that is longer than the terminal is better than one that is cut."""
    out = Console(markup=False, emoji=False)  # a queue may have any name
    out.width = max(out.width, out.measure(table, options=out.options.update(width=10_000)).maximum)
    out.print(table)


def printable(words: str) -> str:
    """Show what a terminal would obey, or hide, as its escape: a queue's name and a login come from applications."""
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode("ascii") for letter in words
    )
