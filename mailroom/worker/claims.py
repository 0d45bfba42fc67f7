"""What a process claims and sees of the queue. It alone has the floors, from which claims and looks begin."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Final

from sqlalchemy import Connection, Engine, and_, func, select
from sqlalchemy.exc import DBAPIError

from mailroom import queue
from mailroom.db import views
from mailroom.db.step_size import is_cut_off
from mailroom.fleet import pauses
from mailroom.fleet.permits import NO_LIMIT, Permits
from mailroom.job import Batch, Position, Priority
from mailroom.queue import lanes as queue_lanes
from mailroom.queue.claim import Claim
from mailroom.queue.floors import Floors, floors_at
from mailroom.queue.lanes import Lane, Lanes
from mailroom.queue.limits import Limits
from mailroom.queue.look import View
from mailroom.queue.verdict import UNCHARGED_DELAY
from mailroom.worker.scan import Scan

# The constraint of `jobs` lets none be less. Where the jobs of a batch are not known, it may be any.
_LEAST_TOKEN: Final = -(2**63) + 1


class Claims:
    """Lends the floors to each claim and look, and lowers them for what comes back. Safe to share between threads.

    But for `look_from_start`, which is for one thread of the process.
    """

    def __init__(self, engine: Engine, limits: Limits, permits: Permits = NO_LIMIT) -> None:
        self._engine = engine
        self._limits = limits
        self._floors = Floors()
        self._lanes: Lanes | None = None
        self._kinds: str | None = None
        self._scan = Scan(limits, self._floors, permits)

    @property
    def lanes(self) -> Lanes:
        """The lanes of the kinds of mail that there were when a look was made last. Raises DBAPIError."""
        if self._lanes is None:
            with self._engine.connect() as connection:
                self._lanes = queue_lanes.read(connection)
        return self._lanes

    def claim(
        self,
        connection: Connection,
        limits: Limits,
        *,
        worker: str,
        some: Sequence[Lane] | None = None,
        job_limit: int | None = None,
        flood: tuple[Lane, int] | None = None,
    ) -> Claim:
        """See `mailroom.queue.claim`."""
        return queue.claim(
            connection,
            limits,
            worker=worker,
            floors=self._floors,
            lanes=self.lanes if some is None else self.lanes.among(some),
            job_limit=job_limit,
            flood=flood,
        )

    def claim_one(self, connection: Connection, some: Sequence[Lane], place: Position | None, *, worker: str) -> Claim:
        """Claim one job of these lanes, though they are paused: the first, or the one at a place in the first lane."""
        limits = replace(self._limits, batch_limit=1, batch_timeout=timedelta(0))
        floors = self._floors if place is None else floors_at(some[0], place)
        return queue.claim(connection, limits, worker=worker, floors=floors, lanes=self.lanes.among(some), probing=True)

    @property
    def floors(self) -> dict[Lane, Position]:
        """Where a claim begins in each lane now."""
        return self._floors.read(self.lanes.all)

    def returned(self, batch: Batch) -> None:
        """Take note that jobs of a batch are back where they were before the claim: behind the floors."""
        first = min((job.token for job in batch.jobs), default=_LEAST_TOKEN)
        before = Position(batch.due_at, first - 1)
        self._floors.lower((batch.priority, batch.action), before)

    def look(self, connection: Connection) -> View:
        """See what there is to do, above the floors. Raises DBAPIError."""
        return self._look(connection, lambda: self._scan.look(connection, self.lanes.all))

    def look_from_start(self, connection: Connection, goes_on: Callable[[], bool]) -> View:
        """See what there is to do from the beginning of the queue, as far as that can be seen while it `goes_on`."""
        return self._look(connection, lambda: self._scan.look_from_start(connection, self.lanes.all, goes_on))

    def _look(self, connection: Connection, look: Callable[[], View]) -> View:
        """Look, and if a kind of mail was added or changed, look again with those that there are now."""
        self._lanes = self._lanes or queue_lanes.read(connection)
        view = look()
        if view.kinds != self._kinds:
            self._lanes = queue_lanes.read(connection)
            self._kinds = view.kinds  # of before: if it has changed again since, the next look tells
            view = look()
        return view

    @property
    def is_scanning(self) -> bool:
        """Whether a look from the beginning is under way, and should go on with the next."""
        return self._scan.is_scanning

    def start_over(self) -> None:
        """Take note that a claim was cut off: too much is dead above a floor, and a scan has to find better ones."""
        self._scan.doubt()

    def urgent_waiting(self) -> bool:
        """Whether urgent mail can be sent now. Raises DBAPIError."""
        urgent = self.lanes.urgent  # first: it may take a connection, and who holds one must not wait for a second
        with self._engine.connect() as connection:
            return self._scan.look(connection, urgent).ready > 0

    def is_paused(self) -> bool:
        """Whether jobs of this queue wait for a pause: due ones, or those that a fault has put back a moment ago."""
        lanes = self.lanes  # first: as above
        with self._engine.connect() as connection:
            paused = {pause.scope for pause in pauses.read(connection)}
            try:
                return any(
                    self._has_due(connection, lane)
                    for lane in lanes.all
                    if not paused.isdisjoint(self._scopes(lanes, lane))
                )
            except DBAPIError as error:
                if is_cut_off(error):  # nobody can tell: there is much that is dead
                    return True
                raise

    def _has_due(self, connection: Connection, lane: Lane) -> bool:
        """Whether a job of a lane is due, or will be as soon as one that goes back uncharged."""
        waiting = views.waiting_jobs.c
        of_lane = and_(waiting.queue == self._limits.queue, waiting.priority == lane[0], waiting.action == lane[1])
        due = select(waiting.token).where(of_lane, waiting.due_at <= func.now() + UNCHARGED_DELAY).limit(1)
        return connection.execute(due).first() is not None

    def _scopes(self, lanes: Lanes, lane: Lane) -> set[str]:
        """Return the scopes of which a pause keeps a lane from being claimed (`sql/lane_scope.sql`)."""
        rank = lanes.rank(lane)
        if lane[0] is Priority.QUARANTINE:
            rank = min(rank, Priority.NORMAL)
        shared = pauses.covering(lanes.actions[lane[1]])
        return {*shared, pauses.queue_scope(self._limits.queue), queue_lanes.priority_scope(rank)}
