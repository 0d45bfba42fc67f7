"""The views: what the code knows of them is what there is, and they hinder no index."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from sqlalchemy import Connection, Engine, TableClause, event, text
from sqlalchemy.dialects import postgresql

from mailroom.db import functions, views
from mailroom.ops import jobs
from mailroom.ops.jobs import Filters
from tests.world import rows

KNOWN = {view.name: view for view in vars(views).values() if isinstance(view, TableClause)}
COLUMNS = """
SELECT attname AS name, format_type(atttypid, NULL) AS type FROM pg_attribute
 WHERE attrelid = CAST(:view AS regclass) AND attnum > 0 ORDER BY attnum
"""
FILL = (
    "INSERT INTO accounts (email, login) SELECT n || '@example.com', n FROM generate_series(1, 5000) AS n",
    "INSERT INTO deliveries (token, account, action, outcome, attempt, created_at)"
    " SELECT id, account, action, 'deferred', 0, now() - interval '30 days' + id * interval '1 minute' FROM tokens",
    "VACUUM ANALYZE",
)


def test_each_file_is_a_view_that_the_code_knows() -> None:
    assert sorted(KNOWN) == functions.views()


@pytest.mark.parametrize("view", KNOWN)
def test_its_columns_are_those_of_the_code(conn: Connection, view: str) -> None:
    dialect = postgresql.dialect()  # type: ignore[no-untyped-call]
    known = [(column.name, column.type.compile(dialect).lower()) for column in KNOWN[view].columns]
    assert [tuple(row) for row in rows(conn, COLUMNS, view=view)] == known


@pytest.fixture
def full(engine: Engine) -> Iterator[Connection]:
    """Some thousand jobs that wait and have been tried, of which statistics are known."""
    with engine.connect() as connection:
        for fill in FILL:
            connection.execute(text(fill))
        yield connection


def plan(connection: Connection, act: Callable[[Connection], Any]) -> str:
    """The plan of the one statement that this makes."""
    made = []
    event.listen(connection, "before_cursor_execute", lambda *given: made.append(given[2:4]))
    act(connection)
    [(statement, parameters)] = made
    cursor = connection.connection.cursor()
    cursor.execute(f"EXPLAIN {statement}", parameters)
    return "\n".join(line for (line,) in cursor.fetchall())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("filters", "indexes"),
    [
        (Filters(tokens=(7,)), ["jobs_pkey", "tokens_pkey"]),
        (Filters(account=7), ["jobs_pkey", "tokens_account_idx", "tokens_pkey"]),
        (Filters(tokens=(7,), outcomes=("deferred",)), ["deliveries_token_idx", "tokens_pkey"]),
        (Filters(outcomes=("deferred",)), ["deliveries_pkey", "tokens_pkey"]),
    ],
    ids=["of a token", "of an account", "attempts of a token", "the newest attempts"],
)
def test_a_list_of_few_jobs_reads_few_rows(full: Connection, filters: Filters, indexes: list[str]) -> None:
    found = plan(full, lambda connection: list(jobs.find(connection, filters, limit=5)))
    assert set(indexes) <= set(found.split()), found
    assert "Seq Scan on jobs" not in found
    assert "Seq Scan on deliveries" not in found
    assert "Seq Scan on tokens" not in found
