"""A worker that is watched: its probes over HTTP, by a clock that a test can put forward."""

import contextlib
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from mailroom.db.engine import connect_engine
from mailroom.mail.transport import Transport
from mailroom.worker import probes
from mailroom.worker.metrics import Metrics
from mailroom.worker.observed import ObservedTransport
from mailroom.worker.probe_server import Probes, serving
from mailroom.worker.vitals import Vitals
from tests.running import PATIENCE_SECONDS, eventually, working

ANSWER_WITHIN = timedelta(seconds=20)
LIMITS = probes.bounds(lease=timedelta(seconds=30), answer_within=ANSWER_WITHIN, sweep_interval=timedelta(seconds=5))


def get(port: int, target: str, *, method: str = "GET", seconds: float = PATIENCE_SECONDS) -> tuple[int, str]:
    """Ask a server on this machine; return the status and the body."""
    request = urllib.request.Request(f"http://127.0.0.1:{port}{target}", method=method)
    try:
        with urllib.request.urlopen(request, timeout=seconds) as answer:  # noqa: S310 - as above, http alone
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


@dataclass
class Clock:
    """A monotonic clock that stands still until a test puts it forward: how slow this machine is makes nothing old."""

    ahead: float = 0.0

    def __call__(self) -> float:
        return self.ahead


@dataclass
class Watched:
    """A worker's probes, and its metrics."""

    port: int
    clock: Clock
    vitals: Vitals
    metrics: Metrics
    looked: list[float] = field(default_factory=list)

    def probe(self) -> tuple[int, int]:
        """What /livez and /readyz say."""
        return get(self.port, "/livez")[0], get(self.port, "/readyz")[0]

    def pass_seconds(self, seconds: float) -> None:
        """Put the clock forward, and return once a look that began after that is over, whatever came of it."""
        self.clock.ahead += seconds
        for what in ("a look begins", "it is over"):
            before = self.vitals.looked_at
            eventually(lambda: self.vitals.looked_at > before, what)  # noqa: B023

    def value(self, name: str, **labels: str) -> float:
        """The value of a metric."""
        return self.metrics.registry.get_sample_value(name, labels) or 0.0


@contextlib.contextmanager
def watched(url: str, sends: Transport, **how: Any) -> Iterator[Watched]:
    """Run a worker with probes, which looks several times a second; `how` is for `working`."""
    how.setdefault("sweep_interval", 0.2)
    clock = Clock()
    vitals = Vitals(clock)
    metrics = Metrics(vitals)
    engine = connect_engine(url, pool_size=8, answer_within=ANSWER_WITHIN, step=vitals.beat)
    answers = Probes(
        live=lambda: probes.live(vitals, LIMITS),
        ready=lambda: probes.ready(vitals, LIMITS),
        metrics=metrics.exposition,
    )
    seen = ObservedTransport(sends, telemetry=metrics, vitals=vitals)
    try:
        with (
            serving(answers, "127.0.0.1", 0) as port,
            working(engine, seen, telemetry=metrics, vitals=vitals, **how),
        ):
            yield Watched(port, clock, vitals, metrics)
    finally:
        engine.dispose()
