"""What answers of SES mean beyond their mails: pauses of the fleet, this process's backoff, the sending rate."""

import logging
import random
import time
from collections.abc import Sequence
from datetime import datetime
from typing import TypeGuard

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import SQLAlchemyError

from mailroom import classify, pauses, refusals
from mailroom.backoff import Backoff
from mailroom.fuse import BLOWS_AT, blown
from mailroom.job import Action, Batch, Deferred, Outcome, Rejected, Scope, Sent, Unconfirmed, Untried
from mailroom.permits import Permits

log = logging.getLogger(__name__)


class Aftermath:
    """Sees to what a call has shown of the account, once its mails are settled. `queue` is where jobs are put back."""

    def __init__(self, engine: Engine, *, queue: str, backoff: Backoff, permits: Permits) -> None:
        self._engine = engine
        self._queue = queue
        self._backoff = backoff
        self._permits = permits

    def mind(self, action: Action, outcomes: Sequence[Outcome]) -> None:
        """Pause the fleet for a fault that all would meet, back off for one of this machine, slow down if SES asks.

        Raises DBAPIError if the database does not take it.
        """
        self._mind_refusals(action, outcomes)
        self._mind_the_account(action, outcomes)
        if any(_is_throttled(outcome) for outcome in outcomes):
            self._slow_down()

    def weigh(self, batch: Batch, outcomes: Sequence[Outcome]) -> Sequence[Outcome]:
        """Believe the refusal of a mail that was refused before, if since then another of the action was accepted.

        Else a few that are bad, claimed together, would pause their action again and again.
        """
        doubted = [_is_doubted(outcome) for outcome in outcomes]
        if not any(doubted):
            return outcomes
        try:
            with self._engine.connect() as connection:
                tokens = [job.token for job in batch.jobs]
                bad = refusals.refused_before_accepted(connection, batch.action, classify.REFUSALS, tokens)
        except SQLAlchemyError:  # the answers are worth more than what is made of them
            return outcomes
        return [
            Rejected(outcome.code, "SES refuses this mail, and others not")
            if job.token in bad and _is_doubted(outcome)
            else outcome
            for job, outcome in zip(batch.jobs, outcomes, strict=True)
        ]

    def resume(self, action: Action) -> None:
        """End the pauses that a mail of this action has passed: it went through."""
        with self._engine.connect() as connection:
            for pause in pauses.read(connection):
                if pause.scope not in pauses.covering(action):
                    continue
                if pause.code in classify.REFUSALS:
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
        local = [outcome for outcome in told if _is_local(outcome)]
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
        """Pause an action of which one mail after another is refused, whichever processes met that."""
        codes = [one.code for one in outcomes if isinstance(one, Rejected) and one.code in classify.REFUSALS]
        if not codes or any(isinstance(outcome, Sent) for outcome in outcomes):
            return
        with self._engine.connect() as connection:
            refused = refusals.refused_since_accepted(connection, action, classify.REFUSALS)
        if len({account for _, account in refused}) >= BLOWS_AT:
            self._pause_fleet(action, blown(codes[0]))

    def _slow_down(self) -> None:
        pace = self._permits.throttled()
        if pace is not None:
            log.warning("throttled by SES: the fleet slows down to %.0f %% of its rate", pace * 100)

    def _pause_fleet(self, action: Action, fault: Deferred) -> None:
        scope = pauses.scope_name(fault.scope or Scope.ACCOUNT, action)
        with self._engine.connect() as connection:
            if pauses.open_pause(connection, scope, code=fault.code, reason=fault.reason):
                log.warning("paused scope=%s code=%s reason=%r", scope, fault.code, fault.reason)
            if fault.code in classify.REFUSALS:
                self._put_back_refused(connection, action)

    def _put_back_refused(self, connection: Connection, action: Action, *, before: datetime | None = None) -> None:
        """Put back what was refused when not one mail after another was at fault, but the action.

        At the end of the pause once more: a call may have been in the air when it began, or who opened it died. Each
        once at the most: what is refused again after that is bad.
        """
        found = refusals.refused_since_accepted(connection, action, classify.REFUSALS, before=before)
        put_back = refusals.put_back_once(connection, [token for token, _ in found], queue=self._queue)
        if put_back:
            log.warning("put back jobs=%d action=%s: refused, and not for their own sake", len(put_back), action)


def _is_doubted(outcome: Outcome) -> TypeGuard[Deferred]:
    """Whether a mail was refused, and the fuse does not believe that it was for its own sake."""
    return isinstance(outcome, Deferred) and outcome.scope is Scope.ACTION and outcome.code in classify.REFUSALS


def _is_local(outcome: Outcome) -> TypeGuard[Deferred | Unconfirmed]:
    """Whether a fault is not the mail's, and yet nothing that the fleet should stop for."""
    if isinstance(outcome, Deferred):
        return not outcome.charged and outcome.scope is None
    return isinstance(outcome, Unconfirmed)


def _is_throttled(outcome: Outcome) -> bool:
    """Whether SES took it for too much at once; the quota of a day is another matter, and has a scope."""
    return isinstance(outcome, Deferred) and outcome.scope is None and outcome.code in classify.THROTTLES
