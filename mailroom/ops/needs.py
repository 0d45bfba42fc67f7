"""What needs a person, each told from a reading: what is so, why, what to do, and whether it can wait for the day."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, Literal

from mailroom import finding
from mailroom.fleet import buckets, pauses
from mailroom.job import Priority
from mailroom.ops import causes, remedies, reputation, unsent, waiting
from mailroom.ops.causes import Place
from mailroom.ops.minutes import Minute
from mailroom.ops.reading import STALE_AFTER, Lane, Paused, Reading, age
from mailroom.ops.waiting import Waiting
from mailroom.ops.why import why_lane
from mailroom.ops.words import counted, mails, number, several, span

State = Literal["fine", "look", "act"]

# A pause that a probe may end is for mailroom first, and then for a person; where somebody waits, it is for both.
PROBES_FIRST: Final = timedelta(minutes=1)
# For so long a worker that is lost is news, and then it is history.
NEWS: Final = timedelta(minutes=15)
# How many of one kind are told, the worst ones; of the others it is told how many there are.
MAX_OF_A_KIND: Final = 5
# From this share of the day's quota on, somebody should know.
MUCH_OF_THE_QUOTA: Final = 0.8
MUCH_THROTTLED: Final = 0.5
HEALTHY: Final = (None, "", "HEALTHY")


@dataclass(frozen=True, slots=True)
class Need:
    """One thing that needs a person: `what` is so, `why` one knows, and the `cure`. `act`: mail does not leave as it
    should, or will soon not; `look`: it can wait for the day.
    """

    code: str
    what: str
    why: str
    cure: str
    state: State


def needs(
    reading: Reading, minutes: Sequence[Minute], *, now: datetime, rate_limit: float | None = None
) -> tuple[Need, ...]:
    """Return all that needs a person, the worst first."""
    due = waiting.group(reading)
    stuck = [*_unread(reading, now=now), *_no_worker(reading, minutes, due, now=now)]
    keeping, idle = _pauses(reading, due, now=now)
    found = [*stuck, *keeping, *_account(reading, now=now), *_unsent(reading, minutes, now=now)]
    found += _late(reading, minutes, due, now=now, rate_limit=rate_limit)
    found += [
        *idle,
        *_warnings(reading),
        *_slower(reading, now=now, rate_limit=rate_limit),
        *_to_decide(reading, minutes, now=now),
    ]
    return tuple(sorted(found, key=lambda need: need.state != "act"))


def _unread(reading: Reading, *, now: datetime) -> Iterator[Need]:
    old = age(reading.read_at, now)
    if old <= STALE_AFTER or not (reading.failed_at and age(reading.failed_at, now) < STALE_AFTER):
        return
    what = f"these numbers are {span(old)} old: counting fails"
    yield Need("NoReading", what, f"{reading.failure or 'no reason given'}", remedies.LOOK_AT_DATABASE, "act")


@dataclass(frozen=True, slots=True)
class _Deserted:
    """A queue that no worker takes: its lanes, whether one is late, and whether its mails leave all the same."""

    queue: str
    lanes: list[Lane]
    late: bool
    left: bool

    @property
    def state(self) -> State:
        return "look" if self.left and not self.late else "act"


def _deserted(reading: Reading, minutes: Sequence[Minute], due: Waiting, *, now: datetime) -> list[_Deserted]:
    """Queues in which a job is due and that no worker takes, the worst first; one where there is no worker at all."""
    there = {each.queue for each in causes.alive(reading, now)}
    known = [each.queue for each in reading.workers] or [remedies.DEFAULT_QUEUE]
    queues = list(dict.fromkeys(lane.queue for _, lane in due.due if lane.queue not in there))
    lately, swept = causes.left_lately(minutes, now=now), {each.queue for each in causes.sweeps(reading, now)}
    found = []
    for queue in queues or ([] if there else [min(known, key=lambda each: (each not in {*lately, *swept}, each))]):
        lanes = due.by_scope.get(pauses.queue_scope(queue), [])
        late = any(waiting.is_late(lane) for lane in lanes)
        # A sweep that ended may have been unable to send: what is late has not left by it.
        left = queue in lately or (not late and queue in swept)
        found.append(_Deserted(queue, lanes, late, left))
    return sorted(found, key=lambda each: (each.state != "act", not each.late))


def _no_worker(reading: Reading, minutes: Sequence[Minute], due: Waiting, *, now: datetime) -> Iterator[Need]:
    elsewhere = {*causes.left_lately(minutes, now=now), *(each.queue for each in causes.sweeps(reading, now))}
    elsewhere |= {each.queue for each in causes.alive(reading, now)}
    deserted = _deserted(reading, minutes, due, now=now)
    for each in deserted[:MAX_OF_A_KIND]:
        nothing = "mails leave by sweeps alone" if each.left else "the next mail will not leave"
        everything = bool(each.lanes) and elsewhere <= {each.queue}
        effect = nothing if each.left else waiting.effect(each.lanes, everything=everything, else_=nothing)
        found = causes.worker(reading, minutes, Place(each.queue, Priority.NORMAL, "", Priority.NORMAL), now=now)
        seen = found.text.partition(": ")[2] or found.text.partition("; ")[2] or "none has been seen for a day"
        why = f"{seen}; {waiting.amount(each.lanes)}"
        yield Need("NoWorker", f"{effect}: no worker takes the queue {each.queue}", why, found.cure, each.state)
    if others := deserted[MAX_OF_A_KIND:]:
        what = f"no worker takes {several(len(others), 'other queue')} in which mails are due"
        why = waiting.amount([lane for each in others for lane in each.lanes])
        yield Need("NoWorker", what, why, remedies.WORKERS_OF_QUEUES, others[0].state)


def _pauses(reading: Reading, due: Waiting, *, now: datetime) -> tuple[list[Need], list[Need]]:
    """Tell of what is paused: of what keeps mails, and apart from it of what keeps none yet."""
    keeping, idle = list[Need](), list[Need]()
    for paused in sorted(reading.pauses, key=lambda each: (not _stops_urgent(reading, each), each.opened_at)):
        lanes = due.by_scope.get(paused.scope, [])
        stops_all = paused.scope in causes.SHARED - ({"identity"} if reading.own_senders else set())
        effect = waiting.effect(lanes, everything=stops_all)
        what = f"{effect}: {paused.scope} has been paused for {span(age(paused.opened_at, now))} ({_reason(paused)})"
        why = f"{causes.say_pause(paused, now=now)}; {waiting.amount(lanes)}"
        state = _pause_state(reading, paused, now=now, urgent=any(lane.priority is Priority.URGENT for lane in lanes))
        need = Need("Paused", what, why, remedies.of_pause(paused.scope, paused.code), state)
        (keeping if lanes or paused.scope in causes.SHARED else idle).append(need)
    return keeping, idle


def _reason(paused: Paused) -> str:
    return paused.reason if paused.code == pauses.BY_HAND else paused.code


def _stops_urgent(reading: Reading, paused: Paused) -> bool:
    """Whether recoveries, or other mails that somebody waits for, are among what is paused."""
    if pauses.is_action(paused.scope):
        return causes.place(reading, "", Priority.QUARANTINE, paused.scope).rank is Priority.URGENT
    return not paused.scope.startswith("priority:") or paused.scope == "priority:0"


def _pause_state(reading: Reading, paused: Paused, *, now: datetime, urgent: bool) -> State:
    """Say how bad a pause is; `urgent`: it keeps such mails that are due."""
    if paused.code in reputation.CODES:
        return "look" if paused.scope == "priority:2" else "act"
    if paused.by_hand:
        return "act" if _stops_urgent(reading, paused) or paused.code != pauses.BY_HAND else "look"
    return "act" if urgent or age(paused.opened_at, now) >= PROBES_FIRST else "look"


def _account(reading: Reading, *, now: datetime) -> Iterator[Need]:
    found = reading.account
    if found.enforcement == "SHUTDOWN":
        yield Need(
            "Suspended", "no mail leaves: AWS has suspended the account", "SES says so", finding.SEE_THE_CASE, "act"
        )
    elif found.enforcement not in HEALTHY:
        what = f"AWS has the account under review ({found.enforcement}), and may stop it"
        yield Need("UnderReview", what, _rates(reading), finding.SEE_BOUNCES, "act")
    if found.sending_enabled is False:
        what = "no mail leaves: sending is switched off at SES"
        yield Need("SendingOff", what, "SES says so", finding.SWITCH_SENDING_ON, "act")
    if found.max_send_rate == 0:
        what = "hardly a mail leaves: SES allows the account 0 mails a second"
        yield Need("NoRate", what, "SES says so", finding.SEE_THE_CASE, "act")
    yield from _quota(reading, now=now)


def _rates(reading: Reading) -> str:
    day = reading.feedback.reputation.get("day")
    if day is None or not day.mails:
        return "SES says so"
    return f"of {number(day.mails)} mails of a day {day.bounce_rate:.2%} bounced, {day.complaint_rate:.2%} complained"


def _quota(reading: Reading, *, now: datetime) -> Iterator[Need]:
    left, limit = causes.quota_left(reading, urgent=True, now=now), reading.account.max_24_hour_send
    if left is None or limit is None:
        return
    used = f"{number(min(limit, limit - left))} of {number(limit)} mails in 24 hours"
    if left < 1:
        yield Need("Quota", "no mail leaves: the day's quota is used up", used, finding.WAIT_FOR_QUOTA, "act")
    elif left < limit * buckets.QUOTA_RESERVE + 1:
        what = f"only urgent mails leave: the day's quota is used up but for {number(left)}"
        yield Need("QuotaReserve", what, used, finding.WAIT_FOR_QUOTA, "act")
    elif left < limit * (1 - MUCH_OF_THE_QUOTA):
        what = f"{1 - left / limit:.0%} of the day's quota is used"
        yield Need("QuotaNear", what, used, finding.RAISE_QUOTA, "look")


def _late(
    reading: Reading, minutes: Sequence[Minute], due: Waiting, *, now: datetime, rate_limit: float | None
) -> Iterator[Need]:
    """Lanes whose oldest job is late, but for what is told already: no worker, a pause, the quota."""
    late = waiting.late(reading, due, now=now)
    for lane in late[:MAX_OF_A_KIND]:
        why = why_lane(reading, minutes, lane, now=now, rate_limit=rate_limit)
        how = "late" if waiting.is_late(lane) else "slow"
        cause = ", for SES throttles" if why.code == "Throttled" else ""
        waited = span(lane.oldest_seconds)
        what = f"{mails(lane.action, lane.priority)} are {how}{cause}: one has been due for {waited}"
        yield Need(f"OldJob{lane.priority.value}", what, why.text, why.cure or remedies.ASK_DOCTOR, _late_state(lane))
    if others := late[MAX_OF_A_KIND:]:
        what = f"{several(len(others), 'other lane is', 'other lanes are')} late or slow"
        code, state = f"OldJob{others[0].priority.value}", _late_state(others[0])
        yield Need(code, what, waiting.amount(others), remedies.ASK_DOCTOR, state)


def _late_state(lane: Lane) -> State:
    return "act" if waiting.is_bad(lane) else "look"


def _unsent(reading: Reading, minutes: Sequence[Minute], *, now: datetime) -> Iterator[Need]:
    """Where calls fail, or end without an answer, mails wait for another try, and may go out twice."""
    for found in unsent.find(minutes, now=now, paused={each.scope for each in reading.pauses}):
        yield Need(found.code, found.what, found.why, found.cure, "act")


def _warnings(reading: Reading) -> Iterator[Need]:
    """What `status` warns of, but for what is told better."""
    told_better = {f"OldJob{priority.value}" for priority in Priority} | {"NoReading"}
    for code, message in reading.warnings.items():
        if code in told_better:
            continue
        state: State = (
            "act" if code == "OverdueBatch" or (code in reputation.CODES and _over_the_line(reading)) else "look"
        )
        what, _, why = message.partition(": ")
        cure = remedies.of_warning(code, reading.health.table)
        yield Need(code, what, why or "see docs/operating.md, Warnings", cure, state)


def _over_the_line(reading: Reading) -> bool:
    """Whether AWS would have the account under review."""
    found = [each for each in reading.feedback.reputation.values() if each.mails >= reputation.MIN_MAILS]
    bounces, complaints = reputation.AWS_BOUNCES[0], reputation.AWS_COMPLAINTS[0]
    return any(each.bounce_rate >= bounces or each.complaint_rate >= complaints for each in found)


def _slower(reading: Reading, *, now: datetime, rate_limit: float | None) -> Iterator[Need]:
    """What lets mail leave later than it could."""
    gone = [each for each in causes.lost(reading, now) if age(each.seen_at, now) < NEWS]
    if gone and causes.alive(reading, now):
        what = f"{several(len(gone), 'worker')} went away without a word: {', '.join(each.name for each in gone[:3])}"
        why = f"last seen {span(age(gone[0].seen_at, now))} ago"
        yield Need("WorkerLost", what, why, remedies.LOOK_AT_WORKER, "look")
    deaf = [each for each in causes.alive(reading, now) if each.listening is False]
    if deaf:
        what = (
            f"{several(len(deaf), 'worker does', 'workers do')} not hear of new mails: they leave with the next sweep"
        )
        yield Need("ListenLost", what, ", ".join(each.name for each in deaf[:3]), remedies.LISTEN_AGAIN, "look")
    if causes.slowdown(reading) < MUCH_THROTTLED:
        what = f"SES throttles: the fleet sends at {causes.slowdown(reading):.0%} of its rate"
        yield Need("Throttled", what, "SES asked for less within the last seconds", remedies.THROTTLED, "look")
    seen = reading.account.seen_at
    if seen is not None and causes.alive(reading, now) and age(seen, now) > buckets.QUOTA_STALE_AFTER:
        what = f"SES has not been asked for the quota for {span(age(seen, now))}"
        cure = remedies.LET_ASK if rate_limit is None else remedies.LET_ASK_QUOTA
        yield Need("AccountOld", what, "each minute a worker asks GetAccount", cure, "look")


def _to_decide(reading: Reading, minutes: Sequence[Minute], *, now: datetime) -> Iterator[Need]:
    """What waits for a decision, or for somebody who wants to know."""
    held = sum(lane.held for lane in reading.lanes)
    if held:
        what = f"{counted(held)} {'mail is' if held == 1 else 'mails are'} held until a person decides"
        yield Need("Held", what, "each may have been sent already", remedies.DECIDE_HELD, "look")
    failed = reading.outcomes.get("hour", {}).get("failed", 0)
    if failed:
        what = f"{several(failed, 'mail')} failed for good in the last hour"
        yield Need("Failed", what, "no attempt is left", remedies.SEE_FAILED, "look")
    recent = [each for each in minutes if now - each.at < timedelta(minutes=10) and each.outcome == "unconfirmed"]
    unconfirmed = sum(each.mails for each in recent)
    if unconfirmed:
        codes = ", ".join(sorted({each.code for each in recent if each.code}))
        what = f"of {several(unconfirmed, 'mail')} of the last ten minutes nobody knows whether SES took them"
        yield Need("Unconfirmed", what, codes or "no answer came", remedies.SEE_UNCONFIRMED, "look")
