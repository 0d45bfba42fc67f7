"""The simulator by the name of what it stands for, and one client for all these tests."""

from typing import Any

import pytest
from mypy_boto3_sesv2 import SESV2Client

from mailroom.simulator import Simulator
from tests.simulator.client import connect
from tests.simulator.queue import connect_queue


@pytest.fixture
def ses(simulator: Simulator) -> Simulator:
    return simulator


@pytest.fixture(scope="session")
def client(running: Simulator) -> SESV2Client:
    """Sends each request exactly once."""
    return connect(running.url)


@pytest.fixture(scope="session")
def sqs(running: Simulator) -> Any:
    """A client of the simulator's queues."""
    return connect_queue(running.url)


@pytest.fixture
def told(ses: Simulator) -> Simulator:
    """The simulator with a configuration set `told`, which publishes what becomes of its mails."""
    ses.configuration_sets.create("told", events=True)
    return ses
