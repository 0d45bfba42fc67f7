"""What holds the senders back while the account is at fault: one tries, the others wait, less and less often."""

import logging
import threading
from datetime import timedelta

import pytest

from mailroom.worker.breaker import FIRST_WAIT, LONGEST_WAIT, Backoff

NOTHING = timedelta(0)


def failing_probe(backoff: Backoff, now: float) -> timedelta:
    """Let a sender try at `now` and find the account still at fault; return how long it is closed then."""
    assert backoff.remaining(now) == NOTHING
    backoff.fault("TooManyRequestsException", "throttled", now=now, jitter=0)
    return backoff.remaining(now)


def test_nobody_waits_while_nothing_is_wrong() -> None:
    backoff = Backoff()
    assert [backoff.remaining(now) for now in (0, 1, 1, 5)] == [NOTHING] * 4
    assert not backoff.is_open


def test_everybody_waits_after_a_fault() -> None:
    backoff = Backoff()
    backoff.fault("TooManyRequestsException", "throttled", now=100, jitter=0)
    assert backoff.is_open
    assert backoff.remaining(100) == FIRST_WAIT
    assert backoff.remaining(100.75) == FIRST_WAIT - timedelta(seconds=0.75)


def test_one_at_a_time_tries() -> None:
    backoff = Backoff()
    backoff.fault("TooManyRequestsException", "throttled", now=100, jitter=0)
    assert backoff.remaining(101) == NOTHING
    assert [backoff.remaining(101) for _ in range(3)] == [FIRST_WAIT] * 3


def test_another_tries_when_nothing_comes_of_the_first() -> None:
    backoff = Backoff()
    backoff.fault("TooManyRequestsException", "throttled", now=100, jitter=0)
    assert backoff.remaining(101) == NOTHING
    assert backoff.remaining(101.5) > NOTHING
    assert backoff.remaining(102) == NOTHING


def test_only_one_of_many_threads_tries() -> None:
    backoff = Backoff()
    backoff.fault("TooManyRequestsException", "throttled", now=100, jitter=0)
    together = threading.Barrier(16)
    found: list[timedelta] = []

    def ask() -> None:
        together.wait()
        found.append(backoff.remaining(101))

    threads = [threading.Thread(target=ask) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == [NOTHING] + [FIRST_WAIT] * 15


def test_the_pause_doubles_up_to_a_limit() -> None:
    backoff = Backoff()
    now, lengths = 0.0, []
    for _ in range(40):
        lengths.append(failing_probe(backoff, now).total_seconds())
        now += lengths[-1]
    assert lengths[:6] == [1, 2, 4, 8, 16, LONGEST_WAIT.total_seconds()]
    assert set(lengths[5:]) == {LONGEST_WAIT.total_seconds()}


def test_jitter_takes_up_to_half_off() -> None:
    lengths = []
    for jitter in (0, 0.5, 1):
        backoff = Backoff()
        backoff.fault("TooManyRequestsException", "throttled", now=0, jitter=jitter)
        lengths.append(backoff.remaining(0) / FIRST_WAIT)
    assert lengths == [1, 0.75, 0.5]


def test_calls_that_were_in_the_air_do_not_make_it_longer() -> None:
    backoff = Backoff()
    for moment in range(16):
        backoff.fault("TooManyRequestsException", "throttled", now=100 + moment / 100, jitter=0)
    assert backoff.remaining(100) == FIRST_WAIT
    assert failing_probe(backoff, 101) == 2 * FIRST_WAIT


def test_a_success_ends_it_at_once_and_the_next_begins_anew() -> None:
    backoff = Backoff()
    for now in (0, 1, 3):
        failing_probe(backoff, now)
    backoff.success()
    assert not backoff.is_open
    assert [backoff.remaining(3) for _ in range(3)] == [NOTHING] * 3
    assert failing_probe(backoff, 4) == FIRST_WAIT


def test_it_says_once_why_and_once_that_it_is_over(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    backoff = Backoff()
    backoff.success()
    failing_probe(backoff, 0)
    failing_probe(backoff, 1)
    backoff.success()
    backoff.success()
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        ("WARNING", "backing off code=TooManyRequestsException reason='throttled'"),
        ("INFO", "resumed faults=2"),
    ]


def test_who_had_nothing_to_try_with_gives_the_right_back() -> None:
    backoff = Backoff()
    for now in (100, 200, 300, 400):
        backoff.fault("TooManyRequestsException", "throttled", now=now, jitter=0)
        assert backoff.remaining(now + 60) == NOTHING
    backoff.untried()
    assert backoff.remaining(461) == NOTHING
