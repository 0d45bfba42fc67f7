"""Why a mail, or a lane, is late now: a chain of causes, of which the first that holds is the answer."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from sqlalchemy import Connection, func, select, tuple_

from mailroom.db import functions
from mailroom.db.views import jobs_in_flight, waiting_jobs
from mailroom.job import Priority
from mailroom.ops import causes, endings, jobs, minutes, remedies
from mailroom.ops.causes import Cause, Place
from mailroom.ops.jobs import Found
from mailroom.ops.minutes import Minute
from mailroom.ops.reading import STALE_AFTER, Lane, Reading, age, is_of_another_release
from mailroom.ops.words import CAP, counted, mails, span

# What a job waits at most that nothing keeps: a sweep, and a claim.
SOON: Final = timedelta(seconds=15)
RECENT: Final = timedelta(minutes=10)


@dataclass(frozen=True, slots=True)
class Step:
    """One cause that was looked for: whether it holds, and what was seen.

    `name` is one of worker, pause, later, held, permit, senders, claim, call, due, ended, reading.
    """

    name: str
    holds: bool
    text: str


@dataclass(frozen=True, slots=True)
class Why:
    """The answer: a code for programs, a sentence, what to do about it (empty: nothing), and since when it is so.

    `chain` has every step that was looked at, in order: what was ruled out is an answer too.
    """

    code: str
    text: str
    cure: str
    since: timedelta | None
    chain: tuple[Step, ...]


def why_late(connection: Connection, reading: Reading | None, token: int, *, rate_limit: float | None = None) -> Why:
    """Say why the mail of a token has not left, or what became of it. A few looks by key.

    `rate_limit`: mails a second that the settings allow, None: no word.
    """
    now: datetime = connection.execute(select(func.clock_timestamp())).scalar_one()
    history = jobs.history(connection, token)
    where = history[-1] if history else None
    tried = next((each for each in reversed(history) if each.state not in {"waiting", "held", "in flight"}), None)
    if where is None:
        return _answer([_nowhere(connection, token)])
    match where.state:
        case "in flight":
            return _answer([_in_flight(connection, where, now=now)])
        case "waiting" | "held":
            if unwanted := _unwanted(connection, where, now=now):
                return _answer([unwanted])
            return _answer(_waiting(connection, reading, where, tried, now=now, rate_limit=rate_limit))
        case _:
            return _answer([_ended(connection, history, now=now)])


def why_lane(
    reading: Reading, recent: Sequence[Minute], lane: Lane, *, now: datetime, rate_limit: float | None = None
) -> Why:
    """Say the same of the oldest due job of a lane, from the reading alone. `recent`: the last minutes."""
    place = causes.place(reading, lane.queue, lane.priority, lane.action)
    if not lane.due:
        return _answer([_nothing_due(lane)])
    oldest = timedelta(seconds=lane.oldest_seconds)
    if age(reading.read_at, now) > STALE_AFTER:
        oldest += age(reading.read_at, now)
    found = [*_before_permit(reading, recent, place, now=now)]
    others = _ahead(reading, place) - (lane.due <= CAP)
    found += _of_fleet(reading, recent, place, ahead=others, now=now, rate_limit=rate_limit)
    return _answer([*found, _due(oldest, found)])


def _answer(found: list[Cause]) -> Why:
    """The first that holds; of one job also that it is held, or waits for another try, once that is mended."""
    first = next((each for each in found if each.code), found[-1])
    besides = [each for each in found if each.code and each is not first and each.name in {"later", "held"}]
    text = "; and then ".join([first.text, *(each.text for each in besides)])
    chain = tuple(Step(each.name, bool(each.code), each.text) for each in found)
    return Why(first.code, text, first.cure, first.since, chain)


def _waiting(
    connection: Connection,
    reading: Reading | None,
    job: Found,
    tried: Found | None,
    *,
    now: datetime,
    rate_limit: float | None,
) -> list[Cause]:
    due_at = job.at or now  # of one that is held, when it was tried last
    is_held = job.state == "held"
    own = [_later(job, tried, due_at, now=now), _held(job, tried, now=now)]
    if reading is None:
        unread = _unread(foreign=is_of_another_release(connection))
        return [*own, unread, _due(now - due_at, [unread]) if not is_held else own[-1]]
    place = causes.place(reading, job.queue or "", Priority(job.priority or 0), job.action)
    recent = minutes.read(connection, since=RECENT)
    chain = [*_before_permit(reading, recent, place, now=now), *own]
    if is_held or due_at > now:
        return chain
    ahead = _ahead(reading, place, but=place.priority) + _before(connection, reading, job, due_at, now=now)
    fleet = _of_fleet(reading, recent, place, ahead=ahead, now=now, rate_limit=rate_limit)
    return [*chain, *fleet, _due(now - due_at, [*chain, *fleet])]


def _unwanted(connection: Connection, job: Found, *, now: datetime) -> Cause | None:
    """Say of a job that no claim will send it, since its link is good no more; None: it is."""
    known = jobs.find_token(connection, job.token)
    if known is None:
        return Cause("ended", f"it will not be sent: {endings.meaning('TokenGone')}", "TokenGone")
    if known.consumed_at is not None:
        return Cause("ended", f"it will not be sent: {endings.meaning('TokenConsumed')}", "TokenConsumed")
    if functions.call(connection, "browse_fits", {"token": job.token}).scalar() is False:
        text = "it will not be sent: its account has another address by now, or not the status that its kind needs"
        return Cause("ended", text, "AccountChanged", "look at the account, then ask for another mail")
    kinds = {kind.name: kind for kind in functions.call(connection, "action_list")}
    kind = kinds.get(job.action)
    if known.expires_at <= now and not (kind and kind.renews):
        text = f"it will not be sent: its link ended {span(age(known.expires_at, now))} ago"
        return Cause("ended", text, "TokenExpired", "ask for another mail; then see why that waits")
    used = kind is not None and not kind.newest_only  # then a newer one ends it once that was used, if at all
    if kind and not (used and kind.activates) and jobs.has_newer(connection, known, job.action, used=used):
        cure = "" if used else "see why the newest mail of its account waits"
        return Cause("ended", f"it will not be sent: {endings.meaning('Superseded')}", "Superseded", cure)
    return None


def _unread(*, foreign: bool) -> Cause:
    if foreign:
        return Cause("reading", "the workers are of another release", "NoReading", remedies.SAME_RELEASE)
    return Cause("reading", "nobody has counted yet", "NoReading", remedies.START_WORKER)


def _before_permit(reading: Reading, recent: Sequence[Minute], place: Place, *, now: datetime) -> list[Cause]:
    return [causes.worker(reading, recent, place, now=now), causes.pause(reading, place, now=now)]


def _of_fleet(
    reading: Reading, recent: Sequence[Minute], place: Place, *, ahead: int, now: datetime, rate_limit: float | None
) -> list[Cause]:
    return [
        causes.permit(reading, recent, place, ahead=ahead, now=now, rate_limit=rate_limit),
        causes.senders(reading, place, now=now),
        causes.claim(reading),
    ]


def _ahead(reading: Reading, place: Place, *, but: Priority | None = None) -> int:
    """How many jobs that are due are served first, or with it; without those of a priority of its own action."""
    lanes = zip(reading.lanes, causes.places(reading), strict=True)
    own = (place.queue, but, place.action)
    return sum(
        lane.due for lane, at in lanes if at.rank <= place.rank and (lane.queue, lane.priority, lane.action) != own
    )


def _before(connection: Connection, reading: Reading, job: Found, due_at: datetime, *, now: datetime) -> int:
    """How many of its lane leave before it, up to the cap: by index."""
    waiting = waiting_jobs.c
    start = causes.nothing_due_before(reading, job.queue or "", Priority(job.priority or 0), job.action, now=now)
    place = tuple_(waiting.due_at, waiting.token)
    earlier = (
        select(waiting.token)
        .where(waiting.queue == job.queue, waiting.priority == job.priority, waiting.action == job.action)
        .where(place < (due_at, job.token))
        .limit(CAP + 1)
    )
    if start is not None:
        earlier = earlier.where(place > (start.due_at, start.token))
    return int(connection.execute(select(func.count()).select_from(earlier.subquery())).scalar_one())


def _later(job: Found, tried: Found | None, due_at: datetime, *, now: datetime) -> Cause:
    if job.state == "held" or due_at <= now:
        return Cause("later", "it does not wait for a later try")
    text = f"it waits {span(due_at - now)} more for its next try"
    if tried is not None:
        text += f": the last, {_attempt(tried, now=now)}, ended as {tried.outcome} ({tried.code or 'no code'})"
    since = None if tried is None or tried.at is None else now - tried.at
    return Cause("later", text, "Later", f"`mailroom jobs retry {job.token}` makes it due now", since)


def _held(job: Found, tried: Found | None, *, now: datetime) -> Cause:
    if job.state != "held":
        return Cause("held", "it is not held")
    text = "it is held until a person decides: it may have been sent already"
    if tried is not None:
        text += f" ({tried.code or tried.outcome}, {_attempt(tried, now=now)})"
    cure = f"`mailroom jobs release {job.token}` sends it, `mailroom jobs drop {job.token}` gives it up"
    return Cause("held", text, "Held", cure, None if tried is None or tried.at is None else now - tried.at)


def _attempt(tried: Found, *, now: datetime) -> str:
    return f"{span(now - tried.at)} ago" if tried.at is not None else "before"


def _due(waited: timedelta, looked_at: Sequence[Cause]) -> Cause:
    """Say for how long it has been due; and that nothing keeps it, where nothing does."""
    if any(each.code for each in looked_at):
        return Cause("due", f"due for {span(waited)}")
    if waited <= SOON:
        return Cause("due", f"due for {span(waited)}: nothing keeps it, it leaves with the next claim", "Soon", "")
    text = f"due for {span(waited)}, and nothing that is counted keeps it: a worker may be backing off, or hang"
    return Cause("due", text, "Unknown", "see the log of the workers (`backing off`), then `mailroom doctor`", waited)


def _in_flight(connection: Connection, job: Found, *, now: datetime) -> Cause:
    flight = jobs_in_flight.c
    row = connection.execute(
        select(flight.batch, flight.worker, flight.at, flight.lease_until).where(flight.token == job.token)
    ).first()
    if row is None:
        return Cause("call", "it was in flight a moment ago", "Soon")
    held = f"batch {row.batch} of {row.worker}, claimed {span(now - row.at)} ago"
    if row.lease_until >= now:
        return Cause("call", f"it is being sent: {held}", "InCall", "", now - row.at)
    text = f"whoever was sending it is gone: {held}, and its lease ran out {span(now - row.lease_until)} ago"
    cure = remedies.of_warning("OverdueBatch") if now - row.lease_until > STALE_AFTER else ""
    return Cause("call", f"{text}; the next sweep gives it back", "LeaseOut", cure, now - row.lease_until)


def _ended(connection: Connection, history: Sequence[Found], *, now: datetime) -> Cause:
    final = next((each for each in reversed(history) if each.state == "finished"), history[-1])
    found = endings.ending(final, jobs.reported(connection, final.token))
    since = None if final.at is None else now - final.at
    return Cause("ended", found.text, found.code, found.cure, since)


def _nowhere(connection: Connection, token: int) -> Cause:
    known = jobs.find_token(connection, token)
    if known is None:
        return Cause("ended", f"nothing is known of token {token}: deleted with its account, or pruned", "Gone", "")
    if known.consumed_at is not None:
        return Cause("ended", "its link was used, and it has no job: it needs no mail", "TokenConsumed")
    text = "it has a token and no job: its trigger was off, or it was restored in parts"
    cure = "`mailroom sweep` mails it, or `mailroom sweep --full` if thousands of mails, or a week, came after it"
    return Cause("ended", text, "NoJob", f"{cure}; `mailroom doctor` says whether a trigger is off")


def _nothing_due(lane: Lane) -> Cause:
    named = mails(lane.action, lane.priority)
    if lane.held:
        text = f"no {named} are due: {counted(lane.held)} {'is' if lane.held == 1 else 'are'} held"
        return Cause("held", text, "Held", remedies.DECIDE_HELD)
    if lane.later:
        waits = f"{counted(lane.later)} {'waits' if lane.later == 1 else 'wait'}"
        return Cause("later", f"no {named} are due: {waits} for another try", "Later")
    return Cause("due", f"no {named} wait")
