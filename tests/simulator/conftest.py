"""One simulator and one client for all these tests; each finds the simulator as it was at the start."""

from collections.abc import Iterator

import pytest
from mypy_boto3_sesv2 import SESV2Client

from mailroom.simulator import Simulator
from tests.simulator.client import connect


@pytest.fixture(scope="session")
def running() -> Iterator[Simulator]:
    with Simulator() as simulator:
        yield simulator


@pytest.fixture
def ses(running: Simulator) -> Simulator:
    running.reset()
    return running


@pytest.fixture(scope="session")
def client(running: Simulator) -> SESV2Client:
    """Sends each request exactly once."""
    return connect(running.url)
