"""Visit every state of a world, breadth first, so that a trace is the shortest there is.

States are kept exactly, or by their 64-bit hash (Python's own, of nested tuples of small numbers and words): then a
collision could hide one, with a chance of about n²/2⁶⁵ for n states. By hash, two tokens that change places are one
state. For the way back to a state, six bytes: which state it came from, and by which of its steps.
"""

import time
from array import array
from collections.abc import Callable, Hashable
from dataclasses import dataclass

from tests.model import properties, symmetry
from tests.model.state import State
from tests.model.steps import steps
from tests.model.world import World


@dataclass(frozen=True, slots=True)
class Found:
    """What a search has seen: a broken property with its trace, or none, and how far it got."""

    broken: str
    trace: tuple[str, ...]
    states: int
    depth: int
    complete: bool
    seconds: float

    def __str__(self) -> str:
        end = "to the end" if self.complete else "cut off"
        seen = f"{self.states:,} states, {self.depth} steps deep, {end}, {self.seconds:.0f} s"
        return f"{seen}: {self.broken} breaks by {' · '.join(self.trace)}" if self.broken else f"{seen}: nothing broken"


def search(
    world: World,
    *,
    most: int = 10_000_000,
    watch: frozenset[str] = frozenset(properties.PROPERTIES),
    exact: bool = True,
) -> Found:
    """Visit up to so many states, and stop at the first that breaks a property that is watched."""
    began = time.monotonic()
    key = _key(world, exact=exact)
    start = world.start()
    seen: set[Hashable] = {key(start)}
    came_from, by = array("I", [0]), array("H", [0])
    layer, first, depth = [start], 0, 0
    while layer:
        following: list[State] = []
        for index, state in enumerate(layer, start=first):
            for ordinal, (label, after, broke) in enumerate(steps(world, state)):
                known = key(after)
                new = known not in seen
                if broken := _watched(world, watch, after, broke, new=new):
                    way = (*_way_to(world, came_from, by, index), label)
                    return Found(broken, way, len(seen), depth + 1, False, time.monotonic() - began)
                if new:
                    seen.add(known)
                    came_from.append(index)
                    by.append(ordinal)
                    following.append(after)
            if len(seen) >= most:
                return Found("", (), len(seen), depth + 1, False, time.monotonic() - began)
        first += len(layer)
        layer, depth = following, depth + 1
    return Found("", (), len(seen), depth - 1, True, time.monotonic() - began)


def _key(world: World, *, exact: bool) -> Callable[[State], Hashable]:
    if exact:
        return lambda state: state
    return symmetry.key if world.tokens == 2 and not (world.failovers or world.overlap) else hash


def _watched(world: World, watch: frozenset[str], after: State, broke: str, *, new: bool) -> str:
    """Return the property that this step broke, or that does not hold now, if it is watched."""
    if broke in watch:
        return broke
    broken = properties.broken(world, after) if new else ""
    return broken if broken in watch else ""


def _way_to(world: World, came_from: "array[int]", by: "array[int]", index: int) -> list[str]:
    """Return the names of the steps to a state: they are made again, from the start."""
    ordinals = []
    while index:
        ordinals.append(by[index])
        index = came_from[index]
    state, names = world.start(), []
    for ordinal in reversed(ordinals):
        label, state, _ = list(steps(world, state))[ordinal]
        names.append(label)
    return names
