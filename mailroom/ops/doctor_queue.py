"""What keeps mails waiting though the schema is sound: warnings, what is paused, events that nobody hears."""

from collections.abc import Iterator
from datetime import UTC

from sqlalchemy import Connection, func, select

from mailroom.finding import Finding, ok, warning
from mailroom.fleet import pauses
from mailroom.ops import feedback, health, minutes, reading, remedies, reputation, unsent
from mailroom.ops.unsent import Unsent
from mailroom.queue import feed


def examine(connection: Connection, *, name: str) -> Iterator[Finding]:
    """Say whether jobs come to the queue that workers take, and what `status` warns of."""
    filled = connection.scalar(select(func.current_setting("mailroom.queue", True)))
    if filled and filled != name:
        message = f"the database's mailroom.queue is {filled}, and workers take {name}"
        yield warning("queue", message, f"MAILROOM_QUEUE_NAME, or ALTER DATABASE … SET mailroom.queue = '{name}'")
    well = health.read_what_can_be(connection)
    found = health.warnings(well) | feedback.read_warnings(connection) | reading.too_old(reading.read(connection))
    for code, message in found.items():
        yield warning("queue", f"{code}: {message}", remedies.of_warning(code, well.table))
    failing = _unsent(connection)
    for each in failing:
        yield warning("queue", f"{each.code}: {each.what}", each.cure)
    if not found and not failing:
        yield ok("queue", "nothing waits too long, and vacuum keeps up")


def _unsent(connection: Connection) -> list[Unsent]:
    """Return what is tried again and again: it is never due for long, and so does not count as waiting too long."""
    now = connection.execute(select(func.clock_timestamp())).scalar_one()
    recent = minutes.read(connection, since=unsent.REACH)
    return [*unsent.find(recent, now=now, paused={each.scope for each in pauses.read(connection)})]


def paused(connection: Connection) -> Iterator[Finding]:
    """Say of each pause why it is and since when, what to do about it, and how it ends."""
    found = [_paused(each) for each in pauses.read(connection)]
    yield from found or [ok("pauses", "nothing is paused")]


def _paused(found: pauses.Pause) -> Finding:
    why = found.reason if found.code == pauses.BY_HAND else f"{found.code}, {found.reason}"
    message = f"{found.scope} is paused since {found.opened_at.astimezone(UTC):%Y-%m-%d %H:%M:%SZ} ({why})"
    by_hand = found.probe_at is None and found.code not in reputation.CODES
    remedy = f"{remedies.of_pause(found.scope, found.code)}; {remedies.ends_by_itself(found.code, by_hand=by_hand)}"
    return warning("pauses", message, remedy)


def heard(connection: Connection) -> Iterator[Finding]:
    """Say how long ago SES was heard. That it is silent is among the warnings of the queue."""
    state = feed.state(connection)
    if state.polled_seconds is None or state.silent:
        return
    if state.heard_seconds is None:
        yield ok("events", "the queue of events is read; none of this database has come yet")
        return
    yield ok("events", f"the newest came {state.heard_seconds:.0f} s ago")
