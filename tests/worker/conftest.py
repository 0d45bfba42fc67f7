"""A sender that claims several batches at once, and a transport that answers it as a test says."""

import pytest
from sqlalchemy import Engine, text

from mailroom.worker.sender import Sender
from mailroom.worker.shared import Shared
from tests import running
from tests.running import Scripted
from tests.worker.batches import JOBS, LIMIT
from tests.world import add_accounts, count


@pytest.fixture
def sends() -> Scripted:
    return Scripted()


@pytest.fixture
def shared(engine: Engine, sends: Scripted) -> Shared:
    return running.shared(engine, sends, clock=sends.clock, batch_limit=LIMIT)


@pytest.fixture
def sender(engine: Engine, sends: Scripted, shared: Shared) -> Sender:
    """A sender that has found that sending takes no time, and now claims four batches at once."""
    found = Sender(shared, name="test")
    with engine.connect() as connection:
        add_accounts(connection, 3 * LIMIT + JOBS)
        connection.execute(text("UPDATE jobs SET due_at = now() - interval '1 minute'"))  # so that floors matter
        for opened in (1, 2):
            before = count(connection, "deliveries")
            found.work_claim()
            assert count(connection, "deliveries") - before == opened * LIMIT
    return found
