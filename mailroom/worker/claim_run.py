"""Send the batches of one claim in turn, and settle them. Nothing is held open while a mail is sent."""

import logging
import random
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final
from uuid import UUID

from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from tenacity import RetryCallState, Retrying, retry_if_exception, wait_random_exponential

from mailroom import queue, tokens
from mailroom.db.engine import first_line, is_worth_repeating
from mailroom.errors import TransportError
from mailroom.fleet.permits import Permit
from mailroom.job import Batch, Job, Position
from mailroom.mail.transport import Mail, Transport
from mailroom.outcome import Deferred, Outcome, Rejected, Sent, Unconfirmed
from mailroom.queue.limits import Limits
from mailroom.queue.verdict import Verdict, judge
from mailroom.worker.claim_size import LONGEST, Pace
from mailroom.worker.reactions import Aftermath
from mailroom.worker.shared import Shared

log = logging.getLogger(__name__)

LONGEST_SETTLE_WAIT: Final = timedelta(seconds=5)

Judged = tuple[Batch, Sequence[Verdict]]


@dataclass(slots=True)
class _Claimed:
    """The batches of a claim made after `since`, a monotonic moment; what SES told, by batch, and how many are settled.

    `returning`: batches that are given back before the end, or perhaps were: they must not be sent any more.
    `believe` says what is to be believed of what SES told.
    """

    batches: Sequence[Batch]
    permit: Permit
    since: float
    believe: Callable[[Outcome], Outcome]
    answers: list[Sequence[Outcome]] = field(default_factory=list)
    settled: int = 0
    returning: Sequence[Batch] = ()


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

        When one does not go well, or takes a second call, or they take too long, or urgent mail comes that can be sent,
        the others are given back.
        `claimed` is a monotonic moment before their claim. Raises TransportError, with what was not sent given back,
        if the transport takes no more. The settlement is repeated until the database takes it.
        """
        claim = _Claimed(batches, permit, claimed, believe)
        try:
            self._send_in_turn(claim)
        except TransportError:
            self._settle(claim)
            raise
        self._settle(claim)
        if unsent := [len(batch.jobs) for batch in batches[len(claim.answers) :]]:
            self._permits.give_back(permit, sum(unsent), calls=sum(size > 1 for size in unsent))
        for batch, answer in zip(batches, claim.answers, strict=False):
            self._aftermath.mind(batch.action, answer)
        return claim.answers

    def _send_in_turn(self, claim: _Claimed) -> None:
        """Send as many of the batches as should be, and add what SES told of each."""
        began = self._shared.clock()
        answers, wanted = claim.answers, len(claim.batches)
        while len(answers) < len(claim.batches):
            if answers and not self._goes_on(claim, began):
                break
            answer = self._answer(claim.batches[len(answers)], claim)
            if not answer:
                break
            answers.append(answer)
        took = timedelta(seconds=self._shared.clock() - began)
        self.pace.note(len(answers), took, well=len(answers) == wanted and _goes_well(answers[-1]))

    def _goes_on(self, claim: _Claimed, began: float) -> bool:
        """Whether another batch may follow what was answered so far, which waits for it to be settled."""
        if self._shared.stopping.is_set() or not _goes_well(claim.answers[-1]) or self._leaves_for_urgent():
            return False
        return self._shared.clock() - began <= LONGEST.total_seconds()

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
        if claim.answers:
            if time.monotonic() > claim.permit.ends:
                return []
        elif time.monotonic() > claim.permit.until and not self._take_again(claim.permit, len(batch.jobs), latest):
            log.info("no permit any more for batch=%d: the claim took longer than it holds", batch.id)
            return []
        within = self._lease - timedelta(seconds=time.monotonic() - claim.since)
        if within < self._transport.longest_call:
            self._aftermath.back_off(Deferred("OutOfTime", "the claim took too long for the lease", charged=False))
            log.warning("no time any more for batch=%d: too little of its lease was left", batch.id)
            return []
        return self._aftermath.weigh(batch, self._send(batch, within, claim))

    def _send(self, batch: Batch, within: timedelta, claim: _Claimed) -> Sequence[Outcome]:
        def permitted(count: int, until: float, *, again: bool) -> bool:
            self._settle_meanwhile(claim)  # who knows how many more calls this batch takes, and how long they wait
            return (not again and time.monotonic() <= claim.permit.until) or self._take_again(
                claim.permit, count, until
            )

        at_fault: Outcome = Deferred("InternalError", "a fault in mailroom; its log says more", charged=True)
        try:
            mails = [_mail(job, self._key) for job in batch.jobs]
            at_fault = Unconfirmed("InternalError", "a fault in mailroom; its log says more")
            outcomes = self._transport.send(
                batch.action, mails, batch=str(batch.fence), within=within, permitted=permitted
            )
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

    def _settle(self, claim: _Claimed) -> None:
        """Settle what was answered and give back the rest, for certain: the answers of SES are worth the wait."""
        claim.returning = [*claim.batches[len(claim.answers) :], *claim.returning]
        closing = self._closing(claim)
        if not closing:
            return
        attempts = Retrying(
            retry=retry_if_exception(is_worth_repeating),
            wait=wait_random_exponential(multiplier=0.1, max=LONGEST_SETTLE_WAIT.total_seconds()),
            before_sleep=lambda state: _log_settle_retry(state, closing[0][0]),
        )
        self._note(claim, closing, owned=attempts(self._settle_once, closing))

    def _settle_meanwhile(self, claim: _Claimed) -> None:
        """While a batch is at work, settle what others were told and give back those behind it, if that can be now.

        The batch must not wait for that. What it is that cannot be settled now, the settlement in the end will tell.
        """
        behind = len(claim.answers) + 1
        claim.returning = [*claim.batches[behind:], *claim.returning]
        claim.batches = claim.batches[:behind]
        closing = self._closing(claim)
        if not closing:
            return
        try:
            owned = self._settle_once(closing)
        except SQLAlchemyError:  # done all the same, perhaps; it is repeated in the end
            return
        self._note(claim, closing, owned=owned)

    def _closing(self, claim: _Claimed) -> list[Judged]:
        """Judge what was answered since the last settlement; what is given back has no verdicts."""
        told = zip(claim.batches[claim.settled :], claim.answers[claim.settled :], strict=False)
        judged = [(batch, self._judge(batch, map(claim.believe, answer))) for batch, answer in told]
        return [*judged, *((batch, []) for batch in claim.returning)]

    def _note(self, claim: _Claimed, closed: Sequence[Judged], *, owned: set[UUID]) -> None:
        claim.settled, claim.returning = len(claim.answers), ()
        for batch, verdicts in closed:
            if not verdicts or not all(verdict.deliveries for verdict in verdicts):  # some are given back
                before = Position(batch.due_at, min(job.token for job in batch.jobs) - 1)
                self._shared.floors.lower((batch.priority, batch.action), before)
            _log_batch(batch, verdicts, owned=batch.fence in owned, seconds=time.monotonic() - claim.since)

    def _settle_once(self, judged: Sequence[Judged]) -> set[UUID]:
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
