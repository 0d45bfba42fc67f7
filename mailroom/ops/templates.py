"""Which templates were pushed, and which are used: rows of the database, and so the way back."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from psycopg import errors
from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from mailroom.db import functions
from mailroom.db.engine import first_line
from mailroom.errors import MailroomError


@dataclass(frozen=True, slots=True)
class Pushed:
    """A template by its name: for which action, with which languages, since when, and which actions use it.

    Of one that was made by hand, languages and moment are not known.
    """

    name: str
    action: str
    languages: tuple[str, ...]
    default_language: str | None
    created_at: datetime | None
    uses: tuple[str, ...]


def listing(connection: Connection) -> list[Pushed]:
    """Return those that were pushed, the newest first, and those that are used without."""
    return [
        Pushed(row.name, row.action, tuple(row.languages or ()), row.default_language, row.created_at, tuple(row.uses))
        for row in functions.call(connection, "template_list")
    ]


def add(connection: Connection, name: str, *, action: str, languages: Sequence[str], default_language: str) -> bool:
    """Put on record that a template is at SES; return whether that is new. MailroomError if there is no such action."""
    row = {"name": name, "action": action, "languages": list(languages), "default_language": default_language}
    return bool(_call(connection, "template_add", row))


def use(connection: Connection, action: str, template: str, *, unpushed: bool = False) -> str:
    """Use a template for an action from the next claim on; return the name of the one before.

    MailroomError if there is no such action, or if none of that name was pushed for it, unless it may be `unpushed`.
    """
    row = {"action": action, "template": template, "unpushed": unpushed}
    return str(_call(connection, "template_use", row))


def _call(connection: Connection, function: str, row: dict[str, Any]) -> Any:
    try:
        return functions.call(connection, function, row).scalar()
    except DBAPIError as error:
        if not isinstance(error.orig, errors.NoDataFound | errors.CheckViolation):
            raise
        raise MailroomError(first_line(error)) from error
