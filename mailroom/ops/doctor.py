"""What can be wrong with the database, each with its remedy."""

import time
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from functools import partial
from typing import Any, Final

from psycopg.errors import InsufficientPrivilege, QueryCanceled, UndefinedFunction, UndefinedTable
from psycopg.sql import Literal
from sqlalchemy import ColumnElement, Connection, Engine, func, select, text
from sqlalchemy.exc import DBAPIError

from mailroom.db import functions, preflight
from mailroom.db.engine import CANCELLED, MOVED, check_contract, first_line
from mailroom.db.namespace import qualified, schema_of
from mailroom.errors import DatabaseError
from mailroom.finding import Finding, failed, ok, warning
from mailroom.ops import doctor_objects, doctor_queue, doctor_rights, doctor_tables, session_settings
from mailroom.queue.listener import DEFAULT_CHANNEL, hears_itself

# What the migrations make, by name: the table of each trigger.
TRIGGERS: Final = {
    "action_changes": "actions",
    "actions_stay": "actions",
    "account_starts": "accounts",
    "account_status_changes": "accounts",
    "make_activation_tokens": "accounts",
    "activate_account": "tokens",
    "enqueue_jobs": "tokens",
    "token_starts": "tokens",
    "forget_truncated": "tokens",
    "feed_stays": "feed",
    "permits_stay": "permits",
    "readings_stay": "readings",
    "ses_account_stays": "ses_account",
    "site_stays": "site",
}
# What makes all functions and views of `sql/` again.
MIGRATE: Final = "mailroom migrate"
# What a server must not risk whose data is to be kept; no role decides these.
DURABLE: Final = {
    "fsync": "on",
    "full_page_writes": "on",
    "zero_damaged_pages": "off",
    "ignore_checksum_failure": "off",
}
# mailroom knows no clock but the database's. A machine that is further off than this has others wrong, and SES refuses
# what is signed five minutes off.
MAX_SKEW_SECONDS: Final = 60.0
_BODIES: Final = text(
    """
    SELECT proname AS name, prosrc AS body, prosecdef AS definer
      FROM pg_catalog.pg_proc
      JOIN pg_catalog.pg_namespace ON pg_namespace.oid = pronamespace
     WHERE nspname = :schema AND pg_catalog.obj_description(pg_proc.oid, 'pg_proc') LIKE 'mailroom: %'
    """
)

# How many of the jobs with the lowest tokens, of those with the highest, and of the newest tokens `restore` looks at.
RESTORE_SCAN_LIMIT: Final = 2000


def examine(engine: Engine, *, listening: str, channel: str, queue: str) -> Iterator[Finding]:
    """Check the database and what is in it; nothing but the first, if that is not as it should be.

    `listening` is the libpq string of the connection for LISTEN.
    """
    try:
        check_contract(engine)
    except DatabaseError as error:
        yield failed("database", str(error), "see there; docs/operating.md has the rest")
        return
    yield ok("database", "reachable, and for this version of mailroom")
    checks: dict[str, Callable[[Connection], Iterable[Finding]]] = {
        "guarantee": _guarantee,
        "server": _server,
        "triggers": _triggers,
        session_settings.CHECK: session_settings.examine,
        "functions": _functions,
        "indexes": _indexes,
        doctor_tables.CHECK: doctor_tables.examine,
        doctor_rights.CHECK: doctor_rights.examine,
        "clock": _clock,
        "restore": _restore,
        "actions": _actions,
        "queue": partial(doctor_queue.examine, name=queue),
        "pauses": doctor_queue.paused,
        "events": doctor_queue.heard,
        "channel": partial(_channel, channel=channel),
        "listen": partial(_listen, listening=listening, channel=channel),
    }
    for name, check in checks.items():
        yield from _checked(engine, name, check)


def _checked(engine: Engine, name: str, check: Callable[[Connection], Iterable[Finding]]) -> list[Finding]:
    """Make one check; that it cannot be made, or is refused, is a finding too, and the others are still made."""
    try:
        with engine.connect() as connection:
            return list(check(connection))
    except DBAPIError as error:
        if isinstance(error.orig, UndefinedFunction):
            return [failed(name, f"a function of mailroom is missing: {first_line(error)}", MIGRATE)]
        return [failed(name, f"the database refuses: {first_line(error)}", _refused(engine, error))]


def _refused(engine: Engine, error: DBAPIError) -> str:
    """Return what to do where the database refuses a check."""
    if isinstance(error.orig, InsufficientPrivilege):
        with engine.connect() as connection:
            return doctor_rights.remedy(connection)
    if isinstance(error.orig, UndefinedTable):
        return MOVED
    is_short = isinstance(error.orig, QueryCanceled) and error.orig.diag.sqlstate is not None  # and not this command
    return CANCELLED if is_short else "see what it says"


def _guarantee(connection: Connection) -> Iterator[Finding]:
    found = [failed("guarantee", fault.message, fault.remedy) for fault in preflight.faults(connection)]
    yield from found or [ok("guarantee", "what is committed is kept, and nothing is hidden from this role")]


def _server(connection: Connection) -> Iterator[Finding]:
    reckless = [
        name
        for name, safe in DURABLE.items()
        if (connection.scalar(select(func.current_setting(name, True))) or safe) != safe
    ]
    if reckless:
        setting = "; ".join(f"ALTER SYSTEM SET {name} = '{DURABLE[name]}'" for name in reckless)
        message = f"a crash of the machine may damage it or forget: {', '.join(reckless)}"
        yield warning("server", message, f"{setting}; SELECT pg_reload_conf()")
        return
    yield ok("server", "it survives a crash of the machine")


def _triggers(connection: Connection) -> Iterator[Finding]:
    there = {row.name: row for row in functions.call(connection, "doctor_triggers", {"triggers": list(TRIGGERS)})}
    missing = [name for name in TRIGGERS if name not in there or not there[name].calls_its_function]
    if missing:
        remedy = "make them again as alembic/versions has them; then `mailroom sweep --full`"
        yield failed("triggers", f"missing, or calling another function: {', '.join(missing)}", remedy)
        return
    disabled = [name for name, trigger in there.items() if not trigger.enabled]
    if disabled:
        tables = {name: qualified(connection, TRIGGERS[name]) for name in disabled}
        remedy = "; ".join(f"ALTER TABLE {table} ENABLE TRIGGER {name}" for name, table in tables.items())
        yield failed("triggers", f"disabled: {', '.join(disabled)}", f"{remedy}; then `mailroom sweep --full`")
        return
    off = functions.call(connection, "doctor_triggers_off").scalars().all()
    if off:
        message = f"mailroom.triggers is off, and nothing is mailed, for {', '.join(off)}"
        yield failed("triggers", message, "ALTER ROLE or DATABASE … RESET mailroom.triggers; `mailroom sweep --full`")
        return
    if session_settings.is_off(connection.scalar(select(func.current_setting("mailroom.triggers", True))) or ""):
        message = "mailroom.triggers is off, and nothing is mailed: for this session, or on the whole server"
        yield failed("triggers", message, f"{session_settings.ELSEWHERE}; `mailroom sweep --full`")
        return
    changed = list(doctor_objects.triggers(connection))
    yield from changed or [ok("triggers", f"all {len(TRIGGERS)} are there and enabled")]


def _functions(connection: Connection) -> Iterator[Finding]:
    rows = functions.call(connection, "doctor_functions", {"functions": functions.names()}).all()
    there = {row.name for row in rows}
    views = [name for name in functions.views() if connection.scalar(select(_relation(connection, name))) is None]
    missing = [name for name in functions.names() if name not in there] + views
    if missing:
        yield failed("functions", f"missing: {', '.join(missing)}", MIGRATE)
        return
    loose = [row for row in rows if not row.pinned]
    if loose:
        named = {functions.signature(row.name, schema_of(connection)): row.path for row in loose}
        remedy = "; ".join(f"ALTER FUNCTION {name} SET search_path = {path}" for name, path in named.items())
        names = ", ".join(row.name for row in loose)
        yield failed("functions", f"without a search_path of mailroom's schema and then pg_temp: {names}", remedy)
        return
    changed = [*_bodies(connection), *doctor_objects.views(connection)]
    yield from changed or [ok("functions", "each is as in this release, with its search_path pinned")]


def _bodies(connection: Connection) -> Iterator[Finding]:
    """Say which functions are not those of this release: of another one, or changed by hand."""
    bodies = functions.bodies()
    rows = connection.execute(_BODIES, {"schema": schema_of(connection)}).all()
    unmarked = sorted(bodies.keys() - {row.name for row in rows})
    if unmarked:
        message = f"without the comment by which mailroom knows its own, as after a restore: {', '.join(unmarked)}"
        yield warning("functions", message, MIGRATE)
    changed = sorted(
        row.name for row in rows if row.name in bodies and (row.body != bodies[row.name] or not row.definer)
    )
    if changed:
        message = f"not as in this release, which may be right where another one has migrated: {', '.join(changed)}"
        yield warning("functions", message, "mailroom migrate, of the newest release that is in use")


def _relation(connection: Connection, name: str) -> ColumnElement[Any]:
    return func.to_regclass(qualified(connection, name))


def _indexes(connection: Connection) -> Iterator[Finding]:
    yield from list(doctor_objects.indexes(connection)) or [
        ok("indexes", "all are there, valid, and as they were made")
    ]


def _clock(connection: Connection) -> Iterator[Finding]:
    asked = time.monotonic()
    theirs: datetime = connection.execute(select(func.clock_timestamp())).scalar_one()
    halfway = (time.monotonic() - asked) / 2
    skew = (datetime.now(UTC) - theirs).total_seconds() - halfway
    if abs(skew) > MAX_SKEW_SECONDS:
        yield failed("clock", f"this machine is {skew:+.0f} s off the database's clock", "synchronise both (NTP)")
        return
    yield ok("clock", f"this machine is {skew:+z.1f} s off the database's clock")


def _restore(connection: Connection) -> Iterator[Finding]:
    """What a restore in parts leaves behind; of a long history a few thousand rows at both ends are looked at."""
    behind = functions.call(connection, "doctor_sequences").scalars().all()
    if behind:
        last = "SELECT setval(pg_get_serial_sequence({}, 'id'), max(id)) FROM {}"
        tables = [qualified(connection, name) for name in behind]
        remedy = "; ".join(last.format(Literal(name).as_string(), name) for name in tables)
        yield failed("restore", f"rows have ids that come again: {', '.join(behind)}", remedy)
        return
    found = functions.call(connection, "doctor_restored", {"scan_limit": RESTORE_SCAN_LIMIT}).one()
    if found.twice:
        message = f"{found.twice} jobs are of tokens whose mails are finished, the first of token {found.first_twice}"
        yield failed("restore", message, "they would be mailed again: mailroom jobs drop; docs/operating.md, Restoring")
    if found.older:
        message = f"{found.older} tokens are younger than what the log says of them, the first is {found.first_older}"
        remedy = "rows were restored while the triggers made others: restore again, docs/operating.md, Restoring"
        yield failed("restore", message, remedy)
    if found.nowhere:
        message = f"{found.nowhere} tokens have neither a job nor a delivery, the first is {found.first_nowhere}"
        yield warning("restore", message, "`mailroom sweep` mails them; delete those that nobody is to have")
    if not found.twice and not found.older and not found.nowhere:
        yield ok("restore", "tokens are in one place each, and ids go on where they ended")


def _actions(connection: Connection) -> Iterator[Finding]:
    unknown = functions.call(connection, "doctor_actions").scalars().all()
    if unknown:
        message = f"jobs are of actions that there are no rows of: {', '.join(unknown)}"
        yield failed("actions", message, "insert them as they were; `mailroom actions list` shows what there is")
        return
    if functions.call(connection, "action_list").first() is None:
        message = "there is no kind of mail: nobody who signs up is mailed"
        yield failed("actions", message, "insert them as they were, mailroom's own as alembic/versions/0001 has them")
        return
    yield ok("actions", "each job is of one that there is")


def _channel(connection: Connection, *, channel: str) -> Iterator[Finding]:
    notified = connection.scalar(select(func.current_setting("mailroom.channel", True))) or DEFAULT_CHANNEL
    if notified != channel:
        message = f"the triggers notify {notified}, and workers listen to {channel}"
        yield warning("channel", message, f"ALTER DATABASE … SET mailroom.channel = '{channel}'")
        return
    yield ok("channel", f"the triggers notify {channel}")


def _listen(connection: Connection, *, listening: str, channel: str) -> Iterator[Finding]:
    def ping(channel: str, payload: str) -> None:
        connection.execute(select(func.pg_notify(channel, payload)))

    reason = hears_itself(listening, channel, ping)
    if reason is None:
        yield ok("listen", "a notification to oneself arrives")
        return
    remedy = "MAILROOM_LISTEN_DATABASE_URL: a direct connection; or `mailroom worker --no-listen`"
    yield failed("listen", reason, remedy)
