"""What the ledger holds: requests, mails, and how many of them there were."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from mailroom.simulator.templates import Template


@dataclass(frozen=True, slots=True)
class Request:
    """One HTTP request to SES. `status` is None if it was not answered."""

    number: int
    operation: str
    received_at: datetime
    invocation_id: str | None
    body_sha256: str
    template: str | None
    entries: int
    status: int | None
    error: str | None
    fault: Mapping[str, Any] | None


@dataclass(frozen=True, slots=True)
class Mail:
    """One mail that SES has accepted, rendered when it is looked at; `missing` names the variable it fails for."""

    message_id: str
    request: int
    accepted_at: datetime
    recipients: tuple[str, ...]
    source: str
    template: Template
    variables: Mapping[str, Any]
    tags: Mapping[str, str]
    configuration_set: str | None
    missing: str | None
    reply_to: tuple[str, ...] = ()
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def subject(self) -> str | None:
        return self._render("Subject")

    @property
    def text(self) -> str | None:
        return self._render("Text")

    @property
    def html(self) -> str | None:
        return self._render("Html")

    def _render(self, part: str) -> str | None:
        return None if self.missing else self.template.render(part, self.variables)

    def as_json(self) -> dict[str, Any]:
        """All of it with the parts rendered; of the template, the name."""
        kept = {name: getattr(self, name) for name in self.__slots__ if name != "accepted_at"}
        rendered = {"subject": self.subject, "text": self.text, "html": self.html}
        return kept | rendered | {"template": self.template.name, "accepted_at": self.accepted_at.isoformat()}


@dataclass(frozen=True, slots=True)
class Counts:
    """How many, since the ledger was cleared. `duplicates` are tokens whose mail was accepted more than once.

    `bounces` are those for good; neither they nor `complaints` count what the suppression list caused. `events` are all
    that were more than a delivery.
    """

    requests: int = 0
    mails: int = 0
    duplicates: int = 0
    rendering_failures: int = 0
    bounces: int = 0
    complaints: int = 0
    events: int = 0
