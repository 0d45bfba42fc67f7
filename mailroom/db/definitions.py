"""What the migrations make, as PostgreSQL prints it: what there is, and in `definitions.txt` what there should be.

A table that PostgreSQL prints is not always the text that made it, so what is printed is compared with what was printed
when the file was made. Versions differ in where they name the relation of a column, and a restored dump in where it has
parentheses around AND; a definition is kept and compared without either. A test makes the file again on each server.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib.resources import files
from typing import Final

from sqlalchemy import Column, Connection
from sqlalchemy.dialects import postgresql

from mailroom.db import functions, schema

# What the file has; columns and their types are in `schema`.
KINDS: Final = ("revision", "default", "constraint", "index", "trigger", "view", "body")
# Each migration writes one function again, from the letters that its Python knows.
VARYING: Final = {"lowered"}

# All that a release has, and as much again that somebody has changed: whoever looks again finds nearly all as it was.
_KEPT: Final = 2048

_DIALECT: Final = postgresql.dialect()  # type: ignore[no-untyped-call]  # SQLAlchemy has no types for it
_WORDS: Final = re.compile(r"'(?:[^']|'')*'|\"(?:[^\"]|\"\")*\"|[()]|[^\s()'\"]+")
_LINES: Final = re.compile(r"\s*\n\s*")
_OWNER: Final = re.compile(rf"\b(?:{'|'.join(schema.metadata.tables)})\.(?=\w)")


@dataclass(frozen=True, slots=True)
class Definition:
    """A thing that there is: see `sql/doctor_definitions.sql`. `text` can be compared, `printed` can be run."""

    kind: str
    home: str
    name: str
    text: str
    printed: str
    is_sound: bool
    parts: tuple[str, ...]


def read(connection: Connection, *kinds: str) -> list[Definition]:
    """Return all things of these kinds that there are in the schema that this connection is for."""
    found = functions.call(connection, "doctor_definitions", {"kinds": list(kinds)})
    return [
        Definition(
            row.kind,
            row.home,
            row.name,
            comparable(row.definition),
            _LINES.sub(" ", row.definition.strip()),
            row.sound,
            tuple(row.parts or ()),
        )
        for row in found
    ]


@cache
def expected(kind: str) -> dict[tuple[str, str], str]:
    """Return what there should be of a kind, by home and name, in words that PostgreSQL takes."""
    lines = files("mailroom").joinpath("db", "definitions.txt").read_text(encoding="utf-8").splitlines()
    rows = (line.split("\t") for line in lines)
    return {(home, name): printed for each, home, name, printed in rows if each == kind}


def type_of(column: Column[object]) -> str:
    """Return the type that a column should be of, as PostgreSQL prints it."""
    name, collate, collation = column.type.compile(dialect=_DIALECT).partition(" COLLATE ")
    return f"{name.lower()}{collate}{collation}"


def distorted(connection: Connection) -> set[str]:
    """Return the tables of which a column is gone, or of another type: it is in all else that is printed of them."""
    there = {(each.home, each.name): each.printed for each in read(connection, "type")}
    columns = ((table.name, each) for table in schema.metadata.tables.values() for each in table.columns)
    return {table for table, column in columns if there.get((table, column.name)) != type_of(column)}


def of_another_release(connection: Connection) -> bool:
    """Whether another release has migrated: what is not as in this one may be as it should be."""
    return [each.text for each in read(connection, "revision")] != list(expected("revision").values())


def lines(connection: Connection) -> Iterator[str]:
    """Yield what the file is to say of a database that is as the migrations make it."""
    ours = {*schema.metadata.tables, ""}
    for each in read(connection, *KINDS):
        if each.home in ours and each.name not in VARYING:
            yield "\t".join((each.kind, each.home, each.name, each.printed))


@lru_cache(maxsize=_KEPT)
def comparable(printed: str) -> str:
    """Return a definition without what is printed in one way here and in another there, for comparison alone."""
    words = [word if word[0] in "'\"" else _OWNER.sub("", word) for word in _WORDS.findall(printed)]
    return " ".join(_flat(words))


def _flat(words: list[str]) -> list[str]:
    """Take the parentheses off an AND that stands beside an AND: a dump that is restored has lost them."""
    opened: list[int] = []
    at = 0
    while at < len(words):
        if words[at] == "(":
            opened.append(at)
        elif words[at] == ")" and opened:
            first = opened.pop()
            beside = {*words[max(first - 1, 0) : first], *words[at + 1 : at + 2]}
            if "AND" in beside and beside <= {"AND", "(", ")"} and _joins(words[first + 1 : at]) == {"AND"}:
                del words[at], words[first]
                at -= 2
        at += 1
    return words


def _joins(words: list[str]) -> set[str]:
    """Return which of AND and OR stand between these words, not deeper."""
    depth = 0
    found = set()
    for word in words:
        depth += (word == "(") - (word == ")")
        if depth == 0 and word in {"AND", "OR"}:
            found.add(word)
    return found
