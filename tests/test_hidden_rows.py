"""Row-level security that hides rows from the owner of the functions: what cannot be seen is never taken for gone.

Functions see with the rights of their owner, whoever calls them. From an owner rows are hidden only where that is
forced, and only if it is no superuser and does not bypass row-level security.
"""

from collections.abc import Callable, Iterator
from datetime import timedelta

import pytest
from sqlalchemy import Connection, Engine, event, text
from sqlalchemy.exc import DBAPIError

from mailroom import queue
from mailroom.fleet import buckets
from mailroom.fleet.buckets import Bucket
from mailroom.job import Batch
from mailroom.ops import grants, maintenance
from mailroom.outcome import Outcome, Sent, Unconfirmed
from mailroom.queue.late_acceptances import apply
from mailroom.queue.verdict import judge
from tests.claiming import claim, look, run_out, take
from tests.world import add_accounts, misplaced, rows

OWNER = "mailroom_test_owner"
WORKER = "mailroom_test_worker"
HIDDEN = 'row-level security policy for table "{}"'
# The tables that are read by what follows.
TABLES = ("accounts", "tokens", "jobs", "batches", "deliveries", "pauses", "permits", "ses_account")
GIVE_AWAY = """
DO $$
DECLARE
    change text;
BEGIN
    FOR change IN
        SELECT format('ALTER TABLE %s OWNER TO {owner}', oid::regclass) FROM pg_class
         WHERE relnamespace = 'mailroom'::regnamespace AND relkind IN ('r', 'v')
        UNION ALL
        SELECT format('ALTER FUNCTION %s OWNER TO {owner}', oid::regprocedure) FROM pg_proc
         WHERE pronamespace = 'mailroom'::regnamespace
    LOOP
        EXECUTE change;
    END LOOP;
END $$
"""


@pytest.fixture
def superuser(engine: Engine) -> Iterator[Connection]:
    """Who sees all. Mailroom belongs to a role that is nobody in particular; another one has a worker's rights."""
    with engine.connect() as connection:
        for role in (OWNER, WORKER):
            connection.execute(text(f"DROP ROLE IF EXISTS {role}"))
            connection.execute(text(f"CREATE ROLE {role}; GRANT USAGE ON SCHEMA mailroom TO {role}"))
        connection.execute(text(GIVE_AWAY.format(owner=OWNER)))
        grants.apply(connection, grants.statements(connection, "worker", WORKER))
        yield connection
        connection.execute(text(f"REASSIGN OWNED BY {OWNER} TO CURRENT_USER; DROP OWNED BY {OWNER}, {WORKER}"))
        connection.execute(text(f"DROP ROLE {OWNER}, {WORKER}"))


@pytest.fixture
def worker(engine: Engine, superuser: Connection) -> Iterator[Connection]:
    with engine.connect() as connection:
        connection.execute(text(f"SET ROLE {WORKER}"))
        yield connection
        connection.execute(text("RESET ROLE"))


@pytest.fixture
def as_worker(engine: Engine, superuser: Connection) -> Engine:
    """An engine of which each transaction is the worker's."""
    engine = engine.execution_options()
    event.listen(engine, "begin", lambda connection: connection.exec_driver_sql(f"SET LOCAL ROLE {WORKER}"))
    return engine


@pytest.fixture
def flying(superuser: Connection) -> Batch:
    """What is in flight, where there is mail of all kinds: three were sent, three are lost, and three wait."""
    add_accounts(superuser, 3, prefix="sent")
    settle(superuser, take(superuser), Sent("m"))
    add_accounts(superuser, 3, prefix="lost")
    run_out(superuser, take(superuser))
    add_accounts(superuser, 3, prefix="flying")
    batch = take(superuser)
    add_accounts(superuser, 3, prefix="waiting")
    return batch


def settle(connection: Connection, batch: Batch, outcome: Outcome) -> bool:
    judged = [judge(outcome, attempt=0, jitter=0) for _ in batch.jobs]
    return batch.fence in queue.settle(connection, [(batch, judged)])


def hide(superuser: Connection, *tables: str) -> None:
    """Hide all rows: no policy says that any may be seen."""
    for table in tables:
        superuser.execute(text(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY"))


def show(superuser: Connection, *tables: str) -> None:
    for table in tables:
        superuser.execute(text(f"ALTER TABLE {table} DISABLE ROW LEVEL SECURITY"))


def all_there_is(superuser: Connection) -> list[list[object]]:
    return [rows(superuser, f"SELECT CAST(one AS text) FROM {table} AS one ORDER BY 1") for table in TABLES]  # noqa: S608


Step = Callable[[Connection, Batch], object]
STEPS: dict[str, tuple[Step, set[str]]] = {
    "claim": (
        lambda connection, _: claim(connection),
        {"pauses", "jobs", "tokens", "accounts", "deliveries", "batches"},
    ),
    "look": (lambda connection, _: look(connection), {"pauses", "jobs", "batches"}),
    "rescue": (lambda connection, _: queue.rescue(connection), {"batches", "tokens", "deliveries", "jobs"}),
    "late acceptances": (lambda connection, _: apply(connection), {"deliveries", "tokens", "jobs"}),
    "prune": (
        lambda connection, _: maintenance.prune(connection, older_than=timedelta(days=1)),
        {"deliveries", "jobs", "batches", "tokens"},
    ),
    "settle": (
        lambda connection, flying: settle(connection, flying, Unconfirmed("?", "?")),
        {"batches", "deliveries", "jobs"},
    ),
    "permits": (
        lambda connection, _: buckets.take(connection, Bucket.MAILS, 1, own_rate=None, urgent=False),
        {"permits", "ses_account"},
    ),
}
READS = [(step, table) for step, (_, tables) in STEPS.items() for table in sorted(tables)]


@pytest.mark.parametrize(("step", "table"), READS)
def test_hidden_rows_are_an_error_and_nothing_is_decided(
    superuser: Connection, worker: Connection, flying: Batch, step: str, table: str
) -> None:
    act, _ = STEPS[step]
    before = all_there_is(superuser)
    hide(superuser, table)
    with pytest.raises(DBAPIError, match=HIDDEN.format(table)):
        act(worker, flying)
    assert all_there_is(superuser) == before
    show(superuser, table)
    act(worker, flying)
    assert misplaced(superuser) == []


@pytest.mark.parametrize("step", STEPS)
def test_what_a_step_does_not_look_at_may_be_hidden(
    superuser: Connection, worker: Connection, flying: Batch, step: str
) -> None:
    act, read = STEPS[step]
    hide(superuser, *(table for table in TABLES if table not in read))
    act(worker, flying)
    assert misplaced(superuser) == []


@pytest.mark.usefixtures("flying")
def test_neither_what_the_caller_sets_nor_what_it_did_before_makes_a_difference(
    superuser: Connection, worker: Connection
) -> None:
    assert len(take(worker).jobs) == 3
    hide(superuser, "jobs")
    for setting in ("on", "off"):
        worker.execute(text(f"SET row_security = {setting}"))
        with pytest.raises(DBAPIError, match=HIDDEN.format("jobs")):
            claim(worker)


@pytest.mark.parametrize("told", [3, 0], ids=["sent", "given back"])
def test_a_settlement_waits_until_its_batch_can_be_seen(
    superuser: Connection, worker: Connection, flying: Batch, told: int
) -> None:
    """Taken for gone, it would be told late, and the mails sent again; or not be given back before its lease ends."""
    verdicts = [judge(Sent("m"), attempt=0, jitter=0) for _ in flying.jobs[:told]]
    hide(superuser, "batches")
    with pytest.raises(DBAPIError, match=HIDDEN.format("batches")):
        queue.settle(worker, [(flying, verdicts)])
    show(superuser, "batches")
    assert queue.settle(worker, [(flying, verdicts)]) == {flying.fence}
    assert misplaced(superuser) == []


@pytest.mark.parametrize("table", ["deliveries", "jobs", "batches", "tokens"])
@pytest.mark.usefixtures("flying")
def test_a_reconcile_mails_nobody_again_whose_mail_is_hidden(
    superuser: Connection, as_worker: Engine, table: str
) -> None:
    hide(superuser, table)
    with pytest.raises(DBAPIError, match=HIDDEN.format(table)):
        maintenance.reconcile(as_worker, queue="mailroom")
    show(superuser, table)
    assert maintenance.reconcile(as_worker, queue="mailroom").enqueued == ()
    assert misplaced(superuser) == []


def work(superuser: Connection, worker: Connection, as_worker: Engine, flying: Batch) -> None:
    """Do all that a worker does, and see that it has seen all."""
    assert settle(worker, flying, Sent("m"))
    assert len(queue.rescue(worker)) == 3
    batch = take(worker)
    assert [job.login for job in batch.jobs] == ["waiting1", "waiting2", "waiting3"]
    assert settle(worker, batch, Sent("m"))
    for step, _ in STEPS.values():
        step(worker, flying)
    assert maintenance.reconcile(as_worker, queue="mailroom").enqueued == ()
    assert misplaced(superuser) == []


def test_from_an_owner_nothing_is_hidden_where_that_is_not_forced(
    superuser: Connection, worker: Connection, as_worker: Engine, flying: Batch
) -> None:
    for table in TABLES:
        superuser.execute(text(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY"))
    work(superuser, worker, as_worker, flying)


def test_an_owner_that_bypasses_row_level_security_sees_all(
    superuser: Connection, worker: Connection, as_worker: Engine, flying: Batch
) -> None:
    hide(superuser, *TABLES)
    superuser.execute(text(f"ALTER ROLE {OWNER} BYPASSRLS"))
    work(superuser, worker, as_worker, flying)


def test_a_worker_that_bypasses_it_does_not_help_an_owner_that_does_not(
    superuser: Connection, worker: Connection
) -> None:
    hide(superuser, "jobs")
    superuser.execute(text(f"ALTER ROLE {WORKER} BYPASSRLS"))
    with pytest.raises(DBAPIError, match=HIDDEN.format("jobs")):
        claim(worker)
