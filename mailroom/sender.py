"""One sender: claim a batch, send it, settle it. Nothing is held open in the database while a mail is sent."""

import logging
import random
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Final

from sqlalchemy import Connection, Engine, func, select
from sqlalchemy.exc import DBAPIError
from tenacity import RetryCallState, Retrying, retry_if_exception, wait_random_exponential

from mailroom import classify, pauses, queue, schema, tokens
from mailroom.address import UNSUPPORTED_ADDRESS
from mailroom.aftermath import Aftermath
from mailroom.backoff import Backoff
from mailroom.database import first_line, is_worth_repeating
from mailroom.errors import TransportError
from mailroom.job import (
    RECOVERY_LIMITS,
    Action,
    Batch,
    Deferred,
    Job,
    Outcome,
    Priority,
    RecoveryLimits,
    Rejected,
    Sent,
    Unconfirmed,
)
from mailroom.permits import NO_LIMIT, Permit, Permits
from mailroom.queue import LANES, OTHER_LANES, URGENT_LANES, Claim, Floors, Lane, View
from mailroom.retry import GRACE, Verdict, judge
from mailroom.transport import Mail, Transport

log = logging.getLogger(__name__)

LONGEST_SETTLE_WAIT: Final = timedelta(seconds=5)
# How long one probe looks for a mail among jobs that turn out to be over.
LONGEST_PROBE: Final = timedelta(seconds=2)
# Mails that one probe tries where SES refuses them: a few that are bad must not keep an action paused.
MOST_PROBED: Final = 10
# After so many urgent batches in a row, the other lanes come first once: a flood of recoveries starves nobody.
URGENT_RUN: Final = 4


@dataclass(frozen=True, slots=True)
class Limits:
    """Which jobs are claimed, how many at a time, for how long, and when an unconfirmed mail is sent again, if ever."""

    queue: str
    batch_limit: int
    batch_timeout: timedelta
    lease: timedelta
    resend_after: timedelta | None = GRACE
    recoveries: RecoveryLimits = RECOVERY_LIMITS


@dataclass(frozen=True, slots=True)
class Work:
    """What became of one claim: how many jobs it took, and whether that is all it might, so that there may be more."""

    taken: int
    full: bool


class Sender:
    """Works one batch at a time. `floors`, `backoff` and `permits` are shared by the senders of a process."""

    def __init__(
        self,
        engine: Engine,
        transport: Transport,
        *,
        name: str,
        key: bytes,
        limits: Limits,
        floors: Floors,
        backoff: Backoff,
        permits: Permits = NO_LIMIT,
    ) -> None:
        self._engine = engine
        self._transport = transport
        self._name = name
        self._key = key
        self.limits = limits
        self._floors = floors
        self._permits = permits
        self._aftermath = Aftermath(engine, queue=limits.queue, backoff=backoff, permits=permits)
        self._urgent_run = 0

    def work_batch(self) -> Work | None:
        """Claim, send and settle one batch; None if there is no permit to send now (see `permit_wait`).

        Raises TransportError, with the batch given back, if the transport takes no more; and DBAPIError if the claim
        fails: then nothing was taken, or what was taken is rescued after its lease. A settlement is repeated until
        the database takes it.
        """
        permit = self._permits.take(self.limits.batch_limit, urgent_waits=self._urgent_waits)
        if permit is None:
            return None
        began = time.monotonic()  # before the claim: a lease is never taken for longer than it is
        claim = self._claim_permitted(permit)
        _log_over(claim)
        if claim.batch is not None:
            self._work(claim.batch, began, permit)
        return Work(claim.taken, full=claim.taken >= permit.count)

    def permit_wait(self) -> timedelta:
        """How long until there may be a permit for mail that is not urgent."""
        return self._permits.wait()

    def probe(self, stopping: Callable[[], bool] = lambda: False) -> bool:
        """Try whether a pause can end: with one mail, and where that is refused, with some others, unless `stopping`.

        It ends with the first mail that is accepted. No refusal is believed: what is paused may be why. Return False if
        there is no pause to be tried now.
        """
        permit = self._permits.take(1, urgent_waits=lambda: True)
        if permit is None:
            return False
        with self._engine.connect() as connection:
            scope = pauses.probe(connection, queue=self.limits.queue)
            paused = {pause.scope for pause in pauses.read(connection)}
        if scope is None:
            self._permits.give_back(permit, permit.count)
            return False
        lanes = [lane for lane in LANES if scope not in list(Action) or lane[1] == scope]
        # What is paused for itself as well cannot tell whether the rest is over: others first.
        in_turn = [[lane for lane in lanes if lane[1] not in paused], lanes]
        for left in reversed(range(MOST_PROBED)):
            refused = self._is_refused(permit, in_turn)
            again = self._permits.take(1, urgent_waits=lambda: True) if refused and left and not stopping() else None
            if again is None:
                break
            permit = again
        return True

    def _is_refused(self, permit: Permit, in_turn: Sequence[Sequence[Lane]]) -> bool:
        """Send one mail of what is paused, and resume if it is accepted; return whether it was refused."""
        began = time.monotonic()
        batch = self._claim_to_probe(in_turn)
        if batch is None:
            self._permits.give_back(permit, permit.count)
            return False
        outcomes = self._work(batch, began, permit, believe=_doubted)
        if any(isinstance(outcome, Sent) for outcome in outcomes):
            self._aftermath.resume(batch.action)
        refusals = {*classify.REFUSALS, UNSUPPORTED_ADDRESS}
        return any(isinstance(one, Rejected | Deferred) and one.code in refusals for one in outcomes)

    def _claim_to_probe(self, in_turn: Sequence[Sequence[Lane]]) -> Batch | None:
        """Claim one job of the first of these lanes that has one to send; what is over meanwhile is none."""
        limits = replace(self.limits, batch_limit=1, batch_timeout=timedelta(0))
        ends = time.monotonic() + LONGEST_PROBE.total_seconds()
        for lanes in in_turn:
            while time.monotonic() < ends:
                claim = self._claim(limits, lanes=lanes, probing=True)
                _log_over(claim)
                if claim.batch is not None:
                    return claim.batch
                if claim.taken == 0:
                    break
        return None

    def _claim_permitted(self, permit: Permit) -> Claim:
        """Claim no more than is permitted, and give back what is left of the permit."""
        lanes = URGENT_LANES if permit.urgent else LANES
        others_first = self._urgent_run >= URGENT_RUN and not permit.only_urgent
        limits = replace(self.limits, batch_limit=permit.count)
        claim = self._claim(limits, lanes=OTHER_LANES if others_first else lanes)
        if others_first and claim.taken == 0:
            claim = self._claim(limits, lanes=lanes)
        used = len(claim.batch.jobs) if claim.batch is not None else 0
        self._permits.give_back(permit, permit.count - used)
        is_urgent = claim.batch is not None and claim.batch.priority is Priority.URGENT
        self._urgent_run = self._urgent_run + 1 if is_urgent and not others_first else 0
        return claim

    def _urgent_waits(self) -> bool:
        with self._engine.connect() as connection:
            return self.look(connection, lanes=URGENT_LANES).ready > 0

    def _claim(self, limits: Limits, *, lanes: Sequence[Lane] = LANES, probing: bool = False) -> Claim:
        with self._engine.connect() as connection:
            return queue.claim(
                connection,
                queue=limits.queue,
                worker=self._name,
                batch_limit=limits.batch_limit,
                batch_timeout=limits.batch_timeout,
                lease=limits.lease,
                floors=self._floors,
                lanes=lanes,
                probing=probing,
                recoveries=limits.recoveries,
            )

    def look(self, connection: Connection, *, lanes: Sequence[Lane] = LANES) -> View:
        """See what there is to do for a sender with these limits."""
        limits = self.limits
        return queue.look(
            connection,
            queue=limits.queue,
            batch_limit=limits.batch_limit,
            batch_timeout=limits.batch_timeout,
            floors=self._floors,
            lanes=lanes,
        )

    def starts_over(self) -> bool:
        """Look again from the beginning of the queue, for what came back or committed late; whether there is any."""
        self._floors.clear()
        with self._engine.connect() as connection:
            return self.look(connection).ready > 0

    def is_paused(self) -> bool:
        """Whether there are due jobs of this queue and something is paused: they wait for that."""
        with self._engine.connect() as connection:
            waiting = schema.jobs.c
            due = select(waiting.token).where(waiting.queue == self.limits.queue, waiting.due_at <= func.now()).limit(1)
            return bool(pauses.read(connection)) and connection.execute(due).first() is not None

    def _work(
        self, batch: Batch, began: float, permit: Permit, *, believe: Callable[[Outcome], Outcome] = lambda told: told
    ) -> Sequence[Outcome]:
        """Send and settle a batch, by what is to be believed of what SES told of its mails.

        Return what it told; nothing if there was no time for a call.
        """
        latest = began + (self.limits.lease - self._transport.longest_call).total_seconds()
        late = time.monotonic() > permit.until
        if late and not self._take_again(permit, len(batch.jobs), latest):
            self._surely(batch, lambda connection: queue.release(connection, batch))
            log.info("batch id=%d released: the claim took longer than its permit holds", batch.id)
            return []
        within = self.limits.lease - timedelta(seconds=time.monotonic() - began)
        if within < self._transport.longest_call:
            self._surely(batch, lambda connection: queue.release(connection, batch))
            self._aftermath.back_off(Deferred("OutOfTime", "the claim took too long for the lease", charged=False))
            log.warning("batch id=%d released: too little of its lease was left", batch.id)
            return []
        outcomes = self._aftermath.weigh(batch, self._send(batch, within, permit))
        verdicts = [
            judge(
                believe(outcome),
                attempt=job.attempt,
                jitter=random.random(),  # noqa: S311 - spreads retries
                resend_after=self.limits.resend_after,
            )
            for job, outcome in zip(batch.jobs, outcomes, strict=True)
        ]
        owned = self._surely(batch, lambda connection: queue.settle(connection, batch, verdicts))
        _log_batch(batch, verdicts, owned=owned, seconds=time.monotonic() - began)
        self._aftermath.mind(batch.action, outcomes)
        return outcomes

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
            self._surely(batch, lambda connection: queue.release(connection, batch))
            raise
        except Exception:
            # A bug must not stop the queue. Once the transport has the mails, nobody knows what it did with them.
            log.exception("batch id=%d: a fault in mailroom", batch.id)
            return [at_fault] * len(batch.jobs)
        return outcomes

    def _take_again(self, permit: Permit, count: int, until: float) -> bool:
        try:
            return self._permits.take_again(permit, count, until)
        except DBAPIError:  # neither a claimed batch nor what earlier calls have told must be lost for it
            return False

    def _surely(self, batch: Batch, close: Callable[[Connection], bool]) -> bool:
        """Close a batch for certain: the answers of SES are worth the wait for a database that is down."""
        attempts = Retrying(
            retry=retry_if_exception(is_worth_repeating),
            wait=wait_random_exponential(multiplier=0.1, max=LONGEST_SETTLE_WAIT.total_seconds()),
            before_sleep=lambda state: _log_settle_retry(state, batch),
        )
        return attempts(self._on_connection, close)

    def _on_connection(self, close: Callable[[Connection], bool]) -> bool:
        with self._engine.connect() as connection:
            return close(connection)


def _doubted(told: Outcome) -> Outcome:
    """What is to be believed of a probe: a mail that is refused may be so for the sake of what is paused."""
    match told:
        case Rejected(code, _) | Deferred(code, _, charged=True) if code in classify.REFUSALS:
            return Deferred(code, "refused while it is paused: perhaps not for its own sake", charged=False)
        case _:
            return told


def _log_over(claim: Claim) -> None:
    for over in claim.over:
        what = (over.token, over.action, over.outcome, over.error_code)
        log.info("mail token=%d action=%s outcome=%s code=%s", *what)


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
