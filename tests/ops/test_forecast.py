"""When lanes will be empty: at the rate that is granted and at the pace of the last minutes, within the quota."""

from dataclasses import replace
from datetime import timedelta

import pytest

from mailroom.ops import forecast as forecasts
from mailroom.ops.forecast import Forecast
from mailroom.ops.minutes import Minute
from mailroom.ops.reading import Bucket, Lane, Reading
from tests.kinds import ACTIVATION, RECOVERY
from tests.ops.readings import (
    BULK,
    IMPORT,
    NORMAL,
    NOW,
    QUARANTINE,
    URGENT,
    account,
    busy,
    lane,
    minute,
    paused,
    reading,
)

RATE = 14 * 0.9


def of(found: Reading, *minutes: Minute, lane: Lane = IMPORT, rate_limit: float | None = None) -> Forecast:
    told = forecasts.forecast(found, minutes, rate_limit=rate_limit, now=NOW)
    return told[(lane.queue, lane.priority, lane.action)]


def seconds(jobs: float, rate: float = RATE) -> timedelta:
    return timedelta(seconds=jobs / rate)


def test_nothing_is_told_of_nothing() -> None:
    assert forecasts.forecast(reading(), [], rate_limit=None, now=NOW) == {}
    assert of(reading(lanes=(lane(due=0),)), lane=lane(due=0)) == Forecast(None, None, None, about=False, left_out={})


def test_a_lane_leaves_after_those_that_are_more_urgent() -> None:
    lanes = (lane(due=10), lane(ACTIVATION, NORMAL, 100), lane(ACTIVATION, BULK, 1_000))
    told = [of(reading(lanes=lanes), lane=each).at_granted for each in lanes]
    assert told == [NOW + seconds(10), NOW + seconds(110), NOW + seconds(1_110)]


def test_lanes_of_one_priority_leave_together_also_of_other_queues() -> None:
    lanes = (lane(ACTIVATION, BULK, 1_000), lane("sign_in", BULK, 500, queue="news"))
    one = replace(reading(), lanes=lanes, workers=(*reading().workers, replace(reading().workers[0], queue="news")))
    assert {of(one, lane=each).at_granted for each in lanes} == {NOW + seconds(1_500)}


def test_what_is_in_quarantine_goes_with_its_kind() -> None:
    strange = lane(RECOVERY, QUARANTINE, 10)
    lanes = (strange, lane(ACTIVATION, NORMAL, 100))
    assert of(reading(lanes=lanes), lane=strange).at_granted == NOW + seconds(10)


@pytest.mark.parametrize(
    ("limit", "allowed", "rate"),
    [(None, 14.0, 12.6), (5.0, 14.0, 5.0), (20.0, 14.0, 14.0), (5.0, -1.0, 5.0), (None, None, 1.0), (3.0, None, 3.0)],
)
def test_the_rate_is_that_of_the_permits(limit: float | None, allowed: float | None, rate: float) -> None:
    one = lane(ACTIVATION, BULK, 1_000)
    found = reading(lanes=(one,), account=account(max_send_rate=allowed))
    assert of(found, lane=one, rate_limit=limit).at_granted == NOW + seconds(1_000, rate)


def test_without_a_limit_it_is_now_as_far_as_the_rate_goes() -> None:
    one = lane(ACTIVATION, BULK, 1_000)
    assert of(reading(lanes=(one,), account=account(max_send_rate=-1.0)), lane=one).at_granted == NOW


def test_what_throttling_takes_off_is_taken_off() -> None:
    one = lane(ACTIVATION, BULK, 1_000)
    slow = reading(lanes=(one,), buckets={"mails": Bucket(1, 0.5, 0.0)})
    assert of(slow, lane=one).at_granted == NOW + seconds(1_000, RATE / 2)


def test_the_pace_is_that_of_the_last_ten_minutes_and_minutes_without_mails_count() -> None:
    one = lane(ACTIVATION, BULK, 1_000, 7200)
    assert of(reading(lanes=(one,)), *busy(6.0), lane=one).at_pace == NOW + seconds(1_000, 6.0)
    paused_since = [each for each in busy(6.0) if NOW - each.at > timedelta(minutes=6)]
    assert len(paused_since) == 5
    assert of(reading(lanes=(one,)), *paused_since, lane=one).at_pace == NOW + seconds(1_000, 3.0)


def test_a_backlog_that_is_new_has_the_pace_of_its_own_minutes() -> None:
    one = lane(ACTIVATION, BULK, 1_000, 150)
    assert of(reading(lanes=(one,)), *busy(6.0, minutes=2), lane=one).at_pace == NOW + seconds(1_000, 6.0)
    new = lane(ACTIVATION, BULK, 1_000, 20)
    assert of(reading(lanes=(new,)), lane=new).at_pace is None


def test_at_no_pace_it_never_ends() -> None:
    one = lane(ACTIVATION, BULK, 1_000, 7200)
    assert of(reading(lanes=(one,)), minute(2, outcome="deferred"), minute(3, outcome="late"), lane=one).at_pace is None


def test_where_nothing_leaves_the_rate_granted_says_nothing() -> None:
    one = lane(ACTIVATION, BULK, 1_000, 7200)
    assert of(reading(lanes=(one,)), lane=one).stands
    assert not of(reading(lanes=(one,)), *busy(0.1), lane=one).stands
    fresh = lane(ACTIVATION, BULK, 1_000, 20)
    assert not of(reading(lanes=(fresh,)), lane=fresh).stands, "nothing has had the time to leave"


def test_a_count_beyond_the_cap_is_what_is_left_of_the_estimate_and_says_so() -> None:
    lanes = (lane(due=10), lane(ACTIVATION, NORMAL, 90, held=100), IMPORT)
    told = of(reading(lanes=lanes, jobs_estimate=1_000_200))
    assert told.about
    assert told.at_granted == NOW + seconds(1_000_000 + 100)
    assert not of(reading(lanes=lanes, jobs_estimate=1_000_200), lane=lanes[0]).about
    stale = of(reading(lanes=lanes, jobs_estimate=7))
    assert stale.at_granted == NOW + seconds(10_001 + 100)


def test_what_will_not_leave_now_is_left_out_and_named() -> None:
    bulk = lane(ACTIVATION, BULK, 1_000, later=5, held=2)
    urgent, news = lane(due=10, later=1), lane(ACTIVATION, NORMAL, 40, queue="news")
    found = reading(lanes=(urgent, bulk, news), pauses=(paused("priority:2"),))
    assert of(found, lane=bulk) == Forecast(
        None, None, None, about=False, left_out={"later": 5, "held": 2, "paused": 1_000}
    )
    assert of(found, lane=news).left_out == {"no worker": 40}
    assert of(found, lane=urgent).left_out == {"later": 1}
    assert of(found, lane=urgent).at_granted == NOW + seconds(10)


def test_the_quota_ends_before_what_is_due_has_left() -> None:
    found = reading(lanes=(lane(due=10), IMPORT), jobs_estimate=60_010)
    told = of(found)
    assert told.quota_ends == NOW + seconds(50_000 - 1_000 - 10 - 2_500)
    assert told.at_granted == NOW + seconds(60_010)
    assert of(found, lane=lane(due=10)).quota_ends is None
    slower = of(found, *busy(6.0))
    assert slower.quota_ends == NOW + seconds(50_000 - 1_000 - 10 - 2_500, 6.0)
    gone = replace(found, account=account(sent_last_24_hours=50_000.0))
    assert of(gone).quota_ends == NOW


def test_urgent_mails_have_the_whole_quota() -> None:
    many = lane(RECOVERY, URGENT, 5_000)
    found = reading(lanes=(many,), account=account(sent_last_24_hours=46_000.0, granted_since=0))
    assert of(found, lane=many).quota_ends == NOW + seconds(4_000)
