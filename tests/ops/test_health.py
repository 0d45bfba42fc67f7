"""What makes a queue suffer is seen before it does, and said once."""

import logging
from dataclasses import replace

import pytest
from sqlalchemy import Connection, Engine, text

from mailroom.job import Priority
from mailroom.ops import health
from mailroom.ops.health import Health
from mailroom.ops.maintenance import Maintenance
from tests.world import add_accounts, ask_recovery

WELL = Health(
    holder=None,
    held_seconds=None,
    held_transactions=None,
    dead_jobs=0,
    vacuumed=True,
    overdue_seconds=0.0,
    waited_seconds={},
)


def changed(**changes: object) -> dict[str, str]:
    """What is warned of when this, and nothing else, is not well."""
    return health.warnings(replace(WELL, **changes))  # type: ignore[arg-type]  # of many types


def test_where_all_is_well_nothing_is_warned_of(conn: Connection) -> None:
    found = health.read(conn)
    assert (found.vacuumed, found.overdue_seconds, found.waited_seconds) == (True, 0.0, {})
    assert health.warnings(WELL) == {}


@pytest.mark.parametrize(
    ("changes", "code", "words"),
    [
        ({"holder": "session 7", "held_seconds": 901.0}, "OldTransaction", "session 7"),
        ({"holder": "session 7", "held_transactions": 1_000_001}, "OldTransaction", "1000001 transactions"),
        ({"dead_jobs": 200_001}, "DeadRows", "200001"),
        ({"vacuumed": False}, "NoAutovacuum", "off"),
        ({"overdue_seconds": 61.0}, "OverdueBatch", "61 s"),
        ({"waited_seconds": {Priority.URGENT: 61.0}}, "OldJob0", "urgent"),
        ({"waited_seconds": {Priority.NORMAL: 901.0}}, "OldJob1", "normal"),
        ({"waited_seconds": {Priority.BULK: 86_401.0}}, "OldJob2", "bulk"),
    ],
)
def test_each_has_a_bound_above_which_it_is_warned_of(changes: dict[str, object], code: str, words: str) -> None:
    warned = changed(**changes)
    assert list(warned) == [code]
    assert words in warned[code]


@pytest.mark.parametrize(
    "changes",
    [
        {"holder": "session 7", "held_seconds": 899.0, "held_transactions": 999},
        {"dead_jobs": 199_999, "overdue_seconds": 59.0},
        {"waited_seconds": {Priority.URGENT: 59.0, Priority.NORMAL: 899.0, Priority.BULK: 86_399.0}},
    ],
)
def test_below_it_is_not(changes: dict[str, object]) -> None:
    assert changed(**changes) == {}


def test_the_oldest_transaction_is_found_with_its_session(engine: Engine) -> None:
    with (
        engine.connect().execution_options(isolation_level="REPEATABLE READ") as old,
        engine.connect() as connection,
    ):
        pid = old.execute(
            text("SELECT pg_backend_pid() FROM accounts RIGHT JOIN (SELECT 1) AS one ON true")
        ).scalar_one()
        for number in range(5):
            add_accounts(connection, 1, prefix=f"n{number}n")
        found = health.read(connection)
        assert found.holder == f"session {pid}"
        assert found.held_seconds is not None
        assert 0 < found.held_seconds < 60
        assert (found.held_transactions or 0) >= 5  # autovacuum has some of its own


def test_an_owner_without_rights_sees_how_many_transactions_ago(engine: Engine) -> None:
    with engine.connect().execution_options(isolation_level="REPEATABLE READ") as old, engine.connect() as connection:
        old.execute(text("SELECT FROM accounts"))
        connection.execute(text("CREATE ROLE plain_owner; GRANT USAGE ON SCHEMA mailroom TO plain_owner"))
        try:
            connection.execute(text("GRANT SELECT ON ALL TABLES IN SCHEMA mailroom TO plain_owner"))
            connection.execute(text("ALTER FUNCTION health OWNER TO plain_owner"))
            add_accounts(connection, 1)
            found = health.read(connection)
        finally:
            connection.execute(text("DROP OWNED BY plain_owner"))
            connection.execute(text("DROP ROLE plain_owner"))
        assert found.held_seconds is None
        assert (found.held_transactions or 0) >= 1


def test_dead_rows_of_jobs_are_counted(engine: Engine) -> None:
    with engine.connect() as connection:
        connection.execute(text("ALTER TABLE jobs SET (autovacuum_enabled = off)"))
        add_accounts(connection, 300)
        connection.execute(text("DELETE FROM jobs"))
        connection.execute(text("SELECT pg_stat_force_next_flush()"))
        found = health.read(connection)
    assert (found.dead_jobs, found.vacuumed) == (300, False)


def test_jobs_and_batches_that_wait_are_told_for_each_priority_over_all_queues(conn: Connection) -> None:
    add_accounts(conn, 2)
    conn.execute(text("SET LOCAL mailroom.queue = 'news'"))
    add_accounts(conn, 60, prefix="many")
    ask_recovery(conn, add_accounts(conn, 1, status="active", prefix="active")[0])
    for priority, ago in ((0, 900), (1, 2000), (2, 3000)):
        conn.execute(
            text("UPDATE jobs SET due_at = now() - make_interval(secs => :ago) WHERE priority = :priority"),
            {"ago": ago, "priority": priority},
        )
    conn.execute(text("UPDATE jobs SET due_at = now() + interval '1 hour' WHERE token = 1"))
    conn.execute(
        text(
            "INSERT INTO batches (queue, worker, action, priority, due_at, tokens, attempts, lease_until)"
            " VALUES ('mailroom', 'gone', 'activation', 1, now(), '{7}', '{0}', clock_timestamp() - interval '70 s')"
        )
    )
    found = health.read(conn)
    assert found.waited_seconds is not None
    assert {priority: seconds // 100 for priority, seconds in found.waited_seconds.items()} == {
        Priority.URGENT: 9,
        Priority.NORMAL: 20,
        Priority.BULK: 30,
    }
    assert health.warnings(found).keys() == {"OldJob0", "OldJob1", "OverdueBatch"}


def test_a_worker_says_each_once_and_when_it_is_over(engine: Engine, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    work = Maintenance(engine, queue="mailroom", prune_after=None)
    said = []
    for now, vacuumed in ((0.0, "off"), (60.0, "off"), (120.0, "on"), (180.0, "on"), (240.0, "off")):
        with engine.connect() as connection:
            connection.execute(text(f"ALTER TABLE jobs SET (autovacuum_enabled = {vacuumed})"))
        caplog.clear()
        work.step(now)
        said.append([message for message in caplog.messages if "NoAutovacuum" in message])
    warned = ["warning code=NoAutovacuum autovacuum is off, for jobs or altogether"]
    assert said == [warned, [], ["warning over code=NoAutovacuum"], [], warned]
