"""The metrics of a process, in the format of Prometheus. Their labels have few values, whatever comes."""

import threading
from collections import Counter as Counted
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import groupby
from pathlib import Path
from typing import Final

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
    write_to_textfile,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from sqlalchemy import Connection

from mailroom.db.engine import CONTRACT
from mailroom.db.metadata import delivery_outcome
from mailroom.job import Batch
from mailroom.ops.minutes import WAIT_BOUNDS
from mailroom.queue.claim import Claim
from mailroom.queue.verdict import Verdict
from mailroom.worker.database_clock import DatabaseClock
from mailroom.worker.telemetry import NoTelemetry, Result, WakenBy, installed_version
from mailroom.worker.vitals import Vitals
from mailroom.worker.wait_counts import WaitCounts

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
OPERATIONS: Final = ("SendEmail", "SendBulkEmail", "GetAccount")
RESULTS: Final[tuple[Result, ...]] = ("answered", "refused", "unsent", "unconfirmed")
OUTCOMES: Final = (*delivery_outcome.enums, "late", "untried")
WAKEN_BY: Final[tuple[WakenBy, ...]] = ("notification", "look", "sweep")
# Seconds. A call ends after 25 at the latest; a wait has no end.
CALL_BOUNDS: Final = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 15, 30)
STATEMENT_BOUNDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
BATCH_BOUNDS: Final = (1, 2, 5, 10, 20, 50)
# More kinds of mail, or codes, than anybody has: whatever comes after them is one.
MAX_ACTIONS: Final = 50
MAX_CODES: Final = 100
OTHER: Final = "other"

_NOTHING: Final = nullcontext()


class Metrics(NoTelemetry):
    """Counts what a process is told, and tells it with its vitals. See `Telemetry`."""

    def __init__(self, vitals: Vitals, *, lives: bool = True) -> None:
        """`lives`: it is asked while it lives, also for what it is at then, and for its memory and the like.

        In a file for node_exporter these have the names of those of node_exporter itself.
        """
        disable_created_metrics()  # type: ignore[no-untyped-call]  # theirs. A second series for each, which nobody asks for
        self.registry = CollectorRegistry()
        self._clock = DatabaseClock()
        self._actions, self._codes = _Known(MAX_ACTIONS), _Known(MAX_CODES)
        self._mails = self._counter("mails", "mails by what became of an attempt", "action", "outcome")
        self._faults = self._counter("faults", "mails that were not sent, by code", "code")
        self._calls = self._counter("calls", "calls of the provider", "operation", "result")
        self._call = self._histogram("call_duration_seconds", "length of a call", CALL_BOUNDS, "operation")
        self._wait = WaitCounts(
            "mailroom_wait_seconds", "From when a mail is due to its call.", WAIT_BOUNDS, "action", "priority"
        )
        self.registry.register(self._wait)
        self._claim = self._histogram("claim_duration_seconds", "length of a claim", STATEMENT_BOUNDS)
        self._settle = self._histogram("settle_duration_seconds", "length of a settlement", STATEMENT_BOUNDS)
        self._batch = self._histogram("batch_jobs", "jobs of a batch", BATCH_BOUNDS, "action")
        self._wakeups = self._counter("wakeups", "what made the process look for work", "by")
        self._retries = self._counter("settle_retries", "settlements that had to be repeated")
        self._permit_wait = self._counter("permit_wait_seconds", "what senders waited for permits")
        for operation in OPERATIONS:
            for result in RESULTS:
                self._calls.labels(operation, result)
        for by in WAKEN_BY:
            self._wakeups.labels(by)
        self.registry.register(_OfProcess(vitals, lives=lives))
        if lives:
            ProcessCollector(registry=self.registry)

    def exposition(self) -> bytes:
        """Return all of it as Prometheus reads it."""
        return generate_latest(self.registry)

    def write(self, path: Path) -> None:
        """Write all of it to a file, whole or not at all, for the textfile collector of node_exporter.

        Raises OSError.
        """
        write_to_textfile(str(path), self.registry)

    def sweeps(self, connection: Connection) -> None:
        """See `Telemetry.sweeps`."""
        self._clock.refresh(connection)

    def knows(self, actions: Iterable[str]) -> None:
        """See `Telemetry.knows`. What begins at 0 can be seen to rise: of the first of a kind an alert is to hear."""
        for label in map(self._actions.label, actions):
            for outcome in OUTCOMES:
                self._mails.labels(label, outcome)

    def claimed(self, claim: Claim, *, seconds: float) -> None:
        """See `Telemetry.claimed`."""
        self._claim.observe(seconds)
        for batch in claim.batches:
            self._batch.labels(self._actions.label(batch.action)).observe(len(batch.jobs))
        for job in claim.finished:
            self._mails.labels(self._actions.label(job.action), job.outcome).inc()

    def sending(self, batch: Batch) -> AbstractContextManager[object]:
        """See `Telemetry.sending`."""
        labels = (self._actions.label(batch.action), batch.priority.name.lower())
        # Not by hash: that of a moment with a time zone is slow. Those of one statement are beside each other.
        for due_at, due in groupby(job.due_at for job in batch.jobs):
            waited = None if due_at is None else self._clock.seconds_since(due_at)
            if waited is not None:
                self._wait.count(labels, waited, sum(1 for _ in due))
        return _NOTHING

    def called(self, operation: str, result: Result, *, seconds: float) -> None:
        """See `Telemetry.called`."""
        self._calls.labels(operation, result).inc()
        self._call.labels(operation).observe(seconds)

    def settled(self, batch: Batch, verdicts: Sequence[Verdict], *, owned: bool) -> dict[str, str]:
        """See `Telemetry.settled`."""
        action = self._actions.label(batch.action)
        untried = len(batch.jobs) - sum(bool(verdict.deliveries) for verdict in verdicts)
        if untried:
            self._mails.labels(action, "untried").inc(untried)
        came = Counted((one.outcome, one.error_code) for verdict in verdicts for one in verdict.deliveries)
        for (outcome, code), mails in came.items():
            self._mails.labels(action, outcome if owned else "late").inc(mails)
            if code is not None:
                self._faults.labels(self._codes.label(code)).inc(mails)
        return {}

    def settle_took(self, batches: Sequence[Batch], seconds: float) -> None:
        """See `Telemetry.settle_took`."""
        self._settle.observe(seconds)

    def settle_failed(self) -> None:
        """See `Telemetry.settle_failed`."""
        self._retries.inc()

    def permit_awaited(self, seconds: float) -> None:
        """See `Telemetry.permit_awaited`."""
        self._permit_wait.inc(seconds)

    def woken(self, by: WakenBy) -> None:
        """See `Telemetry.woken`."""
        self._wakeups.labels(by).inc()

    def _counter(self, name: str, words: str, *labels: str) -> Counter:
        return Counter(f"mailroom_{name}", _sentence(words), labels, registry=self.registry)

    def _histogram(self, name: str, words: str, bounds: Sequence[float], *labels: str) -> Histogram:
        return Histogram(f"mailroom_{name}", _sentence(words), labels, registry=self.registry, buckets=bounds)


class _Known:
    """The values of a label: the first so many that come, and one for all others."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._values: set[str] = set()
        self._lock = threading.Lock()

    def label(self, value: str) -> str:
        if value in self._values:
            return value
        with self._lock:
            if len(self._values) >= self._most:
                return OTHER
            self._values.add(value)
        return value


class _OfProcess(Collector):
    """What is read at the moment that somebody asks."""

    def __init__(self, vitals: Vitals, *, lives: bool) -> None:
        self._vitals = vitals
        self._lives = lives

    def collect(self) -> Iterable[Metric]:
        vitals = self._vitals
        if self._lives:
            yield from self._of_now()
        yield _count("rescued_mails", "mails of lost batches that were given back", vitals.rescued())
        yield _count("reconciled", "tokens in no place that were enqueued", vitals.reconciled())
        info = GaugeMetricFamily("mailroom_build_info", "What runs.", labels=["version", "revision"])
        info.add_metric([installed_version(), str(CONTRACT)], 1)
        yield info

    def _of_now(self) -> Iterable[Metric]:
        vitals = self._vitals
        yield _gauge("senders", "senders of the process", vitals.senders)
        yield _gauge("senders_busy", "senders that have something to do", vitals.busy)
        if vitals.is_listening is not None:
            yield _gauge("listening", "whether notifications are heard", vitals.is_listening())
        yield _gauge("backing_off", "whether the senders wait since the account is at fault", vitals.backs_off())
        yield _gauge("last_look_timestamp_seconds", "when the process last began to look for work", vitals.looked_at)


def _gauge(name: str, words: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"mailroom_{name}", _sentence(words), value=float(value))


def _count(name: str, words: str, value: float) -> CounterMetricFamily:
    return CounterMetricFamily(f"mailroom_{name}", _sentence(words), value=float(value))


def _sentence(words: str) -> str:
    return f"{words[0].upper()}{words[1:]}."
