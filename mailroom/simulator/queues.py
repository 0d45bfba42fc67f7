"""Queues as those of SQS, in memory: a message that is received is out of sight for a while, and comes back."""

import base64
import binascii
import contextlib
import heapq
import itertools
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Annotated, Final

from pydantic import BaseModel, ConfigDict, Field

from mailroom.simulator.events import ACCOUNT, REGION

EVENTS: Final = "mailroom-events"
DEAD_LETTERS: Final = "mailroom-events-dead"
MAX_MESSAGES: Final = 100_000
SLACK: Final = 1000  # so many entries of messages that are gone cost nothing
RETENTION_SECONDS: Final = 14 * 24 * 3600


class QueueSettings(BaseModel):
    """What can be set at run time."""

    model_config = ConfigDict(validate_assignment=True, extra="forbid")

    visibility_seconds: Annotated[float, Field(ge=0, le=43_200)] = 60
    """How long a message that was received is out of sight, if the call does not say."""
    max_receives: Annotated[int, Field(ge=1, le=1000)] = 10
    """A message that was received so often goes to the dead-letter queue, where there is one."""
    max_messages: Annotated[int, Field(ge=1)] = MAX_MESSAGES
    """Above it the oldest are dropped, and counted."""


@dataclass(slots=True)
class Message:
    """One message, with what has become of it so far. Moments are of `time.monotonic()` and, in ms, of the clock."""

    body: str
    id: str = field(default_factory=lambda: str(uuid.uuid4()))
    sent_at_ms: int = field(default_factory=lambda: time.time_ns() // 1_000_000)
    visible_at: float = 0.0
    hiding: int = 0
    order: float = 0.0
    receives: int = 0
    receipt: int = 0
    received_at_ms: int | None = None
    source_arn: str | None = None
    """The queue that gave it up."""


@dataclass(frozen=True, slots=True)
class Received:
    """What a consumer gets."""

    message: Message
    body: str
    handle: str
    receives: int


class Queue:
    """One queue. Any thread may use it."""

    def __init__(self, name: str, dead_letters: "Queue | None" = None) -> None:
        self.name = name
        self.settings = QueueSettings()
        self.dead_letters = dead_letters
        self.dropped = 0
        self.created_at = int(time.time())
        self._lock = threading.Lock()
        self._serials = itertools.count(1)
        self._watchers: set[Callable[[], object]] = set()
        self._messages: dict[str, Message] = {}
        self._ready: list[tuple[float, int, Message]] = []
        self._later: list[tuple[float, int, Message]] = []

    @property
    def arn(self) -> str:
        return f"arn:aws:sqs:{REGION}:{ACCOUNT}:{self.name}"

    def change(self, changes: bytes) -> None:
        """Set some settings, a JSON object by name; pydantic's ValidationError says what is wrong, and none is set."""
        patch = QueueSettings.model_validate_json(changes)
        for name in patch.model_fields_set:
            setattr(self.settings, name, getattr(patch, name))

    def put(self, message: Message, *, delay: float = 0.0, ahead: float = 0.0) -> None:
        """Add a message, seen after `delay` seconds, before as many of those that wait as `ahead` says."""
        with self._lock:
            serial = next(self._serials)
            message.order = serial - ahead
            self._messages[message.id] = message
            self._hide(message, time.monotonic() + delay)
            if len(self._messages) > self.settings.max_messages:
                self._drop(next(iter(self._messages)))
                self.dropped += 1
        self._wake()

    def receive(self, limit: int, visibility: float | None = None) -> list[Received]:
        """At most `limit` messages that can be seen now; each is out of sight for so many seconds."""
        now = time.monotonic()
        seconds = self.settings.visibility_seconds if visibility is None else visibility
        with self._lock:
            self._show_due(now)
            taken = list(itertools.islice(self._visible(), limit))
            for message in taken:
                message.receives += 1
                message.receipt = next(self._serials)
                message.received_at_ms = message.received_at_ms or time.time_ns() // 1_000_000
                self._hide(message, now + seconds)
            return [Received(message, message.body, self._handle(message), message.receives) for message in taken]

    def delete(self, handle: str) -> bool:
        """Delete what was received with `handle`, if nobody received it since. False if that is no handle of ours."""
        if (found := self._read(handle)) is None:
            return False
        message_id, receipt = found
        with self._lock:
            if (message := self._messages.get(message_id)) and message.receipt == receipt:
                self._drop(message_id)
        return True

    def hide_for(self, handle: str, seconds: float) -> str | None:
        """Show what was received with `handle` only after so many seconds from now; else SQS's word for why not."""
        if (found := self._read(handle)) is None:
            return "ReceiptHandleIsInvalid"
        now = time.monotonic()
        with self._lock:
            message = self._messages.get(found[0])
            if message is None:
                return "InvalidParameterValue"
            if message.receipt != found[1] or message.visible_at <= now:
                return "MessageNotInflight"
            self._hide(message, now + seconds)
        self._wake()
        return None

    def is_empty(self) -> bool:
        """Whether there is nothing to see now."""
        with self._lock:
            self._show_due(time.monotonic())
            while self._ready and self._ready[0][2].id not in self._messages:
                heapq.heappop(self._ready)
            return not self._ready

    def counts(self) -> tuple[int, int, int]:
        """How many wait, are out of sight because somebody has them, and are not to be seen yet."""
        now = time.monotonic()
        with self._lock:
            messages = list(self._messages.values())
        hidden = [message for message in messages if message.visible_at > now]
        in_flight = sum(message.receives > 0 for message in hidden)
        return len(messages) - len(hidden), in_flight, len(hidden) - in_flight

    def bodies(self) -> list[str]:
        """What is in it, seen or not, in the order in which it came."""
        with self._lock:
            return [message.body for message in self._messages.values()]

    def clear(self) -> None:
        with self._lock:
            self._messages.clear()
            self._ready.clear()
            self._later.clear()
            self.dropped = 0

    def next_change_seconds(self) -> float | None:
        """In how many seconds something comes into sight by itself."""
        with self._lock:
            return max(0.0, self._later[0][0] - time.monotonic()) if self._later else None

    @contextlib.contextmanager
    def watched(self, watcher: Callable[[], object]) -> Iterator[None]:
        """Call `watcher` whenever there may be more to see."""
        with self._lock:
            self._watchers.add(watcher)
        try:
            yield
        finally:
            with self._lock:
                self._watchers.discard(watcher)

    def is_watched(self) -> bool:
        with self._lock:
            return bool(self._watchers)

    def _wake(self) -> None:
        with self._lock:
            watchers = list(self._watchers)
        for watcher in watchers:
            watcher()

    def _hide(self, message: Message, until: float) -> None:
        message.visible_at, message.hiding = until, next(self._serials)
        heapq.heappush(self._later, (until, message.hiding, message))
        if len(self._later) + len(self._ready) > 2 * len(self._messages) + SLACK:
            self._compact()

    def _compact(self) -> None:
        """Forget the entries of messages that are gone."""
        self._later = [(message.visible_at, message.hiding, message) for message in self._messages.values()]
        heapq.heapify(self._later)
        self._ready = []

    def _show_due(self, now: float) -> None:
        """Let those be seen whose time has come; an entry that is not the message's last one means nothing."""
        while self._later and self._later[0][0] <= now:
            _, serial, message = heapq.heappop(self._later)
            if message.id in self._messages and message.hiding == serial:
                heapq.heappush(self._ready, (message.order, serial, message))

    def _visible(self) -> Iterator[Message]:
        while self._ready:
            message = heapq.heappop(self._ready)[2]
            if message.id not in self._messages:
                continue
            if self.dead_letters is not None and message.receives >= self.settings.max_receives:
                del self._messages[message.id]
                message.source_arn = self.arn
                self.dead_letters.put(message)
                continue
            yield message

    def _drop(self, message_id: str) -> None:
        self._messages.pop(message_id).body = ""  # it may stay in a heap for a while

    def _handle(self, message: Message) -> str:
        return base64.urlsafe_b64encode(f"{self.name}/{message.id}/{message.receipt}".encode()).decode()

    def _read(self, handle: str) -> tuple[str, int] | None:
        try:
            name, message_id, receipt = base64.urlsafe_b64decode(handle).decode().split("/")
            return (message_id, int(receipt)) if name == self.name else None
        except (ValueError, binascii.Error):
            return None


class Queues:
    """The queues by name. At the start: one for events, and one for what nobody could do anything with."""

    def __init__(self) -> None:
        self._by_name: dict[str, Queue] = {}
        self.reset()

    def reset(self) -> None:
        dead = Queue(DEAD_LETTERS)
        self._by_name = {EVENTS: Queue(EVENTS, dead), DEAD_LETTERS: dead}

    def __getitem__(self, name: str) -> Queue:
        return self._by_name[name]

    def find(self, name: str) -> Queue | None:
        return self._by_name.get(name)

    def all(self) -> list[Queue]:
        return list(self._by_name.values())

    def create(self, name: str, dead_letters: str | None = None) -> Queue:
        """A queue of that name, new and empty."""
        queue = Queue(name, self.find(dead_letters) if dead_letters else None)
        self._by_name = self._by_name | {name: queue}
        return queue

    def delete(self, name: str) -> None:
        self._by_name = {other: queue for other, queue in self._by_name.items() if other != name}
