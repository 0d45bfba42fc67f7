"""Row-level security that hides rows from the worker: what cannot be seen is never taken for gone."""

from collections.abc import Callable, Iterator
from datetime import timedelta

import pytest
from sqlalchemy import Connection, Engine, event, text
from sqlalchemy.exc import DBAPIError

from mailroom import queue
from mailroom.ops import grants, maintenance
from mailroom.outcome import Sent
from mailroom.queue.late_acceptances import apply
from mailroom.queue.verdict import judge
from tests.claiming import claim, look, take
from tests.world import add_accounts, misplaced, rows

ROLE = "mailroom_test_worker"
TABLES = ("accounts", "tokens", "jobs", "batches", "deliveries", "pauses", "permits", "ses_account")


@pytest.fixture
def owner(engine: Engine) -> Iterator[Connection]:
    """The owner's connection; there is a role with a worker's rights, and mail of all kinds."""
    with engine.connect() as connection:
        connection.execute(text(f"DROP ROLE IF EXISTS {ROLE}"))
        connection.execute(text(f"CREATE ROLE {ROLE}"))
        grants.apply(connection, grants.statements(connection, "worker", ROLE))
        add_accounts(connection, 3, prefix="old")
        batch = take(connection)
        queue.settle(connection, [(batch, [judge(Sent("m"), attempt=0, jitter=0) for _ in batch.jobs])])
        add_accounts(connection, 3, prefix="new")
        yield connection
        connection.execute(text(f"DROP OWNED BY {ROLE}; DROP ROLE {ROLE}"))


@pytest.fixture
def worker(engine: Engine, owner: Connection) -> Iterator[Connection]:
    with engine.connect() as connection:
        connection.execute(text(f"SET ROLE {ROLE}"))
        yield connection
        connection.execute(text("RESET ROLE"))


def hide(owner: Connection, table: str) -> None:
    owner.execute(text(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY"))


def show(owner: Connection, table: str) -> None:
    owner.execute(text(f"ALTER TABLE {table} DISABLE ROW LEVEL SECURITY"))


STEPS: dict[str, Callable[[Connection], object]] = {
    "claim": claim,
    "look": look,
    "rescue": queue.rescue,
    "late acceptances": apply,
    "prune": lambda connection: maintenance.prune(connection, older_than=timedelta(days=1)),
}


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("step", STEPS)
def test_hidden_rows_are_an_error_and_nothing_is_decided(
    owner: Connection, worker: Connection, step: str, table: str
) -> None:
    before = rows(owner, "SELECT * FROM deliveries ORDER BY id"), rows(owner, "SELECT * FROM jobs ORDER BY token")
    hide(owner, table)
    with pytest.raises(DBAPIError, match="row-level security may hide rows"):
        STEPS[step](worker)
    show(owner, table)
    after = rows(owner, "SELECT * FROM deliveries ORDER BY id"), rows(owner, "SELECT * FROM jobs ORDER BY token")
    assert after == before
    assert len(take(worker).jobs) == 3


@pytest.mark.parametrize("told", [3, 0], ids=["sent", "given back"])
def test_a_settlement_waits_until_its_batch_can_be_seen(owner: Connection, worker: Connection, told: int) -> None:
    """Taken for gone, it would be told late, and the mails sent again; or not be given back before its lease ends."""
    batch = take(worker)
    verdicts = [judge(Sent("m"), attempt=0, jitter=0) for _ in batch.jobs[:told]]
    hide(owner, "batches")
    with pytest.raises(DBAPIError, match="row-level security may hide rows"):
        queue.settle(worker, [(batch, verdicts)])
    show(owner, "batches")
    assert queue.settle(worker, [(batch, verdicts)]) == {batch.fence}
    assert misplaced(owner) == []


def test_a_reconcile_mails_nobody_again_whose_history_is_hidden(engine: Engine, owner: Connection) -> None:
    as_worker = engine.execution_options()
    event.listen(as_worker, "begin", lambda connection: connection.exec_driver_sql(f"SET LOCAL ROLE {ROLE}"))
    hide(owner, "deliveries")
    with pytest.raises(DBAPIError, match="row-level security may hide rows"):
        maintenance.reconcile(as_worker, queue="mailroom")
    show(owner, "deliveries")
    assert maintenance.reconcile(as_worker, queue="mailroom").enqueued == ()


def test_the_owner_too_where_it_is_forced(owner: Connection, worker: Connection) -> None:
    owner.execute(text(f"ALTER TABLE jobs OWNER TO {ROLE}"))
    hide(owner, "jobs")
    assert len(take(worker).jobs) == 3
    owner.execute(text("ALTER TABLE jobs FORCE ROW LEVEL SECURITY"))
    with pytest.raises(DBAPIError, match="row-level security may hide rows"):
        claim(worker)
    owner.execute(text("ALTER TABLE jobs OWNER TO CURRENT_USER"))


def test_who_bypasses_row_level_security_sees_all(owner: Connection, worker: Connection) -> None:
    for table in TABLES:
        hide(owner, table)
    owner.execute(text(f"ALTER ROLE {ROLE} BYPASSRLS"))
    assert len(take(worker).jobs) == 3
