"""One sender's claims, under a name that no other ever had: whose turn it is, and what was claimed and got lost."""

import logging
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from uuid import UUID

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from mailroom import queue
from mailroom.db.engine import first_line
from mailroom.db.step_size import StepSize
from mailroom.fleet.permits import Permit
from mailroom.job import Position
from mailroom.queue.claim import FLOOD_LIMIT, NOTHING, Claim
from mailroom.queue.lanes import URGENT_RUN, Lane
from mailroom.worker.shared import Shared

log = logging.getLogger(__name__)


class Claimer:
    """Claims in turn, no more than is permitted."""

    def __init__(self, shared: Shared, *, name: str) -> None:
        self._name = f"{name}/{secrets.token_hex(4)}"  # host and process id come again, in containers above all
        self._engine = shared.engine
        self._telemetry = shared.telemetry
        self._limits = shared.limits
        self._claims = shared.claims
        self._urgent_came = shared.urgent_came
        self._urgent_run = 0
        self._others = False
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
            permit.keep([len(batch.jobs) for batch in claim.batches])
        except DBAPIError:  # perhaps it was too much
            if was_flooded:
                self._flood.shrink()
            self._flooded = None
            raise
        if was_flooded:
            self._flood.grow()
        # What is finished, or cannot be had, is worked off quickly: a flood of it must not delay who waits behind it.
        self._flooded = None if claim.batches else claim.lane
        return claim

    def claim_one(self, some: Sequence[Lane], place: Position | None = None) -> Claim:
        """Claim one job of these lanes for a probe, that is of what is paused: the first, or the one at a place."""
        claim = self._claim(lambda connection: self._claims.claim_one(connection, some, place, worker=self._name))
        log_finished(claim)
        return claim

    def settled(self) -> None:
        """Take note that all that was claimed is settled."""
        self._known.clear()

    def return_abandoned(self) -> None:
        """Return what a claim took whose answer was lost, if one was lately; for when no other claim follows."""
        if time.monotonic() >= self._abandoned_until:
            return
        try:
            with self._engine.connect() as connection:
                self._return_abandoned(connection)
        except DBAPIError as error:
            log.warning("what a claim may have taken is rescued after its lease: %s", first_line(error))

    def _claim_in_turn(self, permit: Permit, limit: int) -> Claim:
        """Claim what is urgent first, and after a run of that, once, what is not, if there is any."""
        batch_limit, lanes = min(limit, permit.count), self._claims.lanes
        others_first = self._urgent_run >= URGENT_RUN and self._others and not permit.only_urgent
        claim = self._claim_due(lanes.others, batch_limit, scarce=permit.scarce) if others_first else NOTHING
        if claim.lane is None:
            self._urgent_came.clear()  # this claim will see it
            whole = permit.count - permit.count % batch_limit  # what is locked and left, others would pass over
            some = lanes.urgent if permit.urgent else lanes.all
            claim = self._claim_due(some, batch_limit, scarce=permit.scarce, job_limit=whole)
        self._others = claim.others or permit.urgent  # of lanes that were not asked nobody knows
        self._urgent_run = self._urgent_run + 1 if claim.lane in lanes.urgent and not others_first else 0
        return claim

    def _claim_due(
        self, some: Sequence[Lane], batch_limit: int, *, scarce: bool, job_limit: int | None = None
    ) -> Claim:
        limits = replace(self._limits, batch_limit=batch_limit, batch_timeout=self._limits.longest_wait(scarce=scarce))
        flood = self._flooded and (self._flooded, self._flood.size)
        return self._claim(
            lambda connection: self._claims.claim(
                connection, limits, worker=self._name, some=some, job_limit=job_limit, flood=flood
            )
        )

    def _claim(self, make: Callable[[Connection], Claim]) -> Claim:
        try:
            with self._engine.connect() as connection:
                if time.monotonic() < self._abandoned_until:
                    self._return_abandoned(connection)
                began = time.monotonic()
                claim = make(connection)
        except DBAPIError:
            # It may have been made all the same, or still be: nobody sends it then, and it is returned once seen.
            self._abandoned_until = time.monotonic() + self._limits.lease.total_seconds()
            raise
        self._known.update(batch.fence for batch in claim.batches)
        self._telemetry.claimed(claim, seconds=time.monotonic() - began)
        return claim

    def _return_abandoned(self, connection: Connection) -> None:
        returned = queue.return_abandoned(
            connection, worker=self._name, known=self._known, actions=self._claims.lanes.actions
        )
        for batch in returned:
            self._claims.returned(batch)
        if returned:
            log.warning("returned unsent batches=%d: the answers to their claims were lost", len(returned))


def log_finished(claim: Claim) -> None:
    """Log a line for each job that the claim found to be finished."""
    for job in claim.finished:
        what = (job.token, job.action, job.outcome, job.error_code)
        log.info("mail token=%d action=%s outcome=%s code=%s", *what)
