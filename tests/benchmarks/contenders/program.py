"""What the program of each contender can be asked to do, on its command line.

prepare URL          make its tables
enqueue URL COUNT    let so many jobs wait
ask URL COUNT GAP    enqueue urgent jobs one at a time, GAP seconds apart, and note when each was committed
work URL             work until it is killed; begins once it is told to, by a line on its input
"""

import argparse
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

READY: Final = "ready"
# As long as SES makes them.
MESSAGE_ID: Final = "0100018c2f6e5a5b-3c1d2e4f-5a6b-7c8d-9e0f-1a2b3c4d5e6f-000000"


@dataclass(frozen=True, slots=True)
class How:
    """How to work: jobs in a batch, connections or tasks at a time, what a call takes, where to note urgent jobs."""

    batch: int
    concurrency: int
    call_seconds: float
    stamps: Path | None


class Stamps:
    """Notes moments of the clock that all processes share, by the key of a job; nothing if there is no file."""

    def __init__(self, path: Path | None) -> None:
        self._file = None if path is None else path.open("a", buffering=1)

    def note(self, key: object) -> None:
        """Note that it happened now."""
        if self._file is not None:
            self._file.write(f"{key} {time.monotonic()}\n")


def read_stamps(path: Path) -> dict[str, float]:
    """Return what was noted, complete lines alone; the first moment of each key."""
    found: dict[str, float] = {}
    for line in path.read_text().split("\n")[:-1]:
        key, moment = line.split()
        found.setdefault(key, float(moment))
    return found


def await_go() -> None:
    """Say that all is imported and connected, and wait for the line that lets all processes begin at once."""
    sys.stdout.write(READY + "\n")
    sys.stdout.flush()
    sys.stdin.readline()


def run(
    *,
    prepare: Callable[[str], None],
    enqueue: Callable[[str, int], None],
    ask: Callable[[str, int, float, Stamps], None],
    work: Callable[[str, How], None],
) -> None:
    """Do what the command line asks for."""
    parser = argparse.ArgumentParser()
    parser.add_argument("verb", choices=["prepare", "enqueue", "ask", "work"])
    parser.add_argument("url")
    parser.add_argument("--count", type=int, default=0)
    parser.add_argument("--gap", type=float, default=0)
    parser.add_argument("--batch", type=int, default=50)
    parser.add_argument("--concurrency", type=int, default=1)
    parser.add_argument("--call-seconds", type=float, default=0)
    parser.add_argument("--stamps", type=Path)
    given = parser.parse_args()
    match given.verb:
        case "prepare":
            prepare(given.url)
        case "enqueue":
            enqueue(given.url, given.count)
        case "ask":
            ask(given.url, given.count, given.gap, Stamps(given.stamps))
        case _:
            work(given.url, How(given.batch, given.concurrency, given.call_seconds, given.stamps))
