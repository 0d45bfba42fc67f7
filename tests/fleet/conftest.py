"""Time that passes when a test says so."""

import pytest

from tests.fleet.permitting import Clock


@pytest.fixture
def clock() -> Clock:
    return Clock()
