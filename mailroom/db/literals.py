"""Values as PostgreSQL reads them, for binds that are long."""

from collections.abc import Iterable


def numbers_literal(values: Iterable[int | None]) -> str:
    """Return numbers as PostgreSQL reads an array, for a bind that the statement casts.

    For long ones: psycopg writes an array element by element in Python, which takes many times as long.
    """
    return "{" + ",".join("NULL" if value is None else str(value) for value in values) + "}"


def words_literal(values: Iterable[str | None]) -> str:
    """Return words as PostgreSQL reads an array; see `numbers_literal`."""
    elements = [
        "NULL" if words is None else '"' + words.replace("\\", "\\\\").replace('"', '\\"') + '"' for words in values
    ]
    return "{" + ",".join(elements) + "}"
