"""What holds the senders back while the account is at fault: one tries, the others wait, less and less often."""

import logging
import threading
from datetime import timedelta

import pytest

from mailroom.worker.breaker import FIRST_WAIT, MAX_WAIT, Breaker

NOTHING = timedelta(0)


def failing_probe(breaker: Breaker, now: float) -> timedelta:
    """Let a sender try at `now` and find the account still at fault; return how long it is closed then."""
    assert breaker.wait_to_try(now) == NOTHING
    breaker.trip("TooManyRequestsException", "throttled", now=now, jitter=0)
    return breaker.wait_to_try(now)


def test_nobody_waits_while_nothing_is_wrong() -> None:
    breaker = Breaker()
    assert [breaker.wait_to_try(now) for now in (0, 1, 1, 5)] == [NOTHING] * 4
    assert not breaker.is_open


def test_everybody_waits_after_a_fault() -> None:
    breaker = Breaker()
    breaker.trip("TooManyRequestsException", "throttled", now=100, jitter=0)
    assert breaker.is_open
    assert breaker.wait_to_try(100) == FIRST_WAIT
    assert breaker.wait_to_try(100.75) == FIRST_WAIT - timedelta(seconds=0.75)


def test_one_at_a_time_tries() -> None:
    breaker = Breaker()
    breaker.trip("TooManyRequestsException", "throttled", now=100, jitter=0)
    assert breaker.wait_to_try(101) == NOTHING
    assert [breaker.wait_to_try(101) for _ in range(3)] == [FIRST_WAIT] * 3


def test_another_tries_when_nothing_comes_of_the_first() -> None:
    breaker = Breaker()
    breaker.trip("TooManyRequestsException", "throttled", now=100, jitter=0)
    assert breaker.wait_to_try(101) == NOTHING
    assert breaker.wait_to_try(101.5) > NOTHING
    assert breaker.wait_to_try(102) == NOTHING


def test_only_one_of_many_threads_tries() -> None:
    breaker = Breaker()
    breaker.trip("TooManyRequestsException", "throttled", now=100, jitter=0)
    together = threading.Barrier(16)
    found: list[timedelta] = []

    def ask() -> None:
        together.wait()
        found.append(breaker.wait_to_try(101))

    threads = [threading.Thread(target=ask) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == [NOTHING] + [FIRST_WAIT] * 15


def test_the_pause_doubles_up_to_a_limit() -> None:
    breaker = Breaker()
    now, lengths = 0.0, []
    for _ in range(40):
        lengths.append(failing_probe(breaker, now).total_seconds())
        now += lengths[-1]
    assert lengths[:6] == [1, 2, 4, 8, 16, MAX_WAIT.total_seconds()]
    assert set(lengths[5:]) == {MAX_WAIT.total_seconds()}


def test_jitter_takes_up_to_half_off() -> None:
    lengths = []
    for jitter in (0, 0.5, 1):
        breaker = Breaker()
        breaker.trip("TooManyRequestsException", "throttled", now=0, jitter=jitter)
        lengths.append(breaker.wait_to_try(0) / FIRST_WAIT)
    assert lengths == [1, 0.75, 0.5]


def test_calls_that_were_in_flight_do_not_make_it_longer() -> None:
    breaker = Breaker()
    for moment in range(16):
        breaker.trip("TooManyRequestsException", "throttled", now=100 + moment / 100, jitter=0)
    assert breaker.wait_to_try(100) == FIRST_WAIT
    assert failing_probe(breaker, 101) == 2 * FIRST_WAIT


def test_a_success_ends_it_at_once_and_the_next_begins_anew() -> None:
    breaker = Breaker()
    for now in (0, 1, 3):
        failing_probe(breaker, now)
    breaker.reset()
    assert not breaker.is_open
    assert [breaker.wait_to_try(3) for _ in range(3)] == [NOTHING] * 3
    assert failing_probe(breaker, 4) == FIRST_WAIT


def test_it_says_once_why_and_once_that_it_is_over(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    breaker = Breaker()
    breaker.reset()
    failing_probe(breaker, 0)
    failing_probe(breaker, 1)
    breaker.reset()
    breaker.reset()
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        ("WARNING", "backing off code=TooManyRequestsException reason='throttled'"),
        ("INFO", "resumed faults=2"),
    ]


def test_who_had_nothing_to_try_with_gives_the_right_back() -> None:
    breaker = Breaker()
    for now in (100, 200, 300, 400):
        breaker.trip("TooManyRequestsException", "throttled", now=now, jitter=0)
        assert breaker.wait_to_try(now + 60) == NOTHING
    breaker.nothing_to_try()
    assert breaker.wait_to_try(461) == NOTHING
