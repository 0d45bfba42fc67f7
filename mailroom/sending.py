"""Send the batches of one claim in turn, and settle them together. Nothing is held open while a mail is sent."""

import logging
import random
import time
from collections import Counter
from collections.abc import Callable, Sequence
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
from mailroom.pace import LONGEST, Pace
from mailroom.permits import Permit
from mailroom.retry import Verdict, judge
from mailroom.shared import Shared
from mailroom.transport import Mail, Transport

log = logging.getLogger(__name__)

LONGEST_SETTLE_WAIT: Final = timedelta(seconds=5)

Judged = tuple[Batch, Sequence[Verdict]]


class Sending:
    """Sends for one sender. `pace` says how many batches it should be given at a time."""

    def __init__(
        self,
        engine: Engine,
        transport: Transport,
        *,
        key: bytes,
        lease: timedelta,
        resend_after: timedelta | None,
        aftermath: Aftermath,
        pace: Pace,
        shared: Shared,
    ) -> None:
        self._engine = engine
        self._transport = transport
        self._key = key
        self._lease = lease
        self._resend_after = resend_after
        self._aftermath = aftermath
        self._shared = shared
        self._permits = shared.permits
        self.pace = pace

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
        answers: list[Sequence[Outcome]] = []
        try:
            self._send_in_turn(batches, permit, claimed, answers)
        except TransportError:
            self._settle(batches, answers, claimed, believe)
            raise
        self._settle(batches, answers, claimed, believe)
        if unsent := [len(batch.jobs) for batch in batches[len(answers) :]]:
            self._permits.give_back(permit, sum(unsent), calls=sum(size > 1 for size in unsent))
        for batch, answer in zip(batches, answers, strict=False):
            self._aftermath.mind(batch.action, answer)
        return answers

    def _send_in_turn(
        self, batches: Sequence[Batch], permit: Permit, claimed: float, answers: list[Sequence[Outcome]]
    ) -> None:
        """Send as many of the batches as should be, and add what SES told of each."""
        began = self._shared.clock()
        for batch in batches:
            if answers and not self._goes_on(answers[-1], permit, began):
                log.info("batch id=%d untried: it is given back, as are those behind it", batch.id)
                break
            answer = self._answer(batch, permit, claimed)
            if not answer:
                break
            answers.append(answer)
        took = timedelta(seconds=self._shared.clock() - began)
        self.pace.note(len(answers), took, well=len(answers) == len(batches) and _goes_well(answers[-1]))

    def _goes_on(self, answer: Sequence[Outcome], permit: Permit, began: float) -> bool:
        """Whether another batch may follow one that was answered like this.

        Not while answers wait to be settled that would have to wait for a permit, nor for long.
        """
        if self._shared.stopping.is_set() or time.monotonic() > permit.until:
            return False
        if self._shared.urgent_came.is_set():
            self._shared.urgent_came.clear()  # one sender is enough
            return False
        return _goes_well(answer) and self._shared.clock() - began <= LONGEST.total_seconds()

    def _answer(self, batch: Batch, permit: Permit, claimed: float) -> Sequence[Outcome]:
        """Send a batch; return what SES told of its mails; nothing if there was no time for a call."""
        latest = claimed + (self._lease - self._transport.longest_call).total_seconds()
        late = time.monotonic() > permit.until
        if late and not self._take_again(permit, len(batch.jobs), latest):
            log.info("batch id=%d released: the claim took longer than its permit holds", batch.id)
            return []
        within = self._lease - timedelta(seconds=time.monotonic() - claimed)
        if within < self._transport.longest_call:
            self._aftermath.back_off(Deferred("OutOfTime", "the claim took too long for the lease", charged=False))
            log.warning("batch id=%d released: too little of its lease was left", batch.id)
            return []
        return self._aftermath.weigh(batch, self._send(batch, within, permit))

    def _send(self, batch: Batch, within: timedelta, permit: Permit) -> Sequence[Outcome]:
        def permitted(count: int, until: float, *, again: bool) -> bool:
            return (not again and time.monotonic() <= permit.until) or self._take_again(permit, count, until)

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

    def _settle(
        self,
        batches: Sequence[Batch],
        answers: Sequence[Sequence[Outcome]],
        claimed: float,
        believe: Callable[[Outcome], Outcome],
    ) -> None:
        """Settle what was answered, and give back the rest, for certain: the answers of SES are worth the wait."""
        judged = [
            (batch, self._judge(batch, [believe(told) for told in answer]))
            for batch, answer in zip(batches, answers, strict=False)
        ]
        rest: list[Judged] = [(batch, []) for batch in batches[len(answers) :]]
        attempts = Retrying(
            retry=retry_if_exception(is_worth_repeating),
            wait=wait_random_exponential(multiplier=0.1, max=LONGEST_SETTLE_WAIT.total_seconds()),
            before_sleep=lambda state: _log_settle_retry(state, batches[0]),
        )
        owned = attempts(self._settle_once, [*judged, *rest])
        for batch, verdicts in [*judged, *rest]:
            if not verdicts or not all(verdict.deliveries for verdict in verdicts):  # some are given back
                self._shared.floors.lower((batch.priority, batch.action), batch.due_at)
        for batch, verdicts in judged:
            _log_batch(batch, verdicts, owned=batch.id in owned, seconds=time.monotonic() - claimed)

    def _settle_once(self, judged: Sequence[Judged]) -> set[int]:
        with self._engine.connect() as connection:
            return queue.settle(connection, judged)

    def _judge(self, batch: Batch, outcomes: Sequence[Outcome]) -> list[Verdict]:
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
    """One line for the batch, and one for each mail that was not sent."""
    counts = Counter(verdict.deliveries[-1].outcome if verdict.deliveries else "untried" for verdict in verdicts)
    outcomes = " ".join(f"{outcome}={count}" for outcome, count in sorted(counts.items()))
    late = "" if owned else " late=true"
    what = (batch.id, batch.action, len(batch.jobs), outcomes, seconds * 1000, late)
    log.info("batch id=%d action=%s jobs=%d %s ms=%d%s", *what)
    for job, verdict in zip(batch.jobs, verdicts, strict=True):
        for delivery in verdict.deliveries:
            if delivery.outcome != "sent":
                log.info(
                    "mail token=%d action=%s batch=%d attempt=%d outcome=%s code=%s",
                    *(job.token, job.action, batch.id, job.attempt, delivery.outcome, delivery.error_code),
                )
