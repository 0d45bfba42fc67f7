"""Anything in any order, with a provider that is heard and with one that is not: no mail is lost."""

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test
from sqlalchemy import Engine

from tests.queue.event_machine import MailroomWithEvents
from tests.queue.machine import Mailroom
from tests.servers import Server

THROUGH_PGBOUNCER = True

QUICK = settings(
    max_examples=15,
    stateful_step_count=50,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)


def run(engine: Engine, machine: type[Mailroom], profile: settings, *, prepares: bool) -> None:
    """Let a machine do as it likes on this database; `prepares`: no pooler is between."""
    with engine.connect() as open_connection:
        here = type("MailroomHere", (machine,), {"connection": open_connection, "prepares": prepares})
        run_state_machine_as_test(here, settings=profile)


@pytest.mark.slow
@pytest.mark.early
@pytest.mark.parametrize("machine", [Mailroom, MailroomWithEvents])
def test_no_mail_is_lost_and_none_is_doubled_unrecorded(
    server: Server, engine: Engine, machine: type[Mailroom]
) -> None:
    run(engine, machine, QUICK, prepares=server.pooler_port is None)
