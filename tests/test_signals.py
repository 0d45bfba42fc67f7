"""The flag that a signal handler sets, whoever waits for it, and signals of the last moment."""

import signal
import subprocess
import sys
import threading
import time
from types import FrameType
from typing import Any

import pytest

from mailroom.signals import STOPS, Stop
from tests.running import eventually

LONG = 60


def interrupted(stop: Stop, seconds: float, step: int) -> tuple[int, bool]:
    """Wait for it, and before the step of this number set it as a handler of the same thread does.

    Returns how many steps it took, and what the wait returned.
    """
    steps = 0

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal steps
        frame.f_trace_opcodes = True
        if event == "opcode":
            steps += 1
            if steps == step:
                stop.set()
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        found = stop.wait(seconds)
    finally:
        sys.settrace(before)
    return steps, found


def waiter(stop: Stop, seconds: float, step: int, found: list[bool]) -> threading.Thread:
    """Let a thread of its own wait so, and say what that returned."""
    thread = threading.Thread(target=lambda: found.append(interrupted(stop, seconds, step)[1]), daemon=True)
    thread.start()
    return thread


def test_a_handler_may_set_it_before_any_step_of_who_waits() -> None:
    """An Event would stand still for ever: it has a lock."""
    all_steps, _ = interrupted(Stop(), 0, step=0)
    assert all_steps > 10
    for step in range(1, all_steps + 1):
        stop = Stop()
        own = waiter(stop, 0.1, step, [])
        own.join(LONG)
        assert not own.is_alive(), step
        assert stop.is_set()
        assert stop.wait(LONG)


def test_none_who_waits_for_it_sleeps_on() -> None:
    """It is set after the look at it, and before the wait."""
    for step in range(1, 1000):
        stop, found = Stop(), list[bool]()
        own = waiter(stop, LONG, step, found)
        own.join(1)
        if not stop.is_set():  # all steps before it sleeps have been tried
            stop.set()
            own.join()
            assert step > 10
            return
        assert found == [True]


def test_it_waits_no_longer_than_it_is_told_and_not_at_all_once_it_is_set() -> None:
    stop = Stop()
    assert not stop.wait(0)
    assert not stop.wait(-1)
    assert not stop.wait(0.01)
    for _ in range(2):
        stop.set()
    began = time.monotonic()
    assert stop.wait()
    assert stop.wait(LONG)
    assert stop.is_set()
    assert time.monotonic() - began < LONG


def test_all_who_wait_hear_of_it() -> None:
    stop, heard = Stop(), []
    threads = [threading.Thread(target=lambda: heard.append(stop.wait(LONG)), daemon=True) for _ in range(20)]
    for thread in threads:
        thread.start()
    stop.set()
    eventually(lambda: heard == [True] * 20, "all of them")


@pytest.mark.parametrize("number", STOPS)
def test_one_that_comes_as_a_process_ends_changes_nothing_of_how_it_ended(number: signal.Signals) -> None:
    """Python hears none any more while it takes its modules apart."""
    code = f"""
import os, sys
from mailroom import signals
class Late:
    def __del__(self, kill=os.kill, own=os.getpid()):
        kill(own, {number})
late = Late()
signals.listen()
sys.exit(3)
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 3
