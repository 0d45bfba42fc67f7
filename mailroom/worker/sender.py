"""One sender: claim batches, within its permits, and have them sent and settled."""

import logging
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial
from typing import Final
from uuid import UUID

from sqlalchemy import Connection, Engine, func, select
from sqlalchemy.exc import DBAPIError

from mailroom import queue
from mailroom.db import schema
from mailroom.db.engine import first_line
from mailroom.db.stride import Stride
from mailroom.fleet import pauses, refusal_log
from mailroom.fleet.permits import ASK_AGAIN, Permit, give_back_unused
from mailroom.job import Action, Batch, Position
from mailroom.mail.transport import Transport
from mailroom.outcome import Deferred, Outcome, Rejected, Sent
from mailroom.queue.claim import FLOOD_LIMIT, NOTHING, Claim
from mailroom.queue.floors import LANES, OTHER_LANES, URGENT_LANES, Floors, Lane, floors_at
from mailroom.queue.limits import Limits
from mailroom.worker.claim_run import Sending
from mailroom.worker.reactions import Aftermath
from mailroom.worker.scan import Lookout
from mailroom.worker.shared import Shared

log = logging.getLogger(__name__)

# How long one probe may take before it begins with another mail, and so how long it looks for one among jobs that turn
# out to be over.
LONGEST_PROBE: Final = timedelta(seconds=5)
# Mails that one probe tries where SES refuses them: bad ones must not keep an action paused.
FEWEST_PROBED: Final = 10
MOST_PROBED: Final = 50
# After so many urgent claims in a row, the other lanes come first once: a flood of recoveries starves nobody.
URGENT_RUN: Final = 4


@dataclass(frozen=True, slots=True)
class Work:
    """What became of one claim: how many jobs it took, and whether that is all it might, so that there may be more.

    Some may be `busy`: somebody has locked what they need, and they come again in a moment.
    """

    taken: int
    full: bool
    busy: int = 0


class Sender:
    """Works one claim at a time."""

    def __init__(
        self,
        engine: Engine,
        transport: Transport,
        *,
        name: str,
        key: bytes,
        limits: Limits,
        shared: Shared,
    ) -> None:
        self._engine = engine
        self._name = f"{name}/{secrets.token_hex(4)}"  # host and process id come again, in containers above all
        self.limits = limits
        self._shared = shared
        self._floors = shared.floors
        self.lookout = Lookout(limits, shared.floors)
        self._permits = shared.permits
        self._refusals = transport.refusals
        self._aftermath = Aftermath(
            engine, transport, queue=limits.queue, backoff=shared.backoff, permits=shared.permits
        )
        self._sending = Sending(
            engine,
            transport,
            key=key,
            limits=limits,
            aftermath=self._aftermath,
            shared=shared,
            urgent_waits=self._urgent_waits,
        )
        self._stride = Stride(limits.batch_limit)
        self._urgent_run = 0
        self._flooded: Lane | None = None
        self._flood = Stride(FLOOD_LIMIT)
        self._known: set[UUID] = set()
        self._abandoned_until = 0.0

    def work_claim(self) -> Work | None:
        """Claim a batch, or several where they are quickly sent, send and settle; None if there is no permit to send.

        For that see `permit_wait`. Raises TransportError, with what was not sent given back, if the transport takes no
        more; and DBAPIError if the claim fails: then nothing was taken, or the next claim gives it back. A settlement
        is repeated until the database takes it.
        """
        limit, batches = self._stride.size, self._sending.pace.batches
        with self._shared.large_claims if batches > 1 else nullcontext():
            if self._shared.stopping.is_set():  # while it waited for its turn
                return None
            permit = self._permits.take(limit * batches, to_a_call=limit, urgent_waits=self._urgent_waits)
            if permit is None:
                return None
            was_flooded = self._flooded is not None
            claimed = time.monotonic()  # before the claim: a lease is never taken for longer than it is
            try:
                claim = self._claim_permitted(permit, limit)
            except DBAPIError:  # perhaps it was too much: to look for a second job, even
                if was_flooded:
                    self._flood.shrink()
                self._flooded = None
                self._stride.restart()
                self._sending.pace.batches = 1
                raise
            self._stride.grow()
            if was_flooded:
                self._flood.grow()
        _log_over(claim)
        if claim.batches:
            self._sending.work(claim.batches, permit, claimed=claimed)
            self._known.clear()
        # Of recoveries a claim takes one batch, whatever was wanted.
        full = claim.taken > 0 and claim.taken % min(limit, permit.count) == 0
        return Work(claim.taken, full=full, busy=claim.busy)

    def permit_wait(self) -> timedelta:
        """How long until there may be a permit for mail that is not urgent."""
        return self._permits.wait()

    def probe(self, stopping: Callable[[], bool] = lambda: False) -> bool:
        """Try whether a pause can end: with one mail, and where that is refused, with others, unless `stopping`.

        It ends with the first mail that is accepted. No refusal is believed: what is paused may be why. So the mails
        are those that were never refused, from all over the queue. Return False if there is no pause to be tried now.
        """
        permit = self._permits.take(1, urgent_waits=lambda: True)
        if permit is None:
            return False
        with self._engine.connect() as connection:
            scope = pauses.probe(connection, queue=self.limits.queue, refusals=self._refusals)
            if scope is None:
                self._permits.give_back(permit, permit.count)
                return False
            most, in_turn = self._most_probed(connection, scope), _lanes_to_probe(connection, scope)
            of_queue = partial(pauses.places, connection, queue=self.limits.queue, most=most, refusals=self._refusals)
            places = [place for lanes in in_turn for place in of_queue(lanes=lanes)]
        ends = time.monotonic() + LONGEST_PROBE.total_seconds()
        claims = self._claims_to_probe(places, in_turn, ends)
        for left in reversed(range(most)):
            refused = self._is_refused(permit, claims)
            again = self._permit_to_probe(ends, stopping) if refused and left else None
            if again is None:
                break
            permit = again
        return True

    def _most_probed(self, connection: Connection, scope: str) -> int:
        """Return how many mails a probe of a scope may try: as many again as were refused, until that is conclusive."""
        if scope not in list(Action):
            return FEWEST_PROBED
        weighed = refusal_log.weigh(connection, Action(scope), self._refusals)
        if weighed.unbroken >= refusal_log.CONCLUSIVE:
            return FEWEST_PROBED
        return max(FEWEST_PROBED, min(max(weighed.unbroken, weighed.survived), MOST_PROBED))

    def _permit_to_probe(self, ends: float, stopping: Callable[[], bool]) -> Permit | None:
        """Wait for a permit for another mail of a probe. What is urgent goes first, and keeps its reserve."""
        while not stopping() and not self._shared.stopping.is_set() and time.monotonic() < ends:
            if self._urgent_waits():
                self.work_claim()
            permit = self._permits.take(1, urgent_waits=lambda: False)
            if permit is not None:
                return permit
            self._shared.stopping.wait(ASK_AGAIN.total_seconds())
        return None

    def _is_refused(self, permit: Permit, claims: Iterator[Sequence[Batch]]) -> bool:
        """Send one mail of what is paused, and resume if it is accepted; return whether it was refused."""
        claimed = time.monotonic()
        batches = next(claims, None)
        if batches is None:
            self._permits.give_back(permit, permit.count)
            return False
        answers = self._sending.work(batches, permit, claimed=claimed, believe=self._doubted)
        self._known.clear()
        told = [outcome for answer in answers for outcome in answer]
        if any(isinstance(outcome, Sent) for outcome in told):
            self._aftermath.resume(batches[0].action)
        return any(
            isinstance(one, Rejected) or (isinstance(one, Deferred) and one.code in self._refusals) for one in told
        )

    def _claims_to_probe(
        self, places: Sequence[tuple[Lane, Position]], in_turn: Sequence[Sequence[Lane]], ends: float
    ) -> Iterator[Sequence[Batch]]:
        """Claim one job after the other, at these places; what is over meanwhile is none.

        If there is nothing at any of them, one of the first of these lanes that has one to send.
        """
        found = False
        for lane, place in places:
            if batches := self._claim_to_probe([lane], floors_at(lane, place)).batches:
                found = True
                yield batches
        for lanes in () if found else in_turn:
            while time.monotonic() < ends:
                claim = self._claim_to_probe(lanes, self._floors)
                if claim.batches:
                    yield claim.batches
                if claim.taken == 0:
                    break

    def _claim_to_probe(self, lanes: Sequence[Lane], floors: Floors) -> Claim:
        limits = replace(self.limits, batch_limit=1, batch_timeout=timedelta(0))
        claim = self._claim(limits, lanes=lanes, probing=True, floors=floors)
        _log_over(claim)
        return claim

    def _claim_permitted(self, permit: Permit, limit: int) -> Claim:
        """Claim no more than is permitted, and give back what is left of the permit."""
        limits = replace(self.limits, batch_limit=min(limit, permit.count))
        whole = permit.count - permit.count % limits.batch_limit  # what is locked and left, others would pass over
        others_first = self._urgent_run >= URGENT_RUN and not permit.only_urgent
        claim = self._claim(limits, lanes=OTHER_LANES) if others_first else NOTHING
        if claim.lane is None:
            self._shared.urgent_came.clear()  # this claim will see it
            lanes = URGENT_LANES if permit.urgent else LANES
            claim = self._claim(limits, lanes=lanes, job_limit=whole)
        give_back_unused(self._permits, permit, [len(batch.jobs) for batch in claim.batches])
        self._urgent_run = self._urgent_run + 1 if claim.lane in URGENT_LANES and not others_first else 0
        # What is over, or cannot be had, is worked off quickly: a flood of it must not delay who waits behind it.
        self._flooded = None if claim.batches else claim.lane
        return claim

    def _urgent_waits(self) -> bool:
        with self._engine.connect() as connection:
            return self.lookout.look(connection, lanes=URGENT_LANES).ready > 0

    def _claim(
        self,
        limits: Limits,
        *,
        lanes: Sequence[Lane] = LANES,
        probing: bool = False,
        job_limit: int | None = None,
        floors: Floors | None = None,
    ) -> Claim:
        try:
            with self._engine.connect() as connection:
                if time.monotonic() < self._abandoned_until:
                    self._give_back_abandoned(connection)
                claim = queue.claim(
                    connection,
                    queue=limits.queue,
                    worker=self._name,
                    batch_limit=limits.batch_limit,
                    batch_timeout=limits.batch_timeout,
                    lease=limits.lease,
                    floors=self._floors if floors is None else floors,
                    job_limit=job_limit,
                    flooded=self._flooded,
                    flood_limit=self._flood.size,
                    lanes=lanes,
                    probing=probing,
                    recoveries=limits.recoveries,
                )
        except DBAPIError:
            # It may have been made all the same, or still be: nobody sends it then, and it is given back once seen.
            self._abandoned_until = time.monotonic() + limits.lease.total_seconds()
            raise
        self._known.update(batch.fence for batch in claim.batches)
        return claim

    def give_back_abandoned(self) -> None:
        """Give back what a claim took whose answer was lost, if one was lately; for when no other claim follows."""
        if time.monotonic() >= self._abandoned_until:
            return
        try:
            with self._engine.connect() as connection:
                self._give_back_abandoned(connection)
        except DBAPIError as error:
            log.warning("what a claim may have taken is rescued after its lease: %s", first_line(error))

    def _give_back_abandoned(self, connection: Connection) -> None:
        given_back = queue.give_back_abandoned(connection, worker=self._name, known=self._known)
        if given_back:
            log.warning("given back unsent batches=%d: the answers to their claims were lost", given_back)

    def is_paused(self) -> bool:
        """Whether there are due jobs of this queue and something is paused: they wait for that."""
        with self._engine.connect() as connection:
            waiting = schema.jobs.c
            due = select(waiting.token).where(waiting.queue == self.limits.queue, waiting.due_at <= func.now()).limit(1)
            return bool(pauses.read(connection)) and connection.execute(due).first() is not None

    def _doubted(self, told: Outcome) -> Outcome:
        """What is to be believed of a probe: a mail that is refused may be so for the sake of what is paused."""
        match told:
            case Rejected(code, _) | Deferred(code, _, charged=True) if code in self._refusals:
                return Deferred(code, "refused while it is paused: perhaps not for its own sake", charged=False)
            case _:
                return told


def _lanes_to_probe(connection: Connection, scope: str) -> list[list[Lane]]:
    """The lanes with which to try a scope: what is paused for itself as well cannot tell, and comes last."""
    paused = {pause.scope for pause in pauses.read(connection)}
    lanes = [lane for lane in LANES if scope not in list(Action) or lane[1] == scope]
    return [[lane for lane in lanes if lane[1] not in paused], [lane for lane in lanes if lane[1] in paused]]


def _log_over(claim: Claim) -> None:
    for over in claim.over:
        what = (over.token, over.action, over.outcome, over.error_code)
        log.info("mail token=%d action=%s outcome=%s code=%s", *what)
