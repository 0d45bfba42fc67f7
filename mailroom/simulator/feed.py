"""How events are told to those who listen, and what goes wrong with the telling."""

import random
import threading
import uuid
from datetime import UTC, datetime
from typing import Annotated, Final

from pydantic import BaseModel, ConfigDict, Field

from mailroom.simulator.configuration_sets import Destination
from mailroom.simulator.envelopes import Envelope, enclose
from mailroom.simulator.events import event, timestamp
from mailroom.simulator.happenings import Event, Happening
from mailroom.simulator.queues import Message, Queue
from mailroom.simulator.records import Mail

SHUFFLED: Final = 100  # how many of those that wait an event may come before


class FeedSettings(BaseModel):
    """How events are told. What can be set at run time; an assignment is checked, and the next event obeys it."""

    model_config = ConfigDict(validate_assignment=True, extra="forbid")

    envelope: Envelope = "wrapped"
    """What SNS does with an event; EventBridge has its own in any case."""
    late_seconds: Annotated[float, Field(ge=0, le=900)] = 0
    times: Annotated[int, Field(ge=1, le=100)] = 1
    """How often each is told."""
    out_of_order: bool = False
    lost: Annotated[float, Field(ge=0, le=1)] = 0
    """The share of them that nobody ever hears of."""
    before_answer: bool = False
    """Tell before the call is answered that the mail came in."""
    without_tags: frozenset[Event] = frozenset()
    """The events that have none of the mail's tags, but that of its configuration set."""
    send_before_rendering_failure: bool = False
    """Say Send, too, of a mail that fails to render."""


class Feed:
    """The settings, and the chances, which repeat themselves for the same seed."""

    def __init__(self, seed: int = 0) -> None:
        self._seed = seed
        self._lock = threading.Lock()
        self.settings = FeedSettings()
        self.reset()

    def reset(self) -> None:
        with self._lock:
            self._random = random.Random(self._seed)  # noqa: S311  chances must repeat, not surprise
        for name, value in FeedSettings():
            setattr(self.settings, name, value)

    def change(self, changes: bytes) -> None:
        """Set some fields, a JSON object by name; pydantic's ValidationError says what is wrong, and none is set."""
        patch = FeedSettings.model_validate_json(changes)
        for name in patch.model_fields_set:
            setattr(self.settings, name, getattr(patch, name))

    def tell(self, mail: Mail, happening: Happening, at: datetime, *, via: Destination, to: Queue) -> None:
        settings = self.settings
        with self._lock:
            lost = self._random.random() < settings.lost
            notification = str(uuid.UUID(int=self._random.getrandbits(128), version=4))
            ahead = [self._random.random() * SHUFFLED * settings.out_of_order for _ in range(settings.times)]
        if lost:
            return
        content = event(mail, happening, at, tagged=happening.event not in settings.without_tags)
        envelope = "eventbridge" if via.topic is None else settings.envelope
        body = enclose(content, envelope, arn=via.topic or "", uuid=notification, now=timestamp(datetime.now(UTC)))
        for places in ahead:
            to.put(Message(body), delay=settings.late_seconds, ahead=places)
