"""The simulator by the name of what it stands for, and one client for all these tests."""

import pytest
from mypy_boto3_sesv2 import SESV2Client

from mailroom.simulator import Simulator
from tests.simulator.client import connect


@pytest.fixture
def ses(simulator: Simulator) -> Simulator:
    return simulator


@pytest.fixture(scope="session")
def client(running: Simulator) -> SESV2Client:
    """Sends each request exactly once."""
    return connect(running.url)
