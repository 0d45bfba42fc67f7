"""What came of the events that were read: counted, and logged as a line now and then. No address is in it."""

import logging
import threading
import time
from collections import Counter
from collections.abc import Sequence
from datetime import timedelta
from typing import Final

from mailroom.event import Ignored
from mailroom.mail.event_source import Received
from mailroom.queue.events import Absorbed

log = logging.getLogger(__name__)

EVERY: Final = timedelta(minutes=1)
# Messages that were said to stay in the queue. They come again, a few times each.
MAX_NAMED: Final = 1_000


class Seen:
    """The newest ids that were seen, at most so many. Safe between threads."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._lock = threading.Lock()
        self._ids: dict[str, None] = {}

    def is_new(self, seen: str) -> bool:
        """See this one; return whether it was not seen before."""
        with self._lock:
            new = seen not in self._ids
            self._ids[seen] = None
            while len(self._ids) > self._most:
                del self._ids[next(iter(self._ids))]
        return new


class Tally:
    """Counts, and says of each trouble once that it is there and once that it is over. Safe between threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()
        self._told_at = time.monotonic()
        self._named = Seen(MAX_NAMED)
        self._seen: set[Ignored] = set()
        self._troubles: dict[str, str] = {}
        self._kept_out: set[str] = set()

    def received(self, messages: int) -> None:
        """Count messages as they come."""
        self._add(received=messages)

    def absorbed(self, absorbed: Absorbed) -> None:
        """Count what became of events."""
        self._add(added=absorbed.added, known=absorbed.known, elsewhere=absorbed.elsewhere, unknown=absorbed.unknown)

    def ignored(self, why: Ignored) -> None:
        """Count a message that is nothing for us; say of each reason once that there is such a thing."""
        self._add(ignored=1)
        with self._lock:
            first = why not in self._seen
            self._seen.add(why)
        if first:
            log.info("events of this kind are passed over: %s", why)

    def unreadable(self, message: Received) -> None:
        """Count a message that nobody understands, and name it once: it comes again."""
        self._add(unreadable=1)
        if self._named.is_new(message.id):
            log.warning("event cannot be read, and stays in the queue: id=%s", message.id)

    def left(self, message: Received, error: Exception, where: str) -> None:
        """Count an event that could not be absorbed for its own sake, and name it once. Nothing of it is said."""
        self._add(left=1)
        with self._lock:
            if len(self._kept_out) < MAX_NAMED:
                self._kept_out.add(message.id)
        if self._named.is_new(message.id):
            log.error(
                "event cannot be absorbed, and stays in the queue: id=%s error=%s at=%s",
                *(message.id, type(error).__name__, where),
            )

    def took(self, messages: Sequence[Received]) -> None:
        """Forget of these that they could not be absorbed before."""
        if self._kept_out:
            with self._lock:
                self._kept_out -= {each.id for each in messages}

    def kept_out(self) -> int:
        """How many events could not be absorbed, and have not been since."""
        return len(self._kept_out)

    def trouble(self, what: str, why: str) -> None:
        """Say why something does not work, unless that was said last."""
        with self._lock:
            said, self._troubles[what] = self._troubles.get(what), why
        if said != why:
            log.warning("%s, trying until that works: %s", what, why)

    def works(self, what: str) -> None:
        """Say that it works again, if it did not."""
        with self._lock:
            over = self._troubles.pop(what, None)
        if over is not None:
            log.info("no longer: %s", what)

    def tell(self, *, at_once: bool = False) -> None:
        """Log what was counted since the last time, if anything was and that is long enough ago."""
        now = time.monotonic()
        with self._lock:
            due = at_once or now - self._told_at >= EVERY.total_seconds()
            if not due or not self._counts.total():
                return
            counts, self._counts, self._told_at = self._counts, Counter(), now
        names = ("received", "added", "known", "elsewhere", "unknown", "ignored", "unreadable", "left")
        log.info(f"events {' '.join(f'{name}=%d' for name in names)}", *(counts[name] for name in names))

    def _add(self, **counts: int) -> None:
        with self._lock:
            self._counts.update(counts)
