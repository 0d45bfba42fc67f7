"""The queues that are measured beside each other. Each is a program of its own; see `program`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import psycopg

from tests.benchmarks.contenders.program import READY, How
from tests.benchmarks.machine import Program, scalar


@dataclass(frozen=True, slots=True)
class Contender:
    """One queue: its program, and how to see in its tables whether jobs are left, and when the last one was over.

    Its log takes an id from the sequence `log`, so many times for a job in all.
    """

    name: str
    module: str
    left: str
    last_done: str
    log: str
    entries: int

    def has_drained(self, connection: psycopg.Connection[Any], jobs: int) -> bool:
        """Whether all jobs are over, of which so many waited at first.

        The sequence is asked first: it costs nothing, while a look for a job that is left walks over all that are done.
        """
        logged: int = scalar(connection, f"SELECT last_value FROM {self.log}")  # noqa: S608 - our own names
        return logged >= jobs * self.entries and not scalar(connection, self.left)

    def program(self, verb: str, url: str, **options: object) -> Program:
        """Start its program; see `program` for the verbs."""
        flags = [f"--{name.replace('_', '-')}={value}" for name, value in options.items() if value is not None]
        return Program("-m", f"tests.benchmarks.contenders.{self.module}", verb, url, *flags)

    def prepare(self, url: str, jobs: int = 0) -> None:
        """Make its tables, and let so many jobs wait."""
        with self.program("prepare", url) as preparing:
            preparing.finish()
        if jobs:
            with self.program("enqueue", url, count=jobs) as enqueuing:
                enqueuing.finish()

    def worker(self, url: str, how: How) -> Program:
        """Start a worker that is ready, and begins when it is told to `go`."""
        program = self.program(
            "work",
            url,
            batch=how.batch,
            concurrency=how.concurrency,
            call_seconds=how.call_seconds,
            stamps=how.stamps,
        )
        program.await_words(READY)
        return program


# The mailroom tables tell the same of both.
_LEFT: Final = "SELECT EXISTS (SELECT FROM jobs) OR EXISTS (SELECT FROM batches)"
_LAST_DONE: Final = "SELECT max(created_at) FROM deliveries"
_LOG: Final = "deliveries_id_seq"
MAILROOM: Final = Contender("mailroom", "mailroom", _LEFT, _LAST_DONE, _LOG, 1)
FLOOR: Final = Contender("floor", "floor", _LEFT, _LAST_DONE, _LOG, 1)
UNPREPARED: Final = Contender("floor, unprepared", "floor_unprepared", _LEFT, _LAST_DONE, _LOG, 1)
PROCRASTINATE: Final = Contender(
    "procrastinate",
    "procrastinate_3",
    "SELECT EXISTS (SELECT FROM procrastinate_jobs WHERE status IN ('todo', 'doing'))",
    "SELECT max(at) FROM procrastinate_events WHERE type = 'succeeded'",
    "procrastinate_events_id_seq",
    3,
)
PGQUEUER: Final = Contender(
    "pgqueuer",
    "pgqueuer_1",
    "SELECT EXISTS (SELECT FROM pgqueuer)",
    "SELECT max(created) FROM pgqueuer_log WHERE status = 'successful'",
    "pgqueuer_log_id_seq",
    3,
)


def how(batch: int = 50, concurrency: int = 1, *, call_seconds: float = 0, stamps: Path | None = None) -> How:
    """Say how to work; by default with one sender that takes 50, and calls that take no time."""
    return How(batch, concurrency, call_seconds, stamps)
