"""What one sender claims and sees of the queue: it alone moves the floors, which the senders of a process share."""

import logging
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import timedelta
from uuid import UUID

from sqlalchemy import Connection, func, select
from sqlalchemy.exc import DBAPIError

from mailroom import queue
from mailroom.db import schema
from mailroom.db.engine import first_line
from mailroom.db.step_size import StepSize
from mailroom.fleet import pauses
from mailroom.fleet.permits import Permit
from mailroom.job import Batch, Position
from mailroom.queue.claim import FLOOD_LIMIT, NOTHING, Claim
from mailroom.queue.floors import Floors, floors_at
from mailroom.queue.lanes import LANES, OTHER_LANES, URGENT_LANES, URGENT_RUN, Lane
from mailroom.queue.limits import Limits
from mailroom.queue.look import View
from mailroom.worker.shared import Shared

log = logging.getLogger(__name__)


class Claims:
    """Claims for one sender, under a name that no other ever had."""

    def __init__(self, shared: Shared, *, name: str) -> None:
        self._name = f"{name}/{secrets.token_hex(4)}"  # host and process id come again, in containers above all
        self._engine = shared.engine
        self._limits = shared.limits
        self._floors = shared.floors
        self._scan = shared.scan
        self._urgent_came = shared.urgent_came
        self._urgent_run = 0
        self._flooded: Lane | None = None
        self._flood = StepSize(FLOOD_LIMIT)
        self._known: set[UUID] = set()
        self._abandoned_until = 0.0

    def claim(self, permit: Permit, limit: int) -> Claim:
        """Claim batches of at most `limit` jobs, no more than is permitted; the rest of the permit goes back.

        Raises DBAPIError: then nothing was taken, or the next claim returns it.
        """
        was_flooded = self._flooded is not None
        try:
            claim = self._claim_in_turn(permit, limit)
        except DBAPIError:  # perhaps it was too much
            if was_flooded:
                self._flood.shrink()
            self._flooded = None
            raise
        if was_flooded:
            self._flood.grow()
        permit.keep([len(batch.jobs) for batch in claim.batches])
        # What is finished, or cannot be had, is worked off quickly: a flood of it must not delay who waits behind it.
        self._flooded = None if claim.batches else claim.lane
        return claim

    def claim_one(self, lanes: Sequence[Lane], place: Position | None = None) -> Claim:
        """Claim one job of these lanes for a probe, that is of what is paused: the first, or the one at a place."""
        limits = replace(self._limits, batch_limit=1, batch_timeout=timedelta(0))
        floors = self._floors if place is None else floors_at(lanes[0], place)
        return self._claim(limits, lanes=lanes, probing=True, floors=floors)

    def settled(self) -> None:
        """Take note that all that was claimed is settled."""
        self._known.clear()

    def returned(self, batch: Batch) -> None:
        """Take note that jobs of a batch are back where they were before the claim: behind this process's floors."""
        before = Position(batch.due_at, min(job.token for job in batch.jobs) - 1)
        self._floors.lower((batch.priority, batch.action), before)

    def return_abandoned(self) -> None:
        """Return what a claim took whose answer was lost, if one was lately; for when no other claim follows."""
        if time.monotonic() >= self._abandoned_until:
            return
        try:
            with self._engine.connect() as connection:
                self._return_abandoned(connection)
        except DBAPIError as error:
            log.warning("what a claim may have taken is rescued after its lease: %s", first_line(error))

    def look(self, connection: Connection) -> View:
        """See what there is to do, above the floors. Raises DBAPIError."""
        return self._scan.look(connection)

    def look_from_start(self, connection: Connection, goes_on: Callable[[], bool]) -> View:
        """See what there is to do from the beginning of the queue, as far as that can be seen while it `goes_on`."""
        return self._scan.look_from_start(connection, goes_on)

    @property
    def is_scanning(self) -> bool:
        """Whether a look from the beginning is under way, and should go on with the next."""
        return self._scan.is_walking

    def start_over(self) -> None:
        """Take note that a claim was cut off: too much is dead above a floor, and a scan has to find better ones."""
        self._scan.doubt()

    def urgent_waiting(self) -> bool:
        """Whether urgent mail can be sent now. Raises DBAPIError."""
        with self._engine.connect() as connection:
            return self._scan.look(connection, lanes=URGENT_LANES).ready > 0

    def is_paused(self) -> bool:
        """Whether there are due jobs of this queue and something is paused: they wait for that."""
        with self._engine.connect() as connection:
            waiting = schema.jobs.c
            of_queue = waiting.queue == self._limits.queue
            due = select(waiting.token).where(of_queue, waiting.due_at <= func.now()).limit(1)
            return bool(pauses.read(connection)) and connection.execute(due).first() is not None

    def _claim_in_turn(self, permit: Permit, limit: int) -> Claim:
        """Claim what is urgent first, and after a run of that, once, what is not."""
        limits = replace(self._limits, batch_limit=min(limit, permit.count))
        others_first = self._urgent_run >= URGENT_RUN and not permit.only_urgent
        claim = self._claim(limits, lanes=OTHER_LANES) if others_first else NOTHING
        if claim.lane is None:
            self._urgent_came.clear()  # this claim will see it
            whole = permit.count - permit.count % limits.batch_limit  # what is locked and left, others would pass over
            claim = self._claim(limits, lanes=URGENT_LANES if permit.urgent else LANES, job_limit=whole)
        self._urgent_run = self._urgent_run + 1 if claim.lane in URGENT_LANES and not others_first else 0
        return claim

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
                    self._return_abandoned(connection)
                claim = queue.claim(
                    connection,
                    limits,
                    worker=self._name,
                    floors=self._floors if floors is None else floors,
                    job_limit=job_limit,
                    flood=self._flooded and (self._flooded, self._flood.size),
                    lanes=lanes,
                    probing=probing,
                )
        except DBAPIError:
            # It may have been made all the same, or still be: nobody sends it then, and it is returned once seen.
            self._abandoned_until = time.monotonic() + limits.lease.total_seconds()
            raise
        self._known.update(batch.fence for batch in claim.batches)
        _log_finished(claim)
        return claim

    def _return_abandoned(self, connection: Connection) -> None:
        returned = queue.return_abandoned(connection, worker=self._name, known=self._known)
        if returned:
            log.warning("returned unsent batches=%d: the answers to their claims were lost", returned)


def _log_finished(claim: Claim) -> None:
    for job in claim.finished:
        log.info(
            "mail token=%d action=%s outcome=%s code=%s",
            *(job.token, job.action, job.outcome, job.error_code),
        )
