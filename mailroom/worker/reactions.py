"""What answers of SES mean beyond their mails: pauses of the fleet, this process's backoff, the sending rate."""

import logging
import random
import time
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import TypeGuard

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import SQLAlchemyError

from mailroom.fleet import pauses, refusal_log
from mailroom.fleet.permits import Permits
from mailroom.fleet.refusal_log import Weighed
from mailroom.job import Action, Batch
from mailroom.mail.transport import Transport
from mailroom.outcome import Deferred, Outcome, Rejected, Scope, Sent, Unconfirmed, Untried
from mailroom.worker.breaker import Backoff

log = logging.getLogger(__name__)


class Aftermath:
    """Sees to what a call has shown of the account, once its mails are settled. `queue` is where jobs are put back."""

    def __init__(self, engine: Engine, transport: Transport, *, queue: str, backoff: Backoff, permits: Permits) -> None:
        self._engine = engine
        self._refusals = transport.refusals
        self._throttles = transport.throttles
        self._queue = queue
        self._backoff = backoff
        self._permits = permits

    def mind(self, action: Action, outcomes: Sequence[Outcome]) -> None:
        """Pause the fleet for a fault that all would meet, back off for one of this machine, slow down if SES asks.

        Raises DBAPIError if the database does not take it.
        """
        if outcomes and all(isinstance(told, Sent) for told in outcomes):
            self._backoff.success()
            return
        self._mind_refusals(action, outcomes)
        self._mind_the_account(action, outcomes)
        if any(self._is_throttled(outcome) for outcome in outcomes):
            self._slow_down()

    def weigh(self, batch: Batch, outcomes: Sequence[Outcome]) -> Sequence[Outcome]:
        """Return what is to be believed of the answers for a batch: refusals may not be for the sake of their mails.

        They are, where a mail of the same batch was accepted; where another of the action was, since the mail was
        refused before; and where no other was refused since. Otherwise the mail is tried again; and if one after
        another is refused, the action is at fault. The first time, and whenever it is, that costs the mail nothing.
        """
        if any(isinstance(told, Sent) for told in outcomes):
            return outcomes
        refused = [job for job, told in zip(batch.jobs, outcomes, strict=True) if self._is_refused(told)]
        if not refused:
            return outcomes
        try:
            with self._engine.connect() as connection:
                weighed = refusal_log.weigh(connection, batch.action, self._refusals, refused)
        except SQLAlchemyError:  # the answers are worth more than what is made of them
            return [_doubted(told, charged=False) if self._is_refused(told) else told for told in outcomes]
        return [
            _believed(told, job.token, weighed) if self._is_refused(told) else told
            for job, told in zip(batch.jobs, outcomes, strict=True)
        ]

    def resume(self, action: Action) -> None:
        """End the pauses that a mail of this action has passed: it went through."""
        with self._engine.connect() as connection:
            for pause in pauses.read(connection):
                if pause.scope not in pauses.covering(action):
                    continue
                if pause.code in self._refusals:
                    self._put_back_refused(connection, action, before=pause.opened_at)
                if pauses.close_pause(connection, pause.scope):
                    log.info("resumed scope=%s", pause.scope)

    def back_off(self, fault: Deferred | Unconfirmed) -> None:
        """Hold the senders of this process back for a while."""
        jitter = random.random()  # noqa: S311 - spreads retries
        self._backoff.fault(fault.code, fault.reason, now=time.monotonic(), jitter=jitter)

    def _mind_the_account(self, action: Action, outcomes: Sequence[Outcome]) -> None:
        told = [outcome for outcome in outcomes if not isinstance(outcome, Untried)]
        scoped = [outcome for outcome in told if isinstance(outcome, Deferred) and outcome.scope is not None]
        local = [outcome for outcome in told if self._is_local(outcome)]
        if scoped:
            self._pause_fleet(action, scoped[0])
        if any(outcome.scope is Scope.ACCOUNT for outcome in scoped):
            # It may be this machine's credentials: whoever ends the pause must not let it begin again at once.
            self.back_off(scoped[0])
        elif local and (len(local) == len(told) or any(isinstance(fault, Deferred) for fault in local)):
            self.back_off(local[0])
        elif told:
            self._backoff.success()

    def _mind_refusals(self, action: Action, outcomes: Sequence[Outcome]) -> None:
        """Pause an action of which one mail after another is refused, though each process has believed it of its own.

        When those were weighed, what others met at the same moment was not on record yet.
        """
        refused = [told for told in outcomes if self._is_refused(told)]
        if not refused or any(isinstance(told, Sent) for told in outcomes):
            return
        with self._engine.connect() as connection:
            weighed = refusal_log.weigh(connection, action, self._refusals)
        if weighed.tells_of_the_configuration:
            self._pause_fleet(action, _at_fault(refused[0].code))

    def _slow_down(self) -> None:
        pace = self._permits.throttled()
        if pace is not None:
            log.warning("throttled by SES: the fleet slows down to %.0f %% of its rate", pace * 100)

    def _pause_fleet(self, action: Action, fault: Deferred) -> None:
        scope = pauses.scope_name(fault.scope or Scope.ACCOUNT, action)
        refused = fault.code in self._refusals
        # Whether it is so, mails that were not refused can tell at once.
        after = timedelta(0) if refused else pauses.FIRST_PROBE
        with self._engine.connect() as connection:
            if pauses.open_pause(connection, scope, code=fault.code, reason=fault.reason, probe_after=after):
                log.warning("paused scope=%s code=%s reason=%r", scope, fault.code, fault.reason)
            if refused:
                self._put_back_refused(connection, action)

    def _put_back_refused(self, connection: Connection, action: Action, *, before: datetime | None = None) -> None:
        """Put back what was refused when not one mail after another was at fault, but the action.

        At the end of the pause once more: a call may have been in the air when it began, or who opened it died. Each
        once at the most: what is refused again after that is bad.
        """
        found = refusal_log.refused_since_accepted(connection, action, self._refusals, before=before)
        put_back = refusal_log.put_back_once(connection, found, queue=self._queue)
        if put_back:
            log.warning("put back jobs=%d action=%s: refused, and not for their own sake", len(put_back), action)

    def _is_refused(self, told: Outcome) -> TypeGuard[Rejected]:
        """Whether SES refused a mail, as it says for the mail's own sake."""
        return isinstance(told, Rejected) and told.code in self._refusals

    def _is_local(self, outcome: Outcome) -> TypeGuard[Deferred | Unconfirmed]:
        """Whether a fault is not the mail's, and yet nothing that the fleet should stop for."""
        if isinstance(outcome, Deferred):
            return not outcome.charged and outcome.scope is None and outcome.code not in self._refusals
        return isinstance(outcome, Unconfirmed)

    def _is_throttled(self, outcome: Outcome) -> bool:
        """Whether SES took it for too much at once; the quota of a day is another matter, and has a scope."""
        return isinstance(outcome, Deferred) and outcome.scope is None and outcome.code in self._throttles


def _believed(told: Rejected, token: int, weighed: Weighed) -> Outcome:
    if token in weighed.bad:
        return Rejected(told.code, "SES refuses this mail, and others not")
    if weighed.tells_of_the_configuration:
        return _at_fault(told.code)
    if weighed.unbroken == 1:
        return told
    return _doubted(told, charged=token in weighed.tried)


def _doubted(told: Rejected, *, charged: bool) -> Deferred:
    return Deferred(told.code, "refused like the mail before: perhaps not for its own sake", charged=charged)


def _at_fault(code: str) -> Deferred:
    return Deferred(code, "SES refuses one mail after another", charged=False, scope=Scope.ACTION)
