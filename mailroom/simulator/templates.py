"""Mail templates: parsed ones, the store of those that were created, and the two that mailroom sends with."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import resources
from typing import Any

from mailroom import handlebars
from mailroom.simulator.refusal import SesError, bad_request, not_found

DEFAULT_TEMPLATES = ("activationv1", "passwordrecoveryv1")


@dataclass(frozen=True, slots=True)
class Template:
    """A subject, a text part and an HTML part, as given and parsed; a snapshot that no update changes."""

    name: str | None
    content: Mapping[str, str]
    parts: Mapping[str, handlebars.Template]
    created_at: datetime

    @classmethod
    def parse(cls, name: str | None, content: Mapping[str, str]) -> "Template":
        """Raise a `SesError` for one that the simulator cannot render."""
        try:
            parts = {part: handlebars.Template(source) for part, source in content.items()}
        except handlebars.TemplateError as error:
            raise bad_request(str(error)) from error
        return cls(name, content, parts, datetime.now(UTC))

    @classmethod
    def literal(cls, content: Mapping[str, str]) -> "Template":
        """Content that is sent as it is: braces in it mean nothing."""
        parts = {part: handlebars.Template.literal(source) for part, source in content.items()}
        return cls(None, content, parts, datetime.now(UTC))

    def missing(self, data: Mapping[str, Any]) -> str | None:
        """The first variable that `data` has no value for, or what else keeps a part from being rendered."""
        return next(filter(None, (part.missing(data) for part in self.parts.values())), None)

    def render(self, part: str, data: Mapping[str, Any]) -> str | None:
        """The part `Subject`, `Text` or `Html`, or None if there is none."""
        return self.parts[part].render(data) if part in self.parts else None


class Templates:
    """The templates by name; each change replaces a whole value, so any thread may read."""

    def __init__(self) -> None:
        self._by_name: dict[str, Template] = {}
        self.reset()

    def reset(self) -> None:
        """Have mailroom's own templates, as at the start, and no others."""
        self._by_name = {name: Template.parse(name, default_content(name)) for name in DEFAULT_TEMPLATES}

    def all(self) -> list[Template]:
        return [self._by_name[name] for name in sorted(self._by_name)]

    def find(self, name: str) -> Template | None:
        return self._by_name.get(name)

    def get(self, name: str) -> Template:
        if template := self.find(name):
            return template
        raise not_found(f"Template {name} does not exist.")

    def create(self, name: str, content: Mapping[str, str]) -> None:
        if name in self._by_name:
            raise SesError("AlreadyExistsException", f"Template {name} already exists.")
        self._by_name[name] = Template.parse(name, content)

    def update(self, name: str, content: Mapping[str, str]) -> None:
        self.get(name)
        self._by_name[name] = Template.parse(name, content)

    def delete(self, name: str) -> None:
        self.get(name)
        del self._by_name[name]


def default_content(name: str) -> Mapping[str, str]:
    """The `TemplateContent` of one of mailroom's own templates, as CreateEmailTemplate takes it."""
    folder = resources.files(__package__) / "defaults"
    head, _, text = (folder / f"{name}.txt").read_text("utf-8").partition("\n\n")
    return {
        "Subject": head.removeprefix("Subject: "),
        "Text": text,
        "Html": (folder / f"{name}.html").read_text("utf-8"),
    }
