"""What the first page makes of a reading, besides its sentence."""

from mailroom.ops.forecast import forecast
from mailroom.ops.minutes import Minute
from mailroom.ops.reading import Reading
from mailroom.window.overview import Row, overview
from mailroom.window.source import Seen
from tests.kinds import ACTIVATION
from tests.ops.readings import BULK, NOW, busy, lane, reading


def row(found: Reading, *minutes: Minute) -> Row:
    seen = Seen(NOW, found, minutes, None, forecast(found, minutes, rate_limit=None, now=NOW))
    return overview(seen, found).rows[0]


def test_where_nothing_leaves_no_moment_is_named_at_which_a_lane_is_empty() -> None:
    stuck = reading(lanes=(lane(ACTIVATION, BULK, 9_000, 7200),))
    assert row(stuck).leaves.at is None
    assert row(stuck, *busy()).leaves.at is not None
