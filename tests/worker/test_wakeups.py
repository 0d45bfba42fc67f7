"""What wakes the thread that looks for work."""

import resource
import threading
import time
from concurrent.futures import ThreadPoolExecutor

from mailroom.worker.wakeups import WORKED, Wakeups

MAILS = 100


def waken_meanwhile(wakeups: Wakeups) -> tuple[bool, int]:
    """Wait until something else than work is told; return whether work was, and how often the thread was woken."""
    before = resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw
    worked = wakeups.wait(time.monotonic() + 60)
    return worked, resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw - before


def test_who_waits_is_woken_for_the_first_of_many_mails() -> None:
    """And not for each: they come fifty times a second, and a look comes in a second anyway."""
    wakeups, others = Wakeups(), threading.Event()
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(waken_meanwhile, wakeups)
        for _ in range(MAILS):
            wakeups.put(WORKED)
            others.wait(0.002)
        wakeups.put("")
        worked, woken = waiting.result()
    assert worked
    assert woken < MAILS / 2


def test_the_work_of_each_time_is_told() -> None:
    wakeups = Wakeups()
    for _ in range(2):
        wakeups.put(WORKED)
        wakeups.put("")
        assert wakeups.wait(time.monotonic() + 60)
    wakeups.put("")
    assert not wakeups.wait(time.monotonic() + 60)
