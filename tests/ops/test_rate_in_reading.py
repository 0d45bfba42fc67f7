"""The rate that a reading tells is the one that permits are given at."""

import pytest
from sqlalchemy import Connection, text

from mailroom.ops import counting
from mailroom.ops.advice import advise

EACH_SERVER = False


def test_the_rate_that_throttling_took_off_creeps_back(conn: Connection) -> None:
    """What is kept of a throttle stays as it was until the next: what is left of the rate grows all the same."""
    throttled = (
        "UPDATE permits SET slowdown = 0.4, throttled_at = now() - CAST(:ago AS interval) WHERE bucket = 'mails'"
    )
    for ago, left in (("0 s", 0.4), ("4 s", 0.6), ("1 day", 1.0), ("-1 h", 0.4)):
        conn.execute(text(throttled), {"ago": ago})
        found = counting.count(conn)
        assert found.buckets["mails"].slowdown == pytest.approx(left)
    conn.execute(text(throttled), {"ago": "3 days"})
    codes = {need.code for need in advise(counting.count(conn), (), now=found.read_at).needs}
    assert "Throttled" not in codes
