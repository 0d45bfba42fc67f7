"""What one run of the suite is to be: how large, how often, and in which order."""

import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol, TypeVar

from tests.benchmarks.grid import Aim, Grid

T = TypeVar("T")


class Size(StrEnum):
    """How large: to see that it works, for minutes, for an hour."""

    TINY = "tiny"
    BENCH = "bench"
    FULL = "full"


@dataclass(frozen=True, slots=True)
class Trial:
    """How large, and how often each thing is measured. `soak_seconds` is for the soak alone."""

    size: Size
    runs: int
    soak_seconds: float = 1800

    def pick(self, *, tiny: T, bench: T, full: T) -> T:
        """Choose by size."""
        return {Size.TINY: tiny, Size.BENCH: bench, Size.FULL: full}[self.size]

    def interleave(self, ways: Mapping[str, Callable[[], None]]) -> None:
        """Measure each way once, then each once again, backwards: what changes meanwhile touches all alike."""
        in_order = list(ways.items())
        for run in range(self.runs):
            for name, measure in in_order if run % 2 == 0 else reversed(in_order):
                began = time.monotonic()
                measure()
                say(f"  run {run + 1} of {self.runs}: {name} ({time.monotonic() - began:.1f} s)")


class Measure(Protocol):
    """A module of `measures`. The aims are those of its own tables, by their titles, which may be missing."""

    TITLE: str
    ABOUT: str

    def measure(self, trial: Trial) -> list[Grid]:
        """Measure, and return tables of all runs."""
        ...  # pragma: no cover

    def aims(self, grids: Mapping[str, Grid]) -> list[Aim]:
        """Compare what was found with what it should come to."""
        ...  # pragma: no cover


def say(words: str) -> None:
    """Tell of the progress."""
    sys.stderr.write(words + "\n")
    sys.stderr.flush()
