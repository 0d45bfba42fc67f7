"""How many batches a sender claims at a time."""

from datetime import timedelta

from mailroom.queue.limits import MAX_CLAIM_JOBS
from mailroom.worker.claim_size import INTENDED, ClaimSize

INSTANT = timedelta(0)


def test_it_doubles_while_sending_takes_no_time_up_to_the_most() -> None:
    size = ClaimSize(batch_limit=50)
    found = []
    for _ in range(6):
        found.append(size.batches)
        size.note(size.batches, INSTANT, well=True)
    assert found == [1, 2, 4, 8, MAX_CLAIM_JOBS // 50, MAX_CLAIM_JOBS // 50]


def test_it_takes_what_can_be_sent_in_the_time() -> None:
    size = ClaimSize(batch_limit=10)
    for _ in range(4):
        size.note(size.batches, INTENDED / 5 * size.batches, well=True)
    assert size.batches == 5


def test_calls_as_long_as_those_of_ses_are_made_one_to_a_claim() -> None:
    size = ClaimSize(batch_limit=50)
    for _ in range(4):
        size.note(1, timedelta(milliseconds=60), well=True)
    assert size.batches == 1


def test_after_a_fault_it_begins_with_one() -> None:
    size = ClaimSize(batch_limit=50)
    for _ in range(4):
        size.note(size.batches, INSTANT, well=True)
    size.note(size.batches, INSTANT, well=False)
    assert size.batches == 1


def test_it_keeps_to_the_limit_of_a_claim() -> None:
    size = ClaimSize(batch_limit=50, claim_limit=50)
    size.note(1, INSTANT, well=True)
    assert size.batches == 1


def test_a_limit_above_the_most_is_still_one_batch() -> None:
    size = ClaimSize(batch_limit=MAX_CLAIM_JOBS + 1)
    size.note(1, INSTANT, well=True)
    assert size.batches == 1
