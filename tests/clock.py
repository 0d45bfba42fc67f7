"""A PostgreSQL server whose clock can be put wrong while it runs, as NTP, a pause of its machine or a failover does."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

from mailroom.demo.postgres import THROWAWAY, EmbeddedPostgres

# Debian's `faketime`, in the folder of whichever machine this is.
LIBRARY = next(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"), Path("/usr/lib/faketime/libfaketime.so.1"))


class WrongClockPostgres(EmbeddedPostgres):
    """Its clock is this machine's until it is stepped. Its monotonic clock stays right, as it would."""

    def __init__(self, binaries: Path | None = None, *, settings: dict[str, str] = THROWAWAY) -> None:
        super().__init__(binaries, settings=settings)
        self._offset = self.log.with_name("clock")
        self.step(timedelta(0))

    def step(self, offset: timedelta) -> None:
        """Put the clock so far from this machine's, ahead or back, at once and in every process of the server."""
        written = self._offset.with_suffix(".new")
        written.write_text(f"{offset.total_seconds():+.0f}")
        written.rename(self._offset)

    def start(self) -> None:
        with self._environment():
            super().start()

    @contextmanager
    def _environment(self) -> Iterator[None]:
        """What the server inherits. For a moment it is this process's own: nothing else may be started meanwhile."""
        added = {
            "LD_PRELOAD": str(LIBRARY),
            "FAKETIME_TIMESTAMP_FILE": str(self._offset),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "NO_FAKE_STAT": "1",
        }
        os.environ.update(added)
        try:
            yield
        finally:
            for name in added:
                del os.environ[name]
