"""Commands as processes that are there at once: forked from one that has read all of mailroom before.

A command reads a thousand files before it begins, which takes a core most of a second, and hundreds of tests start
several. From its first line on such a process is like any other. What is about the time before (a signal that comes
while it starts, streams that are closed, another release, a warning at an import) starts Python itself.
"""

import atexit
import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Mapping, Sequence
from multiprocessing import reduction
from pathlib import Path
from typing import IO, Any, Final

from mailroom.cli.app import COMMANDS

# What a command or a worker reads sooner or later.
READ: Final = (
    "mailroom.cli.app",
    *(f"mailroom.cli.{each.place.partition('.')[0]}" for each in COMMANDS),
    "mailroom.ses.transport",
    "mailroom.ses.event_queue",
    "mailroom.simulator.server",
    "mailroom.window.server",
    "mailroom.worker.metrics",
    "mailroom.worker.probe_server",
    "mailroom.worker.systemd",
    "mailroom.worker.tracing",
)
# Whatever Python or the loader reads of the environment when a process begins comes too late for one that is forked.
EARLY: Final = ("PYTHON", "LD_", "LC_", "LANGUAGE", "MALLOC_")

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload([*READ])


class _Stream:
    """A file descriptor that another process is given: this one when it is sent, and its own once it is there."""

    def __init__(self, number: int) -> None:
        self._number = number

    def __reduce__(self) -> tuple[Any, ...]:
        return _detached, (reduction.DupFd(self._number),)


def _detached(held: Any) -> int:
    number: int = held.detach()
    return number


def can_run(environment: Mapping[str, str]) -> bool:
    """Whether a process that is forked sees all of this environment."""
    return not any(name.startswith(EARLY) for name in environment)


def start(
    arguments: Sequence[str], environment: Mapping[str, str], streams: Sequence[IO[str]], *, given: Mapping[str, str]
) -> "Forked | subprocess.Popen[bytes]":
    """Start `mailroom ARGUMENTS`: forked, unless `given`, which is for it alone, comes too late for that."""
    if can_run(given):
        return Forked(arguments, environment, streams=[stream.fileno() for stream in streams])
    command = [sys.executable, "-m", "mailroom", *arguments]
    stdin, stdout, stderr = streams
    return subprocess.Popen(command, env=environment, stdin=stdin, stdout=stdout, stderr=stderr)


class Forked:
    """`mailroom ARGUMENTS`, running. Its streams are file descriptors, which stay the caller's, too."""

    def __init__(
        self, arguments: Sequence[str], environment: Mapping[str, str], *, streams: Sequence[int], strict: bool = False
    ) -> None:
        """`strict`: a warning is an error."""
        given = tuple(map(_Stream, streams))
        self._process = _context.Process(target=_run, args=(list(arguments), dict(environment), given, strict))
        self._process.start()
        assert self._process.pid is not None
        self.pid = self._process.pid

    def poll(self) -> int | None:
        """Return how it ended, as `subprocess` says it; None: it runs."""
        return self._process.exitcode

    def wait(self, seconds: float) -> int:
        """Wait for its end. Raises TimeoutError."""
        self._process.join(seconds)
        if self._process.exitcode is None:
            raise TimeoutError(f"it has not ended after {seconds} s")
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        """Send a signal, unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """End it at once."""
        self.send_signal(signal.SIGKILL)


def _run(arguments: Sequence[str], environment: Mapping[str, str], streams: Sequence[int], strict: bool) -> None:
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    sys.stdin, sys.stdout = open(0, closefd=False), open(1, "w", closefd=False)  # noqa: SIM115 - as long as it lives
    sys.stderr = open(2, "w", errors="backslashreplace", buffering=1, closefd=False)  # noqa: SIM115 - likewise
    os.environ.clear()
    os.environ.update(environment)
    time.tzset()
    if strict:
        warnings.simplefilter("error")
    sys.argv = [str(Path(sys.executable).with_name("mailroom")), *arguments]
    try:
        runpy.run_module("mailroom", run_name="__main__")
    finally:
        atexit._run_exitfuncs()  # multiprocessing ends without, and what is left of the log is written then
