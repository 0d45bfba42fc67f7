"""Whether the types of mailroom, and the letters that it takes for one, are as this release makes them."""

import functools
import re
import unicodedata
from collections.abc import Iterable, Iterator
from typing import Final

from psycopg import sql
from sqlalchemy import Connection, text

from mailroom.db import schema
from mailroom.db.definitions import Definition
from mailroom.db.namespace import schema_of
from mailroom.finding import Finding, failed
from mailroom.ops.doctor_cures import AS_MADE, IF_UNWANTED, Cures

CHECK: Final = "tables"
_LABELS: Final = text(
    """
    SELECT CAST(typname AS text) AS name, array_agg(CAST(enumlabel AS text)) AS labels
      FROM pg_catalog.pg_enum
      JOIN pg_catalog.pg_type ON pg_type.oid = enumtypid
      JOIN pg_catalog.pg_namespace ON pg_namespace.oid = typnamespace
     WHERE nspname = :schema
     GROUP BY typname
    """
)
_RULES: Final = text(
    """
    SELECT CAST(typname AS text) AS name, CAST(conname AS text) AS rule,
           pg_catalog.pg_get_constraintdef(pg_constraint.oid) AS printed
      FROM pg_catalog.pg_constraint
      JOIN pg_catalog.pg_type ON pg_type.oid = contypid
      JOIN pg_catalog.pg_namespace ON pg_namespace.oid = typnamespace
     WHERE nspname = :schema AND typname = ANY (CAST(:names AS name[]))
     ORDER BY typname, conname
    """
)
# The words of `lowered`: the letters that it changes, and what they become.
_STRING: Final = re.compile(r"'([^']*)'")
_PLANES: Final = 0x20000


def examine(connection: Connection, cures: Cures) -> Iterator[Finding]:
    """Check the enums and the domains. One more value does no harm; a renamed one breaks whatever names it."""
    there = {row.name: set(row.labels) for row in connection.execute(_LABELS, {"schema": schema_of(connection)})}
    for kind in (schema.account_status, schema.delivery_outcome, schema.event_kind):
        gone = [label for label in kind.enums if label not in there.get(str(kind.name), set())]
        if gone:
            yield failed(CHECK, f"the type {kind.name} lacks: {', '.join(gone)}", AS_MADE)
    binds = {"schema": schema_of(connection), "names": list(schema.TYPES)}
    for row in connection.execute(_RULES, binds):
        message = (
            f"the rule {row.rule} of the type {row.name} is not mailroom's, and may refuse its rows: {row.printed}"
        )
        cure = f"ALTER DOMAIN {cures.named(row.name)} DROP CONSTRAINT {sql.Identifier(row.rule).as_string()}"
        yield failed(CHECK, message, IF_UNWANTED + cure)


def folds_as_made(bodies: Iterable[Definition]) -> bool:
    """Whether `lowered` changes letters as the migration makes it do.

    That takes them from the Python that runs it, and a newer one knows more. Each knows those of Unicode 3.2, and what
    these become does not change.
    """
    for body in bodies:
        if body.name == "lowered":
            letters, folded = (*_STRING.findall(body.printed), "", "")[:2]
            there = dict(zip(letters, folded, strict=False))
            changed = {letter: lower for letter, lower in there.items() if letter != lower and _is_settled(letter)}
            return len(letters) == len(folded) and changed == _folded()
    return True  # what lacks it is told elsewhere


@functools.cache
def _folded() -> dict[str, str]:
    """The settled letters that it changes, and what they become. Few change at all, and that is known sooner."""
    cased = (each for each in map(chr, range(1, _PLANES)) if each != each.lower() or each != each.casefold())
    return {each: _fold(each) for each in cased if each != _fold(each) and _is_settled(each)}


def _is_settled(letter: str) -> bool:
    """Whether `lowered` has to know it: what lies behind the planes, it never does."""
    return "\0" < letter < chr(_PLANES) and unicodedata.ucd_3_2_0.category(letter) != "Cn"


def _fold(letter: str) -> str:
    """Return the letter in lower case as migration 0001 does it: a letter stays one letter."""
    folded = letter.casefold() if len(letter.casefold()) == 1 else letter.lower()
    return folded if len(folded) == 1 and letter != "\N{GREEK SMALL LETTER FINAL SIGMA}" else letter
