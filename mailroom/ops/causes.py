"""What can keep the mails of a lane from leaving, told from a reading: workers, pauses, permits, senders, claims."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final

from mailroom import finding
from mailroom.fleet import buckets, pauses
from mailroom.job import Position, Priority
from mailroom.ops import refresh, remedies
from mailroom.ops.minutes import Minute
from mailroom.ops.reading import STALE_AFTER, Paused, Reading, Worker, age
from mailroom.ops.words import CAP, number, several, span
from mailroom.queue.lanes import priority_scope

# A worker says each 15 s that it is there. Who has been silent for three turns is lost, or hangs.
LOST_AFTER: Final = timedelta(seconds=45)
# What left, or ended, within this time is not over: where cron alone sends, it sweeps more often.
LATELY: Final = timedelta(minutes=10)
# A count that is due is taken up by the next worker that has its turn; after two turns nobody does.
LATE_READING: Final = timedelta(seconds=30)
# Outcomes of attempts that took a permit.
HANDED_OVER: Final = {"sent", "rejected", "failed", "deferred", "unconfirmed"}
# From this share of the rate on, it is the rate that mails wait for.
RATE_IS_USED: Final = 0.8
MINUTE: Final = timedelta(minutes=1)
# The rate of an account that SES allows nothing, as `permits_take` has it.
MIN_RATE: Final = 0.01
SHARED: Final = {"account", "configuration_set", "identity"}
_SLOW_CLAIMS: Final = ("OldTransaction", "DeadRows", "QueueUnread")


@dataclass(frozen=True, slots=True)
class Place:
    """Where a job waits: its queue, priority and action, and whether that has a sender of its own.

    `rank` is the priority with which the lane is served.
    """

    queue: str
    priority: Priority
    action: str
    rank: Priority
    own_sender: bool = False


@dataclass(frozen=True, slots=True)
class Cause:
    """One thing that was looked for. Without a code it is not what keeps the mail, and the text says why not."""

    name: str
    text: str
    code: str = ""
    cure: str = ""
    since: timedelta | None = None


def place(reading: Reading | None, queue: str, priority: Priority, action: str) -> Place:
    """Return the place of a lane. What is in quarantine is as urgent as the others of its action, but no bulk."""
    urgent, own_senders = (_urgent(reading), reading.own_senders) if reading else (set[str](), ())
    return _place(urgent, own_senders, queue, priority, action)


def places(reading: Reading) -> list[Place]:
    """Return the places of all lanes that a reading has, in its order."""
    urgent = _urgent(reading)
    return [_place(urgent, reading.own_senders, lane.queue, lane.priority, lane.action) for lane in reading.lanes]


def _place(urgent: set[str], own_senders: Sequence[str], queue: str, priority: Priority, action: str) -> Place:
    in_turn = Priority.URGENT if action in urgent else Priority.NORMAL
    rank = in_turn if priority is Priority.QUARANTINE else priority
    return Place(queue, priority, action, rank, action in own_senders)


def _urgent(reading: Reading) -> set[str]:
    """The actions of which some mails are urgent."""
    begin = {action for action, priority in reading.priorities.items() if priority is Priority.URGENT}
    return begin | {lane.action for lane in reading.lanes if lane.priority is Priority.URGENT}


def as_of(reading: Reading, now: datetime) -> datetime:
    """Return the moment by which it is judged whether workers were seen lately.

    It is that of the reading, unless the next is late and counting does not fail: now, for a worker would have counted.
    """
    usual = min(max(refresh.EVERY, timedelta(seconds=reading.seconds / refresh.MAX_SHARE)), refresh.LONGEST)
    is_current = age(reading.read_at, now) <= usual + LATE_READING
    tried = reading.failed_at is not None and age(reading.failed_at, now) < STALE_AFTER
    return reading.read_at if is_current or tried else now


def alive(reading: Reading, now: datetime, queue: str | None = None) -> list[Worker]:
    """Return the workers that were seen lately, of one queue or of all."""
    at = as_of(reading, now)
    return [each for each in _workers(reading, queue) if age(each.seen_at, at) <= LOST_AFTER]


def lost(reading: Reading, now: datetime, queue: str | None = None) -> list[Worker]:
    """Return those that have not been seen for a while and did not say that they leave; the last one seen first."""
    at = as_of(reading, now)
    gone = [each for each in _workers(reading, queue) if age(each.seen_at, at) > LOST_AFTER]
    return sorted(gone, key=lambda each: each.seen_at, reverse=True)


def _workers(reading: Reading, queue: str | None) -> Iterable[Worker]:
    return (each for each in reading.workers if each.senders and queue in {None, each.queue})


def sweeps(reading: Reading, now: datetime, queue: str | None = None) -> list[Worker]:
    """Return the sweeps from cron that ended lately, the last one first. They are known by having no sender."""
    ended = [each for each in reading.workers if not each.senders and queue in {None, each.queue}]
    lately = [each for each in ended if age(each.seen_at, now) < LATELY]
    return sorted(lately, key=lambda each: each.seen_at, reverse=True)


def worker(reading: Reading, minutes: Sequence[Minute], at: Place, *, now: datetime) -> Cause:
    """Whether somebody takes the queue."""
    there = alive(reading, now, at.queue)
    if there:
        return Cause("worker", f"{several(len(there), 'worker')} of {at.queue} seen in the last {span(LOST_AFTER)}")
    cure = remedies.start_worker(at.queue)
    gone = lost(reading, now, at.queue)
    if gone:
        silent = age(gone[0].seen_at, now)
        text = f"no worker takes the queue {at.queue}: the last, {gone[0].name}, was seen {span(silent)} ago"
        return Cause("worker", text, "NoWorker", f"{cure}; if it still runs, it hangs: restart it", silent)
    text = f"no worker takes the queue {at.queue}"
    if ended := sweeps(reading, now, at.queue):
        text += f"; a sweep from cron ended {span(age(ended[0].seen_at, now))} ago"
    elif last := left_lately(minutes, now=now).get(at.queue):
        text += f"; mails left {span(last)} ago all the same, perhaps by a sweep from cron"
    elif others := alive(reading, now):
        text += f": those that run take {', '.join(sorted({each.queue for each in others}))}"
    return Cause("worker", text, "NoWorker", cure)


def left_lately(minutes: Sequence[Minute], *, now: datetime) -> dict[str, timedelta]:
    """How long ago the last mail of each queue left, of the last minutes that are counted."""
    ended: dict[str, datetime] = {}
    for each in minutes:
        if each.outcome in HANDED_OVER:
            ended[each.queue] = max(ended.get(each.queue, each.at), each.at)
    ages = {queue: age(at + MINUTE, now) for queue, at in ended.items()}
    return {queue: ago for queue, ago in ages.items() if ago < LATELY}


def scopes(at: Place) -> set[str]:
    """Return the scopes of which a pause keeps a lane from leaving."""
    found = {*SHARED, at.action, pauses.queue_scope(at.queue), priority_scope(at.rank)}
    return found - {"identity"} if at.own_sender else found


def pauses_of(reading: Reading, at: Place) -> list[Paused]:
    """Return what pauses a lane: first what a person has to end, then the oldest."""
    concerned = scopes(at)
    covering = [each for each in reading.pauses if each.scope in concerned]
    return sorted(covering, key=lambda each: (not each.by_hand, each.opened_at))


def nothing_due_before(
    reading: Reading | None, queue: str, priority: Priority, action: str, *, now: datetime
) -> Position | None:
    """Return a place below which a lane had nothing when it was counted; None: nobody has counted of late.

    Whoever looks need not walk there: rows that are dead and not yet vacuumed may lie there, a million perhaps. If the
    oldest is younger than a minute, a minute is left for what commits late. What is given back since, due as it was, is
    seen with the next reading.
    """
    if reading is None or age(reading.read_at, now) > STALE_AFTER:
        return None
    lanes = ((lane.queue, lane.priority, lane.action, lane) for lane in reading.lanes)
    lane = next((lane for *key, lane in lanes if key == [queue, priority, action]), None)
    oldest = timedelta(seconds=lane.oldest_seconds if lane else 0)
    if lane and lane.head and oldest > MINUTE:
        return replace(lane.head, token=lane.head.token - 1)
    return Position(reading.read_at - oldest - MINUTE, 0)


def pause(reading: Reading, at: Place, *, now: datetime) -> Cause:
    """Whether its mails are paused."""
    covering = pauses_of(reading, at)
    if covering:
        text = "; besides, ".join(say_pause(each, now=now) for each in covering)
        first = covering[0]
        return Cause("pause", text, "Paused", remedies.of_pause(first.scope, first.code), age(first.opened_at, now))
    if reading.pauses:
        others = ", ".join(each.scope for each in reading.pauses)
        return Cause("pause", f"not paused: what is paused ({others}) does not concern it")
    return Cause("pause", "nothing is paused")


def say_pause(paused: Paused, *, now: datetime) -> str:
    """Say what is paused, since when, why, and how it ends."""
    ends = remedies.ends_by_itself(paused.code, by_hand=paused.by_hand)
    if paused.probe_at is not None and paused.probe_at > now:
        ends += f", the next in {span(paused.probe_at - now)}"
    why = paused.reason if paused.code == pauses.BY_HAND else f"{paused.code}, {paused.reason}"
    return f"{paused.scope} has been paused for {span(age(paused.opened_at, now))} ({why}); {ends}"


def granted_rate(reading: Reading, rate_limit: float | None = None) -> float | None:
    """Return how many mails a second the fleet may send now; None without a limit. As `permits_take` has it."""
    allowed = reading.account.max_send_rate
    if allowed is not None and allowed >= 0:
        allowed = max(allowed, MIN_RATE)
    if reading.account.seen_at is None or allowed is None:
        cap: float | None = rate_limit or buckets.UNKNOWN_RATE
    elif allowed < 0:
        cap = rate_limit
    else:
        cap = min(rate_limit, allowed) if rate_limit else allowed * buckets.DEFAULT_SHARE
    return None if cap is None else cap * slowdown(reading)


def slowdown(reading: Reading) -> float:
    """Return the share of the rate that throttling has left."""
    bucket = reading.buckets.get(buckets.Bucket.MAILS.value)
    return 1.0 if bucket is None else bucket.slowdown


def used_rate(minutes: Sequence[Minute], *, now: datetime) -> float:
    """Return how many mails a second were handed over in the better of the last two minutes that are counted."""
    this = now.replace(second=0, microsecond=0)
    counts = [
        sum(each.mails for each in minutes if each.at == this - ago * MINUTE and each.outcome in HANDED_OVER)
        for ago in (1, 2)
    ]
    return max(counts) / 60


def quota_left(reading: Reading, *, urgent: bool, now: datetime) -> float | None:
    """Return what is left of the 24-hour quota for such mails; None if there is none, or nobody knows any more."""
    found = reading.account
    if found.seen_at is None or found.max_24_hour_send is None or found.max_24_hour_send < 0:
        return None
    if age(found.seen_at, as_of(reading, now)) > buckets.QUOTA_STALE_AFTER:
        return None
    reserve = 0 if urgent else found.max_24_hour_send * buckets.QUOTA_RESERVE
    return found.max_24_hour_send - (found.sent_last_24_hours or 0) - found.granted_since - reserve


def permit(
    reading: Reading,
    minutes: Sequence[Minute],
    at: Place,
    *,
    ahead: int,
    now: datetime,
    rate_limit: float | None = None,
) -> Cause:
    """Whether it waits for the rate or the quota. `ahead`: how many jobs that are due go before it."""
    urgent = at.rank is Priority.URGENT
    left = quota_left(reading, urgent=urgent, now=now)
    if left is not None and left < 1:
        limit, kept = number(reading.account.max_24_hour_send or 0), quota_left(reading, urgent=True, now=now) or 0
        if kept >= 1:
            text = f"of the quota of {limit} mails in 24 hours {number(kept)} are left, kept for urgent mails"
            return Cause("permit", text, "QuotaReserve", finding.WAIT_FOR_QUOTA)
        return Cause("permit", f"the quota of {limit} mails in 24 hours is used up", "Quota", finding.WAIT_FOR_QUOTA)
    rate, used = granted_rate(reading, rate_limit), used_rate(minutes, now=now)
    if rate is None:
        return Cause("permit", "there is no limit of the rate")
    line = f"{used:.1f} of {rate:.1f} mails a second"
    if slowdown(reading) < 0.9 and ahead:
        text = f"SES throttles: the rate is cut to {slowdown(reading):.0%}; {line} are used"
        return Cause("permit", text, "Throttled", remedies.THROTTLED)
    if used >= RATE_IS_USED * rate and ahead:
        more = "more than " if ahead > CAP else ""
        wait = f": {more}{several(min(ahead, CAP), 'mail')} before it take {more or 'about '}{span(ahead / rate)}"
        if rate_limit is None and reading.account.seen_at is None:
            return Cause(
                "permit", f"the account is not known, so the rate is low: {line}{wait}", "Rate", remedies.LET_ASK
            )
        allowed = reading.account.max_send_rate
        own = rate_limit is not None and (allowed is None or allowed < 0 or rate_limit < allowed)
        cure = remedies.RAISE_OWN_RATE if own else remedies.RAISE_RATE
        return Cause("permit", f"the rate is used: {line}{wait}", "Rate", cure)
    return Cause("permit", f"{line} are used")


def senders(reading: Reading, at: Place, *, now: datetime) -> Cause:
    """Whether all senders are in calls."""
    there = alive(reading, now, at.queue)
    total, busy = sum(each.senders for each in there), sum(each.busy for each in there)
    text = f"{busy} of {several(total, 'sender')} busy"
    if total and busy >= total:
        oldest = f"; the oldest call has taken {span(reading.flight.oldest_seconds)}" if reading.flight.batches else ""
        return Cause("senders", f"all senders are in calls: {text}{oldest}", "Senders", remedies.MORE_SENDERS)
    return Cause("senders", text)


def claim(reading: Reading) -> Cause:
    """Whether claims are slow."""
    for code in _SLOW_CLAIMS:
        if code in reading.warnings:
            text = f"claims may be slow: {reading.warnings[code]}"
            return Cause("claim", text, code, remedies.of_warning(code, reading.health.table))
    return Cause("claim", f"claims are not held up: {several(reading.health.dead_jobs, 'dead row')} in jobs")
