"""How numbers, durations and lanes are said in a sentence."""

import re
from datetime import timedelta
from typing import Final

from mailroom.job import Priority

# How many jobs of each lane are counted at most; and one more, which says that there are others.
CAP: Final = 10_000
_PRIORITIES: Final = {Priority.BULK: "bulk ", Priority.QUARANTINE: "quarantined "}


def span(length: timedelta | float) -> str:
    """Say how long, in two units at most: 6 ms, 0.4 s, 12 s, 3 min, 2 h 10 min, 3 days."""
    seconds = length.total_seconds() if isinstance(length, timedelta) else float(length)
    if seconds < 0.1:
        return f"{max(seconds, 0) * 1000:.0f} ms"
    if seconds < 10:
        return f"{seconds:.1f}".removesuffix(".0") + " s"
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 120:
        return f"{minutes} min"
    hours, rest = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {rest} min" if rest and hours < 10 else f"{round(minutes / 60)} h"
    return f"{round(hours / 24)} days"


def number(count: float) -> str:
    """Write a count with commas: 1,203."""
    return f"{count:,.0f}"


def counted(count: int) -> str:
    """Write a count that ends at the cap: beyond it, that it is more."""
    return f"more than {CAP:,}" if count > CAP else f"{count:,}"


def several(count: int, one: str, many: str | None = None) -> str:
    """Write a count with its noun: 1 mail, 2 mails."""
    return f"{number(count)} {one if count == 1 else many or f'{one}s'}"


def mails(action: str, priority: Priority | None = None, count: int = 2) -> str:
    """Name so many mails of a lane after what they are for: password recovery, bulk activations, magic links."""
    what = action.replace("_", " ")
    return f"{_PRIORITIES.get(priority, '') if priority else ''}{what if count == 1 else plural(what)}"


def plural(noun: str) -> str:
    """Return a noun in English for more than one."""
    if re.search(r"[^aeiou]y$", noun):
        return f"{noun[:-1]}ies"
    return f"{noun}es" if re.search(r"(s|x|z|ch|sh)$", noun) else f"{noun}s"


def begins(sentence: str) -> str:
    """Return it with its first letter in upper case."""
    return sentence[:1].upper() + sentence[1:]
