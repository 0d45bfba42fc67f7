"""The history partitioned by month, as docs/scaling.md offers: the same queue goes on with it."""

from datetime import timedelta

import psycopg
import pytest
from sqlalchemy import Connection, Engine, text

from mailroom import queue
from mailroom.ops import health, jobs
from mailroom.ops.jobs import Filters
from mailroom.ops.maintenance import prune
from mailroom.outcome import Outcome, Rejected, Sent, Unconfirmed
from mailroom.queue.by_hand import retry
from mailroom.queue.verdict import judge
from tests.claiming import claim
from tests.machine import ROOT
from tests.ops.test_doctor_schema import look, run
from tests.servers import migrate
from tests.world import add_accounts, ask_recovery, count, misplaced, rows

SCRIPT = ROOT / "docs" / "partition_deliveries.sql"
BEFORE = "CREATE UNIQUE INDEX CONCURRENTLY deliveries_by_id ON mailroom.deliveries (id, created_at)"
NEXT_MONTH = (
    "INSERT INTO deliveries (token, action, outcome, attempt, created_at)"
    " VALUES (1, 'activation', 'deferred', 0, now() + interval '40 days')"
)
KEPT_THE_NAME = (
    "CREATE INDEX deliveries_unsent_idx ON deliveries_before (created_at)"
    " WHERE outcome IN ('failed', 'rejected') AND NOT late AND retried_at IS NULL"
)
LAST_BEFORE = "SELECT max(id) AS id FROM deliveries"


def work_through(connection: Connection, outcome: Outcome) -> None:
    [batch] = claim(connection).batches
    verdicts = [judge(outcome, attempt=job.attempt, jitter=0) for job in batch.jobs]
    assert queue.settle(connection, [(batch, verdicts)]) == {batch.fence}


@pytest.mark.slow
def test_a_queue_goes_on_with_its_history_in_partitions(engine: Engine, direct_url: str) -> None:
    with engine.connect() as connection:
        for outcome in (Sent("m"), Rejected("MessageRejected", "no"), Unconfirmed("?", "?")):
            add_accounts(connection, 3, prefix=type(outcome).__name__)
            work_through(connection, outcome)
        [before] = rows(connection, LAST_BEFORE)
    with psycopg.connect(direct_url, autocommit=True) as operator:
        assert f"--     {BEFORE};\n" in SCRIPT.read_text()
        operator.execute("SET search_path = ''")
        operator.execute(BEFORE)
        with operator.transaction():
            operator.execute(SCRIPT.read_bytes())
    migrate(direct_url)
    with engine.connect() as connection:
        assert misplaced(connection) == []
        [account] = add_accounts(connection, 1, status="active", prefix="d")
        ask_recovery(connection, account)
        work_through(connection, Sent("m-after"))
        rejected = [row.token for row in rows(connection, "SELECT token FROM deliveries WHERE outcome = 'rejected'")]
        assert retry(connection, rejected, queue="mailroom").put_back == rejected
        work_through(connection, Sent("m-again"))

        assert count(connection, "deliveries WHERE outcome = 'sent'") == 7
        assert len(list(jobs.find(connection, Filters(outcomes=("sent",))))) == 7
        assert [row.id for row in rows(connection, LAST_BEFORE)] == [before.id + 4]
        connection.execute(text(NEXT_MONTH))
        assert [row.token for row in jobs.find(connection, Filters(outcomes=("deferred",)))] == [1]
        assert misplaced(connection) == []
        assert health.read(connection)
        assert prune(connection, older_than=timedelta(days=1)).tokens == 0
        [names] = rows(
            connection, "SELECT count(*) AS partitions FROM pg_inherits WHERE inhparent = 'deliveries'::regclass"
        )
        assert names.partitions == 14
    assert look(engine) == []
    with engine.connect() as connection:  # as the script once left it
        connection.execute(text("DROP INDEX deliveries_unsent_idx"))
        connection.execute(text(KEPT_THE_NAME))
    [found] = look(engine)
    run(direct_url, found.remedy)
    assert look(engine) == []
