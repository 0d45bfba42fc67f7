"""Rows that are changed again and again: old versions stay as long as a snapshot does, and nobody walks over them."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy import Connection, Engine, text

from mailroom.event import Event, EventKind
from mailroom.fleet import buckets
from mailroom.fleet.buckets import Bucket
from mailroom.queue import events, feed
from tests.rating import tell_account
from tests.world import execute, rows, transaction, until_somebody_waits

MINUTES, CHANGES = 20, 300
# A page holds about sixty versions, so that those of one minute are on five or six, and an index has a page or two. All
# versions are on a hundred.
MOST_PAGES = 30
TABLES = ("permits", "feed")

# What happens in so many minutes in which each row is changed so often, each time in a transaction of its own.
CHANGE = """
CREATE PROCEDURE public.pass(minutes integer, changes integer) LANGUAGE plpgsql AS $$
DECLARE
    now_minute bigint := extract(epoch FROM clock_timestamp())::bigint / 60;
BEGIN
    FOR passed IN 1..minutes LOOP
        FOR changed IN 1..changes LOOP
            UPDATE permits SET granted = granted + 1, minute = now_minute + 2 - minutes + passed
             WHERE bucket = 'mails' AND minute = (
                   SELECT max(newest.minute) FROM permits AS newest WHERE newest.bucket = 'mails');
            UPDATE feed SET known = known + 1, minute = now_minute + 2 - minutes + passed;
            COMMIT;
        END LOOP;
    END LOOP;
END $$;
"""


@pytest.fixture
def much_changed(engine: Engine) -> Iterator[Engine]:
    """A database in which these rows were changed thousands of times, while an old snapshot keeps the versions."""
    with engine.connect() as connection, transaction(engine, "REPEATABLE READ") as old:
        for table in TABLES:
            connection.execute(text(f"ALTER TABLE {table} SET (autovacuum_enabled = off)"))
        assert rows(old, "SELECT FROM batches") == []
        tell_account(connection, 1_000_000)
        connection.execute(text(CHANGE))
        connection.execute(text("CALL public.pass(:minutes, :changes)"), {"minutes": MINUTES, "changes": CHANGES})
        yield engine


def pages(connection: Connection) -> int:
    """How many pages of these tables and their indexes this transaction has read."""
    read: int = connection.execute(
        text(
            "SELECT coalesce(sum(pg_stat_get_xact_blocks_fetched(found.oid)), 0)::bigint FROM ("
            " SELECT unnest(CAST(:tables AS regclass[]))::oid AS oid"
            " UNION ALL SELECT indexrelid FROM pg_index WHERE indrelid = ANY (CAST(:tables AS regclass[]))) AS found"
        ),
        {"tables": list(TABLES)},
    ).scalar_one()
    return read


def of_nothing_here(connection: Connection) -> Event:
    """An event of a mail that nothing here knows."""
    return Event(EventKind.DELIVERY, "m-1", datetime.now(UTC), site=events.site(connection))


def execute_in(connection: Connection, *statements: str) -> None:
    for statement in statements:
        connection.execute(text(statement))


def read_nothing(connection: Connection) -> None:
    events.absorb(connection, [])


def take_and_return(connection: Connection) -> None:
    granted = buckets.take(connection, Bucket.MAILS, 1, own_rate=None, urgent=True)
    assert granted.count == 1
    buckets.return_unused(connection, Bucket.MAILS, granted, 1)


def slow_down(connection: Connection) -> None:
    assert buckets.slow_down(connection) == pytest.approx(0.7)


def claim_refresh(connection: Connection) -> None:
    connection.execute(text("UPDATE ses_account SET refresh_due_at = now()"))
    assert buckets.claim_refresh(connection).granted_before == MINUTES * CHANGES


def test_nobody_walks_over_old_versions(much_changed: Engine) -> None:
    acts: list[Callable[[Connection], object]] = [take_and_return, slow_down, claim_refresh, read_nothing, feed.state]
    for act in acts:
        with transaction(much_changed) as connection:
            before = pages(connection)
            act(connection)
            assert pages(connection) - before <= MOST_PAGES, act
            connection.rollback()


def written_elsewhere(connection: Connection) -> list[Any]:
    """How many versions of each table this transaction has put at places that the indexes did not know."""
    count = "SELECT pg_stat_get_xact_tuples_updated({0}) - pg_stat_get_xact_tuples_hot_updated({0})"
    return [rows(connection, count.format(f"'{table}'::regclass")) for table in TABLES]


def test_a_row_that_was_changed_in_this_minute_is_changed_where_it_lies(engine: Engine) -> None:
    """No index is written: that would be one entry more, each time."""
    with transaction(engine) as connection:
        tell_account(connection, 1_000_000)
        take_and_return(connection)
        read_nothing(connection)
        connection.execute(text("UPDATE permits SET minute = minute + 1"))  # should one end just now
        connection.execute(text("UPDATE feed SET minute = minute + 1"))
        written = [written_elsewhere(connection)]
        take_and_return(connection)
        read_nothing(connection)
        written.append(written_elsewhere(connection))
        assert written[0] == written[1]
        connection.rollback()


@pytest.mark.parametrize("minute", [0, 10**12])
def test_who_waited_for_a_row_changes_what_it_waited_for(engine: Engine, minute: int) -> None:
    """Though it was in another minute when they began to wait, and is at another place now."""
    execute(engine, *(f"UPDATE {table} SET minute = {minute}" for table in TABLES))  # noqa: S608

    def act(_: int) -> int:
        with engine.connect() as own:
            taken = buckets.take(own, Bucket.MAILS, 10, own_rate=None, urgent=True)
            assert events.absorb(own, [of_nothing_here(own)]).unknown == 1
            return taken.count

    with transaction(engine) as first, ThreadPoolExecutor() as pool:
        execute_in(first, *(f"SELECT FROM {table} FOR UPDATE" for table in TABLES))
        waiting = [pool.submit(act, number) for number in range(4)]
        until_somebody_waits(engine, len(waiting))
        execute_in(first, *(f"UPDATE {table} SET minute = minute + 1" for table in TABLES))  # noqa: S608
        execute_in(first, "UPDATE permits SET granted = 7 WHERE bucket = 'mails'", "UPDATE feed SET unknown = 7")
        first.commit()
        assert [each.result() for each in waiting] == [10] * len(waiting)
    with engine.connect() as connection:
        assert rows(connection, "SELECT unknown FROM feed") == [(7 + len(waiting),)]
        assert rows(connection, "SELECT granted FROM permits WHERE bucket = 'mails'") == [(7 + 10 * len(waiting),)]
