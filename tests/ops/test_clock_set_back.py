"""What is told of a reading that is ahead of the clock: it was made before the clock was set back."""

from mailroom.ops import causes
from mailroom.ops.advice import advise
from mailroom.ops.needs import Need
from tests.ops.readings import NOW, account, ago, lane, reading, worker

HOUR = 3600
# What was counted by a clock that was an hour ahead, of a fleet that worked until then.
AHEAD = reading(-HOUR, seen=-HOUR, lanes=(lane(),), account=account(seen_at=ago(-HOUR)))


def worst() -> Need:
    return advise(AHEAD, (), now=NOW).needs[0]


def test_a_worker_that_was_seen_by_a_clock_that_was_ahead_is_not_taken_to_be_there() -> None:
    assert causes.alive(AHEAD, NOW) == []
    assert (worst().code, worst().state) == ("NoWorker", "act")
    assert "was seen 60 min ago" in worst().why or "was seen 60 min ago" in worst().what


def test_a_sweep_that_ended_by_a_clock_that_was_ahead_is_over() -> None:
    swept = reading(workers=(worker(-HOUR, senders=0),))
    assert causes.sweeps(swept, NOW) == []


def test_that_counting_fails_since_the_clock_was_set_back_is_told() -> None:
    failing = reading(-HOUR, failed_at=ago(5), failure="QueryCanceled")
    [need] = [each for each in advise(failing, (), now=NOW).needs if each.code == "NoReading"]
    assert need.what == "these numbers are 60 min old: counting fails"


def test_a_clock_that_is_a_moment_behind_another_makes_nothing_old() -> None:
    assert advise(reading(-1, seen=-1), (), now=NOW).state == "fine"
