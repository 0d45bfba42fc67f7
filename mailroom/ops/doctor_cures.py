"""What mends a schema that somebody has changed by hand, in SQL that can be run as it stands."""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Final

from psycopg import sql
from sqlalchemy import Connection

from mailroom.db import definitions
from mailroom.db.namespace import quoted, schema_of
from mailroom.finding import Finding, Level

AS_MADE: Final = "make it again as alembic/versions has it; if its name was changed, change it back"
IF_UNWANTED: Final = "if nobody needs it: "


class Cures:
    """SQL that mends a schema, wherever it is run."""

    def __init__(self, connection: Connection) -> None:
        self.schema = schema_of(connection)
        # Definitions name what is in the schema without it.
        self.path = f"SET search_path = {quoted(self.schema)}, pg_temp; "

    def named(self, name: str) -> str:
        """Return a name of the schema as SQL finds it anywhere."""
        return sql.Identifier(self.schema, name).as_string()

    def alter(self, table: str, what: str, *names: str) -> str:
        """Return the change to a table, with names in it as identifiers."""
        return f"ALTER TABLE {self.named(table)} {what.format(*map(quoted, names))}"

    def add_constraint(self, table: str, name: str, definition: str, *, instead: bool = False) -> str:
        """Return how to have a constraint again, without a long lock where that can be."""
        dropping = f"DROP CONSTRAINT {quoted(name)}, " if instead else ""
        adding = f"{dropping}ADD CONSTRAINT {quoted(name)} {definition}"
        if not definition.startswith(("CHECK", "FOREIGN KEY")):
            return f"{self.path}ALTER TABLE {self.named(table)} {adding}"
        validating = self.alter(table, "VALIDATE CONSTRAINT {}", name)
        return f"{self.path}ALTER TABLE {self.named(table)} {adding} NOT VALID; {validating}"


def lenient(connection: Connection, findings: Iterable[Finding]) -> Iterator[Finding]:
    """Yield the findings; where another release has migrated, none of them is a fault for sure."""
    there = list(findings)
    if there and definitions.of_another_release(connection):
        remedy = (
            "another release has migrated, and this may be right: ask `mailroom doctor` of the newest that is in use"
        )
        there = [
            replace(each, level=Level.WARNING, remedy=f"{remedy}; if it says so too: {each.remedy}") for each in there
        ]
    yield from there
