"""Whether indexes, triggers and views are as this release makes them, and what others have put on our tables."""

from collections.abc import Iterator
from typing import Final

from sqlalchemy import Connection

from mailroom.db import definitions, schema
from mailroom.db.definitions import Definition, comparable, expected
from mailroom.db.namespace import quoted
from mailroom.finding import Finding, failed, warning
from mailroom.ops.doctor_cures import IF_UNWANTED, Cures, lenient

_SWEEP: Final = "then `mailroom sweep --full`"
_UNIQUE: Final = "UNIQUE "


class _Indexes:
    """The indexes that there are on our tables, beside those that there should be."""

    def __init__(self, connection: Connection) -> None:
        self.cures = Cures(connection)
        found = definitions.read(connection, "table", "constraint", "index")
        self.distorted = definitions.distorted(connection)
        self.split = {each.home: each.text == "p" for each in found if each.kind == "table"}
        self.keys = {(each.home, each.name) for each in found if each.kind == "constraint"}
        self.there = {(each.home, each.name): each for each in found if each.kind == "index"}

    def examine(self) -> Iterator[Finding]:
        for (table, name), printed in expected("index").items():
            if table in self.split:
                yield from self._ours(table, name, printed)
        for each in self.there.values():
            if each.home in schema.metadata.tables and self._refuses_rows(each):
                message = f"{each.name} is not mailroom's, and {each.home} refuses rows for it: {each.printed}"
                yield failed("indexes", message, IF_UNWANTED + self._drop(each.home, each.name))

    def _ours(self, table: str, name: str, printed: str) -> Iterator[Finding]:
        """Check one index of ours. Another name is as good; the index of a missing constraint is reported with that."""
        same = [each for each in self.there.values() if (each.home, each.text) == (table, comparable(printed))]
        if any(each.is_sound for each in same):
            return
        if same:
            cure = f"REINDEX INDEX CONCURRENTLY {self.cures.named(same[0].name)}"
            yield failed("indexes", f"invalid: {same[0].name} was not built to its end", cure)
        elif (table, name) in expected("constraint") or ((table, name) in self.there and table in self.distorted):
            return
        elif (table, name) in self.there:
            message = f"{name} is {self.there[table, name].printed}, and should be {printed}"
            cure = f"{self._drop(table, name)}; {self._create(table, name, printed)}"
            yield failed("indexes", message, cure)
        else:
            cure = self._free(name) + self._create(table, name, printed)
            yield failed("indexes", f"missing: {name} of {table}", cure)

    def _create(self, table: str, name: str, printed: str) -> str:
        unique = _UNIQUE if printed.startswith(_UNIQUE) else ""
        how = printed.removeprefix(_UNIQUE)
        creating = f"CREATE {unique}INDEX {self._beside(table)}{quoted(name)} ON {self.cures.named(table)} USING {how}"
        return f"{self.cures.path}{creating}"

    def _free(self, name: str) -> str:
        """Return SQL that frees the name; empty if it is free. A table of which ours is now a part may have it."""
        for home, taken in self.there:
            if taken == name:
                return f"ALTER INDEX {self.cures.named(name)} RENAME TO {quoted(f'{home}_{name}')}; "
        return ""

    def _drop(self, table: str, name: str) -> str:
        if (table, name) in self.keys:
            return self.cures.alter(table, "DROP CONSTRAINT {}", name)
        return f"DROP INDEX {self._beside(table)}{self.cures.named(name)}"

    def _beside(self, table: str) -> str:
        """Return CONCURRENTLY, for beside the traffic; PostgreSQL has it for no table with partitions."""
        return "" if self.split[table] else "CONCURRENTLY "

    def _refuses_rows(self, index: Definition) -> bool:
        """Whether it is unique, and asks for more than a key of ours: what has all columns of one refuses nothing."""
        key = (index.home, index.name)
        if not index.text.startswith(_UNIQUE) or key in expected("index"):
            return False
        if "NULLS NOT DISTINCT" in index.text:
            return True
        ours = (each for each in self.there.values() if each.home == index.home and self._is_key_of_ours(each))
        return not any(set(each.parts) <= set(index.parts) for each in ours)

    def _is_key_of_ours(self, index: Definition) -> bool:
        should = expected("index").get((index.home, index.name), "")
        return should.startswith(_UNIQUE) and index.text == comparable(should)


def indexes(connection: Connection) -> Iterator[Finding]:
    """Check the indexes. Without that of the claim everything works, for as long as the queue is short."""
    yield from lenient(connection, _Indexes(connection).examine())


def triggers(connection: Connection) -> Iterator[Finding]:
    """Say which triggers fire at another time, and which others might take rows away: not those that fire after it."""
    yield from lenient(connection, _triggers(connection))


def _triggers(connection: Connection) -> Iterator[Finding]:
    cures = Cures(connection)
    ours = expected("trigger")
    distorted = definitions.distorted(connection)
    for each in definitions.read(connection, "trigger"):
        key = (each.home, each.name)
        if key in ours and each.text != comparable(ours[key]) and each.home not in distorted:
            cure = f"{cures.path}CREATE OR REPLACE TRIGGER {quoted(each.name)} {ours[key]}; {_SWEEP}"
            yield failed("triggers", f"{each.name} is {each.printed}, and should be {ours[key]}", cure)
        elif key not in ours and each.home in schema.metadata.tables and each.is_sound and _may_take(each):
            message = f"{each.name} is not mailroom's, and may change or lose rows of {each.home}: {each.printed}"
            cure = f"DROP TRIGGER {quoted(each.name)} ON {cures.named(each.home)}"
            yield warning("triggers", message, IF_UNWANTED + cure)


def _may_take(trigger: Definition) -> bool:
    return trigger.text.startswith("BEFORE") and "FOR EACH ROW" in trigger.text


def views(connection: Connection) -> Iterator[Finding]:
    """Say which show something else than in this release."""
    there = {each.name: each.text for each in definitions.read(connection, "view")}
    should = {name: comparable(printed) for (_, name), printed in expected("view").items()}
    changed = [name for name, each in should.items() if there.get(name) != each]
    if changed and not definitions.distorted(connection):
        names = ", ".join(map(Cures(connection).named, changed))
        message = (
            f"views not as in this release, which may be right where another one has migrated: {', '.join(changed)}"
        )
        remedy = (
            "mailroom migrate, of the newest release that is in use;"
            f" if it cannot replace them: DROP VIEW {names}, and `mailroom grants` after it"
        )
        yield warning("functions", message, remedy)
