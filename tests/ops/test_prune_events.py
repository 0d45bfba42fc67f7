"""Trap 20: however many events are old, they are forgotten in bounded steps, until none is left."""

from datetime import timedelta

import pytest
from sqlalchemy import Connection, Engine, text

from mailroom.ops import maintenance
from mailroom.ops.maintenance import Maintenance
from tests.ops.aging import AGED, age, everything, mail
from tests.plans import explained, watch
from tests.world import count, transaction

LIMIT = 10

# Each a mail that failed to render and that nothing here knows, from the oldest on.
STRANGERS = """
    INSERT INTO events (message_id, kind, at, absorbed_at)
    SELECT 'unknown-' || n, 'rendering_failure', now(), now() - CAST(:ago AS interval) + n * interval '1 millisecond'
      FROM generate_series(1, :number) AS n
"""
# Of each mail on record what SES tells of nearly every one.
TOLD = """
    INSERT INTO events (message_id, kind, at, token, absorbed_at)
    SELECT 'm-' || token, kind, created_at, token, created_at
      FROM deliveries, (VALUES (CAST('accepted' AS event_kind)), ('send'), ('delivery')) AS told (kind)
"""


def strangers(connection: Connection, number: int, *, days: int = 91) -> None:
    connection.execute(text(STRANGERS), {"number": number, "ago": timedelta(days=days)})


def fill(connection: Connection, number: int, *, strange: int) -> None:
    """Let so many mails have been sent long ago, with three events of each, and so many events be of nobody."""
    for table in ("tokens", "deliveries", "events"):
        connection.execute(text(f"ALTER TABLE {table} SET (autovacuum_enabled = off)"))
    connection.execute(
        text(
            "INSERT INTO deliveries (token, action, outcome, attempt, message_id, created_at)"
            " SELECT 1000000 + n, 'activation', 'sent', 0, 'm-' || 1000000 + n, now() - interval '91 days'"
            "   FROM generate_series(1, :number) AS n"
        ),
        {"number": number},
    )
    connection.execute(text(TOLD))
    strangers(connection, strange)


@pytest.mark.parametrize("mails", [0, 3, 25])
def test_old_events_of_nobody_are_forgotten_to_the_last_a_bounded_number_at_a_time(
    engine: Engine, connection: Connection, mails: int
) -> None:
    if mails:
        mail(connection, mails)
        age(connection, 91)
        connection.execute(text(TOLD))
    strangers(connection, 45)
    strangers(connection, 2000, days=1)
    left = [count(connection, "events WHERE token IS NULL")]
    after: int | None = 0
    while after is not None:
        after = maintenance.prune(connection, older_than=AGED, after=after, scan_limit=LIMIT).after
        left.append(count(connection, "events WHERE token IS NULL"))
    assert left == [2045, 2035, 2025, 2015, 2005, 2000]
    assert count(connection, "events WHERE token IS NOT NULL") == 0
    assert everything(connection) == (0, 0, 0)


def test_the_command_ends_when_no_old_event_is_left(engine: Engine, connection: Connection) -> None:
    strangers(connection, 2 * maintenance.SCAN_LIMIT)
    assert len(list(maintenance.prune_all(engine, older_than=AGED))) == 3
    assert count(connection, "events") == 0


def test_a_worker_forgets_a_backlog_of_events_step_by_step_and_then_hourly(
    engine: Engine, connection: Connection
) -> None:
    """Without a single mail on record, too."""
    strangers(connection, 25)
    work = Maintenance(engine, queue="mailroom", prune_after=AGED, scan_limit=LIMIT)
    left = []
    for now in (0.0, 1.0, 5.0, 10.0):
        work.step(now)
        left.append(count(connection, "events"))
    assert left == [15, 15, 5, 0]
    strangers(connection, 1)
    work.step(3609.0)
    assert count(connection, "events") == 1
    work.step(3610.0)
    assert count(connection, "events") == 0


@pytest.mark.parametrize("history", [10_000, pytest.param(500_000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("known", ["nothing", "analysed before", "analysed since"])
def test_events_are_forgotten_by_index_whatever_history_there_is(engine: Engine, known: str, history: int) -> None:
    """Two million events in the long run; the session pruned first when there was nothing."""
    watch(engine)
    with engine.connect() as connection:
        if known == "analysed before":
            connection.execute(text("VACUUM ANALYZE"))
        maintenance.prune(connection, older_than=AGED, scan_limit=LIMIT)
        fill(connection, history, strange=history)
        if known == "analysed since":
            connection.execute(text("VACUUM ANALYZE"))
        with explained(engine) as plans:
            pruned = maintenance.prune(connection, older_than=AGED, scan_limit=LIMIT)
        assert (pruned.deliveries, pruned.after) == (LIMIT, LIMIT)
        assert count(connection, "events") == 4 * history - 4 * LIMIT
    [plan] = plans
    assert plan.scans("events") == {"events_once", "events_token_idx", "events_unknown_idx"}


READ = """
    SELECT sum(pg_stat_get_xact_tuples_returned(CAST(name AS regclass)))
      FROM unnest(ARRAY['events', 'events_once', 'events_token_idx', 'events_unknown_idx']) AS name
"""


def test_a_prune_reads_no_more_events_than_it_forgets(engine: Engine) -> None:
    with engine.connect() as connection:
        fill(connection, 1000, strange=10_000)
        connection.execute(text("VACUUM ANALYZE"))
    with transaction(engine) as connection:
        before = connection.scalar(text(READ))
        maintenance.prune(connection, older_than=AGED, scan_limit=LIMIT)
        assert (
            connection.scalar(text(READ)) - before <= 10 * LIMIT
        )  # three of each mail, one of nobody, each found twice
        connection.rollback()
