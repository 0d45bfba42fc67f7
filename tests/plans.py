"""The plans that PostgreSQL makes inside of functions, in its own words.

EXPLAIN sees a call and not what is in it, and `auto_explain` is not on every server. But each can be told to print a
plan as it makes it (debug_print_plan): as a tree of nodes, `{TIDSCAN :scan.scanrelid 1 … :scan.plan.lefttree <> …}`.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import psycopg
from sqlalchemy import Engine, event
from sqlalchemy.pool import ConnectionPoolEntry

PRINTING: Final = "SET client_min_messages = log; SET debug_print_plan = on; SET debug_pretty_print = off"
# A plan of a statement in a function, and not of what that calls in turn: a trigger, a check of a foreign key.
_SAID: Final = "(?:SQL statement|SQL expression|PL/pgSQL assignment)"
_OWN: Final = re.compile(rf'{_SAID} "(?:(?!\n{_SAID} ").)*"\nPL/pgSQL function (?:[^\n(]*\.)?(\w+)\(', re.S)
_CALL: Final = re.compile(r"SELECT \* FROM (?:\S+\.)?(\w+)\(")
_WORD: Final = re.compile(r"[(){}]|\[[^]]*\]|(?:\\.|[^\s(){}\\])+", re.S)

NAMES: Final = "SELECT CAST(oid AS bigint) AS oid, relname FROM pg_class"
# The number of the relation, in a plan, that stands for the index that is scanned.
INDEX_VAR: Final = -3

Way = tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class _Node:
    kind: str
    fields: dict[str, list[Any]]

    def number(self, field: str) -> int:
        [number] = self.fields.get(field, ["0"])
        return int(number)


class Plan:
    """How a function does what it does: the plans of its statements, of those that it has come to."""

    def __init__(self, printed: dict[str, str], names: dict[int, str]) -> None:
        self._statements = {statement: _value(*_begin(plan)) for statement, plan in printed.items()}
        self._names = names

    def scans(self, table: str) -> set[str]:
        """How a table is read: the index, and whether it is all of it; or the kind of scan where there is none."""
        return {
            self._way(node)
            for plan in self._statements.values()
            for node in _nodes(plan)
            if node.kind != "BITMAPHEAPSCAN" and self._table(plan, node) == table
        }

    def unbound(self) -> set[tuple[str, str]]:
        """The tables that are read without a place to begin at and to end, and how."""
        return {
            (table, way)
            for plan in self._statements.values()
            for node in _nodes(plan)
            if (table := self._table(plan, node)) and (way := self._way(node)).startswith(("all of", "SEQ"))
        }

    def ways(self) -> dict[str, list[Way]]:
        """What leads to the tables, by statement: which nodes, how they lie within each other, and by what index.

        How results are joined that are no rows of tables any more is left out: it is as they happen to be.
        """
        return {statement: list(self._ways(plan, plan)) for statement, plan in self._statements.items()}

    def _ways(self, plan: _Node, within: Any) -> Iterator[Way]:
        for node in _outermost(within):
            inner = [way for value in node.fields.values() for way in self._ways(plan, value)]
            if table := self._table(plan, node):
                yield node.kind, table, self._way(node), *inner
            elif inner:
                yield node.kind, *inner

    def _way(self, node: _Node) -> str:
        index = self._index(node)
        return f"all of {index}" if index and not _is_bound(node) else index or node.kind

    def _index(self, node: _Node) -> str:
        return self._names.get(node.number("indexid"), "")

    def _table(self, plan: _Node, node: _Node) -> str:
        number = node.number("scanrelid")
        if number == 0:
            return ""
        [relations] = plan.fields["rtable"]
        return self._names.get(relations[number - 1].number("relid"), "")


# What a function leaves to another one, of which it may be called again with less.
PARTS = {"late_acceptances": "late_acceptances_apply", "prune": "prune_tokens", "take_back": "take_back_mails"}


class Printed:
    """The last plans of each function, by statement, on one connection: there they stay until they are made anew."""

    def __init__(self, driver: "psycopg.Connection[Any]") -> None:
        self._driver = driver
        self._plans: dict[str, dict[str, str]] = {}
        driver.add_notice_handler(self._note)
        driver.execute(PRINTING)

    def of(self, function: str) -> Plan:
        printed = self._plans[function] | self._plans.get(PARTS.get(function, ""), {})
        return Plan(printed, dict(self._driver.execute(NAMES).fetchall()))

    def all(self, names: dict[int, str]) -> dict[str, Plan]:
        """The plans of each function so far, whether the connection is open or not."""
        return {function: Plan(printed, names) for function, printed in self._plans.items()}

    def _note(self, notice: psycopg.errors.Diagnostic) -> None:
        context = notice.context or ""
        found = _OWN.match(context)
        if notice.message_primary == "plan:" and found is not None:
            self._plans.setdefault(found[1], {})[found[0]] = notice.message_detail or ""


def watch(engine: Engine) -> list[Printed]:
    """Keep the plans of each connection that this engine makes from now on; the list grows as it makes them."""
    kept: list[Printed] = []

    def begin(driver: "psycopg.Connection[Any]", record: ConnectionPoolEntry) -> None:
        record.info["printed"] = Printed(driver)
        kept.append(record.info["printed"])

    event.listen(engine, "connect", begin)
    return kept


@contextmanager
def explained(engine: Engine) -> Iterator[list[Plan]]:
    """Collect the plan of each call of a function, of an engine that is watched: that with which it has just run."""
    plans: list[Plan] = []

    def note(connection: Any, _: object, statement: str, *__: object) -> None:
        if called := _CALL.match(statement):
            plans.append(connection.info["printed"].of(called[1]))

    event.listen(engine, "after_cursor_execute", note)
    try:
        yield plans
    finally:
        event.remove(engine, "after_cursor_execute", note)


def _begin(printed: str) -> tuple[str, Iterator[str]]:
    words = iter(_WORD.findall(printed))
    return next(words), words


def _value(word: str, words: Iterator[str]) -> Any:
    """Read one value: a list, a node with its fields, or a word."""
    if word == "(":
        return [_value(each, words) for each in iter(lambda: next(words), ")")]
    if word != "{":
        return word
    node, values = _Node(next(words), {}), []
    for each in iter(lambda: next(words), "}"):
        if each.startswith(":"):  # from PostgreSQL 16 on with the names of what it is part of: `:scan.plan.lefttree`
            values = node.fields.setdefault(each.lstrip(":").rpartition(".")[2], [])
        else:
            values.append(_value(each, words))
    return node


def _outermost(within: Any) -> Iterator[_Node]:
    """Yield the nodes of a plan that are in no other one: those that have a place for what is below them."""
    if isinstance(within, _Node) and "lefttree" in within.fields:
        yield within
        return
    values = within.fields.values() if isinstance(within, _Node) else within if isinstance(within, list) else ()
    for value in values:
        yield from _outermost(value)


def _is_bound(scan: _Node) -> bool:
    """Whether a scan of an index is kept to a part of it, by the first column: what is asked of others is compared."""
    return any(
        node.kind == "VAR" and node.number("varno") == INDEX_VAR and node.number("varattno") == 1
        for node in _everywhere(scan.fields.get("indexqual", []))
    )


def _everywhere(within: Any) -> Iterator[_Node]:
    """Yield the nodes of an expression, however deep they lie."""
    if isinstance(within, _Node):
        yield within
    values = within.fields.values() if isinstance(within, _Node) else within if isinstance(within, list) else ()
    for value in values:
        yield from _everywhere(value)


def _nodes(within: Any) -> Iterator[_Node]:
    for node in _outermost(within):
        yield node
        for value in node.fields.values():
            yield from _nodes(value)
