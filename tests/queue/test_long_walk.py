"""The state machine for longer, and each time at random: on one server.

The walk is the same on each, and so are the statements. What a server or a pooler may do otherwise, the short walk and
the tests of each statement see.
"""

import pytest
from hypothesis import settings
from sqlalchemy import Engine

from tests.queue.event_machine import MailroomWithEvents
from tests.queue.machine import Mailroom
from tests.queue.test_state_machine import QUICK, run

EACH_SERVER = False


@pytest.mark.early
@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("machine", [Mailroom, MailroomWithEvents])
def test_no_mail_is_lost_and_none_is_doubled_unrecorded_in_the_long_run(
    engine: Engine, machine: type[Mailroom]
) -> None:
    run(engine, machine, settings(QUICK, max_examples=100, stateful_step_count=60, derandomize=False), prepares=True)
