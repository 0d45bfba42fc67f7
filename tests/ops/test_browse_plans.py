"""How PostgreSQL comes to the rows of a page: by index, whatever it knows, and no more rows than the page has."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Any

import pytest
from sqlalchemy import Connection, Engine, text

from mailroom.job import Priority
from mailroom.ops import browse, walk
from mailroom.ops.browse import PAGE, Place
from mailroom.ops.jobs import Filters
from tests.kinds import ACTIVATION, LANES
from tests.plans import explained, watch

MANY = 20_000
LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)
FILL = [
    "INSERT INTO jobs (token, due_at, action, priority, queue)"
    " SELECT n, CASE WHEN n % 20 = 0 THEN 'infinity' ELSE timestamptz '2026-01-01' + n * interval '1 second' END,"
    " 'activation', 2, 'mailroom' FROM generate_series(1, :many) AS n",
    "INSERT INTO deliveries (token, account, batch, action, outcome, attempt, fence, error_code, created_at)"
    " SELECT n, n % 100, n, 'activation',"
    " CAST(CASE WHEN n % 20 = 0 THEN 'unconfirmed' WHEN n % 20 = 1 THEN 'cancelled' ELSE 'sent' END"
    " AS delivery_outcome), 0, gen_random_uuid(), CASE WHEN n % 20 = 1 THEN 'TooMany' END,"
    " now() + n * interval '1 millisecond'"
    " FROM generate_series(1, :many) AS n",
]


def look_at_all(connection: Connection) -> None:
    """Show one page of each kind, from the middle where that may be."""
    middle = datetime(2026, 1, 1, 2, tzinfo=UTC)
    browse.lane(connection, "mailroom", Priority.BULK, ACTIVATION, after=Place(middle, 7_200))
    browse.held(connection, after=Place(None, MANY // 2))
    browse.record(connection, outcome="failed", before=Place(None, MANY // 2))
    browse.unconfirmed(connection, since=LONG_AGO, before=Place(datetime.now(UTC), MANY // 2))
    browse.flooded(connection, since=LONG_AGO)
    list(islice(walk.find(connection, Filters(), limit=10), 10))


@pytest.fixture(params=["fresh", "analysed", "used when there was nothing"])
def used(request: pytest.FixtureRequest, engine: Engine) -> Iterator[Connection]:
    """A connection that finds much, of which PostgreSQL knows nothing, all, or that there is next to nothing."""
    watch(engine)
    with engine.connect() as connection:
        for table in ("jobs", "deliveries", "tokens", "events"):
            connection.execute(text(f"ALTER TABLE {table} SET (autovacuum_enabled = off)"))
        if request.param == "used when there was nothing":
            connection.execute(text("VACUUM ANALYZE"))
            look_at_all(connection)
        for statement in FILL:
            connection.execute(text(statement), {"many": MANY})
        if request.param == "analysed":
            connection.execute(text("VACUUM ANALYZE"))
        yield connection


@pytest.mark.slow
def test_each_page_goes_by_index(used: Connection) -> None:
    with explained(used.engine) as plans:
        look_at_all(used)
    lane, held, record, *_, unconfirmed, flooded, lanes, _ = plans
    assert lane.scans("jobs") == {"jobs_claim_idx"}
    assert lane.scans("tokens") == {"tokens_pkey"}
    assert held.scans("jobs") == {"jobs_held_idx"}
    assert held.scans("deliveries") == {"deliveries_token_idx"}
    assert record.scans("deliveries") == {"deliveries_pkey"}
    assert unconfirmed.scans("deliveries") == {"deliveries_unconfirmed_idx", "deliveries_token_idx"}
    assert unconfirmed.scans("jobs") == {"jobs_pkey"}
    assert unconfirmed.scans("events") == {"events_token_idx"}
    assert flooded.scans("deliveries") == {"all of deliveries_pkey"}
    assert lanes.scans("jobs") <= {"jobs_claim_idx", "all of jobs_claim_idx"}


def read(connection: Connection, page: Callable[[Connection], Any], *indexes: str) -> int:
    """How many entries of indexes a page reads."""
    entries = "sum(pg_stat_get_xact_tuples_returned(CAST(name AS regclass)))"
    query = text(f"SELECT {entries} FROM unnest(CAST(:indexes AS text[])) AS name")  # noqa: S608 - our own words
    with connection.engine.connect().execution_options(isolation_level="READ COMMITTED") as fresh:
        before = fresh.scalar(query, {"indexes": list(indexes)})
        assert page(fresh)
        found: int = fresh.scalar(query, {"indexes": list(indexes)}) - before
        fresh.rollback()
    return found


@pytest.mark.slow
def test_a_page_reads_as_many_rows_as_it_shows_wherever_it_is(used: Connection) -> None:
    def lane(after: Place | None) -> Callable[[Connection], Any]:
        return lambda connection: browse.lane(connection, "mailroom", Priority.BULK, ACTIVATION, after=after).rows

    for after in (None, Place(datetime(2026, 1, 1, 5, tzinfo=UTC), 18_000)):
        assert PAGE <= read(used, lane(after), "jobs_claim_idx") <= PAGE + 2
    assert PAGE <= read(used, lambda connection: browse.held(connection).rows, "jobs_held_idx") <= PAGE + 2
    newest = read(used, lambda connection: browse.record(connection).rows, "deliveries_pkey")
    assert PAGE <= newest <= PAGE + 2
    unclear = read(
        used, lambda connection: browse.unconfirmed(connection, since=LONG_AGO).rows, "deliveries_unconfirmed_idx"
    )
    assert PAGE <= unclear <= PAGE + 2


def test_a_list_of_a_few_jobs_reads_a_few_of_each_lane(used: Connection) -> None:
    few = read(used, lambda connection: list(walk.find(connection, Filters(), limit=10)), "jobs_claim_idx")
    assert few <= 10 + 2 * len(LANES) + 5


def read_in_all(connection: Connection, page: Callable[[Connection], Any]) -> int:
    """How many rows a page reads of what grows with the mails, and how many entries of their indexes."""
    tables = ("jobs", "deliveries", "tokens", "batches")
    query = text("SELECT CAST(indexrelid AS regclass) FROM pg_index WHERE indrelid = ANY (CAST(:tables AS regclass[]))")
    indexes = connection.scalars(query, {"tables": list(tables)}).all()
    return read(connection, page, *tables, *indexes)


@pytest.mark.slow
def test_a_list_of_an_account_or_of_a_token_reads_its_own(used: Connection) -> None:
    used.execute(text("SET session_replication_role = replica"))  # they are in their places already
    used.execute(
        text(
            "INSERT INTO tokens (id, action, account, expires_at, address_hash)"
            " SELECT n, 'activation', n / 4, 'infinity', '' FROM generate_series(1, :many) AS n"
        ),
        {"many": MANY},
    )
    for filters in (Filters(account=2_000), Filters(tokens=(8_000,)), Filters(account=2_000, outcomes=("sent",))):
        assert read_in_all(used, lambda connection, of=filters: list(walk.find(connection, of, limit=10))) <= 50  # type: ignore[misc]


def test_a_list_of_what_is_held_reads_as_many_as_it_shows(used: Connection) -> None:
    held = Filters(held=True)
    assert read_in_all(used, lambda connection: list(walk.find(connection, held, limit=10))) <= 100


@pytest.mark.slow
def test_a_list_of_the_record_reads_no_further_back_than_it_has_to(used: Connection) -> None:
    """What there is often, until there is enough of it; what is rare, for as long as it is asked for."""
    later = datetime.now(UTC) + timedelta(days=1)
    for filters in (Filters(outcomes=("sent",)), Filters(outcomes=("failed",), since=later)):
        found = read_in_all(used, lambda connection, of=filters: [*walk.find(connection, of, limit=10), "none"])  # type: ignore[misc]
        assert found <= walk.STRETCH + 20
