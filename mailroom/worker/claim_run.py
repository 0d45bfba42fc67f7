"""One claim on its way: its batches are sent in turn and settled. Nothing is held open while a mail is sent."""

import logging
import random
import time
from collections.abc import Callable, Iterable, Sequence
from datetime import timedelta
from functools import partial
from typing import Final
from uuid import UUID

from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from tenacity import RetryCallState, Retrying, retry_if_exception, wait_random_exponential

from mailroom import queue, tokens
from mailroom.db.engine import first_line, is_retryable
from mailroom.errors import TransportError
from mailroom.fleet import clock
from mailroom.fleet.permits import Permit
from mailroom.job import Batch, Job
from mailroom.mail.transport import Mail
from mailroom.outcome import Deferred, Outcome, Rejected, Scope, Sent, Unconfirmed, Untried
from mailroom.queue.settle import Judged
from mailroom.queue.verdict import Verdict, judge
from mailroom.worker import on_way
from mailroom.worker.batch_log import log_batch
from mailroom.worker.bisection import Bisection
from mailroom.worker.claim_size import MAX_SENDING, ClaimSize
from mailroom.worker.settlement import Settlement
from mailroom.worker.shared import Shared

log = logging.getLogger(__name__)

MAX_SETTLE_WAIT: Final = timedelta(seconds=5)


class ClaimRun:
    """The batches of a claim, what came of them so far, and how much of that is settled. `work` once.

    After that `due` says whether there may be more to claim.
    """

    def __init__(
        self,
        shared: Shared,
        batches: Sequence[Batch],
        *,
        permit: Permit,
        size: ClaimSize,
        since: float,
        interpret: Callable[[Outcome], Outcome] = lambda outcome: outcome,
    ) -> None:
        """`since` is a monotonic moment before the claim: a lease is never taken for longer than it is.

        `interpret` says how an outcome is to be recorded. `size` learns from how it goes.
        """
        self._shared = shared
        self._size = size
        self._batches = batches
        self._permit = permit
        self._since = since
        self._interpret = interpret
        self._answers: list[Sequence[Outcome]] = []
        self._call_ms: dict[int | None, int] = {}  # by token
        self._settled = 0
        self.due = True
        self._gave_back = False
        # Batches that are returned before the end, or perhaps were: they must not be sent any more.
        self._returning: Sequence[Batch] = ()

    def work(self) -> list[Sequence[Outcome]]:
        """Send the batches and settle them; return the outcomes of each that was sent, before `interpret`.

        When one does not go well, or takes a second call, or they take too long, or urgent mail comes that can be sent,
        the others are returned. Raises TransportError, with what was not sent returned, if the transport takes no more.
        The settlement is repeated until the database takes it.
        """
        try:
            self._send_in_turn()
        except TransportError:
            self._settle()
            raise
        self._settle()
        self.due |= self._gave_back  # a settlement does not see what it gives back
        for batch, outcomes in zip(self._batches, self._answers, strict=False):
            told = [self._of_call(job, outcome) for job, outcome in zip(batch.jobs, outcomes, strict=True)]
            self._shared.reactions.react(batch, told, began=self._since)
        return self._answers

    @property
    def made_calls(self) -> bool:
        """Whether any mail was in a call: what can never be mailed is rejected without one."""
        return bool(self._call_ms)

    def _of_call(self, job: Job, outcome: Outcome) -> Outcome:
        """Return what the outcome of a job tells of the provider: nothing, where that was not asked."""
        return Untried("NoCall") if isinstance(outcome, Rejected) and job.token not in self._call_ms else outcome

    def _send_in_turn(self) -> None:
        """Send as many of the batches as should be, and keep the outcomes of each."""
        began, wanted = self._shared.clock(), len(self._batches)
        while len(self._answers) < len(self._batches) and self._decide_to_go_on(began):
            batch = self._batches[len(self._answers)]
            if not self._ensure_permit(batch) or not self._ensure_time(batch):
                break
            self._answers.append(self._review(batch, self._send(batch)))
            self._permit.spend()
        took = timedelta(seconds=self._shared.clock() - began)
        well = len(self._answers) == wanted and _goes_well(self._answers[-1])
        self._size.note(len(self._answers), took, well=well)

    def _review(self, batch: Batch, outcomes: Sequence[Outcome]) -> Sequence[Outcome]:
        judged = on_way.review(self._shared.engine, batch, outcomes, queue=self._shared.limits.queue)
        return self._shared.refusals.review(batch, judged)

    def _decide_to_go_on(self, began: float) -> bool:
        """Decide whether another batch may follow those that have outcomes, which wait for it to be settled."""
        if not self._answers:
            return True
        if self._shared.stopping.is_set() or not _goes_well(self._answers[-1]) or self._yield_to_urgent():
            return False
        return self._shared.clock() - began <= MAX_SENDING.total_seconds()

    def _yield_to_urgent(self) -> bool:
        """Take it upon this sender to see to urgent mail that has come: one is enough. False if there is none."""
        if not self._shared.urgent_came.is_set():
            return False
        self._shared.urgent_came.clear()
        try:
            return self._shared.claims.urgent_waiting()  # it may be another queue's, or paused
        except SQLAlchemyError:  # then nothing should wait for long
            return True

    def _ensure_permit(self, batch: Batch) -> bool:
        """See that the batch may be sent. The first may wait for a permit; another would keep it from being settled."""
        if self._answers:
            return clock.seconds() <= self._permit.ends
        latest = self._deadline - self._shared.transport.max_call_time.total_seconds()
        if clock.seconds() <= self._permit.until or self._take_again(len(batch.jobs), latest):
            return True
        log.info("no permit any more, the claim took longer than it holds: batch=%d", batch.id)
        return False

    def _ensure_time(self, batch: Batch) -> bool:
        """See that a call can end before the lease does; back off if it cannot."""
        if self._deadline - clock.seconds() >= self._shared.transport.max_call_time.total_seconds():
            return True
        self._shared.reactions.back_off(Deferred("OutOfTime", "the claim took too long for the lease", charged=False))
        log.warning("no time any more, too little of the lease was left: batch=%d", batch.id)
        return False

    def _send(self, batch: Batch) -> Sequence[Outcome]:
        fault: Outcome = Deferred("InternalError", "a fault in mailroom; its log says more", charged=True)
        try:
            mails = [_mail(job, self._shared.key) for job in batch.jobs]
            fault = Unconfirmed("InternalError", "a fault in mailroom; its log says more")
            calls = Bisection(
                self._shared.transport,
                batch.action,
                batch=str(batch.fence),
                deadline=self._deadline,
                sharing=self._shared.sharing,
                before_call=self._before_call,
                others_are_accepted=partial(self._others_are_accepted, batch.action),
                is_stopping=self._shared.stopping.is_set,
            )
            with self._shared.telemetry.sending(batch):
                outcomes = calls.send(mails)
            self._call_ms.update(calls.call_ms)
            return outcomes
        except TransportError:
            raise
        except Exception:
            # A bug must not stop the queue. Once the transport has the mails, nobody knows what it did with them.
            log.exception("batch id=%d: a fault in mailroom", batch.id)
            return [fault] * len(batch.jobs)

    @property
    def _deadline(self) -> float:
        return self._since + self._shared.limits.lease.total_seconds()

    def _before_call(self, count: int, until: float, *, again: bool) -> bool:
        """Settle what came before, and take what another call needs: see `BeforeCall`."""
        self._settle_meanwhile()  # who knows how many more calls this batch takes, and how long they wait
        return (not again and clock.seconds() <= self._permit.until) or self._take_again(count, until)

    def _others_are_accepted(self, action: str, scope: Scope) -> bool:
        """Whether a mail that this scope covers was accepted lately, of whichever process."""
        try:
            return self._shared.own_fault.others_are_accepted(action, scope, queue=self._shared.limits.queue)
        except SQLAlchemyError:  # the answers are worth more than what is made of them
            return False

    def _take_again(self, count: int, until: float) -> bool:
        try:
            return self._shared.permits.take_again(self._permit, count, until, wait=self._shared.stopping.wait)
        except SQLAlchemyError:  # neither a claimed batch nor the outcomes of earlier calls must be lost for it
            return False

    def _settle(self) -> None:
        """Settle what has outcomes and return the rest, for certain: the answers of SES are worth the wait."""
        self._returning = [*self._batches[len(self._answers) :], *self._returning]
        closing = self._closing()
        if not closing:
            return
        attempts = Retrying(
            retry=retry_if_exception(is_retryable),
            wait=wait_random_exponential(multiplier=0.1, max=MAX_SETTLE_WAIT.total_seconds()),
            before_sleep=lambda state: self._settle_failed(state, closing[0][0]),
        )
        settlement = Settlement(closing)
        try:
            attempts(settlement.run, self._settle_once)
        finally:  # one that is refused for its values is not among them
            self._note(settlement.settled, owned=settlement.owned)
        self.due = settlement.due
        if settlement.was_too_much:
            self._size.batches = 1

    def _settle_meanwhile(self) -> None:
        """While a batch is at work, settle those before it and return those behind it, if that can be now.

        The batch must not wait for that. What it is that cannot be settled now, the settlement in the end will tell.
        """
        behind = len(self._answers) + 1
        self._returning = [*self._batches[behind:], *self._returning]
        self._batches = self._batches[:behind]
        closing = self._closing()
        if not closing:
            return
        try:
            owned, self.due = self._settle_once(closing)
        except SQLAlchemyError:  # done all the same, perhaps; it is repeated in the end
            return
        self._note(closing, owned=owned)

    def _closing(self) -> list[Judged]:
        """Judge what has outcomes since the last settlement; what is returned has no verdicts."""
        answered = zip(self._batches[self._settled :], self._answers[self._settled :], strict=False)
        judged = [(batch, self._judge(batch, map(self._interpret, outcomes))) for batch, outcomes in answered]
        return [*judged, *((batch, []) for batch in self._returning)]

    def _judge(self, batch: Batch, outcomes: Iterable[Outcome]) -> list[Verdict]:
        return [
            judge(
                outcome,
                attempt=job.attempt,
                jitter=random.random(),  # noqa: S311 - spreads retries
                resend_after=self._shared.resend.current,
                call_ms=self._call_ms.get(job.token),
            )
            for job, outcome in zip(batch.jobs, outcomes, strict=True)
        ]

    def _settle_once(self, judged: Sequence[Judged]) -> tuple[set[UUID], bool]:
        with self._shared.engine.connect() as connection:
            began = time.monotonic()
            settled = queue.settle_and_look(connection, judged)
        self._shared.vitals.served()
        self._shared.telemetry.settle_took([batch for batch, _ in judged], time.monotonic() - began)
        return settled

    def _settle_failed(self, state: RetryCallState, batch: Batch) -> None:
        self._shared.vitals.refused()
        self._shared.telemetry.settle_failed()
        error = state.outcome and state.outcome.exception()
        if state.attempt_number == 1 and isinstance(error, DBAPIError):
            log.warning("batch id=%d not settled yet, trying until it is: %s", batch.id, first_line(error))

    def _note(self, closed: Sequence[Judged], *, owned: set[UUID]) -> None:
        self._settled, self._returning = len(self._answers), ()
        for batch, verdicts in closed:
            if not verdicts or not all(verdict.deliveries for verdict in verdicts):  # some are returned
                self._shared.claims.returned(batch)
                self._gave_back = True
            is_ours = batch.fence in owned
            ids = self._shared.telemetry.settled(batch, verdicts, owned=is_ours)
            log_batch(batch, verdicts, owned=is_ours, seconds=clock.seconds() - self._since, ids=ids)


def _goes_well(outcomes: Sequence[Outcome]) -> bool:
    """Whether SES takes mails, and faults nothing but a mail itself."""
    own = all(isinstance(one, Sent | Rejected) or (isinstance(one, Deferred) and one.charged) for one in outcomes)
    return own and any(isinstance(one, Sent) for one in outcomes)


def _mail(job: Job, key: bytes) -> Mail:
    secret = tokens.sign(job.secret, path=job.action.path, key=key, code=job.code if job.action.has_code else None)
    return Mail(
        token=job.token,
        address=job.email,
        login=job.login,
        secret=secret,
        code=job.code,
        data=job.data,
        alone=job.resend,
    )
