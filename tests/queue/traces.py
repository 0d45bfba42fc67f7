"""The trace of each rule of the protocol: what happens, and what must not come of it. Each fails without its rule.

A trace that needs a failover is told on one database: what came after the copy is taken away again, ids with it. Rule
21 is the worker's: tests/worker/test_given_back.py has it.
"""

from collections.abc import Callable

from mailroom.event import EventKind
from mailroom.outcome import Rejected
from tests.queue.replay import Replay, message_of
from tests.queue.rules_out import Rule
from tests.world import rows

SEND, BOUNCE, FAILURE, REJECT = EventKind.SEND, EventKind.BOUNCE, EventKind.RENDERING_FAILURE, EventKind.REJECT


def a_batch_is_closed_by_its_fence(replay: Replay) -> None:
    before = replay.copy()
    replay.sign_up()
    first = replay.claim()
    replay.fail_over(before)
    token = replay.sign_up()
    second = replay.claim()
    assert (first.id, first.jobs[0].token) == (second.id, token)
    assert not replay.settle(first)
    assert replay.place(token) == "in flight"
    assert replay.settle(second)


def a_mail_names_its_batch_by_the_fence(replay: Replay) -> None:
    before = replay.copy()
    replay.sign_up()
    first = replay.claim()
    replay.fail_over(before)
    token = replay.sign_up()
    second = replay.claim()
    assert (first.id, first.jobs[0].token) == (second.id, token)
    replay.rescue()
    replay.tell(SEND, first)
    assert replay.look() is not None
    assert replay.place(token) == "in flight"


def an_event_counts_for_a_token_and_a_batch_that_were_together_here(replay: Replay) -> None:
    before = replay.copy()
    replay.sign_up()
    first = replay.claim()
    replay.fail_over(before)
    token = replay.sign_up()
    assert token == first.jobs[0].token
    replay.tell(SEND, first)
    second = replay.claim()
    replay.rescue()
    replay.tell(SEND, first)
    replay.tell_foreign(second)
    assert replay.look() is not None


def a_late_answer_counts_for_a_token_of_the_same_secret(replay: Replay) -> None:
    account = replay.account_of(replay.sign_up())
    replay.settle(replay.claim())
    before = replay.copy()
    token = replay.sign_up(of=account)
    first = replay.claim()
    replay.fail_over(before)
    assert not replay.settle(first)
    assert replay.sign_up(of=account) == token
    assert replay.look() is not None
    assert replay.place(token) == "in flight"


def a_late_row_of_another_mail_makes_no_batch_known(replay: Replay) -> None:
    account = replay.account_of(replay.sign_up())
    replay.settle(replay.claim())
    before = replay.copy()
    token = replay.sign_up(of=account)
    first = replay.claim()
    replay.fail_over(before)
    assert not replay.settle(first)
    replay.tell(SEND, first)
    assert replay.sign_up(of=account) == token
    replay.tell(SEND, first)
    assert replay.look() is not None


def the_claim_looks_whatever_the_attempt(replay: Replay) -> None:
    token = replay.sign_up()
    before = replay.copy()
    first = replay.claim()
    replay.fail_over(before)
    assert not replay.settle(first)
    assert replay.look() is None
    assert replay.place(token) == "sent"


def what_failed_to_render_is_no_acceptance(replay: Replay) -> None:
    token = replay.sign_up()
    first = replay.claim()
    replay.tell(SEND, first)
    replay.settle(first)
    replay.tell(FAILURE, first)
    replay.sweep()
    assert replay.place(token) == "waits"
    assert replay.look() is not None
    assert replay.place(token) == "in flight"


def a_failure_that_nothing_here_knows_is_kept(replay: Replay) -> None:
    token = replay.sign_up()
    before = replay.copy()
    first = replay.claim()
    replay.fail_over(before)
    replay.tell(FAILURE, first, tagged=False)
    assert not replay.settle(first)
    assert replay.look() is not None
    assert replay.place(token) == "in flight"


def a_rejection_that_nothing_here_knows_is_kept(replay: Replay) -> None:
    replay.sign_up()
    before = replay.copy()
    first = replay.claim()
    replay.fail_over(before)
    replay.tell(REJECT, first, tagged=False)
    assert not replay.settle(first)
    assert replay.look() is not None


def take_back_is_a_sweep(replay: Replay) -> None:
    token = replay.sign_up()
    first = replay.claim()
    replay.tell(FAILURE, first)
    replay.sweep()
    assert replay.settle(first)
    replay.sweep()
    assert replay.place(token) == "waits"


def what_is_taken_back_is_sent_of_that_message(replay: Replay) -> None:
    token = replay.sign_up()
    first = replay.claim()
    replay.rescue()
    second = replay.claim()
    assert replay.settle(second)
    replay.tell(FAILURE, first)
    replay.sweep()
    assert replay.place(token) == "sent"


def taking_back_costs_an_attempt(replay: Replay) -> None:
    token = replay.sign_up()
    replay.last_attempt()
    first = replay.claim()
    replay.settle(first)
    replay.tell(FAILURE, first)
    replay.sweep()
    assert replay.place(token) == "failed"


def a_template_that_cannot_be_rendered_is_tried_by_hand_alone(replay: Replay) -> None:
    """The mail of a probe is accepted like the first one: that would end the pause, and so on for ever."""
    token = replay.sign_up()
    first = replay.claim()
    replay.settle(first)
    replay.tell(FAILURE, first)
    replay.sweep()
    assert replay.place(token) == "waits"
    assert replay.probe() is None


def every_event_but_the_two_proves_an_acceptance(replay: Replay) -> None:
    token = replay.sign_up()
    first = replay.claim()
    replay.rescue(hold=True)
    replay.tell(BOUNCE, first)
    replay.sweep()
    assert replay.look() is None
    assert replay.place(token) == "sent"


def what_is_held_and_accepted_is_freed(replay: Replay) -> None:
    token = replay.sign_up()
    first = replay.claim()
    replay.tell(SEND, first)
    replay.rescue(hold=True)
    assert replay.place(token) == "held"
    replay.sweep()
    assert replay.look() is None
    assert replay.place(token) == "sent"


def what_is_held_and_never_out_is_freed(replay: Replay) -> None:
    token = replay.sign_up()
    first = replay.claim()
    replay.rescue(hold=True)
    replay.tell(FAILURE, first)
    replay.sweep()
    assert replay.place(token) == "waits"


def only_the_sweep_frees(replay: Replay) -> None:
    token = replay.sign_up()
    first = replay.claim()
    replay.settle(first)
    replay.tell(FAILURE, first)
    replay.sweep()
    replay.claim()
    replay.rescue(hold=True)
    assert not replay.settle(first)
    replay.sweep()
    assert replay.place(token) == "held"


def what_failed_and_was_accepted_was_sent(replay: Replay) -> None:
    token = replay.sign_up()
    replay.last_attempt()
    first = replay.claim()
    replay.rescue()
    assert not replay.settle(first)
    assert replay.place(token) == "failed"
    replay.sweep()
    assert replay.place(token) == "sent"
    replay.tell(FAILURE, first)
    replay.sweep()
    assert replay.place(token) == "failed"


def a_retry_asks_the_record(replay: Replay) -> None:
    token = replay.sign_up()
    first = replay.claim()
    replay.settle(first)
    replay.tell(SEND, first)
    replay.tell(FAILURE, first)
    replay.sweep()
    replay.last_attempt()
    replay.claim()
    replay.rescue()
    assert replay.place(token) == "failed"
    assert replay.retry(token)
    assert replay.place(token) == "waits"


def an_event_is_kept_once(replay: Replay) -> None:
    replay.sign_up()
    first = replay.claim()
    assert [replay.tell(SEND, first).added for _ in range(8)] == [1, *[0] * 7]
    kept = rows(replay.connection, "SELECT kind, at FROM events WHERE message_id = :id", id=message_of(first))
    assert len(kept) == len(set(kept))
    assert len(rows(replay.connection, "SELECT FROM deliveries WHERE late AND outcome = 'sent'")) == 1


def what_was_mailed_is_suppressed(replay: Replay) -> None:
    token = replay.sign_up()
    first = replay.claim()
    replay.settle(first)
    replay.execute("UPDATE accounts SET email = 'other@example.com'")
    replay.tell(BOUNCE, first)
    assert replay.is_suppressed(first.jobs[0].email)
    assert not replay.is_suppressed("other@example.com")
    assert replay.place(token) == "sent"


def known_evidence_is_pruned_with_its_token(replay: Replay) -> None:
    token = replay.sign_up()
    first = replay.claim()
    replay.tell(FAILURE, first)
    replay.prune()
    assert replay.settle(first)
    replay.sweep()
    assert replay.place(token) == "waits"


def what_was_refused_and_had_been_accepted_before_was_sent(replay: Replay) -> None:
    """Its first call was accepted, and nobody heard; the second was refused for good."""
    token = replay.sign_up()
    first = replay.claim()
    replay.rescue()
    second = replay.claim()
    assert replay.settle(second, Rejected("MessageRejected", "no"))
    assert not replay.settle(first)
    assert replay.place(token) == "rejected"
    replay.sweep()
    assert replay.place(token) == "sent"


def what_is_held_and_was_contradicted_in_each_way_is_freed(replay: Replay) -> None:
    token = replay.sign_up()
    first = replay.claim()
    replay.tell(FAILURE, first)
    replay.rescue(hold=True)
    replay.sweep()
    assert replay.place(token) == "waits"
    second = replay.claim()
    replay.tell(REJECT, second)
    replay.rescue(hold=True)
    replay.sweep()
    assert replay.place(token) == "waits"


# By the number of the rule: the eleventh has two halves.
TRACES: dict[Rule, Callable[[Replay], None]] = {
    1: a_batch_is_closed_by_its_fence,
    2: a_mail_names_its_batch_by_the_fence,
    3: an_event_counts_for_a_token_and_a_batch_that_were_together_here,
    4: a_late_answer_counts_for_a_token_of_the_same_secret,
    5: a_late_row_of_another_mail_makes_no_batch_known,
    6: the_claim_looks_whatever_the_attempt,
    7: what_failed_to_render_is_no_acceptance,
    8: a_failure_that_nothing_here_knows_is_kept,
    9: take_back_is_a_sweep,
    10: what_is_taken_back_is_sent_of_that_message,
    11: taking_back_costs_an_attempt,
    "11, the pause": a_template_that_cannot_be_rendered_is_tried_by_hand_alone,
    12: every_event_but_the_two_proves_an_acceptance,
    13: what_is_held_and_accepted_is_freed,
    14: what_is_held_and_never_out_is_freed,
    15: only_the_sweep_frees,
    16: what_failed_and_was_accepted_was_sent,
    17: a_retry_asks_the_record,
    18: an_event_is_kept_once,
    19: what_was_mailed_is_suppressed,
    20: known_evidence_is_pruned_with_its_token,
}

# What the search of tests/model found beyond them.
BEYOND = (
    a_rejection_that_nothing_here_knows_is_kept,
    what_was_refused_and_had_been_accepted_before_was_sent,
    what_is_held_and_was_contradicted_in_each_way_is_freed,
)
