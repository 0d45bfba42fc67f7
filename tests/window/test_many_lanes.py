"""What the window makes of a reading with thousands of lanes: whoever enqueues may name as many queues."""

import sys
from collections.abc import Callable
from dataclasses import replace
from types import FrameType
from typing import Any

import pytest

from mailroom.job import Priority
from mailroom.ops.advice import advise
from mailroom.ops.forecast import forecast
from mailroom.ops.needs import MAX_OF_A_KIND
from mailroom.ops.reading import Reading
from mailroom.window.overview import MAX_ROWS, overview
from mailroom.window.source import Seen
from tests.kinds import ACTIVATION
from tests.ops.readings import BULK, NORMAL, NOW, QUARANTINE, URGENT, lane, minute, paused, reading, worker

MANY = 3_000
# Twice as many lanes are twice the work, and a little more for what is sorted.
ABOUT_TWICE = 2.4


def tenants(lanes: int, *, taken: bool, priority: Priority = NORMAL) -> Reading:
    """So many queues, each with an old job; whether a worker takes each, or none does."""
    queues = [f"tenant-{number:05}" for number in range(lanes)]
    waits = tuple(
        lane(ACTIVATION, priority, 1, 7200 + number, queue=queue, later=number % 3)
        for number, queue in enumerate(queues)
    )
    workers = tuple(worker(name=queue, queue=queue) for queue in queues) if taken else (worker(),)
    return reading(lanes=waits, jobs_estimate=lanes, workers=workers, pauses=(paused("queue:nobody"),))


def look(found: Reading) -> Seen:
    recent = [replace(minute(back), queue=each.queue) for back in (1, 2) for each in found.lanes]
    when = forecast(found, recent, rate_limit=None, now=NOW)
    seen = Seen(NOW, found, tuple(recent), advise(found, recent, now=NOW), when)
    overview(seen, found)
    return seen


def steps(found: Reading) -> int:
    """Return how many lines are executed for a page, each turn of a loop as one."""
    made = 0

    def step(_: FrameType, event: str, __: object) -> Callable[..., Any]:
        nonlocal made
        made += event == "line"
        return step

    before = sys.gettrace()
    sys.settrace(step)
    try:
        look(found)
    finally:
        sys.settrace(before)
    return made


@pytest.mark.parametrize("taken", [True, False], ids=["taken", "deserted"])
@pytest.mark.parametrize("priority", [URGENT, NORMAL, BULK, QUARANTINE])
def test_the_work_for_a_page_grows_no_faster_than_the_lanes(priority: Priority, taken: bool) -> None:
    few, many = (steps(tenants(lanes, taken=taken, priority=priority)) for lanes in (150, 300))
    assert many < ABOUT_TWICE * few


def test_of_many_queues_that_no_worker_takes_the_worst_are_told_and_how_many_others_there_are() -> None:
    advice = look(tenants(MANY, taken=False)).advice
    assert advice is not None
    needs = [need for need in advice.needs if need.code == "NoWorker"]
    assert len(needs) == MAX_OF_A_KIND + 1
    assert needs[-1].what == f"no worker takes {MANY - MAX_OF_A_KIND:,} other queues in which mails are due"
    assert needs[-1].state == "act"


def test_of_many_lanes_that_are_late_the_worst_are_told_and_how_many_others_there_are() -> None:
    advice = look(tenants(MANY, taken=True)).advice
    assert advice is not None
    needs = [need for need in advice.needs if need.code.startswith("OldJob")]
    assert len(needs) == MAX_OF_A_KIND + 1
    assert needs[-1].what == f"{MANY - MAX_OF_A_KIND:,} other lanes are late or slow"


def test_the_lanes_that_are_late_have_rows_before_all_others() -> None:
    calm = tuple(lane(ACTIVATION, NORMAL, 1, 1, queue=f"a{number:04}") for number in range(MANY))
    found = reading(lanes=(*calm, lane(ACTIVATION, BULK, 1, 10**6)))
    told = overview(Seen(NOW, found, (), None, {}), found)
    assert len(told.rows) == MAX_ROWS
    assert told.rows[-1].late
    assert told.other_lanes == MANY + 1 - MAX_ROWS


def test_the_first_sentence_looks_at_each_lane_once() -> None:
    """Where nothing needs anybody it says how much waits."""
    half, whole = (replace(tenants(lanes, taken=True, priority=BULK), pauses=()) for lanes in (500, 1_000))
    assert "; 1,000 bulk activations wait" in look(whole).advice.sentence  # type: ignore[union-attr]
    assert steps(whole) < ABOUT_TWICE * steps(half)
