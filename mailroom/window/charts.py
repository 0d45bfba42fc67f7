"""What the page draws, as SVG without a script or a style: an hour by minute, and a share of a limit."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from markupsafe import Markup

from mailroom.ops import minutes
from mailroom.ops.minutes import Minute
from mailroom.ops.words import number, span
from mailroom.window import words

MINUTES: Final = 60
WIDTH: Final = 600
HEIGHT: Final = 120
BAR: Final = WIDTH / MINUTES
# The axis of waits: from a millisecond to an hour, with the same height for each factor of ten.
SHORTEST: Final = 0.001
LONGEST: Final = 3_600.0
# What went as it should, what comes again, and what somebody may have to look at; the rest is nobody's fault.
GOOD: Final = ("sent",)
LATER: Final = ("deferred", "late", "taken_back")
BAD: Final = ("unconfirmed", "failed", "rejected")


@dataclass(frozen=True, slots=True)
class Chart:
    """A drawing, what it shows at most, and the same in words for who does not see it."""

    svg: Markup
    top: str
    words: str


def mails(told: Sequence[Minute], *, until: datetime) -> Chart:
    """Draw how many mails a minute had which outcome, in the hour until then."""
    by_minute: dict[datetime, dict[str, int]] = {}
    for each in told:
        counts = by_minute.setdefault(each.at, {})
        counts[each.outcome] = counts.get(each.outcome, 0) + each.mails
    top = max((sum(counts.values()) for counts in by_minute.values()), default=0)
    columns = [_stack(by_minute.get(at, {}), at, place, top) for place, at in enumerate(_hour(until))]
    totals = {name: sum(counts.get(name, 0) for counts in by_minute.values()) for name in _names(by_minute)}
    shown = words.listed([f"{number(count)} {_plain(name)}" for name, count in totals.items() if count])
    said = f"In the last hour: {shown or 'nothing'}; at most {number(top)} mails in a minute."
    return Chart(_svg(columns, said), number(top), said)


def waits(told: Sequence[Minute], *, until: datetime, limit: float) -> Chart:
    """Draw how long 99 of 100 mails waited at most, minute by minute; what is longer than the limit stands out."""
    by_minute: dict[datetime, list[int]] = {}
    for each in told:
        found = by_minute.setdefault(each.at, [0] * len(each.waits))
        by_minute[each.at] = [one + other for one, other in zip(found, each.waits, strict=True)]
    longest = {at: minutes.quantile(found, 0.99) for at, found in by_minute.items()}
    columns = [_wait(longest.get(at), at, place, limit) for place, at in enumerate(_hour(until))]
    worst = max((found for found in longest.values() if found is not None), default=None)
    worst = None if worst is None else min(worst, minutes.WAIT_BOUNDS[-1])
    shown = "no such mail in the last hour" if worst is None else f"at most {span(worst)} in the last hour"
    level = _height(limit)
    line = Markup('<path class="limit" d="M0 {0:.1f}H{1}"/>').format(HEIGHT - level, WIDTH)
    return Chart(_svg([line, *columns], shown), "-" if worst is None else span(worst), shown)


def gauge(part: float, marks: Sequence[float] = (), *, trouble: bool = False) -> Markup:
    """Draw a share of a whole, 0 to 1, with marks where something begins."""
    filled = min(1.0, max(0.0, part)) * 100
    ticks = Markup("").join(Markup('<path class="mark" d="M{0:.2f} 0V8"/>').format(mark * 100) for mark in marks)
    return Markup(
        '<svg class="gauge" viewBox="0 0 100 8" preserveAspectRatio="none" aria-hidden="true">'
        '<rect class="whole" width="100" height="8"/><rect class="{}" width="{:.2f}" height="8"/>{}</svg>'
    ).format("bad" if trouble else "good", filled, ticks)


def _svg(parts: Sequence[Markup], said: str) -> Markup:
    return Markup(
        '<svg class="chart" viewBox="0 0 {} {}" preserveAspectRatio="none" role="img" aria-label="{}">{}</svg>'
    ).format(WIDTH, HEIGHT, said, Markup("").join(parts))


def _stack(counts: dict[str, int], at: datetime, place: int, top: int) -> Markup:
    """Draw a minute: from the ground up what was sent, what comes again, the rest, and on top what is bad."""
    shown = words.listed([f"{number(count)} {_plain(name)}" for name, count in counts.items() if count])
    good, later, bad = (sum(counts.get(name, 0) for name in kind) for kind in (GOOD, LATER, BAD))
    rest = sum(counts.values()) - good - later - bad
    parts, ground = [], float(HEIGHT)
    for kind, count in (("good", good), ("later", later + rest), ("bad", bad)):
        if count:
            high = max(1.5, count / top * HEIGHT)
            ground -= high
            parts.append(_rectangle(kind, place, ground, high))
    return _minute(at, place, shown or "nothing", parts)


def _wait(seconds: float | None, at: datetime, place: int, limit: float) -> Markup:
    if seconds is None:
        return _minute(at, place, "no mail", [])
    seconds = min(seconds, minutes.WAIT_BOUNDS[-1])
    high = max(1.5, _height(seconds))
    bar = _rectangle("bad" if seconds > limit else "good", place, HEIGHT - high, high)
    return _minute(at, place, f"99 of 100 waited at most {span(seconds)}", [bar])


def _height(seconds: float) -> float:
    far = math.log(min(LONGEST, max(SHORTEST, seconds)) / SHORTEST) / math.log(LONGEST / SHORTEST)
    return far * HEIGHT


def _rectangle(kind: str, place: int, top: float, high: float) -> Markup:
    shape = Markup('<rect class="{}" x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}"/>')
    return shape.format(kind, place * BAR + 1, top, BAR - 2, high)


def _minute(at: datetime, place: int, shown: str, parts: Sequence[Markup]) -> Markup:
    title = f"{at.astimezone(UTC):%H:%M} UTC: {shown}"
    whole = Markup('<g><title>{}</title><rect class="minute" x="{:.0f}" width="{:.0f}" height="{}"/>{}</g>')
    return whole.format(title, place * BAR, BAR, HEIGHT, Markup("").join(parts))


def _hour(until: datetime) -> list[datetime]:
    last = until.replace(second=0, microsecond=0)
    return [last - timedelta(minutes=MINUTES - 1 - place) for place in range(MINUTES)]


def _names(by_minute: dict[datetime, dict[str, int]]) -> list[str]:
    return sorted({name for counts in by_minute.values() for name in counts}, key=lambda name: name not in GOOD)


def _plain(outcome: str) -> str:
    return outcome.replace("_", " ")
