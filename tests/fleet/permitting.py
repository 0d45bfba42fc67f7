"""Permits of a fleet whose clock is the test's."""

import time
from collections.abc import Callable

from sqlalchemy import Engine

from mailroom.fleet.blocks import FleetPermits
from mailroom.fleet.permits import Permits
from mailroom.worker.sender import Sender
from tests import running
from tests.rating import let_pass, tell_account
from tests.running import Scripted
from tests.world import rows


class Clock:
    """A monotonic clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.now = time.monotonic() + 1e6  # far ahead, so that for the sender nothing runs out

    def __call__(self) -> float:
        return self.now


def account(engine: Engine, max_send_rate: float, *, daily: float = -1, sent: float = 0) -> None:
    """Let SES have said this, and the buckets be full."""
    with engine.connect() as connection:
        tell_account(connection, max_send_rate, daily=daily, sent=sent)
        let_pass(connection, 3600)


def granted(engine: Engine) -> int:
    with engine.connect() as connection:
        [row] = rows(connection, "SELECT granted FROM permits WHERE bucket = 'mails'")
        return int(row.granted)


def permits(engine: Engine, clock: Callable[[], float], *, bulk_rate: float | None = None) -> FleetPermits:
    return FleetPermits(engine, mail_rate=None, bulk_rate=bulk_rate, clock=clock)


def sender(engine: Engine, sends: Scripted, given: Permits, *, batch_limit: int = 10) -> Sender:
    return running.sender(engine, sends, permits=given, clock=sends.clock, batch_limit=batch_limit)
