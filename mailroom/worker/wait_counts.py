"""How long mails have waited, counted by the bounds of a histogram: once for all that were due at the same moment."""

import threading
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from prometheus_client.core import HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString


@dataclass(slots=True)
class _Counts:
    by_bound: list[int]  # the last is above all bounds
    total_seconds: float = 0.0


class WaitCounts(Collector):
    """A histogram that takes several at once: most mails of a batch were made by one statement."""

    def __init__(self, name: str, words: str, bounds: Sequence[float], *labels: str) -> None:
        self._name = name
        self._words = words
        self._bounds = bounds
        self._labels = labels
        self._lock = threading.Lock()
        self._counts: dict[tuple[str, ...], _Counts] = {}

    def count(self, labels: tuple[str, ...], seconds: float, mails: int) -> None:
        """Count so many mails that have waited as long."""
        place = bisect_left(self._bounds, seconds)
        with self._lock:
            counts = self._counts.get(labels)
            if counts is None:
                counts = self._counts[labels] = _Counts([0] * (len(self._bounds) + 1))
            counts.by_bound[place] += mails
            counts.total_seconds += seconds * mails

    def collect(self) -> Iterable[Metric]:
        """Return the histogram, for a registry."""
        family = HistogramMetricFamily(self._name, self._words, labels=self._labels)
        with self._lock:
            known = [(labels, list(counts.by_bound), counts.total_seconds) for labels, counts in self._counts.items()]
        for labels, by_bound, total_seconds in known:
            reached, buckets = 0, []
            for bound, mails in zip([*map(floatToGoString, self._bounds), "+Inf"], by_bound, strict=True):
                reached += mails
                buckets.append((bound, float(reached)))
            family.add_metric(labels, buckets, total_seconds)
        return [family]
