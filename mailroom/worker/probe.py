"""Tries whether a pause can end: with one mail, and where that is refused, with others."""

import time
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from functools import partial
from typing import Final, TypeVar

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from mailroom.db.step_size import is_cut_off
from mailroom.fleet import clock, pauses
from mailroom.fleet.permits import ASK_AGAIN, Permit
from mailroom.job import Batch, Position
from mailroom.mail.transport import DENIALS
from mailroom.outcome import Sent
from mailroom.queue.lanes import Lane, Lanes
from mailroom.worker.claim_run import ClaimRun
from mailroom.worker.claim_size import ClaimSize
from mailroom.worker.claimer import Claimer
from mailroom.worker.shared import Shared

T = TypeVar("T")

# How long one probe may take before it begins with another mail, and so how long it looks for one among jobs that turn
# out to be finished.
MAX_PROBE_TIME: Final = timedelta(seconds=5)


class Prober:
    """Probes for one sender. `serve_urgent` works a claim of urgent mail, which goes first."""

    def __init__(
        self, shared: Shared, claimer: Claimer, size: ClaimSize, *, serve_urgent: Callable[[], object]
    ) -> None:
        self._shared = shared
        self._claimer = claimer
        self._size = size
        self._serve_urgent = serve_urgent

    def probe(self, stopping: Callable[[], bool] = lambda: False) -> bool:
        """Try one pause whose probe is due, unless `stopping`; return False if there is none to be tried now.

        It ends with the first mail that is accepted. No refusal is believed: what is paused may be why. So the mails
        are those that were never refused, from all over the queue.
        """
        permit = self._shared.permits.take(1, urgent_waits=lambda: True)
        if permit is None:
            return False
        with permit:
            found = self._begin()
            if found is None:
                return False
            most, places, in_turn = found
            ends = time.monotonic() + MAX_PROBE_TIME.total_seconds()
            claims = self._claim_in_turn(places, in_turn, ends)
            refused = self._try_mail(permit, claims)
        for _ in range(most - 1):
            again = self._await_permit(ends, stopping) if refused else None
            if again is None:
                break
            with again:
                refused = self._try_mail(again, claims)
        self._shared.breaker.nothing_to_try()  # where no call has told anything
        return True

    def _begin(self) -> tuple[int, list[tuple[Lane, Position]], list[list[Lane]]] | None:
        """Take the right to probe a scope; return how many mails to try, where they wait, and the lanes to look in."""
        limits, refusals, kinds = self._shared.limits, self._shared.refusals, self._shared.claims.lanes
        begin = self._shared.claims.floors
        with self._shared.engine.connect() as connection:
            take = partial(pauses.probe, connection, queue=limits.queue, lanes=kinds.all, refusals=refusals.codes)
            scope = take(begin=begin)
            if scope is None:  # what came back lies below them, perhaps, behind all that is dead
                begin = {}
                scope = _unless_cut_off(take)
            if scope is None:
                return None
            most, in_turn = refusals.mails_to_probe(connection, scope), _lanes_to_probe(connection, scope, kinds)
            tried = refusals.codes | DENIALS
            of_queue = partial(pauses.places, connection, queue=limits.queue, most=most, refusals=tried)
            places = [
                place
                for lanes in in_turn
                for place in _unless_cut_off(partial(of_queue, lanes=lanes, begin=begin)) or ()
            ]
        return most, places, in_turn

    def _await_permit(self, ends: float, stopping: Callable[[], bool]) -> Permit | None:
        """Wait for a permit for another mail of a probe. What is urgent goes first, and keeps its reserve."""
        while not stopping() and not self._shared.stopping.is_set() and time.monotonic() < ends:
            if self._shared.claims.urgent_waiting():
                self._serve_urgent()
            permit = self._shared.permits.take(1, urgent_waits=lambda: False)
            if permit is not None:
                return permit
            self._shared.stopping.wait(ASK_AGAIN.total_seconds())
        return None

    def _try_mail(self, permit: Permit, claims: Iterator[Sequence[Batch]]) -> bool:
        """Send one mail of what is paused, and resume if it is accepted; return whether it was refused."""
        since = clock.seconds()
        batches = next(claims, None)
        if batches is None:
            return False
        permit.keep([1])
        interpret = self._shared.refusals.interpret_probe
        run = ClaimRun(self._shared, batches, permit=permit, size=self._size, since=since, interpret=interpret)
        outcomes = [outcome for answer in run.work() for outcome in answer]
        self._claimer.settled()
        if any(isinstance(outcome, Sent) for outcome in outcomes):
            self._shared.reactions.resume(batches[0].action)
        return self._shared.refusals.refused_any(outcomes)

    def _claim_in_turn(
        self, places: Sequence[tuple[Lane, Position]], in_turn: Sequence[Sequence[Lane]], ends: float
    ) -> Iterator[Sequence[Batch]]:
        """Claim one job after the other, at these places; what is finished meanwhile is none.

        If there is nothing at any of them, one of the first of these lanes that has one to send.
        """
        found = False
        for lane, place in places:
            if batches := self._claimer.claim_one([lane], place).batches:
                found = True
                yield batches
        for lanes in () if found else in_turn:
            while time.monotonic() < ends:
                claim = self._claimer.claim_one(lanes)
                if claim.batches:
                    yield claim.batches
                if claim.taken == 0:
                    break


def _unless_cut_off(ask: Callable[[], T]) -> T | None:
    """Return what is asked for; None where too much is dead for a statement to pass it."""
    try:
        return ask()
    except DBAPIError as error:
        if is_cut_off(error):
            return None
        raise


def _lanes_to_probe(connection: Connection, scope: str, kinds: Lanes) -> list[list[Lane]]:
    """The lanes with which to try a scope: what is paused for itself as well cannot tell, and comes last."""
    paused = {pause.scope for pause in pauses.read(connection)}
    lanes = [lane for lane in kinds.all if scope in pauses.covering(kinds.actions[lane[1]])]
    return [[lane for lane in lanes if lane[1] not in paused], [lane for lane in lanes if lane[1] in paused]]
