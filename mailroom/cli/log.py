"""The log, on stderr: a line an event. Nobody who logs ever waits for whoever reads it."""

import contextlib
import logging
import os
import select
import sys
import threading
import time
import traceback
from queue import SimpleQueue
from typing import Any, Final

from mailroom.cli.terminal import printable
from mailroom.settings import log_format, unknown_variables

log = logging.getLogger(__name__)

# Some minutes of a busy worker; a few megabytes.
MAX_WAITING: Final = 10_000
# How long the end of the process waits for the last lines to be taken.
LAST_LINES_SECONDS: Final = 1.0
ERROR: Final = {"levelno": logging.ERROR, "levelname": "ERROR"}


class LogWriter(logging.Handler):
    """Writes lines to a file descriptor in a thread of its own. What is not taken in time is dropped, and counted."""

    def __init__(self, fd: int) -> None:
        super().__init__()
        self._fd = fd
        self._waiting: SimpleQueue[str | threading.Event] = SimpleQueue()  # a signal handler may log, too
        self._dropped = 0
        self._thread: threading.Thread | None = None

    def emit(self, record: logging.LogRecord) -> None:
        """Hand over a line. Called under the handler's lock."""
        line = self.format(record)
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="log", daemon=True)
            self._thread.start()
        if self._waiting.qsize() >= MAX_WAITING:
            self._dropped += 1
        else:
            self._waiting.put(line)

    def flush(self) -> None:
        """Wait for what has been logged to be written, a moment at most; at the end of the process."""
        if self._thread is not None:
            written = threading.Event()
            self._waiting.put(written)
            written.wait(LAST_LINES_SECONDS)

    def _run(self) -> None:
        while True:
            line = self._waiting.get()
            if isinstance(line, threading.Event):
                line.set()
            elif not write_line(self._fd, line):
                self._drop(1)
            elif self._dropped:
                self._tell_dropped()

    def _tell_dropped(self) -> None:
        with self._guarded():
            dropped, self._dropped = self._dropped, 0
        level = {"levelno": logging.WARNING, "levelname": "WARNING"}
        words = {"msg": "log lines dropped=%d: nobody took them in time", "args": (dropped,)}
        lost = logging.makeLogRecord(level | words)
        if not write_line(self._fd, self.format(lost)):
            self._drop(dropped)

    def _drop(self, count: int) -> None:
        with self._guarded():
            self._dropped += count

    def _guarded(self) -> contextlib.AbstractContextManager[object]:
        assert self.lock is not None  # noqa: S101 - every handler has one
        return self.lock


class Wordless(logging.Formatter):
    """Tells where an error came from and of which class it is, and none of its words: they may quote an address."""

    def formatException(self, ei: Any) -> str:  # noqa: N802 - logging's name
        told: list[str] = []
        error = ei[1]
        while error is not None:
            told = ["".join(traceback.format_tb(error.__traceback__)) + type(error).__name__, *told]
            error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
        return "\nwhich led to:\n".join(told)


class OneLine(Wordless):
    """Keeps an event on its line, and what a terminal would obey out of it, wherever its words come from."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        return printable(super().formatMessage(record))


def start_log() -> None:
    """Log to stderr, a line an event; and say if a MAILROOM_ variable is one that nothing reads."""
    writer: logging.Handler = logging.NullHandler()
    with contextlib.suppress(OSError):  # no file: a test's
        writer = writer if sys.stderr is None else LogWriter(sys.stderr.fileno())
    writer.setFormatter(_formatter())
    logging.basicConfig(level=logging.INFO, handlers=[writer])
    for name in unknown_variables():
        log.warning("unknown variable %s: is it misspelt?", name)


def _formatter() -> logging.Formatter:
    if log_format() == "json":
        from mailroom.cli.json_log import JsonLines  # noqa: PLC0415 - only who asks for it pays

        return JsonLines()
    return OneLine("%(asctime)s %(levelname)s %(message)s", "%Y-%m-%dT%H:%M:%S%z")


def last_words(line: str | None = None) -> None:
    """Have the last lines of the log written, and then this one, if somebody takes them within a moment."""
    for handler in logging.getLogger().handlers:
        handler.flush()
    if line is not None:
        is_json = log_format() == "json"
        record = logging.makeLogRecord(ERROR | {"msg": "%s", "args": (line,)})
        say_on_stderr(_formatter().format(record) if is_json else line)


def say_on_stderr(line: str) -> None:
    """Write a line to stderr, if there is one, and somebody takes the line within a moment. Never raises."""
    if sys.stderr is None:
        return
    try:
        fd = sys.stderr.fileno()
    except OSError:  # no file: a test's
        sys.stderr.write(f"{line}\n")
    else:
        write_line(fd, line, seconds=LAST_LINES_SECONDS)


def write_line(fd: int, line: str, *, seconds: float | None = None) -> bool:
    """Write a line, within some seconds if they are given; whether it was taken. Never raises for what is not."""
    left = f"{line}\n".encode(errors="backslashreplace")
    ends = None if seconds is None else time.monotonic() + seconds
    try:
        while left:
            patience = None if ends is None else max(0.0, ends - time.monotonic())
            if not select.select([], [fd], [], patience)[1]:
                return False
            with contextlib.suppress(BlockingIOError):  # another writer was quicker
                left = left[os.write(fd, left[: select.PIPE_BUF]) :]
    except OSError:  # a full disk, a reader or a terminal that is gone
        return False
    return True
