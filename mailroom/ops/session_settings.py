"""What a database, a role or the server sets for sessions of the application: `mailroom.…`, which triggers read."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from psycopg.sql import Identifier
from sqlalchemy import Connection, cast, column, func, literal_column, or_, select, table
from sqlalchemy.dialects.postgresql import OID

from mailroom.finding import Finding, failed, ok, warning

CHECK: Final = "session settings"
# As PostgreSQL reads a boolean: a word may be cut short.
_SWITCH: Final = re.compile(r"\s*(?:(t(r(ue?)?)?|y(es?)?|on|1)|f(a(l(se?)?)?)?|no?|off?|0)\s*", re.IGNORECASE)


def _is_switch(value: str) -> bool:
    return value == "" or _SWITCH.fullmatch(value) is not None


def is_off(value: str) -> bool:
    """Whether PostgreSQL reads it as false."""
    found = _SWITCH.fullmatch(value)
    return found is not None and found[1] is None


@dataclass(frozen=True, slots=True)
class _Kind:
    """Which values can be read, in words, and what comes of others."""

    fits: Callable[[str], bool]
    words: str
    else_: str


_ON_OR_OFF: Final = _Kind(_is_switch, "it is on or off", "every sign-up fails")
# What takes back a setting that no role and no database carries.
ELSEWHERE: Final = "take it out of postgresql.conf, PGOPTIONS or the URL"
# Empty is as if it were not set.
KNOWN: Final = {
    "mailroom.bulk": _ON_OR_OFF,
    "mailroom.notify": _ON_OR_OFF,
    "mailroom.triggers": _ON_OR_OFF,
    "mailroom.queue": _Kind(
        lambda value: re.fullmatch(r"\S{0,63}", value) is not None,
        "it has 1 to 63 characters, and no blank",
        "every sign-up fails",
    ),
    "mailroom.channel": _Kind(
        lambda value: len(value.encode()) < 64, "it has at most 63 bytes", "no worker is woken for new mails"
    ),
    "mailroom.trace": _Kind(lambda _: True, "", ""),
}


@dataclass(frozen=True, slots=True)
class _Set:
    """One setting: its name in small letters, its value, and what takes it back."""

    name: str
    value: str
    where: str
    reset: str


def examine(connection: Connection) -> Iterator[Finding]:
    """Say of each that cannot be read, or that nothing reads, whose it is and how to take it back."""
    found = list(_set_for_sessions(connection))
    wrong = [finding for each in found if (finding := _judge(each)) is not None]
    yield from wrong or [ok(CHECK, "what is set of mailroom's for the database and its roles can be read")]


def _judge(given: _Set) -> Finding | None:
    kind = KNOWN.get(given.name)
    if kind is None:
        message = f"{given.name} is set for {given.where}, and nothing reads it: there are {', '.join(KNOWN)}"
        return warning(CHECK, message, given.reset)
    if kind.fits(given.value):
        return None
    message = f"{given.name} is {given.value!r} for {given.where}: {kind.words}, and {kind.else_}"
    return failed(CHECK, message, given.reset)


def _set_for_sessions(connection: Connection) -> Iterator[_Set]:
    """What is set for roles and the database; and for this session, if that is from elsewhere."""
    names = set()
    for row in connection.execute(_IN_CATALOG):
        name, _, value = row.setting.partition("=")
        if name.lower().startswith("mailroom."):
            names.add(name.lower())
            where, subject = _whose(row.role, row.database)
            yield _Set(name.lower(), value, where, f"ALTER {subject} RESET {name}")
    for name in sorted(KNOWN.keys() - names):
        value = connection.scalar(select(func.current_setting(name, True)))
        if value:
            yield _Set(name, value, "this session", ELSEWHERE)


def _whose(role: str | None, database: str | None) -> tuple[str, str]:
    in_database = "" if database is None else f" IN DATABASE {Identifier(database).as_string()}"
    if role is not None:
        subject = f"ROLE {Identifier(role).as_string()}{in_database}"
        return f"role {role}{'' if database else ' in all databases'}", subject
    if database is None:
        return "everybody in all databases", "ROLE ALL"
    return "everybody in this database", f"DATABASE {Identifier(database).as_string()}"


_settings = table(
    "pg_db_role_setting", column("setdatabase"), column("setrole"), column("setconfig"), schema="pg_catalog"
)
_databases = table("pg_database", column("oid"), column("datname"), schema="pg_catalog")
_roles = table("pg_roles", column("oid"), column("rolname"), schema="pg_catalog")
_IN_CATALOG: Final = (
    select(
        func.unnest(_settings.c.setconfig).label("setting"),
        _roles.c.rolname.label("role"),
        _databases.c.datname.label("database"),
    )
    .select_from(
        _settings.outerjoin(_roles, _roles.c.oid == _settings.c.setrole).outerjoin(
            _databases, _databases.c.oid == _settings.c.setdatabase
        )
    )
    .where(
        or_(
            _settings.c.setdatabase == cast(literal_column("0"), OID),
            _databases.c.datname == func.current_database(),
        )
    )
    .order_by(literal_column("2"), literal_column("3"), literal_column("1"))
)
