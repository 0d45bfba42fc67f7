"""About how many jobs there are, where not all are counted."""

from sqlalchemy import Engine, text

from mailroom.ops import counting
from tests.world import add_accounts

EACH_SERVER = False


def test_statistics_that_a_crash_has_reset_do_not_make_a_backlog_small(engine: Engine) -> None:
    """They know what came after it alone; how full the pages of the table were, the catalogue still knows."""
    with engine.connect() as connection:
        add_accounts(connection, 25_000)
        connection.execute(text("ANALYZE jobs"))
        connection.execute(text("SELECT pg_stat_force_next_flush()"))
        connection.execute(text("SELECT pg_stat_reset_single_table_counters('jobs'::regclass)"))
        assert connection.scalar(text("SELECT pg_stat_get_live_tuples('jobs'::regclass)")) < 10_000
        found = counting.count(connection)
    assert any(lane.capped for lane in found.lanes)
    assert 24_000 <= found.jobs_estimate <= 26_000
