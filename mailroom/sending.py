"""Send the batches of one claim in turn, and settle them together. Nothing is held open while a mail is sent."""

import logging
import random
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final

from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from tenacity import RetryCallState, Retrying, retry_if_exception, wait_random_exponential

from mailroom import queue, tokens
from mailroom.aftermath import Aftermath
from mailroom.database import first_line, is_worth_repeating
from mailroom.errors import TransportError
from mailroom.job import Batch, Deferred, Job, Outcome, Rejected, Sent, Unconfirmed
from mailroom.limits import Limits
from mailroom.pace import LONGEST, Pace
from mailroom.permits import Permit
from mailroom.retry import Verdict, judge
from mailroom.shared import Shared
from mailroom.transport import Mail, Transport

log = logging.getLogger(__name__)

LONGEST_SETTLE_WAIT: Final = timedelta(seconds=5)

Judged = tuple[Batch, Sequence[Verdict]]


@dataclass(slots=True)
class _Claimed:
    """The batches of a claim made after `since`, a monotonic moment; what SES told, by batch, and how many are settled.

    `believe` says what is to be believed of it.
    """

    batches: Sequence[Batch]
    permit: Permit
    since: float
    believe: Callable[[Outcome], Outcome]
    answers: list[Sequence[Outcome]] = field(default_factory=list)
    settled: int = 0


class Sending:
    """Sends for one sender. `pace` says how many batches it should be given at a time.

    `urgent_waits` tells whether there is urgent mail that can be sent.
    """

    def __init__(
        self,
        engine: Engine,
        transport: Transport,
        *,
        key: bytes,
        limits: Limits,
        aftermath: Aftermath,
        shared: Shared,
        urgent_waits: Callable[[], bool],
    ) -> None:
        self._engine = engine
        self._transport = transport
        self._key = key
        self._lease = limits.lease
        self._resend_after = limits.resend_after
        self._aftermath = aftermath
        self._shared = shared
        self._permits = shared.permits
        self._urgent_waits = urgent_waits
        self.pace = Pace(limits.batch_limit, claim_limit=limits.claim_limit)

    def work(
        self,
        batches: Sequence[Batch],
        permit: Permit,
        *,
        claimed: float,
        believe: Callable[[Outcome], Outcome] = lambda told: told,
    ) -> list[Sequence[Outcome]]:
        """Send batches and settle them, by what is to be believed of what SES told; return what it told, by batch.

        When one does not go well, or they take too long, or urgent mail comes, the others are given back.
        `claimed` is a monotonic moment before their claim. Raises TransportError, with what was not sent given back,
        if the transport takes no more. The settlement is repeated until the database takes it.
        """
        claim = _Claimed(batches, permit, claimed, believe)
        try:
            self._send_in_turn(claim)
        except TransportError:
            self._settle(claim, give_back_rest=True)
            raise
        self._settle(claim, give_back_rest=True)
        if unsent := [len(batch.jobs) for batch in batches[len(claim.answers) :]]:
            self._permits.give_back(permit, sum(unsent), calls=sum(size > 1 for size in unsent))
        for batch, answer in zip(batches, claim.answers, strict=False):
            self._aftermath.mind(batch.action, answer)
        return claim.answers

    def _send_in_turn(self, claim: _Claimed) -> None:
        """Send as many of the batches as should be, and add what SES told of each."""
        began = self._shared.clock()
        answers = claim.answers
        for batch in claim.batches:
            if answers and not self._goes_on(claim, began):
                break
            answer = self._answer(batch, claim)
            if not answer:
                break
            answers.append(answer)
        took = timedelta(seconds=self._shared.clock() - began)
        self.pace.note(len(answers), took, well=len(answers) == len(claim.batches) and _goes_well(answers[-1]))

    def _goes_on(self, claim: _Claimed, began: float) -> bool:
        """Whether another batch may follow what was answered so far, which waits for it to be settled."""
        if self._shared.stopping.is_set() or self._shared.clock() - began > LONGEST.total_seconds():
            return False
        return _goes_well(claim.answers[-1]) and not self._leaves_for_urgent()

    def _leaves_for_urgent(self) -> bool:
        """Whether urgent mail has come that this sender should see to: one is enough."""
        if not self._shared.urgent_came.is_set():
            return False
        self._shared.urgent_came.clear()
        try:
            return self._urgent_waits()  # it may be another queue's, or paused
        except SQLAlchemyError:  # then nothing should wait for long
            return True

    def _answer(self, batch: Batch, claim: _Claimed) -> Sequence[Outcome]:
        """Send a batch; return what SES told of its mails; nothing if there was no time for a call.

        The first may wait for a permit; while it does for another, what came before would not be settled.
        """
        latest = claim.since + (self._lease - self._transport.longest_call).total_seconds()
        late = time.monotonic() > claim.permit.ends
        if late and (claim.answers or not self._take_again(claim.permit, len(batch.jobs), latest)):
            log.info("batch id=%d released: the claim took longer than its permit holds", batch.id)
            return []
        within = self._lease - timedelta(seconds=time.monotonic() - claim.since)
        if within < self._transport.longest_call:
            self._aftermath.back_off(Deferred("OutOfTime", "the claim took too long for the lease", charged=False))
            log.warning("batch id=%d released: too little of its lease was left", batch.id)
            return []
        return self._aftermath.weigh(batch, self._send(batch, within, claim))

    def _send(self, batch: Batch, within: timedelta, claim: _Claimed) -> Sequence[Outcome]:
        def permitted(count: int, until: float, *, again: bool) -> bool:
            self._settle(claim)  # who knows how many more calls this batch takes, and how long they wait
            return (not again and time.monotonic() <= claim.permit.ends) or self._take_again(claim.permit, count, until)

        at_fault: Outcome = Deferred("InternalError", "a fault in mailroom; its log says more", charged=True)
        try:
            mails = [_mail(job, self._key) for job in batch.jobs]
            at_fault = Unconfirmed("InternalError", "a fault in mailroom; its log says more")
            outcomes = self._transport.send(batch.action, mails, batch=batch.id, within=within, permitted=permitted)
            if len(outcomes) != len(mails):
                raise AssertionError("a transport returns an outcome for every mail")
        except TransportError:
            raise
        except Exception:
            # A bug must not stop the queue. Once the transport has the mails, nobody knows what it did with them.
            log.exception("batch id=%d: a fault in mailroom", batch.id)
            return [at_fault] * len(batch.jobs)
        return outcomes

    def _take_again(self, permit: Permit, count: int, until: float) -> bool:
        try:
            return self._permits.take_again(permit, count, until)
        except SQLAlchemyError:  # neither a claimed batch nor what earlier calls have told must be lost for it
            return False

    def _settle(self, claim: _Claimed, *, give_back_rest: bool = False) -> None:
        """Settle what was answered since the last time, for certain: the answers of SES are worth the wait."""
        told = zip(claim.batches[claim.settled :], claim.answers[claim.settled :], strict=False)
        closing: list[Judged] = [(batch, self._judge(batch, map(claim.believe, answer))) for batch, answer in told]
        if give_back_rest:
            closing += [(batch, []) for batch in claim.batches[len(claim.answers) :]]
        if not closing:
            return
        attempts = Retrying(
            retry=retry_if_exception(is_worth_repeating),
            wait=wait_random_exponential(multiplier=0.1, max=LONGEST_SETTLE_WAIT.total_seconds()),
            before_sleep=lambda state: _log_settle_retry(state, closing[0][0]),
        )
        owned = attempts(self._settle_once, closing)
        claim.settled = len(claim.answers)
        for batch, verdicts in closing:
            if not verdicts or not all(verdict.deliveries for verdict in verdicts):  # some are given back
                self._shared.floors.lower((batch.priority, batch.action), batch.due_at)
            _log_batch(batch, verdicts, owned=batch.id in owned, seconds=time.monotonic() - claim.since)

    def _settle_once(self, judged: Sequence[Judged]) -> set[int]:
        with self._engine.connect() as connection:
            return queue.settle(connection, judged)

    def _judge(self, batch: Batch, outcomes: Iterable[Outcome]) -> list[Verdict]:
        return [
            judge(
                outcome,
                attempt=job.attempt,
                jitter=random.random(),  # noqa: S311 - spreads retries
                resend_after=self._resend_after,
            )
            for job, outcome in zip(batch.jobs, outcomes, strict=True)
        ]


def _goes_well(answer: Sequence[Outcome]) -> bool:
    """Whether SES takes mails, and faults nothing but a mail itself."""
    own = all(isinstance(told, Sent | Rejected) or (isinstance(told, Deferred) and told.charged) for told in answer)
    return own and any(isinstance(told, Sent) for told in answer)


def _mail(job: Job, key: bytes) -> Mail:
    secret = tokens.sign(job.secret, action=job.action, key=key, code=job.code)
    return Mail(token=job.token, address=job.email, login=job.login, secret=secret, code=job.code, alone=job.resend)


def _log_settle_retry(state: RetryCallState, batch: Batch) -> None:
    error = state.outcome and state.outcome.exception()
    if state.attempt_number == 1 and isinstance(error, DBAPIError):
        log.warning("batch id=%d not settled yet, trying until it is: %s", batch.id, first_line(error))


def _log_batch(batch: Batch, verdicts: Sequence[Verdict], *, owned: bool, seconds: float) -> None:
    """One line for the batch, and one for each mail that was not sent. Without verdicts it was given back whole."""
    counts = Counter(verdict.deliveries[-1].outcome if verdict.deliveries else "untried" for verdict in verdicts)
    counts["untried"] += len(batch.jobs) - len(verdicts)
    outcomes = " ".join(f"{outcome}={count}" for outcome, count in sorted(counts.items()) if count)
    late = "" if owned else " late=true"
    what = (batch.id, batch.action, len(batch.jobs), outcomes, seconds * 1000, late)
    log.info("batch id=%d action=%s jobs=%d %s ms=%d%s", *what)
    for job, verdict in zip(batch.jobs, verdicts, strict=False):
        for delivery in verdict.deliveries:
            if delivery.outcome != "sent":
                log.info(
                    "mail token=%d action=%s batch=%d attempt=%d outcome=%s code=%s",
                    *(job.token, job.action, batch.id, job.attempt, delivery.outcome, delivery.error_code),
                )
