"""What holds the senders back while the account is at fault: one tries, the others wait, less and less often."""

import logging
import threading
from datetime import timedelta

import pytest

from mailroom.pause import FIRST_PAUSE, LONGEST_PAUSE, Pause

NOTHING = timedelta(0)


def failing_probe(pause: Pause, now: float) -> timedelta:
    """Let a sender try at `now` and find the account still at fault; return how long it is closed then."""
    assert pause.remaining(now) == NOTHING
    pause.fault("TooManyRequestsException", "throttled", now=now, jitter=0)
    return pause.remaining(now)


def test_nobody_waits_while_nothing_is_wrong() -> None:
    pause = Pause()
    assert [pause.remaining(now) for now in (0, 1, 1, 5)] == [NOTHING] * 4
    assert not pause.is_open


def test_everybody_waits_after_a_fault() -> None:
    pause = Pause()
    pause.fault("TooManyRequestsException", "throttled", now=100, jitter=0)
    assert pause.is_open
    assert pause.remaining(100) == FIRST_PAUSE
    assert pause.remaining(100.75) == FIRST_PAUSE - timedelta(seconds=0.75)


def test_one_at_a_time_tries() -> None:
    pause = Pause()
    pause.fault("TooManyRequestsException", "throttled", now=100, jitter=0)
    assert pause.remaining(101) == NOTHING
    assert [pause.remaining(101) for _ in range(3)] == [FIRST_PAUSE] * 3


def test_another_tries_when_nothing_comes_of_the_first() -> None:
    pause = Pause()
    pause.fault("TooManyRequestsException", "throttled", now=100, jitter=0)
    assert pause.remaining(101) == NOTHING
    assert pause.remaining(101.5) > NOTHING
    assert pause.remaining(102) == NOTHING


def test_only_one_of_many_threads_tries() -> None:
    pause = Pause()
    pause.fault("TooManyRequestsException", "throttled", now=100, jitter=0)
    together = threading.Barrier(16)
    found: list[timedelta] = []

    def ask() -> None:
        together.wait()
        found.append(pause.remaining(101))

    threads = [threading.Thread(target=ask) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == [NOTHING] + [FIRST_PAUSE] * 15


def test_the_pause_doubles_up_to_a_limit() -> None:
    pause = Pause()
    now, lengths = 0.0, []
    for _ in range(40):
        lengths.append(failing_probe(pause, now).total_seconds())
        now += lengths[-1]
    assert lengths[:6] == [1, 2, 4, 8, 16, LONGEST_PAUSE.total_seconds()]
    assert set(lengths[5:]) == {LONGEST_PAUSE.total_seconds()}


def test_jitter_takes_up_to_half_off() -> None:
    lengths = []
    for jitter in (0, 0.5, 1):
        pause = Pause()
        pause.fault("TooManyRequestsException", "throttled", now=0, jitter=jitter)
        lengths.append(pause.remaining(0) / FIRST_PAUSE)
    assert lengths == [1, 0.75, 0.5]


def test_calls_that_were_in_the_air_do_not_make_it_longer() -> None:
    pause = Pause()
    for moment in range(16):
        pause.fault("TooManyRequestsException", "throttled", now=100 + moment / 100, jitter=0)
    assert pause.remaining(100) == FIRST_PAUSE
    assert failing_probe(pause, 101) == 2 * FIRST_PAUSE


def test_a_success_ends_it_at_once_and_the_next_begins_anew() -> None:
    pause = Pause()
    for now in (0, 1, 3):
        failing_probe(pause, now)
    pause.success()
    assert not pause.is_open
    assert [pause.remaining(3) for _ in range(3)] == [NOTHING] * 3
    assert failing_probe(pause, 4) == FIRST_PAUSE


def test_it_says_once_why_and_once_that_it_is_over(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    pause = Pause()
    pause.success()
    failing_probe(pause, 0)
    failing_probe(pause, 1)
    pause.success()
    pause.success()
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        ("WARNING", "paused code=TooManyRequestsException reason='throttled'"),
        ("INFO", "resumed faults=2"),
    ]
