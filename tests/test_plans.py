"""How PostgreSQL runs the statements in sql/: by index, and in constant work however long the queue, or dead rows, are.

Each statement is explained on the very cursor, with the very parameters, that it is then run with.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import Connection, Engine, event, text

from mailroom import queue
from mailroom.job import Batch, Priority
from mailroom.ops import health, maintenance
from mailroom.outcome import Sent
from mailroom.queue import by_hand
from mailroom.queue.floors import Floors
from mailroom.queue.lanes import LANES
from mailroom.queue.limits import MAX_CLAIM_JOBS
from tests.claiming import batch_of, claim, look, run_out, start_over, take, verdicts
from tests.world import add_accounts, misplaced, transaction

LIMIT = 10
SENT = Sent("m")
MANY = 10_000


class Plan:
    """What EXPLAIN says of one statement."""

    def __init__(self, explained: Any) -> None:
        self._nodes = list(self._walk(explained[0]["Plan"]))

    def scans(self, table: str) -> set[str]:
        """How a table is read: the index, or the kind of scan where there is none."""
        return {
            node.get("Index Name", node["Node Type"])
            for node in self._nodes
            if node["Node Type"].endswith("Scan")
            and node["Node Type"] != "Bitmap Heap Scan"
            and (node.get("Relation Name") or node.get("Index Name", "").split("_")[0]) == table
        }

    def _walk(self, node: dict[str, Any]) -> Iterator[dict[str, Any]]:
        yield node
        for child in node.get("Plans", ()):
            yield from self._walk(child)


@contextmanager
def explained(connection: Connection) -> Iterator[list[Plan]]:
    """Collect the plan of each of mailroom's statements that is run."""
    plans: list[Plan] = []

    def explain(_: Connection, cursor: Any, sql: str, parameters: Any, *__: Any) -> None:
        if sql.startswith("--"):
            cursor.execute(f"EXPLAIN (FORMAT JSON) {sql}", parameters)
            plans.append(Plan(cursor.fetchone()[0]))

    event.listen(connection, "before_cursor_execute", explain)
    try:
        yield plans
    finally:
        event.remove(connection, "before_cursor_execute", explain)


def claim_ten(connection: Connection, floors: Floors) -> Batch | None:
    return batch_of(claim(connection, batch_limit=LIMIT, floors=floors))


def look_for_ten(connection: Connection, floors: Floors, **how: Any) -> None:
    look(connection, batch_limit=LIMIT, floors=floors, **how)


def settle_sent(connection: Connection, *batches: Batch) -> bool:
    return bool(queue.settle(connection, [(batch, verdicts(batch, [SENT] * len(batch.jobs))) for batch in batches]))


def lose(connection: Connection) -> None:
    """Let every lease have run out, and rescue."""
    run_out(connection)
    queue.rescue(connection)


def leave_alone(connection: Connection) -> None:
    """Keep autovacuum away, so that it neither analyses nor clears anything in the midst of a test."""
    for table in ("jobs", "tokens", "accounts", "deliveries"):
        connection.execute(text(f"ALTER TABLE {table} SET (autovacuum_enabled = off)"))


def fill(connection: Connection, count: int, *, prefix: str = "user") -> None:
    """Let so many activations wait since a minute ago, all of them tried before."""
    add_accounts(connection, count, prefix=prefix)
    connection.execute(text("UPDATE jobs SET attempt = 1, due_at = now() - interval '1 minute'"))
    connection.execute(
        text(
            "INSERT INTO deliveries (token, account, batch, action, outcome, attempt)"
            " SELECT id, account, 1, action, 'deferred', 0 FROM tokens"
        )
    )


@pytest.fixture(params=["empty", "unanalysed", "analysed", "outgrown"])
def used(request: pytest.FixtureRequest, engine: Engine) -> Iterator[Connection]:
    """A connection that has run everything on empty tables, which it now finds empty still, or full.

    Outgrown: analysed when there were but a few rows.
    """
    with engine.connect() as connection:
        leave_alone(connection)
        look_for_ten(connection, Floors())
        assert claim_ten(connection, Floors()) is None
        queue.rescue(connection)
        if request.param == "outgrown":
            fill(connection, 20, prefix="early")
            connection.execute(text("VACUUM ANALYZE"))
        if request.param != "empty":
            fill(connection, MANY)
        if request.param == "analysed":
            connection.execute(text("VACUUM ANALYZE"))
        yield connection


@pytest.fixture
def full(engine: Engine) -> Iterator[Connection]:
    """A connection that finds tables which are full and were never analysed, as after a restore."""
    with engine.connect() as connection:
        leave_alone(connection)
        fill(connection, MANY)
        yield connection


def test_a_claim_goes_by_index(used: Connection) -> None:
    floors = Floors()
    by_place = "Tid Scan" if used.execute(text("SELECT FROM jobs LIMIT 1")).first() is not None else "Seq Scan"
    with explained(used) as plans:
        claim_ten(used, floors)
        claim_ten(used, floors)
        claim(used, batch_limit=LIMIT, floors=floors, job_limit=MAX_CLAIM_JOBS)
    for plan in plans:
        assert plan.scans("jobs") == {"jobs_claim_idx", by_place}
        assert plan.scans("tokens") == {"tokens_pkey", "tokens_recovery_idx", "tokens_consumed_idx"}
        assert plan.scans("accounts") == {"accounts_pkey"}
        assert plan.scans("deliveries") == {"deliveries_token_idx", "deliveries_accepted_late_idx"}


def test_a_look_goes_by_index(used: Connection) -> None:
    floors = Floors()
    with explained(used) as plans:
        look_for_ten(used, floors)
    claim_ten(used, floors)
    with explained(used) as more_plans:
        look_for_ten(used, floors)
    assert [plan.scans("jobs") for plan in plans + more_plans] == [{"jobs_claim_idx"}] * 2


@pytest.mark.parametrize("analysed", [False, True])
def test_settlements_and_rescues_go_by_index(full: Connection, analysed: bool) -> None:
    if analysed:
        full.execute(text("VACUUM ANALYZE"))
    settled, released, lost = (take(full, batch_limit=LIMIT) for _ in range(3))
    several = claim(full, batch_limit=LIMIT, floors=Floors(), job_limit=MAX_CLAIM_JOBS).batches
    assert len(several) == MAX_CLAIM_JOBS // LIMIT
    with explained(full) as plans:
        assert settle_sent(full, settled)
        assert settle_sent(full, *several)
        assert queue.settle(full, [(released, [])])
        lose(full)
        assert not settle_sent(full, lost)
    *settlements, rescue, too_late, kept = plans
    assert len(settlements) == 3
    for plan in (*settlements, too_late):
        assert [plan.scans(table) for table in ("deliveries", "jobs", "tokens")] == [set(), set(), set()]
    for plan in (rescue, kept):
        assert plan.scans("tokens") == {"tokens_pkey"}
        assert plan.scans("deliveries") == {"deliveries_token_idx"}
        assert plan.scans("jobs") == set()


def entries_read(connection: Connection) -> int:
    """How many entries of the claim index this session has read, dead ones too, and rows that it read without."""
    read: int = connection.execute(
        text(
            "SELECT pg_stat_get_xact_tuples_returned('jobs_claim_idx'::regclass)"
            " + pg_stat_get_xact_tuples_returned('jobs'::regclass)"
        )
    ).scalar_one()
    return read


def cost(engine: Engine, act: Callable[[Connection], object]) -> int:
    """Count the entries of the claim index that something reads, and undo it."""
    with transaction(engine) as connection:
        read_before = entries_read(connection)
        act(connection)
        read = entries_read(connection) - read_before
        connection.rollback()
    return read


# A look, a first job that can be had, the jobs themselves: each at most a batch, and one entry to know the end.
BOUND = 2 * LIMIT + 1 + 2 * len(LANES)


def test_a_claim_reads_no_more_than_it_takes_of_a_long_queue(engine: Engine) -> None:
    with engine.connect() as connection:
        leave_alone(connection)
        fill(connection, MANY)
        connection.execute(text("VACUUM jobs"))
    assert LIMIT < cost(engine, lambda connection: claim_ten(connection, Floors())) <= BOUND
    assert LIMIT <= cost(engine, lambda connection: look_for_ten(connection, Floors())) <= BOUND


def test_under_an_old_snapshot_a_claim_does_not_walk_over_what_is_done(engine: Engine) -> None:
    floors = Floors()
    with engine.connect() as connection, transaction(engine, "REPEATABLE READ") as old:
        leave_alone(connection)
        fill(connection, 5_000)
        connection.execute(text("VACUUM ANALYZE jobs"))
        assert misplaced(old) == []  # the snapshot is taken, and held

        before = cost(engine, lambda connection: claim_ten(connection, floors))
        start_over(floors)
        for _ in range(90):
            batch = batch_of(claim(connection, floors=floors))
            assert batch is not None
            assert settle_sent(connection, batch)
        connection.execute(text("VACUUM jobs"))

        without_floors = cost(engine, lambda connection: claim_ten(connection, Floors()))
        assert without_floors > 4_500
        assert cost(engine, lambda connection: claim_ten(connection, floors)) <= before <= BOUND
        assert cost(engine, lambda connection: look_for_ten(connection, floors)) <= BOUND
        assert cost(engine, lambda connection: add_accounts(connection, 1, prefix="new")) <= len(LANES)


def test_under_an_old_snapshot_one_look_and_not_each_claim_walks_over_a_lane_that_is_done(engine: Engine) -> None:
    """Activations are done, and bulk is at work."""
    floors = Floors()
    with engine.connect() as connection, transaction(engine, "REPEATABLE READ") as old:
        leave_alone(connection)
        fill(connection, 2_000)
        connection.execute(text("UPDATE jobs SET priority = 1"))
        connection.execute(text("VACUUM ANALYZE jobs"))
        assert misplaced(old) == []
        while batch := batch_of(claim(connection, floors=floors)):
            assert settle_sent(connection, batch)
        add_accounts(connection, 100, prefix="bulk")

        as_a_sweep = cost(engine, lambda connection: look_for_ten(connection, floors, from_start=True))
        assert as_a_sweep > 2_000
        for _ in range(2):
            assert cost(engine, lambda connection: claim_ten(connection, floors)) <= BOUND
        assert cost(engine, lambda connection: look_for_ten(connection, floors)) <= BOUND
        assert take(connection, batch_limit=LIMIT, floors=floors).priority is Priority.BULK


def test_a_look_leaves_the_floor_below_what_waits_and_below_what_may_still_commit(engine: Engine) -> None:
    floors = Floors()
    with engine.connect() as connection, transaction(engine) as slow:
        add_accounts(slow, 1, prefix="slow")  # due now, and not to be seen
        slow.execute(text("UPDATE jobs SET due_at = now() - interval '5 seconds', attempt = 1"))
        add_accounts(connection, 2)
        connection.execute(text("UPDATE jobs SET due_at = now() - interval '1 hour', attempt = 1 WHERE token = 2"))
        look_for_ten(connection, floors)
        assert [job.token for job in take(connection, batch_limit=LIMIT, floors=floors).jobs] == [2, 3]
        start_over(floors)
        look_for_ten(connection, floors)
        slow.commit()
        assert [job.token for job in take(connection, batch_limit=LIMIT, floors=floors).jobs] == [1]


def finish_old(connection: Connection) -> None:
    """Let every other token have been sent long ago, and its delivery be the oldest there is."""
    connection.execute(text("DELETE FROM jobs WHERE token % 2 = 0"))
    connection.execute(text("UPDATE deliveries SET outcome = 'sent' WHERE token % 2 = 0"))
    connection.execute(text("UPDATE deliveries SET created_at = now() - interval '100 days'"))
    connection.execute(text("UPDATE tokens SET expires_at = now() - interval '100 days'"))


def plans_of(engine: Engine, act: Callable[[], object]) -> list[Plan]:
    """Collect the plans of what takes an engine, and opens its own connection."""
    plans: list[Plan] = []

    def explain(_: Connection, cursor: Any, sql: str, parameters: Any, *__: Any) -> None:
        if sql.startswith("--"):
            cursor.execute(f"EXPLAIN (FORMAT JSON) {sql}", parameters)
            plans.append(Plan(cursor.fetchone()[0]))

    event.listen(engine, "before_cursor_execute", explain)
    try:
        act()
    finally:
        event.remove(engine, "before_cursor_execute", explain)
    return plans


@pytest.mark.parametrize("analysed", [False, True])
def test_maintenance_goes_by_index(engine: Engine, full: Connection, analysed: bool) -> None:
    finish_old(full)
    if analysed:
        full.execute(text("VACUUM ANALYZE"))
    [reconciled] = plans_of(engine, lambda: maintenance.reconcile(engine, queue="mailroom", scan_limit=LIMIT))
    assert reconciled.scans("tokens") == {"tokens_pkey"}
    assert reconciled.scans("jobs") == {"jobs_pkey"}
    assert reconciled.scans("deliveries") == {"deliveries_token_idx"}
    with explained(full) as plans:
        pruned = maintenance.prune(full, older_than=timedelta(days=90), scan_limit=LIMIT)
    assert (pruned.deliveries, pruned.tokens) == (LIMIT / 2, LIMIT / 2)
    assert plans[0].scans("tokens") == {"tokens_pkey"}
    assert plans[0].scans("jobs") == {"jobs_pkey"}
    assert plans[0].scans("deliveries") == {"deliveries_pkey", "deliveries_token_idx"}


@pytest.mark.parametrize("analysed", [False, True])
def test_what_operators_do_goes_by_index(full: Connection, analysed: bool) -> None:
    full.execute(text("UPDATE deliveries SET outcome = 'failed' WHERE token % 2 = 0"))
    full.execute(text("DELETE FROM jobs WHERE token % 2 = 0"))
    if analysed:
        full.execute(text("VACUUM ANALYZE"))
    with explained(full) as plans:
        health.read(full)
        assert by_hand.retry(full, [1, 2], queue="mailroom").put_back == [2]
        assert by_hand.release(full, [3]) == []
        assert by_hand.drop(full, [1]) == [1]
    looked, retried, released, dropped = plans
    assert looked.scans("jobs") == {"jobs_claim_idx"}
    assert (retried.scans("jobs"), retried.scans("deliveries")) == (
        {"jobs_pkey"},
        {"deliveries_token_idx", "deliveries_pkey"},
    )
    assert released.scans("jobs") == {"jobs_pkey"}
    assert (dropped.scans("jobs"), dropped.scans("deliveries")) == ({"jobs_pkey"}, set())


def log_read(connection: Connection) -> int:
    """How many rows and index entries of deliveries this session has read."""
    read: int = connection.execute(
        text(
            "SELECT pg_stat_get_xact_tuples_returned('deliveries'::regclass)"
            " + pg_stat_get_xact_tuples_returned('deliveries_pkey'::regclass)"
            " + pg_stat_get_xact_tuples_returned('deliveries_token_idx'::regclass)"
        )
    ).scalar_one()
    return read


def test_a_prune_reads_no_more_than_it_looks_at_of_a_long_log(engine: Engine) -> None:
    with engine.connect() as connection:
        leave_alone(connection)
        fill(connection, MANY)
        finish_old(connection)
        connection.execute(text("VACUUM deliveries"))
    with transaction(engine) as connection:
        before = log_read(connection)
        assert maintenance.prune(connection, older_than=timedelta(days=90), scan_limit=LIMIT).deliveries == LIMIT / 2
        assert log_read(connection) - before <= 4 * LIMIT
        connection.rollback()


def test_a_prune_with_nothing_to_do_does_not_look_for_it_to_the_end(engine: Engine) -> None:
    with engine.connect() as connection:
        leave_alone(connection)
        fill(connection, MANY)
    with transaction(engine) as connection:
        before = log_read(connection)
        assert maintenance.prune(connection, older_than=timedelta(days=90), scan_limit=LIMIT).after is None
        assert log_read(connection) - before <= 4 * LIMIT
        connection.rollback()
