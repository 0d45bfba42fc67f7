"""One sender: claim batches, within its permits, and have them sent and settled."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from datetime import timedelta

from sqlalchemy.exc import DBAPIError

from mailroom.db.step_size import StepSize
from mailroom.fleet import clock
from mailroom.fleet.permits import Permit
from mailroom.queue.claim import Claim
from mailroom.worker.claim_run import ClaimRun
from mailroom.worker.claim_size import ClaimSize
from mailroom.worker.claimer import Claimer, log_finished
from mailroom.worker.probe import Prober
from mailroom.worker.shared import Shared


@dataclass(frozen=True, slots=True)
class Work:
    """What became of one claim: how many jobs it took, and whether it was `full`, or there is more.

    `due`: there may be more, and nobody else may know. Some may be `busy`: somebody has locked what they need, and they
    come again in a moment. And some it may have left to wait for a batch to fill: permits were `scarce`.
    """

    taken: int
    full: bool
    busy: int = 0
    due: bool = field(default=True, compare=False)
    scarce: bool = field(default=False, compare=False)


class Sender:
    """Works one claim at a time."""

    def __init__(self, shared: Shared, *, name: str, start_another: Callable[[], None] = lambda: None) -> None:
        """`start_another` is called as soon as a claim was full, or there is work in other lanes: before the call."""
        self._shared = shared
        self._start_another = start_another
        self.claimer = Claimer(shared, name=name)
        self.size = ClaimSize(shared.limits.batch_limit, claim_limit=shared.limits.claim_limit)
        self.prober = Prober(shared, self.claimer, self.size, serve_urgent=self.work_claim)
        self._step_size = StepSize(shared.limits.batch_limit)
        self.is_busy = self._made_calls = False

    def work_claim(self) -> Work | None:
        """Claim a batch, or several where they are quickly sent, send and settle; None if there is no permit to send.

        For that see `permit_wait`. Raises TransportError, with what was not sent returned, if the transport takes no
        more; and DBAPIError if the claim fails: then nothing was taken, or the next claim returns it. A settlement is
        repeated until the database takes it.
        """
        self._made_calls = False
        try:
            return self._work_claim()
        finally:
            if not self._made_calls:
                self._shared.breaker.nothing_to_try()

    def _work_claim(self) -> Work | None:
        limit = self._step_size.size
        self._shared.vitals.rest()  # for its turn, or for another sender to ask for permits
        with ExitStack() as stack:
            with self._turn():
                permit = self._take_permit(limit)
                if permit is None:
                    return None
                stack.enter_context(permit)
                since = clock.seconds()
                self._shared.vitals.beat()
                claim = self._claim(permit, limit)
            # A claim of limited mails takes one batch, whatever was wanted.
            full = claim.others or (claim.taken > 0 and claim.taken % min(limit, permit.count) == 0)
            if full:
                self._start_another()
            log_finished(claim)
            due = True
            if claim.batches:
                run = ClaimRun(self._shared, claim.batches, permit=permit, size=self.size, since=since)
                self._made_calls = True
                with self._busy():
                    run.work()
                self._made_calls = run.made_calls
                self.claimer.settled()
                due = run.due
            due = due or full or claim.busy > 0
            return Work(claim.taken, full=full, busy=claim.busy, due=due, scarce=permit.scarce)

    def permit_wait(self) -> timedelta:
        """How long until there may be a permit for this thread's mail."""
        return self._shared.permits.wait()

    @contextmanager
    def _busy(self) -> Iterator[None]:
        """Say of the block that this sender has jobs."""
        self.is_busy = True
        try:
            yield
        finally:
            self.is_busy = False

    def _turn(self) -> AbstractContextManager[object]:
        """Give the turn to claim: one at a time for claims of several batches."""
        return self._shared.large_claims if self.size.batches > 1 else nullcontext()

    def _take_permit(self, limit: int) -> Permit | None:
        if self._shared.stopping.is_set():  # while it waited for its turn
            return None
        wanted = limit * self.size.batches
        return self._shared.permits.take(wanted, per_call=limit, urgent_waits=self._shared.claims.urgent_waiting)

    def _claim(self, permit: Permit, limit: int) -> Claim:
        try:
            claim = self.claimer.claim(permit, limit)
        except DBAPIError:  # perhaps it was too much: to look for a second job, even
            self._step_size.restart()
            self.size.batches = 1
            raise
        self._step_size.grow()
        return claim
