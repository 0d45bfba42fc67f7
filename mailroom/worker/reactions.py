"""What answers mean beyond their mails: pauses of the fleet, this process's circuit breaker, the sending rate."""

import logging
import random
import time
from collections.abc import Collection, Sequence
from datetime import timedelta
from typing import Final, TypeGuard

from sqlalchemy import Engine

from mailroom.fleet import pauses
from mailroom.fleet.permits import Permits
from mailroom.job import Action, Batch
from mailroom.outcome import Deferred, Outcome, Scope, Sent, Unconfirmed, Untried
from mailroom.worker.breaker import Breaker
from mailroom.worker.own_fault import OF_A_MACHINE, OwnFault
from mailroom.worker.refusals import Refusals
from mailroom.worker.vitals import process_name

log = logging.getLogger(__name__)

# After so many mails that were refused on the way, and none accepted between, it is closed to all of this machine's, or
# to all of an action's. One that is refused again and again tells nothing of the others.
CLOSED: Final = 5


class Reactions:
    """Acts on what a call has shown of the account, once its mails are settled; decides nothing about mails.

    `throttles` are the codes that ask to send more slowly.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        throttles: Collection[str],
        breaker: Breaker,
        permits: Permits,
        refusals: Refusals,
        own_fault: OwnFault,
    ) -> None:
        self._engine = engine
        self._throttles = throttles
        self._breaker = breaker
        self._permits = permits
        self._refusals = refusals
        self._own_fault = own_fault
        # For each scope, the tokens that were refused on the way since a mail that it covers was accepted.
        self._on_way: dict[str, set[int]] = {}

    def react(self, batch: Batch, outcomes: Sequence[Outcome], *, began: float) -> None:
        """Pause the fleet for a fault that all would meet, back off for one of this machine, slow down if SES asks.

        `began`: a monotonic moment before the calls. Raises DBAPIError if the database does not take it.
        """
        action = batch.action
        if any(isinstance(outcome, Sent) for outcome in outcomes):
            self._own_fault.accepted(action)
            for scope in pauses.covering(action):
                self._on_way.pop(scope, None)
        else:
            for job, one in zip(batch.jobs, outcomes, strict=True):
                if _is_on_way(one):
                    self._on_way.setdefault(_scope_name(one, action), set()).add(job.token)
        if outcomes and all(isinstance(outcome, Sent) for outcome in outcomes):
            self._breaker.reset()
            return
        fault = self._refusals.fault_to_pause_for(action, outcomes)
        if fault is not None:
            self._pause_fleet(action, fault)
        self._react_to_faults(action, outcomes, began)
        if any(self._is_throttle(outcome) for outcome in outcomes):
            self._slow_down()

    def resume(self, action: Action) -> None:
        """End the pauses that a mail of this action has passed: it went through."""
        with self._engine.connect() as connection:
            for pause in pauses.read(connection):
                if pause.scope not in pauses.covering(action):
                    continue
                self._refusals.pause_ends(connection, action, code=pause.code, opened_at=pause.opened_at)
                if pauses.close_pause(connection, pause.scope):
                    log.info("resumed scope=%s", pause.scope)

    def back_off(self, fault: Deferred | Unconfirmed) -> None:
        """Hold the senders of this process back for a while."""
        jitter = random.random()  # noqa: S311 - spreads retries
        self._breaker.trip(fault.code, fault.reason, now=time.monotonic(), jitter=jitter)

    def _react_to_faults(self, action: str, outcomes: Sequence[Outcome], began: float) -> None:
        tried = [outcome for outcome in outcomes if not isinstance(outcome, Untried)]
        told = [outcome for outcome in tried if not _is_on_way(outcome) or self._is_closed(outcome, action)]
        scoped = [outcome for outcome in told if isinstance(outcome, Deferred) and outcome.scope is not None]
        local = [outcome for outcome in told if self._is_local(outcome)]
        if scoped and self._hold_back_for(action, scoped[0], began):
            self.back_off(scoped[0])
        elif local and (len(local) == len(tried) or any(isinstance(fault, Deferred) for fault in local)):
            self.back_off(local[0])
        elif not all(map(_is_on_way, tried)):
            self._breaker.reset()

    def _is_closed(self, fault: Deferred, action: str) -> bool:
        """Whether the way is closed to all that would meet this fault."""
        return len(self._on_way.get(_scope_name(fault, action), ())) >= CLOSED

    def _hold_back_for(self, action: str, fault: Deferred, began: float) -> bool:
        """Pause the fleet, but for a fault of this machine alone; return whether this process is to hold back.

        It is, wherever its own settings may be why: whoever ends the pause must not let it begin again at once. But for
        a pause of some kinds of mail no longer than once: each probe that is in vain would hold the others back.
        """
        scope = fault.scope or Scope.ACCOUNT
        of_refusals = scope is Scope.ACTION and self._refusals.is_doubted(fault)  # which tell of all machines
        if not of_refusals and self._own_fault.is_own(action, scope, began=began):
            name = _scope_name(fault, action)
            log.warning("not paused scope=%s code=%s: others are accepted, look at this machine", name, fault.code)
            return True
        begins = self._pause_fleet(action, fault)
        return scope in OF_A_MACHINE and (begins or self._own_fault.is_of_all(scope))

    def _pause_fleet(self, action: str, fault: Deferred) -> bool:
        """Pause what this fault stops; return whether that was not paused yet."""
        scope = _scope_name(fault, action)
        # Whether it is so, mails that were not refused can tell at once.
        after = timedelta(0) if self._refusals.is_doubted(fault) else pauses.FIRST_PROBE
        reason = f"{fault.reason} (found by {process_name()})"
        with self._engine.connect() as connection:
            begins = pauses.open_pause(connection, scope, code=fault.code, reason=reason, probe_after=after)
            if begins:
                log.warning("paused scope=%s code=%s reason=%r", scope, fault.code, reason)
            self._refusals.pause_begins(connection, action, fault)
        return begins

    def _slow_down(self) -> None:
        factor = self._permits.throttled()
        if factor is not None:
            log.warning("throttled by SES: the fleet slows down to %.0f %% of its rate", factor * 100)

    def _is_local(self, outcome: Outcome) -> TypeGuard[Deferred | Unconfirmed]:
        """Whether a fault is not the mail's, and yet nothing that the fleet should stop for."""
        if isinstance(outcome, Deferred):
            return not outcome.charged and outcome.scope is None and not self._refusals.is_doubted(outcome)
        return isinstance(outcome, Unconfirmed)

    def _is_throttle(self, outcome: Outcome) -> bool:
        """Whether SES took it for too much at once; the quota of a day is another matter, and has a scope."""
        return isinstance(outcome, Deferred) and outcome.scope is None and outcome.code in self._throttles


def _scope_name(fault: Deferred, action: str) -> str:
    return pauses.scope_name(fault.scope or Scope.ACCOUNT, action)


def _is_on_way(outcome: Outcome) -> TypeGuard[Deferred]:
    """Whether it is refused on the way, and not known to be so for its own sake."""
    return isinstance(outcome, Deferred) and outcome.on_way and not outcome.charged
