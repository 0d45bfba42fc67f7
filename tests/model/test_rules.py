"""Each rule of the protocol is needed: without it a property breaks, in the steps that are printed."""

from dataclasses import replace

import pytest

from tests.model.rules import ALL, BASIC, NUMBERED
from tests.model.search import search
from tests.model.worlds import BASIC_WITHOUT, WITHOUT

# How many steps it takes, at the least: a model in which fewer or more are needed is another model.
STEPS = dict(enumerate((9, 11, 8, 9, 10, 8, 9, 5, 5, 11, 18, 4, 4, 4, 9, 5, 7, 4, 4, 6, 5), start=1))


@pytest.mark.slow
@pytest.mark.parametrize("number", NUMBERED)
def test_nothing_breaks_with_the_rule_and_its_property_without(number: int) -> None:
    rule, _, broken = NUMBERED[number]
    world = WITHOUT[number]
    kept = search(world)
    assert kept.complete
    assert kept.broken == ""

    found = search(replace(world, rules=ALL.without(rule)), watch=frozenset({broken}))

    print(number, rule, found)
    assert found.broken == broken
    assert len(found.trace) == STEPS[number]


@pytest.mark.parametrize("rule", BASIC)
def test_the_checker_bites(rule: str) -> None:
    _, broken = BASIC[rule]
    found = search(replace(BASIC_WITHOUT, rules=ALL.without(rule)), watch=frozenset({broken}))
    print(rule, found)
    assert found.broken == broken
