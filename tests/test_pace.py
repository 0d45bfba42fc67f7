"""How many batches a sender claims at a time."""

from datetime import timedelta

from mailroom.queue.limits import MAX_CLAIM_JOBS
from mailroom.worker.claim_size import INTENDED, Pace

INSTANT = timedelta(0)


def test_it_doubles_while_sending_takes_no_time_up_to_the_most() -> None:
    pace = Pace(batch_limit=50)
    found = []
    for _ in range(6):
        found.append(pace.batches)
        pace.note(pace.batches, INSTANT, well=True)
    assert found == [1, 2, 4, 8, MAX_CLAIM_JOBS // 50, MAX_CLAIM_JOBS // 50]


def test_it_takes_what_can_be_sent_in_the_time() -> None:
    pace = Pace(batch_limit=10)
    for _ in range(4):
        pace.note(pace.batches, INTENDED / 5 * pace.batches, well=True)
    assert pace.batches == 5


def test_calls_as_long_as_those_of_ses_are_made_one_to_a_claim() -> None:
    pace = Pace(batch_limit=50)
    for _ in range(4):
        pace.note(1, timedelta(milliseconds=60), well=True)
    assert pace.batches == 1


def test_after_a_fault_it_begins_with_one() -> None:
    pace = Pace(batch_limit=50)
    for _ in range(4):
        pace.note(pace.batches, INSTANT, well=True)
    pace.note(pace.batches, INSTANT, well=False)
    assert pace.batches == 1


def test_it_keeps_to_the_limit_of_a_claim() -> None:
    pace = Pace(batch_limit=50, claim_limit=50)
    pace.note(1, INSTANT, well=True)
    assert pace.batches == 1


def test_a_limit_above_the_most_is_still_one_batch() -> None:
    pace = Pace(batch_limit=MAX_CLAIM_JOBS + 1)
    pace.note(1, INSTANT, well=True)
    assert pace.batches == 1
