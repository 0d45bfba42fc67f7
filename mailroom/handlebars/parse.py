"""From the text of a template to its tree, in one pass."""

import re
from dataclasses import dataclass
from typing import Final, get_args

from mailroom.handlebars.tree import (
    MAX_DEPTH,
    Block,
    Comment,
    Content,
    Helper,
    Partial,
    Path,
    Program,
    Strip,
    TemplateError,
    Variable,
)

_TAG: Final = re.compile(r"\{\{(~?)(?:\{([^{}]*)\}(~?)|([^{}]*))\}\}")
_COMMENT: Final = re.compile(r"\{\{(~?)!(--)?")
_ELSE: Final = re.compile(r"\s*else(?:\s+(?P<helper>[a-z]+)\s+(?P<subject>\S+))?\s*")
_BLOCK: Final = re.compile(r"#\s*(?P<helper>[a-z]+)\s+(?P<subject>\S+)\s*")
_INLINE: Final = re.compile(r"""#\*\s*inline\s+(?:"([A-Za-z_][\w-]*)"|'([A-Za-z_][\w-]*)')\s*""", re.ASCII)
_PARTIAL: Final = re.compile(r">\s*([A-Za-z_][\w-]*)\s*", re.ASCII)
_CLOSE: Final = re.compile(r"/\s*([a-z]+)\s*")
_HELPERS: Final[dict[str, Helper]] = {helper: helper for helper in get_args(Helper) if helper != "inline"}


@dataclass(slots=True)
class _Open:
    """A block whose end has not come: its first branch, its latest one, and where what comes now belongs."""

    first: Block
    latest: Block
    into: Program
    tag: str


def parse(source: str) -> Program:
    """Return the tree. Raises TemplateError for what is not understood, or not done here."""
    return _Parser(source).parse()


class _Parser:
    """The tree so far, and how far the text has been read."""

    def __init__(self, source: str) -> None:
        if "\0" in source:
            raise TemplateError("the template holds a NUL character")
        self._source = source
        self._root = Program()
        self._open: list[_Open] = []
        self._depth = 0

    def parse(self) -> Program:
        at = 0
        while (tag := self._source.find("{{", at)) >= 0:
            at = self._escaped(at, tag)
            if at == tag:
                at = self._tag(tag)
        self._text(self._source[at:])
        if self._open:
            raise TemplateError(f"{self._open[-1].tag!r} has no end")
        return self._root

    @property
    def _into(self) -> Program:
        return self._open[-1].into if self._open else self._root

    def _text(self, text: str) -> None:
        if text:
            self._into.nodes.append(Content(text, text))

    def _escaped(self, at: int, tag: int) -> int:
        r"""Take the text before a tag; return where to go on: at the tag, or, after `\`, behind what is no tag then."""
        text = self._source[at:tag]
        if not text.endswith("\\"):
            self._text(text)
            return tag
        self._text(text[:-1])
        if text.endswith("\\\\"):
            return tag
        end = self._source.find("{{", tag + 2)
        if end < 0:
            end = len(self._source)
        else:  # one or two of them belong to the next tag
            before = self._source[max(tag + 2, end - 2) : end]
            end -= len(before) - len(before.rstrip("\\"))
        self._text(self._source[tag:end])
        return end

    def _tag(self, at: int) -> int:
        """Take the tag that begins here; return where it ends."""
        if found := _COMMENT.match(self._source, at):
            return self._comment(found)
        found = _TAG.match(self._source, at)
        # As by handlebars.js: `}}}` ends no plain tag, and `}}}}` none at all. A `}` after `}~}}` is text.
        if found is None or (not found[3] and self._source.startswith("}", found.end())):
            raise TemplateError.unsupported(self._source[at:].partition("}}")[0] + "}}")
        if found[2] is not None:
            strip = Strip(bool(found[1]), bool(found[3]))
            self._variable(found[2], strip, found[0])
            return found.end()
        body = found[4]
        strip = Strip(bool(found[1]), body.endswith("~"))
        self._dispatch(body.removesuffix("~"), strip, found[0])
        return found.end()

    def _comment(self, found: re.Match[str]) -> int:
        if found[2] is None:
            end = self._source.find("}}", found.end())
            last = end
        else:
            end = self._source.find("--", found.end() - 2)
            while end >= 0 and not self._source.startswith(("--}}", "--~}}"), end):
                end = self._source.find("--", end + 1)
            last = end if end < 0 else self._source.find("}}", end)
        if end < 0:
            raise TemplateError(f"{found[0]!r} has no end")
        self._into.nodes.append(Comment(Strip(bool(found[1]), self._source[last - 1] == "~")))
        return last + 2

    def _dispatch(self, body: str, strip: Strip, tag: str) -> None:
        if body.startswith("#"):
            self._begin(body, strip, tag)
        elif found := _CLOSE.fullmatch(body):
            self._end(found[1], strip, tag)
        elif found := _PARTIAL.fullmatch(body):
            self._into.nodes.append(Partial(found[1], strip))
        elif found := _ELSE.fullmatch(body):
            self._branch(found, strip, tag)
        else:
            self._variable(body.removeprefix("&"), strip, tag)

    def _variable(self, body: str, strip: Strip, tag: str) -> None:
        path = Path.parse(body.strip())
        if path is None or path.is_helper:
            raise TemplateError.unsupported(tag)
        self._refuse_up_in_partial(path, tag)
        self._into.nodes.append(Variable(path, strip))

    def _begin(self, body: str, strip: Strip, tag: str) -> None:
        if found := _INLINE.fullmatch(body):
            block = Block("inline", None, strip, name=found[1] or found[2])
            self._into.partials[block.name] = block.body
        else:
            found = _BLOCK.fullmatch(body)
            block = self._block(found, strip, tag)
        self._into.nodes.append(block)
        self._deeper(tag)
        self._open.append(_Open(block, block, block.body, tag))

    def _block(self, found: re.Match[str] | None, strip: Strip, tag: str) -> Block:
        helper = _HELPERS.get(found["helper"]) if found else None
        path = Path.parse(found["subject"]) if found else None
        if helper is None or path is None or path.is_helper:
            raise TemplateError.unsupported(tag)
        self._refuse_up_in_partial(path, tag)
        return Block(helper, path, strip)

    def _branch(self, found: re.Match[str], strip: Strip, tag: str) -> None:
        if not self._open or self._open[-1].first.helper == "inline" or self._open[-1].latest.inverse is not None:
            raise TemplateError(f"{tag!r} is in no block, or the second of its block")
        here = self._open[-1]
        here.latest.inverse = Program()
        here.latest.inverse_strip = strip
        here.into = here.latest.inverse
        if found["helper"] is None:
            return
        block = self._block(found, strip, tag)
        # As handlebars.js has it: of a chain, the first has the end of the whole, and the others their own beginning.
        block.close_strip = strip
        here.latest.inverse.chained = True
        here.latest.inverse.nodes.append(block)
        here.latest, here.into = block, block.body
        self._deeper(tag)

    def _end(self, helper: str, strip: Strip, tag: str) -> None:
        if not self._open or self._open[-1].first.helper != helper:
            raise TemplateError(f"{tag!r} ends no block that is open")
        first = self._open.pop().first
        first.close_strip = strip
        self._depth -= 1
        chain = first
        while chain.inverse is not None and chain.inverse.chained:
            [following] = chain.inverse.nodes
            assert isinstance(following, Block)  # noqa: S101 - all that a chain has
            if chain is first:
                following.close_strip = strip
            chain = following
            self._depth -= 1

    def _deeper(self, tag: str) -> None:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise TemplateError(f"{tag!r} lies more than {MAX_DEPTH} blocks deep")

    def _refuse_up_in_partial(self, path: Path, tag: str) -> None:
        """Raise TemplateError for a path that leads out of a partial: what is above depends on who uses the partial."""
        if path.up and any(each.first.helper == "inline" for each in self._open):
            raise TemplateError.unsupported(tag)
