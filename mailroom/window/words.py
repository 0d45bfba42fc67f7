"""Numbers, ages and moments in the words of the page: the same on each, and the same as `window.js` has them."""

import re
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final

from markupsafe import Markup, escape

from mailroom.ops import reading, words
from mailroom.ops.words import CAP, number

_UNITS: Final = ((86_400, "d"), (3_600, "h"), (60, "min"), (1, "s"))


def rate(value: float) -> str:
    """Return a number a second, with as many digits as mean something."""
    return f"{value:,.0f}" if value >= 10 or not value else f"{value:.1f}"


def share(value: float, digits: int = 0) -> str:
    """Return a share as a percentage."""
    return f"{value:.{digits}%}".replace("%", "\N{NO-BREAK SPACE}%")


def about(seconds: float) -> str:
    """Return how long ago something was, in one unit."""
    whole = int(seconds)
    for size, unit in _UNITS[:-1]:
        if whole >= 2 * size:
            return f"{whole // size} {unit}"
    return f"{whole} s"


def ago(moment: datetime, now: datetime) -> Markup:
    """Return the age of something, which the page keeps true while it is open."""
    age = reading.age(moment, now)
    shown = Markup('<time data-age datetime="{}" title="{}">{} ago</time>')
    return shown.format(_iso(now - age), _title(moment), about(age.total_seconds()))


def clock(moment: datetime, now: datetime, *, form: str = "%H:%M:%S") -> Markup:
    """Return a moment, in UTC; the page puts it into the zone of who reads. The day is told if it is another one."""
    utc = moment.astimezone(UTC)
    told = f"{utc:{form}}" if utc.date() == now.astimezone(UTC).date() else f"{utc:%Y-%m-%d} {utc:{form}}"
    shown = Markup('<time data-clock="{}" datetime="{}" title="{}">{} UTC</time>')
    return shown.format("minute" if form == "%H:%M" else "second", _iso(moment), _title(moment), told)


def many(count: int) -> str:
    """Return a count where there is little room: what was counted up to the cap is that and more."""
    return f"{CAP:,}+" if count > CAP else number(count)


def begins(prose: str) -> str:
    """Return prose as a sentence begins, unless it begins with what is to be typed."""
    return prose if prose.startswith(("`", "aws ")) else words.begins(prose)


def marked(prose: str) -> Markup:
    """Return prose in which what stands between `backticks` is to be typed."""
    parts = re.split(r"`([^`]+)`", prose)
    typed = Markup("<code>{}</code>")
    return Markup("").join(typed.format(part) if place % 2 else escape(part) for place, part in enumerate(parts))


def listed(words: Sequence[str]) -> str:
    """Return words as a sentence lists them."""
    return " and ".join(filter(None, (", ".join(words[:-1]), *words[-1:])))


def _iso(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _title(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"
