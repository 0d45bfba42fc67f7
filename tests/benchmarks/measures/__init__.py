"""One module a measure, each complete in itself; run in this order, and shown in it."""

from collections.abc import Mapping
from typing import Final

from tests.benchmarks.measures import (
    claimers,
    cost,
    distance,
    drain,
    enqueue,
    feed,
    growth,
    idle,
    latency,
    lone,
    ses,
    snapshot,
    soak,
    watched,
    window,
)
from tests.benchmarks.trial import Measure

MEASURES: Final[Mapping[str, Measure]] = {
    "drain": drain,
    "ses": ses,
    "latency": latency,
    "lone": lone,
    "feed": feed,
    "growth": growth,
    "snapshot": snapshot,
    "claimers": claimers,
    "enqueue": enqueue,
    "idle": idle,
    "cost": cost,
    "distance": distance,
    "watched": watched,
    "window": window,
    "soak": soak,
}
# Too long for minutes.
ONLY_FULL: Final = frozenset({"soak"})
