"""What an outcome leads to, and how long a job waits for its next attempt."""

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailroom.outcome import Deferred, Outcome, Rejected, Sent, Unconfirmed
from mailroom.queue.verdict import GRACE, MAX_ATTEMPTS, MAX_DELAY, Verdict, judge, retry_delay

attempts = st.integers(0, MAX_ATTEMPTS - 1)
any_attempt = st.integers(0, 32_767)  # what the column can hold
jitters = st.floats(0, 1)
charged = Deferred("MailboxFull", "try later", charged=True)
uncharged = Deferred("Throttling", "slow down", charged=False)
unconfirmed = Unconfirmed("Timeout", "no answer")


def outcomes_of(verdict: Verdict) -> list[str]:
    return [delivery.outcome for delivery in verdict.deliveries]


def test_the_wait_doubles_from_two_seconds_to_two_minutes() -> None:
    waits = [retry_delay(attempt, jitter=0).total_seconds() for attempt in range(9)]
    assert waits == [2, 4, 8, 16, 32, 64, 120, 120, 120]


@given(any_attempt, jitters)
def test_jitter_is_full(attempt: int, jitter: float) -> None:
    assert timedelta(0) <= retry_delay(attempt, jitter=jitter) <= retry_delay(attempt, jitter=0) <= MAX_DELAY
    assert retry_delay(attempt, jitter=1) == timedelta(0)


@given(attempts, jitters, jitters)
def test_more_jitter_never_waits_longer(attempt: int, one: float, other: float) -> None:
    less, more = sorted((one, other))
    assert retry_delay(attempt, jitter=more) <= retry_delay(attempt, jitter=less)


@pytest.mark.slow
@given(any_attempt, jitters)
def test_what_the_provider_decided_is_final(attempt: int, jitter: float) -> None:
    sent = judge(Sent("m-1"), attempt=attempt, jitter=jitter)
    rejected = judge(Rejected("MessageRejected", "bad address"), attempt=attempt, jitter=jitter)

    assert (outcomes_of(sent), sent.deliveries[0].message_id, sent.again) == (["sent"], "m-1", None)
    assert (outcomes_of(rejected), rejected.again) == (["rejected"], None)
    assert (rejected.deliveries[0].error_code, rejected.deliveries[0].error) == ("MessageRejected", "bad address")


def tries_until_it_fails(outcome: Outcome, jitter: float) -> list[Verdict]:
    verdicts = [judge(outcome, attempt=0, jitter=jitter)]
    while (again := verdicts[-1].again) is not None:
        verdicts.append(judge(outcome, attempt=again.attempt, jitter=jitter))
    return verdicts


@given(jitters)
def test_a_job_that_is_always_deferred_fails_at_the_sixth_attempt(jitter: float) -> None:
    verdicts = tries_until_it_fails(charged, jitter)
    assert [outcomes_of(verdict) for verdict in verdicts] == [["deferred"]] * 5 + [["failed"]]


@given(jitters)
def test_a_job_that_is_never_confirmed_fails_at_the_sixth_attempt_and_is_on_record(jitter: float) -> None:
    verdicts = tries_until_it_fails(unconfirmed, jitter)
    assert [outcomes_of(verdict) for verdict in verdicts] == [["unconfirmed"]] * 5 + [["unconfirmed", "failed"]]


@given(any_attempt, jitters)
def test_a_fault_of_the_account_costs_a_job_nothing(attempt: int, jitter: float) -> None:
    verdict = judge(uncharged, attempt=attempt, jitter=jitter)
    assert outcomes_of(verdict) == ["deferred"]
    assert verdict.again is not None
    assert verdict.again.attempt == attempt
    assert verdict.again.after is not None
    assert verdict.again.after >= timedelta(0)


@pytest.mark.slow
@given(attempts, jitters)
def test_an_unconfirmed_mail_waits_out_the_grace(attempt: int, jitter: float) -> None:
    verdict = judge(unconfirmed, attempt=attempt, jitter=jitter)
    if verdict.again is not None:
        assert verdict.again.after is not None
        assert GRACE <= verdict.again.after <= MAX_DELAY


@given(st.one_of(st.just(charged), st.just(uncharged), st.just(unconfirmed)), attempts, jitters)
def test_an_attempt_ends_in_one_final_delivery_or_another_attempt_never_both(
    outcome: Outcome, attempt: int, jitter: float
) -> None:
    verdict = judge(outcome, attempt=attempt, jitter=jitter)
    final = [name for name in outcomes_of(verdict) if name not in ("deferred", "unconfirmed")]
    assert len(final) + (verdict.again is not None) == 1
