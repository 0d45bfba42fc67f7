"""Decides whether a refusal is believed: for the mail's own sake, or because of what every mail would meet."""

import logging
from collections.abc import Sequence
from datetime import datetime
from typing import Final, TypeGuard

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import SQLAlchemyError

from mailroom.fleet import pauses, refusal_log
from mailroom.fleet.refusal_log import Record
from mailroom.job import Batch
from mailroom.mail.transport import DENIALS, REFUSALS
from mailroom.outcome import Deferred, Outcome, Rejected, Scope, Sent

log = logging.getLogger(__name__)

# Mails that one probe tries where SES refuses them: bad ones must not keep an action paused.
MIN_PROBED: Final = 10
MAX_PROBED: Final = 50


class Refusals:
    """Reads refusals in the light of the log of all processes.

    `codes` are those with which a mail is refused for its own sake, as it says. Where one mail after another is refused
    with them, the template or the configuration may be at fault.
    """

    def __init__(self, engine: Engine, *, queue: str) -> None:
        """`queue` is where jobs are put back."""
        self._engine = engine
        self.codes = REFUSALS
        self._queue = queue

    def review(self, batch: Batch, outcomes: Sequence[Outcome]) -> Sequence[Outcome]:
        """Return the outcomes of a batch as they are to be recorded: a refusal may not be for the sake of its mail.

        It is, where a mail of the same batch was accepted; where another of the action was, since the mail was refused
        before; and where no other was refused since. Otherwise the mail is tried again; and if one after another is
        refused, or one of a few again and nothing was accepted between, the action is at fault. The first time, and
        whenever it is, that costs the mail nothing.
        """
        if any(isinstance(outcome, Sent) for outcome in outcomes):
            return outcomes
        refused = [job for job, outcome in zip(batch.jobs, outcomes, strict=True) if self._is_refused(outcome)]
        if not refused:
            return outcomes
        try:
            with self._engine.connect() as connection:
                record = refusal_log.review(connection, batch.action, self.codes, refused)
        except SQLAlchemyError:  # the answers are worth more than what is made of them
            return [_doubted(one, charged=False) if self._is_refused(one) else one for one in outcomes]
        return [
            _reviewed(outcome, job.token, record) if self._is_refused(outcome) else outcome
            for job, outcome in zip(batch.jobs, outcomes, strict=True)
        ]

    def interpret_probe(self, outcome: Outcome) -> Outcome:
        """Return the outcome of a probe as it is to be recorded: what is paused may be why the mail is refused."""
        match outcome:
            case Rejected(code, _) | Deferred(code, _, charged=True) if code in self.codes:
                return Deferred(code, "refused while it is paused: perhaps not for its own sake", charged=False)
            case _:
                return outcome

    def refused_any(self, outcomes: Sequence[Outcome]) -> bool:
        """Whether a mail of these was refused, or cannot be mailed at all: a probe learns nothing from that."""
        return any(
            isinstance(one, Rejected)
            or (isinstance(one, Deferred) and (one.on_way or one.code in DENIALS or self.is_doubted(one)))
            for one in outcomes
        )

    def is_doubted(self, fault: Deferred) -> bool:
        """Whether a fault is made of refusals that are not believed."""
        return fault.code in self.codes

    def fault_to_pause_for(self, action: str, outcomes: Sequence[Outcome]) -> Deferred | None:
        """Return what an action is to be paused for, though each refusal was believed when its batch was reviewed.

        What others met at that moment was not on record yet. Raises DBAPIError.
        """
        refused = [outcome for outcome in outcomes if self._is_refused(outcome)]
        if not refused or any(isinstance(outcome, Sent) for outcome in outcomes):
            return None
        with self._engine.connect() as connection:
            record = refusal_log.review(connection, action, self.codes)
        return _at_fault(refused[0].code) if record.blames_configuration else None

    def pause_begins(self, connection: Connection, action: str, fault: Deferred) -> None:
        """Put back what was refused lately, if a pause begins because of refusals: the action was at fault."""
        if self.is_doubted(fault):
            self._put_back(connection, action)

    def pause_ends(self, connection: Connection, action: str, *, code: str, opened_at: datetime) -> None:
        """Put back what was refused before a pause with this code, if it was because of refusals.

        A call may have been in flight when the pause began, or who opened it died.
        """
        if code in self.codes:
            self._put_back(connection, action, before=opened_at)

    def _put_back(self, connection: Connection, action: str, *, before: datetime | None = None) -> None:
        """Put back each refused job once at most: what is refused again after that is bad."""
        found = refusal_log.refused_since_accepted(connection, action, self.codes, before=before)
        put_back = refusal_log.put_back_once(connection, found, queue=self._queue)
        if put_back:
            log.warning("put back jobs=%d action=%s: refused, and not for their own sake", len(put_back), action)

    def mails_to_probe(self, connection: Connection, scope: str) -> int:
        """Return how many mails a probe of a scope may try: as many again as were refused, until that is conclusive."""
        if not pauses.is_action(scope):
            return MIN_PROBED
        record = refusal_log.review(connection, scope, self.codes)
        if record.unbroken >= refusal_log.CONCLUSIVE:
            return MIN_PROBED
        return max(MIN_PROBED, min(max(record.unbroken, record.survived), MAX_PROBED))

    def _is_refused(self, outcome: Outcome) -> TypeGuard[Rejected]:
        """Whether a mail was refused, as the provider says for the mail's own sake."""
        return isinstance(outcome, Rejected) and outcome.code in self.codes


def _reviewed(refusal: Rejected, token: int, record: Record) -> Outcome:
    if token in record.bad:
        return Rejected(refusal.code, "SES refuses this mail, and others not")
    if record.blames_configuration:
        return _at_fault(refusal.code)
    if record.unbroken == 1:
        return refusal
    # Where mails are too few to tell, time does: who is tried again finds that still nothing was accepted.
    if token in record.tried and record.unbroken > record.survived:
        return _at_fault(refusal.code)
    return _doubted(refusal, charged=token in record.tried)


def _doubted(refusal: Rejected, *, charged: bool) -> Deferred:
    return Deferred(refusal.code, "refused like the mail before: perhaps not for its own sake", charged=charged)


def _at_fault(code: str) -> Deferred:
    return Deferred(code, "SES refuses one mail after another", charged=False, scope=Scope.ACTION)
