"""Each rule of the protocol holds on the real functions: its trace ends well with it, and not without it.

tests/model has the same rules, searched through. `traces.py` tells what happens, `rules_out.py` how a rule is taken
out.
"""

from collections.abc import Callable

import pytest
from sqlalchemy import Connection

from tests.queue.replay import Replay
from tests.queue.rules_out import Rule, take_out
from tests.queue.traces import BEYOND, TRACES


@pytest.mark.parametrize("rule", TRACES)
def test_the_trace_of_a_rule_ends_well(connection: Connection, rule: Rule) -> None:
    TRACES[rule](Replay(connection))


@pytest.mark.parametrize("rule", TRACES)
def test_the_trace_of_a_rule_ends_badly_without_it(connection: Connection, rule: Rule) -> None:
    take_out(connection, rule)
    with pytest.raises(AssertionError) as failed:
        TRACES[rule](Replay(connection))
    assert failed.traceback[-1].path == failed.traceback[1].path  # the trace itself, not what it is told with


@pytest.mark.parametrize("trace", BEYOND)
def test_what_the_search_found_beyond_them_ends_well(connection: Connection, trace: Callable[[Replay], None]) -> None:
    trace(Replay(connection))
