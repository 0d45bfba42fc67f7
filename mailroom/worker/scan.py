"""Looks for what is due, and from the beginning of the queue as far as the database can do that."""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from sqlalchemy import Connection, Row
from sqlalchemy.exc import DBAPIError

from mailroom import queue
from mailroom.db import functions
from mailroom.db.engine import first_line
from mailroom.db.step_size import StepSize, is_cut_off
from mailroom.fleet.permits import NO_LIMIT, Permits
from mailroom.job import Position, Priority
from mailroom.queue.floors import SLACK, Floors
from mailroom.queue.lanes import Lane
from mailroom.queue.limits import Limits
from mailroom.queue.look import View

log = logging.getLogger(__name__)

# Pages of jobs looked at by one statement: a hundredth of a second, if they are full.
PAGES: Final = 500
# A look that failed, and the walk in its place, rest for this many times as long as they took.
RESTS: Final = 10


@dataclass(slots=True)
class _Walk:
    """How far the pages have been looked at, and the first job found so far in each lane: due by `moment`."""

    moment: datetime
    pages: int
    seen: dict[Lane, Position]
    page: int = 0
    took: float = 0.0
    found: dict[Lane, Position] = field(default_factory=dict)


class Scan:
    """Looks for a process whose senders share `floors`; `look_from_start` is for one of its threads alone.

    Under an old snapshot the beginning of the queue may lie behind so much that is dead that no look from there
    succeeds. The floors stay as they are then, or are set to this moment where they are at the beginning, so that what
    comes new leaves; and the pages of the table are looked at, some at a time, for what lies below.
    """

    def __init__(self, limits: Limits, floors: Floors, permits: Permits = NO_LIMIT) -> None:
        self._limits = limits
        self._permits = permits
        self._floors = floors
        self._step_size = StepSize(PAGES)
        self._walk: _Walk | None = None
        self._look_rests = self._walk_rests = float("-inf")
        self._failing = self._doubts = False

    @property
    def is_scanning(self) -> bool:
        """Whether pages are to be looked at: a look from the beginning goes on with them, and should be the next."""
        return self._walk is not None or self._doubts

    def look(self, connection: Connection, lanes: tuple[Lane, ...]) -> View:
        """See what there is to do in these lanes, above the floors. Raises DBAPIError.

        Where a look at a whole batch is cut off, one job is enough: what is dead may lie behind it, too.
        """
        try:
            return self._look(connection, lanes, batch_limit=self._limits.batch_limit)
        except DBAPIError as error:
            if not is_cut_off(error):
                raise
        try:
            return self._look(connection, lanes, batch_limit=1)
        except DBAPIError as error:
            if is_cut_off(error):
                self.doubt()
            raise

    def _look(
        self, connection: Connection, lanes: tuple[Lane, ...], *, batch_limit: int, from_start: bool = False
    ) -> View:
        return queue.look(
            connection,
            queue=self._limits.queue,
            batch_limit=batch_limit,
            batch_timeout=self._limits.longest_wait(scarce=self._permits.are_scarce),
            floors=self._floors,
            lanes=lanes,
            from_start=from_start,
            max_wait=self._limits.max_wait,
        )

    def look_from_start(self, connection: Connection, lanes: tuple[Lane, ...], goes_on: Callable[[], bool]) -> View:
        """See what there is to do from the beginning; what cannot be seen at once, while it `goes_on`, or next time.

        Raises DBAPIError if not even a look above the floors succeeds.
        """
        view = self._try_at_once(connection, lanes)
        if view is not None:
            return view
        self._walk_on(connection, lanes, goes_on)
        try:
            return self.look(connection, lanes)
        except DBAPIError as error:
            if not is_cut_off(error):  # a sender may doubt meanwhile, and a connection that is lost looks no further
                raise
        self._walk_on(connection, lanes, goes_on)
        return self.look(connection, lanes)

    def doubt(self) -> None:
        """Take note that a claim or a look was cut off: too much is dead above a floor. The pages tell a better one."""
        self._doubts = True

    def _try_at_once(self, connection: Connection, lanes: tuple[Lane, ...]) -> View | None:
        began = time.monotonic()
        if self.is_scanning or began < self._look_rests:
            return None
        try:
            view = self._look(connection, lanes, batch_limit=self._limits.batch_limit, from_start=True)
        except DBAPIError as error:
            ended = time.monotonic()
            self._look_rests = ended + RESTS * (ended - began)
            if error.connection_invalidated:
                raise
            if not self._failing:
                log.warning(
                    "cannot look from the beginning of the queue, stepping over what is dead: %s", first_line(error)
                )
            self._failing = True
            return None
        if self._failing:
            log.info("looking from the beginning of the queue again")
        self._failing = False
        return view

    def _walk_on(self, connection: Connection, lanes: tuple[Lane, ...], goes_on: Callable[[], bool]) -> None:
        began = time.monotonic()
        if not self.is_scanning and began < self._walk_rests:
            return
        try:
            walk = self._walk = self._walk or self._begin(connection, lanes)
            while walk.page < walk.pages and goes_on():
                self._step(connection, walk)
        except DBAPIError as error:
            self._walk, self._walk_rests = None, time.monotonic() + RESTS
            if not is_cut_off(error):
                raise
            return
        walk.took += time.monotonic() - began
        if walk.page >= walk.pages:
            self._walk, self._walk_rests = None, time.monotonic() + RESTS * walk.took
            for lane, seen in walk.seen.items():
                self._floors.found(lane, walk.found.get(lane, Position(walk.moment, 0)), seen=seen)

    def _begin(self, connection: Connection, lanes: tuple[Lane, ...]) -> _Walk:
        self._doubts = False
        row = functions.call(connection, "scan_pages", {"slack": SLACK}).one()
        for lane, floor in self._floors.read(lanes).items():
            if floor.due_at is None:
                self._floors.advance(lane, seen=floor, end=Position(row.moment, 0))
        return _Walk(row.moment, row.pages, self._floors.read(lanes))

    def _step(self, connection: Connection, walk: _Walk) -> None:
        def look_at(pages: int) -> tuple[int, list[Row[Any]]]:
            last = walk.page + pages
            tids = {"first": f"({walk.page},0)", "last": f"({last},0)"}
            binds = {"queue": self._limits.queue, "moment": walk.moment, **tids}
            return last, list(functions.call(connection, "scan_walk", binds))

        walk.page, rows = self._step_size.take(look_at)
        for row in rows:
            lane, first = (Priority(row.priority), row.action), Position(row.due_at, row.token - 1)
            known = walk.found.get(lane)
            if known is None or (known.due_at, known.token) > (first.due_at, first.token):
                walk.found[lane] = first
