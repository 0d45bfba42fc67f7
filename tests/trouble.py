"""What tests of trouble share: statements that are cut off, rows that are dead and stay, triggers that are slow."""

import contextlib
import time
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

from sqlalchemy import Connection, Engine, event, text

from mailroom.db.engine import connect_engine
from tests.claiming import look


def let_statements_take(connection: Connection, longest: timedelta) -> None:
    """Cut off what takes longer, in every session that begins from now on."""
    set_for_all(connection, "statement_timeout", f"{longest / timedelta(milliseconds=1):.0f}")


def set_for_all(connection: Connection, name: str, value: str) -> None:
    """Set a parameter of the database, for every session that begins from now on."""
    database = connection.scalar(text("SELECT quote_ident(current_database())"))
    connection.execute(text(f"ALTER DATABASE {database} SET {name} = '{value}'"))


@contextlib.contextmanager
def hurried_engine(url: str, *, pool_size: int) -> Iterator[Engine]:
    """An engine whose statements are cut off, once somebody has said so for all.

    SQLAlchemy lets go, unclosed, of a connection whose first statement fails: each is closed in the end.
    """
    engine = connect_engine(url, pool_size=pool_size)
    made: list[Any] = []
    event.listen(engine, "connect", lambda connection, _: made.append(connection), insert=True)
    try:
        yield engine
    finally:
        engine.dispose()
        for connection in made:
            connection.close()


def slow_down_rows(connection: Connection, change: str, table: str, seconds: float, when: str = "true") -> None:
    """Let each row of such a change take so long."""
    connection.execute(
        text(
            f"CREATE FUNCTION slowly() RETURNS trigger LANGUAGE plpgsql AS "
            f"'BEGIN PERFORM pg_sleep({seconds}); RETURN CASE TG_OP WHEN ''DELETE'' THEN OLD ELSE NEW END; END'"
        )
    )
    connection.execute(
        text(f"CREATE TRIGGER slowly BEFORE {change} ON {table} FOR EACH ROW WHEN ({when}) EXECUTE FUNCTION slowly()")
    )


@contextlib.contextmanager
def many_dead_jobs(engine: Engine, connection: Connection, count: int = 700_000) -> Iterator[timedelta]:
    """Let jobs begin with many that are done, of one import an hour ago, while an old snapshot keeps them.

    They are sound, and put in as the indexes go: to check each, and to look for its place, would take three times as
    long. Gives how long a look from the beginning takes.
    """
    connection.execute(text("ALTER TABLE jobs SET (autovacuum_enabled = off)"))
    sound = "SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE conname = 'jobs_sound'"
    rule = connection.scalar(text(sound))
    connection.execute(text("ALTER TABLE jobs DROP CONSTRAINT jobs_sound"))
    with engine.connect().execution_options(isolation_level="REPEATABLE READ") as old, old.begin():
        connection.execute(
            text(
                "INSERT INTO jobs (token, due_at, action, priority, queue)"
                " SELECT n - 1 - :count, now() - interval '1 hour', 'activation', 1, 'mailroom'"
                " FROM generate_series(1, :count) AS n"
            ),
            {"count": count},
        )
        connection.execute(text(f"ALTER TABLE jobs ADD CONSTRAINT jobs_sound {rule} NOT VALID"))
        old.execute(text("SELECT count(*) FROM jobs"))
        connection.execute(text("DELETE FROM jobs"))
        connection.execute(text("ALTER TABLE jobs VALIDATE CONSTRAINT jobs_sound"))
        yield min(_look(connection) for _ in range(3))


def _look(connection: Connection) -> timedelta:
    began = time.monotonic()
    look(connection, batch_limit=10)
    return timedelta(seconds=time.monotonic() - began)


@contextlib.contextmanager
def statements(engine: Engine | type[Engine]) -> Iterator[list[str]]:
    """Collect the statements of an engine, or of all."""
    seen: list[str] = []

    def note(_: object, __: object, statement: str, *___: object) -> None:
        seen.append(statement)

    event.listen(engine, "before_cursor_execute", note)
    try:
        yield seen
    finally:
        event.remove(engine, "before_cursor_execute", note)
