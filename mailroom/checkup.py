"""What can be wrong with the database, each with its cure."""

import time
from datetime import UTC, datetime
from typing import Final

from sqlalchemy import Connection, Engine, func, select

from mailroom import health
from mailroom.database import check_revision, statement
from mailroom.errors import DatabaseError
from mailroom.finding import Finding, failed, ok, warning
from mailroom.wakeup import DEFAULT_CHANNEL, hears_itself

# What the migrations make, by name: the table of each trigger, and the functions that find their tables by a path.
TRIGGERS: Final = {
    "account_starts": "accounts",
    "account_status_changes": "accounts",
    "make_activation_tokens": "accounts",
    "activate_account": "tokens",
    "enqueue_jobs": "tokens",
}
FUNCTIONS: Final = (*TRIGGERS, "consume_token", "count_guess", "guesses_left", "recovery_fits")
# mailroom knows no clock but the database's. A machine that is further off than this has others wrong, and SES refuses
# what is signed five minutes off.
MOST_SKEW_SECONDS: Final = 60.0


def examine(engine: Engine, *, listening: str, channel: str) -> list[Finding]:
    """Check the database and what is in it; nothing but the first, if that is not as it should be.

    `listening` is the libpq string of the connection for LISTEN.
    """
    try:
        check_revision(engine)
    except DatabaseError as error:
        return [failed("database", str(error), "see there; docs/operating.md has the rest")]
    with engine.connect() as connection:
        return [
            ok("database", "reachable, and at the revision of this version"),
            _triggers(connection),
            _functions(connection),
            _clock(connection),
            *_health(connection),
            _channel(connection, channel),
            _listen(connection, listening, channel),
        ]


def _triggers(connection: Connection) -> Finding:
    there = {row.name: row.enabled for row in connection.execute(statement("triggers"), {"triggers": list(TRIGGERS)})}
    missing = [name for name in TRIGGERS if name not in there]
    if missing:
        return failed("triggers", f"missing: {', '.join(missing)}", "mailroom migrate makes them: was one dropped?")
    disabled = [name for name, enabled in there.items() if not enabled]
    if disabled:
        cure = "; ".join(f"ALTER TABLE {TRIGGERS[name]} ENABLE TRIGGER {name}" for name in disabled)
        return failed("triggers", f"disabled: {', '.join(disabled)}", f"{cure}; then `mailroom sweep --full`")
    role = connection.scalar(select(func.current_setting("session_replication_role")))
    if role != "origin":
        return failed("triggers", f"session_replication_role is {role}: none fires", "set it to origin for this role")
    return ok("triggers", f"all {len(TRIGGERS)} are there and enabled")


def _functions(connection: Connection) -> Finding:
    found = {row.name: row.pinned for row in connection.execute(statement("functions"), {"functions": list(FUNCTIONS)})}
    missing = [name for name in FUNCTIONS if name not in found]
    if missing:
        return failed("functions", f"missing: {', '.join(missing)}", "restore them from alembic/versions")
    loose = [name for name, pinned in found.items() if not pinned]
    if loose:
        cure = "; ".join(f"ALTER FUNCTION {name} SET search_path = …" for name in loose)
        return failed("functions", f"without a search_path of their own: {', '.join(loose)}", cure)
    return ok("functions", "each has its search_path pinned")


def _clock(connection: Connection) -> Finding:
    asked = time.monotonic()
    theirs: datetime = connection.execute(select(func.clock_timestamp())).scalar_one()
    halfway = (time.monotonic() - asked) / 2
    skew = (datetime.now(UTC) - theirs).total_seconds() - halfway
    if abs(skew) > MOST_SKEW_SECONDS:
        return failed("clock", f"this machine is {skew:+.0f} s off the database's clock", "synchronise both (NTP)")
    return ok("clock", f"this machine is {skew:+.1f} s off the database's clock")


def _health(connection: Connection) -> list[Finding]:
    warnings = health.warnings(health.read(connection))
    if not warnings:
        return [ok("queue", "nothing waits too long, and vacuum keeps up")]
    return [warning("queue", f"{code}: {words}", "see docs/operating.md, Warnings") for code, words in warnings.items()]


def _channel(connection: Connection, channel: str) -> Finding:
    notified = connection.scalar(select(func.current_setting("mailroom.channel", True))) or DEFAULT_CHANNEL
    if notified != channel:
        words = f"the triggers notify {notified}, and workers listen to {channel}"
        return warning("channel", words, f"ALTER DATABASE … SET mailroom.channel = '{channel}'")
    return ok("channel", f"the triggers notify {channel}")


def _listen(connection: Connection, listening: str, channel: str) -> Finding:
    def ping(channel: str, payload: str) -> None:
        connection.execute(select(func.pg_notify(channel, payload)))

    reason = hears_itself(listening, channel, ping)
    if reason is None:
        return ok("listen", "a notification to oneself arrives")
    cure = "MAILROOM_LISTEN_DATABASE_URL: a direct connection; or `mailroom worker --no-listen`"
    return failed("listen", reason, cure)
