"""What the measurements run on: a server with durable settings, its databases, programs, and what they cost."""

import contextlib
import itertools
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import psutil
import psycopg
from psycopg.conninfo import make_conninfo

from mailroom.demo.postgres import EmbeddedPostgres
from tests.servers import TESTS_PATH

# Durable, unlike the tests' server: what a commit costs is part of what is measured.
SETTINGS: Final = {"shared_buffers": "1GB", "max_wal_size": "4GB", "max_connections": "200", "search_path": TESTS_PATH}
PATIENCE_SECONDS: Final = 3600.0
ROOT: Final = Path(__file__).parent.parent.parent


class Program:
    """A Python program of ours as a process, with its output in a file. It is killed when its context ends."""

    def __init__(self, *command: str, **environment: str) -> None:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("MAILROOM_", "AWS_"))}
        self._output = tempfile.TemporaryFile("w+", prefix="bench-")  # noqa: SIM115 - lives as long as the process
        self._popen = subprocess.Popen(
            [sys.executable, *command],
            env=kept | environment,
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=self._output,
            stderr=self._output,
            text=True,
        )
        self.process = psutil.Process(self._popen.pid)

    def __enter__(self) -> "Program":
        return self

    def __exit__(self, *_: object) -> None:
        self._popen.kill()
        self._popen.communicate()
        self._output.close()

    def said(self) -> str:
        """Return all that it has printed."""
        return os.pread(self._output.fileno(), 1_000_000, 0).decode()

    def await_words(self, words: str) -> None:
        """Wait until it has printed these words."""
        self.wait_for(lambda: words in self.said())

    def go(self) -> None:
        """Let a program begin that waits for a line of input."""
        assert self._popen.stdin is not None
        self._popen.stdin.write("\n")
        self._popen.stdin.flush()

    def finish(self) -> None:
        """Wait until it ends by itself. Raises RuntimeError if it fails."""
        if self._popen.wait(PATIENCE_SECONDS) != 0:
            raise RuntimeError(self.said()[-2000:])

    def stop(self) -> None:
        """Ask it to stop in order, and wait until it has."""
        self._popen.send_signal(signal.SIGTERM)
        self._popen.wait(PATIENCE_SECONDS)

    def wait_for(self, happens: Callable[[], bool], *, every: float = 0.01) -> None:
        """Look until it is so. Raises RuntimeError if the program ends before, TimeoutError if it takes for ever."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not happens():
            if self._popen.poll() is not None:
                raise RuntimeError(f"it has ended: {self.said()[-2000:]}")
            if time.monotonic() > deadline:
                raise TimeoutError(self.said()[-2000:])
            time.sleep(every)

    def cpu_seconds(self) -> float:
        """CPU time so far."""
        times = self.process.cpu_times()
        return times.user + times.system

    def memory_mb(self) -> tuple[float, float]:
        """Resident memory, and how much of that no other process shares (libraries are shared)."""
        found = self.process.memory_full_info()
        return found.rss / 2**20, found.uss / 2**20


class Server:
    """A PostgreSQL server of one's own, and databases on it that are copied from templates."""

    def __init__(self, **settings: str) -> None:
        self.postgres = EmbeddedPostgres(settings=SETTINGS | settings)
        self._names = itertools.count(1)
        self._templates: dict[object, str] = {}

    def __enter__(self) -> "Server":
        self.postgres.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self.postgres.__exit__(None, None, None)

    def url(self, database: str = "postgres") -> str:
        """Return the libpq string of a database, under a name that mailroom's own connections do not have."""
        return make_conninfo(self.postgres.url(database), application_name="bench")

    def create(self, template: str = "template1") -> str:
        """Create a database; return its name."""
        name = f"bench{next(self._names)}"
        self.run("postgres", f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY file_copy")
        return name

    @contextlib.contextmanager
    def copy(self, kind: object, fill: Callable[[str], None]) -> Iterator[str]:
        """Give a database as `fill` left it. It is filled for the first of a kind alone, vacuumed, and then copied."""
        if kind not in self._templates:
            name = self.create()
            fill(self.url(name))
            self.run(name, "VACUUM ANALYZE")
            self._templates[kind] = name
        name = self.create(self._templates[kind])
        try:
            yield name
        finally:
            self.drop(name)

    def drop(self, name: str) -> None:
        """Drop a database, whoever is in it."""
        self.run("postgres", f"DROP DATABASE {name} WITH (FORCE)")

    def run(self, database: str, sql: str) -> None:
        """Run one statement outside a transaction."""
        with self.connect(database) as connection:
            connection.execute(sql.encode())

    @contextlib.contextmanager
    def connect(self, database: str) -> Iterator[psycopg.Connection[Any]]:
        """Give a connection on which every statement commits by itself."""
        with psycopg.connect(self.url(database), autocommit=True) as connection:
            yield connection

    def cpu_seconds(self) -> float:
        """CPU time of the server so far: of its processes, and of those that have ended."""
        postmaster = psutil.Process(self.postgres.pid)
        ended = postmaster.cpu_times()
        spent = ended.user + ended.system + ended.children_user + ended.children_system
        for child in postmaster.children():
            with contextlib.suppress(psutil.NoSuchProcess):
                times = child.cpu_times()
                spent += times.user + times.system
        return float(spent)


def scalar(connection: psycopg.Connection[Any], sql: str) -> Any:
    """Return the one value of a query."""
    row = connection.execute(sql.encode()).fetchone()
    assert row is not None
    return row[0]


@contextlib.contextmanager
def old_snapshot(server: Server, database: str, *, held: bool = True) -> Iterator[None]:
    """Hold a snapshot of a database open, as a forgotten transaction or a long dump does; or do not."""
    with psycopg.connect(server.url(database)) as connection:
        if held:
            connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            connection.execute("SELECT count(*) FROM pg_class")
        yield
        connection.rollback()
