"""A template with its values put in."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from decimal import Decimal
from functools import cached_property
from math import inf, isfinite, isnan
from typing import Any, Final

from mailroom.handlebars.parse import parse
from mailroom.handlebars.tree import Block, Content, Partial, Path, Program, Variable
from mailroom.handlebars.whitespace import control

# Tags looked at, and characters written, for one text: SES takes a mail of 40 MB, and nobody means to send one.
MAX_STEPS: Final = 200_000
MAX_LENGTH: Final = 10_000_000
MAX_RENDERED_DEPTH: Final = 150
# From here on JavaScript writes a number with an exponent, and up to there it counts exactly.
_LARGE: Final = 1e21
_SMALL: Final = 1e-6
_EXACT: Final = 2**53


class RenderingError(Exception):
    """A mail that SES accepts and cannot write: `name` is the variable that is to blame, or what else is."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"{name}: {reason}")
        self.name = name


class _Missing:
    """What is not there, which is not the same as null."""


_MISSING: Final = _Missing()


class Template:
    """One text of a template, read once and rendered often. Safe to share between threads."""

    def __init__(self, source: str) -> None:
        """Raises TemplateError for what is not understood, or not done here."""
        self._program = parse(source)
        control(self._program)

    @classmethod
    def literal(cls, source: str) -> "Template":
        """Return one that is rendered as it is: braces in it mean nothing."""
        template = cls("")
        template._program.nodes.append(Content(source, source))
        return template

    def render(self, data: Mapping[str, Any]) -> str:
        """Return the text with the values of `data`, none of them escaped. Raises RenderingError."""
        run = _Run()
        run.program(self._program, _scope(data))
        return "".join(run.out)

    @cached_property
    def paths(self) -> tuple[Path, ...]:
        """What is written or asked anywhere in it, each path once."""
        return tuple(dict.fromkeys(_paths(self._program)))

    @cached_property
    def helpers(self) -> frozenset[str]:
        """The blocks that it has."""
        return frozenset(block.helper for block in _blocks(self._program))

    def missing(self, data: Mapping[str, Any]) -> str | None:
        """Return the name of what keeps it from being rendered, or None."""
        try:
            if self.helpers:
                self.render(data)
            else:
                scope = _scope(data)
                for path in self.paths:
                    _written(scope.look_up(path), path)
        except RenderingError as error:
            return error.name
        return None


@dataclass(frozen=True, slots=True)
class _Scope:
    """Where a tag is: its context with those around it, the values with @, and the partials that there are."""

    contexts: tuple[Any, Any]
    data: Mapping[str, Any]
    partials: Mapping[str, Program]
    depth: int = 0

    def look_up(self, path: Path, *, asked: bool = False) -> Any:
        """Return a value, or _MISSING; where it is only `asked` about, what lies on the way to it has to be there."""
        if path.data is not None:
            value = self.data.get(path.data, _MISSING)
        else:
            contexts = self.contexts
            for _ in range(path.up):
                contexts = contexts[1] or (_MISSING, None)
            value = contexts[0]
        for name in path.names:
            if asked and (value is None or value is _MISSING):
                raise RenderingError(path.text, "it lies in something that is missing")
            value = value.get(name, _MISSING) if isinstance(value, Mapping) else _MISSING
        return value

    def inside(self, context: Any, **data: Any) -> "_Scope":
        """Return the scope of a block about another context."""
        known = self.contexts[0]
        same = known is context or (isinstance(context, str | int | float) and known == context)
        contexts = self.contexts if same else (context, self.contexts)
        return replace(self, contexts=contexts, data={**self.data, **data} if data else self.data)


@dataclass(slots=True)
class _Run:
    """One rendering: what is written so far, and what is left of what it may take."""

    out: list[str] = field(default_factory=list)
    steps: int = MAX_STEPS
    length: int = MAX_LENGTH

    def program(self, program: Program, scope: _Scope) -> None:
        scope = replace(scope, depth=scope.depth + 1, partials=self._partials(program, scope))
        if scope.depth > MAX_RENDERED_DEPTH:
            raise RenderingError("template", f"its partials lie more than {MAX_RENDERED_DEPTH} deep in each other")
        self._step()
        for node in program.nodes:
            match node:
                case Content(value=value):
                    self._write(value)
                case Variable(path=path):
                    self._step()
                    self._write(_written(scope.look_up(path), path))
                case Partial():
                    self._partial(node, scope)
                case Block(subject=Path()):
                    self._block(node, scope)
                case _:
                    pass

    def _partials(self, program: Program, scope: _Scope) -> Mapping[str, Program]:
        if not program.partials:
            return scope.partials
        self._step(len(program.partials) + len(scope.partials))
        return {**scope.partials, **program.partials}

    def _step(self, count: int = 1) -> None:
        self.steps -= count
        if self.steps < 0:
            raise RenderingError("template", f"it takes more than {MAX_STEPS} steps")

    def _write(self, text: str) -> None:
        self.length -= len(text)
        if self.length < 0:
            raise RenderingError("template", f"it is longer than {MAX_LENGTH} characters")
        self.out.append(text)

    def _partial(self, node: Partial, scope: _Scope) -> None:
        found = scope.partials.get(node.name)
        if found is None:
            raise RenderingError(node.name, "there is no such partial")
        begin = len(self.out)
        self.program(found, scope)
        if node.indent:
            *lines, rest = "".join(self.out[begin:]).split("\n")
            del self.out[begin:]
            self._write("".join(f"{node.indent}{line}\n" for line in lines) + (node.indent + rest if rest else ""))

    def _block(self, block: Block, scope: _Scope) -> None:
        assert block.subject is not None  # noqa: S101 - an inline partial is no block here
        self._step()
        value = scope.look_up(block.subject, asked=True)
        if block.helper in {"if", "unless"}:
            holds = _is_true(value) is (block.helper == "if")
        elif block.helper == "with":
            holds, scope = (False, scope) if _is_empty(value) else (True, scope.inside(value))
        else:
            holds = self._each(block, value, scope)
            if holds:
                return
        chosen = block.body if holds else block.inverse
        if chosen is not None:
            self.program(chosen, scope)

    def _each(self, block: Block, value: Any, scope: _Scope) -> bool:
        """Write the block for each item; return whether there are any."""
        if not isinstance(value, list | dict):
            return False
        items: Iterable[tuple[Any, Any]] = value.items() if isinstance(value, dict) else enumerate(value)
        last = len(value) - 1
        for index, (key, item) in enumerate(items):
            inside = scope.inside(item, index=index, key=key, first=index == 0, last=index == last)
            self.program(block.body, inside)
        return bool(value)


def _scope(data: Mapping[str, Any]) -> _Scope:
    return _Scope((data, None), {"root": data}, {})


def _is_empty(value: Any) -> bool:
    return value is _MISSING or value is None or value is False or value in ("", [])


def _is_true(value: Any) -> bool:
    return not _is_empty(value) and not (isinstance(value, int | float) and value == 0)


def _written(value: Any, path: Path) -> str:
    """Return how a value is written. A null counts as missing: a mail with a hole in it is no success."""
    match value:
        case str():
            return value
        case bool():
            return "true" if value else "false"
        case int() | float():
            return _number(value)
        case list() | dict():
            raise RenderingError(path.text, "it is a list or an object, which has no text")
        case _:
            raise RenderingError(path.text, "it is missing")


def _number(value: float) -> str:
    """Return a number as JavaScript writes it."""
    if isinstance(value, int) and abs(value) <= _EXACT:
        return str(value)
    try:
        number = float(value)
    except OverflowError:
        number = inf if value > 0 else -inf
    if not isfinite(number):
        return "NaN" if isnan(number) else "Infinity" if number > 0 else "-Infinity"
    if number.is_integer() and abs(number) < _LARGE:
        return str(int(number))
    if _SMALL <= abs(number) < _LARGE:
        return format(Decimal(repr(number)), "f")
    mantissa, _, exponent = repr(number).partition("e")
    return f"{mantissa}e{int(exponent):+d}"


def _blocks(program: Program) -> Iterator[Block]:
    for node in program.nodes:
        if isinstance(node, Block):
            yield node
            yield from _blocks(node.body)
            if node.inverse is not None:
                yield from _blocks(node.inverse)


def _paths(program: Program) -> Iterator[Path]:
    for node in program.nodes:
        if isinstance(node, Variable):
            yield node.path
        elif isinstance(node, Block):
            if node.subject is not None:
                yield node.subject
            yield from _paths(node.body)
            if node.inverse is not None:
                yield from _paths(node.inverse)
