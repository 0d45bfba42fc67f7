"""What a template is made of, and the error of one that is not understood."""

import re
from dataclasses import dataclass, field
from typing import Final, Literal

# As many levels of blocks, else-branches among them, as may lie in each other.
MAX_DEPTH: Final = 100
# How much of a tag is shown in an error.
MAX_SHOWN: Final = 60

Helper = Literal["if", "unless", "each", "with", "inline"]

# What is a helper of handlebars.js wherever it stands alone in a tag.
HELPERS: Final = frozenset({"if", "unless", "each", "with", "lookup", "log", "helperMissing", "blockHelperMissing"})
_NAMES: Final = r"[A-Za-z_][A-Za-z0-9_-]*(?:\.[A-Za-z_][A-Za-z0-9_-]*)*"
_PATH: Final = re.compile(rf"(?P<up>(?:\.\./)*)(?:(?:this|\.)|(?:this\.)?(?P<names>{_NAMES}))")
_DATA: Final = re.compile(rf"@(?:root(?:\.(?P<names>{_NAMES}))?|(?P<loop>index|key|first|last))")
_LITERALS: Final = frozenset({"true", "false", "null", "undefined"})


class TemplateError(Exception):
    """A template, or a tag in it, that is not understood or not done here."""

    @classmethod
    def unsupported(cls, tag: str) -> "TemplateError":
        """Return the error of a tag that means something to others, perhaps."""
        shown = tag if len(tag) <= MAX_SHOWN else f"{tag[:MAX_SHOWN]}…"
        return cls(f"the template has {shown!r}, which is not supported")


@dataclass(frozen=True, slots=True)
class Path:
    """The way to a value: so many contexts up, then by these names; `data` is the first name where it begins with @."""

    text: str
    names: tuple[str, ...]
    up: int = 0
    data: str | None = None

    @classmethod
    def parse(cls, text: str) -> "Path | None":
        """Return the path, or None for what is none, or none that is done here."""
        if found := _DATA.fullmatch(text):
            return cls(text, _split(found["names"]), data=found["loop"] or "root")
        found = _PATH.fullmatch(text)
        if found is None:
            return None
        names = _split(found["names"])
        # handlebars.js reads a tag that begins with `else` as the other branch.
        if text.startswith("else") or "this" in names or text in _LITERALS:
            return None
        return cls(text, names, up=len(found["up"]) // len("../"))

    @property
    def is_helper(self) -> bool:
        """Whether it stands for a helper where it is alone in a tag."""
        return self.text in HELPERS


def _split(names: str | None) -> tuple[str, ...]:
    return tuple(names.split(".")) if names else ()


@dataclass(frozen=True, slots=True)
class Strip:
    """Whether a tag takes the white space before it away, and that after it."""

    open: bool = False
    close: bool = False


@dataclass(slots=True)
class Content:
    """Text between two tags: as it was written, and what is left of it."""

    original: str
    value: str
    left_stripped: bool = False
    right_stripped: bool = False


@dataclass(frozen=True, slots=True)
class Variable:
    """A tag that the value takes the place of."""

    path: Path
    strip: Strip


@dataclass(frozen=True, slots=True)
class Comment:
    """A tag that nothing takes the place of."""

    strip: Strip


@dataclass(slots=True)
class Partial:
    """A tag that an inline partial takes the place of, each line of it after this indent."""

    name: str
    strip: Strip
    indent: str = ""


@dataclass(slots=True)
class Program:
    """What lies between the tags of a block, or the whole template; `chained`: the block of an `else if` alone."""

    nodes: "list[Node]" = field(default_factory=list)
    chained: bool = False
    partials: "dict[str, Program]" = field(default_factory=dict)


@dataclass(slots=True)
class Block:
    """A block with its branches. `subject` is the path that it asks, None for an inline partial."""

    helper: Helper
    subject: Path | None
    open_strip: Strip
    name: str = ""
    body: Program = field(default_factory=Program)
    inverse: Program | None = None
    inverse_strip: Strip = Strip()
    close_strip: Strip = Strip()


Node = Content | Variable | Comment | Partial | Block
