"""The configuration sets: what each allows, and where its events go."""

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from mailroom.simulator.events import ACCOUNT, REGION
from mailroom.simulator.queues import EVENTS
from mailroom.simulator.refusal import SesError, not_found

MAX_DESTINATIONS: Final = 10  # SES: at most 10 event destinations a configuration set
MAX_SETS: Final = 10_000  # SES: at most 10,000 configuration sets a region
# What an event destination of ours asks for: all that say what became of a mail, and none that rewrites its links.
EVENT_TYPES: Final = ("SEND", "REJECT", "BOUNCE", "COMPLAINT", "DELIVERY", "RENDERING_FAILURE", "DELIVERY_DELAY")
TYPES: Final[Mapping[str, str]] = {
    "Send": "SEND",
    "Delivery": "DELIVERY",
    "Bounce": "BOUNCE",
    "Complaint": "COMPLAINT",
    "Reject": "REJECT",
    "Rendering Failure": "RENDERING_FAILURE",
    "DeliveryDelay": "DELIVERY_DELAY",
}
SINKS: Final = (
    "SnsDestination",
    "EventBridgeDestination",
    "KinesisFirehoseDestination",
    "CloudWatchDestination",
    "PinpointDestination",
)


@dataclass(frozen=True, slots=True)
class Destination:
    """Where events go. Only topics and EventBridge lead anywhere here."""

    name: str
    definition: Mapping[str, Any]

    @property
    def topic(self) -> str | None:
        """The ARN of its topic. Of a topic, the queue of the same name is the only subscriber."""
        arn: str | None = self.definition.get("SnsDestination", {}).get("TopicArn")
        return arn

    @property
    def queue(self) -> str | None:
        """The queue that gets them: that of the topic's name, or of an event bus the one for events."""
        if self.topic is not None:
            return self.topic.rpartition(":")[2]
        return EVENTS if "EventBridgeDestination" in self.definition else None

    def wants(self, event: str) -> bool:
        return self.definition.get("Enabled", False) and TYPES[event] in self.definition["MatchingEventTypes"]

    def described(self) -> dict[str, Any]:
        return {"Enabled": False, **self.definition, "Name": self.name}


@dataclass(frozen=True, slots=True)
class ConfigurationSet:
    """One set; a change replaces it."""

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)
    """The members of CreateConfigurationSet that it was given, `SuppressionOptions` for one."""
    destinations: Mapping[str, Destination] = field(default_factory=dict)

    @property
    def sending_enabled(self) -> bool:
        return bool(self.options.get("SendingOptions", {}).get("SendingEnabled", True))

    @property
    def suppressed_reasons(self) -> frozenset[str] | None:
        """The reasons that count instead of the account's, if it says so; an empty set suppresses nobody."""
        reasons = self.options.get("SuppressionOptions", {}).get("SuppressedReasons")
        return None if reasons is None else frozenset(reasons)

    def described(self) -> dict[str, Any]:
        return {"SendingOptions": {"SendingEnabled": True}, **self.options, "ConfigurationSetName": self.name}

    def wanting(self, event: str) -> list[Destination]:
        return [one for one in self.destinations.values() if one.wants(event)]


class ConfigurationSets:
    """The sets by name, none at the start. For any thread: each change replaces a whole value."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._by_name: Mapping[str, ConfigurationSet] = {}

    def reset(self) -> None:
        self._by_name = {}

    def all(self) -> list[ConfigurationSet]:
        sets = self._by_name
        return [sets[name] for name in sorted(sets)]

    def find(self, name: str | None) -> ConfigurationSet | None:
        return None if name is None else self._by_name.get(name)

    def get(self, name: str) -> ConfigurationSet:
        if found := self.find(name):
            return found
        raise not_found(f"Configuration set {name} does not exist.")

    def create(self, name: str, options: Mapping[str, Any] | None = None, *, events: bool = False) -> None:
        """A new set; with `events`, all that may become of its mail is told to the queue for events."""
        with self._lock:
            if name in self._by_name:
                raise SesError("AlreadyExistsException", f"Configuration set {name} already exists.")
            if len(self._by_name) >= MAX_SETS:
                raise SesError("LimitExceededException", f"There are {MAX_SETS} configuration sets already.")
            self._put(ConfigurationSet(name, options or {}))
        if events:
            self.add_destination(name, _to_queue(EVENT_TYPES))

    def change(self, name: str, part: str, options: Mapping[str, Any]) -> None:
        """Replace one part of the set's options."""
        with self._lock:
            found = self.get(name)
            self._put(replace(found, options={**found.options, part: options}))

    def delete(self, name: str) -> None:
        with self._lock:
            self.get(name)
            self._by_name = {other: one for other, one in self._by_name.items() if other != name}

    def add_destination(self, set_name: str, destination: Destination) -> None:
        with self._lock:
            found = self.get(set_name)
            if destination.name in found.destinations:
                raise SesError("AlreadyExistsException", f"Event destination {destination.name} already exists.")
            if len(found.destinations) >= MAX_DESTINATIONS:
                raise SesError("LimitExceededException", f"At most {MAX_DESTINATIONS} event destinations a set.")
            self._put(replace(found, destinations={**found.destinations, destination.name: destination}))

    def change_destination(self, set_name: str, destination: Destination) -> None:
        with self._lock:
            found = self.get(set_name)
            _check_there(found, destination.name)
            self._put(replace(found, destinations={**found.destinations, destination.name: destination}))

    def delete_destination(self, set_name: str, name: str) -> None:
        with self._lock:
            found = self.get(set_name)
            _check_there(found, name)
            kept = {other: one for other, one in found.destinations.items() if other != name}
            self._put(replace(found, destinations=kept))

    def _put(self, changed: ConfigurationSet) -> None:
        self._by_name = {**self._by_name, changed.name: changed}


def _check_there(found: ConfigurationSet, name: str) -> None:
    if name not in found.destinations:
        raise not_found(f"Event destination {name} does not exist.")


def _to_queue(types: Sequence[str]) -> Destination:
    topic = {"TopicArn": f"arn:aws:sns:{REGION}:{ACCOUNT}:{EVENTS}"}
    definition = {"Enabled": True, "MatchingEventTypes": list(types), "SnsDestination": topic}
    return Destination("events", definition)
