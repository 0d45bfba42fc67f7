"""What the first page makes of a reading, besides its sentence."""

from mailroom.ops.forecast import forecast
from mailroom.ops.minutes import Minute
from mailroom.ops.reading import Reading
from mailroom.window.overview import Overview, Row, Urgent, overview
from mailroom.window.source import Seen
from tests.kinds import ACTIVATION, RECOVERY
from tests.ops.readings import BULK, NOW, busy, lane, minute, reading


def shown(found: Reading, *minutes: Minute) -> Overview:
    seen = Seen(NOW, found, minutes, None, forecast(found, minutes, rate_limit=None, now=NOW))
    return overview(seen, found)


def row(found: Reading, *minutes: Minute) -> Row:
    return shown(found, *minutes).rows[0]


def test_where_nothing_leaves_no_moment_is_named_at_which_a_lane_is_empty() -> None:
    stuck = reading(lanes=(lane(ACTIVATION, BULK, 9_000, 7200),))
    assert row(stuck).leaves.at is None
    assert row(stuck, *busy()).leaves.at is not None


def test_who_still_waits_longer_than_those_whose_mails_left_is_what_is_told_of_urgent_mails() -> None:
    left = minute(1, waited=0.006)
    assert shown(reading()).urgent is None
    assert shown(reading(), left).urgent == Urgent(0.01, waits=False)
    late = shown(reading(lanes=(lane(oldest=3), lane(RECOVERY, queue="news", oldest=70))), left).urgent
    assert late == Urgent(70, waits=True)
    assert late.late
    soon = shown(reading(lanes=(lane(oldest=2), lane(ACTIVATION, BULK, 5, 7200))), left).urgent
    assert soon == Urgent(2, waits=True)
    assert not soon.late
    assert shown(reading(lanes=(lane(oldest=0.002),)), left).urgent == Urgent(0.01, waits=False)
