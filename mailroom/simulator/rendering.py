"""Template text with variables, rendered as SES does: nothing is escaped, a missing variable is a failure."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

Path = tuple[str, ...]

_TAG = re.compile(r"\{\{\{([^{}]*)\}\}\}|\{\{([^{}]*)\}\}")
_NAME = re.compile(r"[A-Za-z_][\w-]*(?:\.[A-Za-z_][\w-]*)*")


class UnsupportedTemplateError(Exception):
    """A template with more than variables in it."""

    def __init__(self, tag: str) -> None:
        super().__init__(f"The simulator renders plain variables only, and this template has {tag!r}")


@dataclass(frozen=True, slots=True)
class Text:
    """Literals and, between each two of them, the path of a variable."""

    literals: tuple[str, ...]
    paths: tuple[Path, ...] = ()

    @classmethod
    def parse(cls, source: str) -> "Text":
        """Take `{{name}}`, `{{{name}}}` and dotted names; raise `UnsupportedTemplateError` for any other tag."""
        pieces = _TAG.split(source)
        literals = tuple(pieces[0::3])
        names = [(triple or double or "").strip() for triple, double in zip(pieces[1::3], pieces[2::3], strict=True)]
        for name in names:
            if not _NAME.fullmatch(name) or name == "else":
                raise UnsupportedTemplateError(f"{{{{{name}}}}}")
        if any("{{" in literal for literal in literals):
            raise UnsupportedTemplateError("{{")
        return cls(literals, tuple(tuple(name.split(".")) for name in names))

    def render(self, data: Mapping[str, Any]) -> str:
        """The text with the variables' values, none of them escaped."""
        rendered = [self.literals[0]]
        for path, literal in zip(self.paths, self.literals[1:], strict=True):
            rendered += (_written(look_up(data, path)), literal)
        return "".join(rendered)


def look_up(data: Mapping[str, Any], path: Path) -> Any:
    """The value at `path`, or None; a null counts as missing, since a mail with a hole in it is no success."""
    value: Any = data
    for name in path:
        if not isinstance(value, Mapping):
            return None
        value = value.get(name)
    return value


def merge(default: Mapping[str, Any], replacement: Mapping[str, Any]) -> dict[str, Any]:
    """Replacement wins key by key, through objects; lists and scalars are replaced whole."""
    merged = {**default, **replacement}
    for name in default.keys() & replacement.keys():
        if isinstance(default[name], dict) and isinstance(replacement[name], dict):
            merged[name] = merge(default[name], replacement[name])
    return merged


def _written(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
