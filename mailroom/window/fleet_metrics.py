"""The metrics of the fleet, from the reading: several windows tell the same, so a board takes `max by (…)`."""

from collections.abc import Callable, Iterable, Iterator
from typing import Final

from prometheus_client import Metric
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from mailroom.fleet import pauses
from mailroom.ops import causes
from mailroom.ops.reading import Reading
from mailroom.window.source import Seen

PREFIX: Final = "mailroom_"
# How many queues are told apart; all others count as one.
MAX_QUEUES: Final = 20
OTHER: Final = "other"
# What the scope of a queue begins with.
QUEUE: Final = pauses.queue_scope("")
ENFORCEMENTS: Final = ("HEALTHY", "PROBATION", "SHUTDOWN")

# Values of labels, and the number.
Sample = tuple[tuple[str, ...], float | None]
Name = Callable[[str], str]


class FleetMetrics(Collector):
    """What was seen, as a collector."""

    def __init__(self, seen: Seen) -> None:
        self._seen = seen

    def collect(self) -> Iterator[Metric]:
        """Give the metrics: of a database that does not answer, that alone."""
        yield _gauge("window_up", "Whether the window reaches its database.", (), [((), float(not self._seen.failure))])
        if self._seen.reading is not None:
            yield from _of_queue(self._seen.reading)
            yield from _of_ses(self._seen.reading, self._seen)
            yield from _of_reading(self._seen.reading)


def _of_queue(found: Reading) -> Iterator[Metric]:
    name = _names(found)
    lanes = ("queue", "priority", "action")
    counted: dict[tuple[str, ...], float] = {}
    oldest: dict[tuple[str, ...], float] = {}
    for lane in found.lanes:
        key = (name(lane.queue), lane.priority.name.lower(), lane.action)
        oldest[key] = max(oldest.get(key, 0.0), lane.oldest_seconds)
        for state, jobs in (("due", lane.due), ("later", lane.later), ("held", lane.held)):
            counted[*key, state] = counted.get((*key, state), 0.0) + jobs
    yield _gauge("jobs", "Jobs of a lane, each counted to 10,000.", (*lanes, "state"), counted.items())
    yield _gauge("oldest_due_seconds", "How long the oldest job of a lane has been due.", lanes, oldest.items())
    yield _gauge("jobs_estimate", "About how many jobs there are.", (), [((), found.jobs_estimate)])
    flight = found.flight
    yield _gauge("in_flight_jobs", "Jobs that are claimed and not settled.", (), [((), flight.jobs)])
    yield _gauge("in_flight_batches", "Batches that are claimed and not settled.", (), [((), flight.batches)])
    yield _gauge("overdue_batches", "Batches that have outlived their lease.", (), [((), flight.overdue)])
    yield _gauge("overdue_seconds", "How far beyond its lease the worst batch is.", (), [((), flight.overdue_seconds)])
    unconfirmed, again = found.unconfirmed_day, found.sent_again_day
    yield _gauge("unconfirmed_mails", "Mails of 24 hours that may be out.", (), [((), unconfirmed)])
    yield _gauge("sent_again_mails", "Those of them that were sent again.", (), [((), again)])
    workers: dict[tuple[str, ...], float] = {}
    for worker in causes.alive(found, found.read_at):
        kind = (name(worker.queue), worker.version)
        workers[kind] = workers.get(kind, 0.0) + 1
    yield _gauge("workers", "Workers that were seen in the last 45 seconds.", ("queue", "version"), workers.items())
    last = max((worker.seen_at.timestamp() for worker in found.workers), default=None)
    yield _gauge("worker_seen_timestamp_seconds", "When a worker, or a sweep, was seen last.", (), [((), last)])


def _of_ses(found: Reading, seen: Seen) -> Iterator[Metric]:
    account = found.account
    # No counter: permits come back, and a rate of what goes down is the rate of all that there ever was.
    granted = [((bucket,), float(each.granted)) for bucket, each in found.buckets.items()]
    yield _gauge("permits_granted", "Permits that were granted, less those that came back.", ("bucket",), granted)
    slowed = [((bucket,), each.slowdown) for bucket, each in found.buckets.items()]
    yield _gauge("slowdown_ratio", "What throttling has left of the rate.", ("bucket",), slowed)
    used = causes.used_rate(seen.hour, now=seen.now)
    yield _gauge("rate_used", "Mails a second handed over, in the better of the last two minutes.", (), [((), used)])
    rate = causes.granted_rate(found, seen.rate_limit)
    yield _gauge("rate_limit", "Mails a second that the fleet may send now.", ("bucket",), [(("mails",), rate)])
    sent = None if account.sent_last_24_hours is None else account.sent_last_24_hours + account.granted_since
    limit = account.max_24_hour_send
    yield _gauge("quota_limit", "Mails in 24 hours that SES allows; -1 for no limit.", (), [((), limit)])
    yield _gauge("quota_sent", "Mails of the last 24 hours, with permits granted since, also unused.", (), [((), sent)])
    known = dict.fromkeys((*ENFORCEMENTS, account.enforcement or ""))
    states = [((state,), float(account.enforcement == state)) for state in known if account.enforcement]
    yield _gauge("ses_enforcement", "How SES treats the account.", ("state",), states)
    asked = None if account.seen_at is None else account.seen_at.timestamp()
    yield _gauge("ses_account_timestamp_seconds", "When SES was asked last.", (), [((), asked)])
    rates = found.feedback.reputation.get("day")
    # Without events of SES nothing is known of them.
    told = rates if found.feedback.feed.heard_seconds is not None and rates is not None and rates.mails else None
    bounces, complaints = (None, None) if told is None else (told.bounce_rate, told.complaint_rate)
    yield _gauge("bounce_ratio", "Share of the mails of 24 hours that bounced for good.", (), [((), bounces)])
    yield _gauge("complaint_ratio", "Share of the mails of 24 hours complained of.", (), [((), complaints)])


def _of_reading(found: Reading) -> Iterator[Metric]:
    name = _names(found)
    paused = {(_scope(each.scope, name), each.code): 1.0 for each in found.pauses}
    newest_first = sorted(found.pauses, key=lambda each: each.opened_at, reverse=True)
    since = {(_scope(each.scope, name),): each.opened_at.timestamp() for each in newest_first}
    yield _gauge("paused", "What is paused for the whole fleet.", ("scope", "code"), paused.items())
    yield _gauge("paused_since_timestamp_seconds", "Since when it is.", ("scope",), since.items())
    warned = [((code,), 1.0) for code in found.warnings]
    yield _gauge("warning", "What a person should look into.", ("code",), warned)
    health = found.health
    yield _gauge("dead_rows", "Dead rows of jobs.", (), [((), health.dead_jobs)])
    held = health.held_seconds
    yield _gauge("oldest_transaction_seconds", "Age of the oldest transaction, if it is seen.", (), [((), held)])
    yield _gauge("reading_timestamp_seconds", "When all this was counted.", (), [((), found.read_at.timestamp())])
    yield _gauge("reading_duration_seconds", "How long counting took.", (), [((), found.seconds)])


def _gauge(name: str, words: str, labels: tuple[str, ...], samples: Iterable[Sample]) -> Metric:
    """Return a gauge; what is not known has no sample."""
    family = GaugeMetricFamily(f"{PREFIX}{name}", words, labels=labels)
    for values, number in samples:
        if number is not None:
            family.add_metric(values, number)
    return family


def _names(found: Reading) -> Name:
    """Return what names queues, as far as there are not too many: whoever enqueues may make one.

    Those that a worker takes come first: nobody makes these by chance.
    """
    taken = {worker.queue for worker in causes.alive(found, found.read_at)}
    queues = {lane.queue for lane in found.lanes} | {worker.queue for worker in found.workers}
    queues |= {each.scope.removeprefix(QUEUE) for each in found.pauses if each.scope.startswith(QUEUE)}
    known = set(sorted(queues, key=lambda queue: (queue not in taken, queue))[:MAX_QUEUES])
    return lambda queue: queue if queue in known else OTHER


def _scope(scope: str, name: Name) -> str:
    return f"{QUEUE}{name(scope.removeprefix(QUEUE))}" if scope.startswith(QUEUE) else scope
