"""When permits are scarce, and a mail waits for company: not where more of them are at hand than there are mails."""

from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import Engine

from mailroom.fleet.blocks import FleetPermits
from mailroom.fleet.permits import NoLimit, Permit, Permits
from mailroom.worker.sender import Sender, Work
from tests import running
from tests.fleet.permitting import Clock, account, permits
from tests.kinds import ACTIVATION
from tests.running import Scripted, eventually, working
from tests.world import add_accounts, execute


def nobody_urgent() -> bool:
    return False


def patient(engine: Engine, sends: Scripted, given: Permits) -> Sender:
    """A sender that would wait for an hour until a batch is full."""
    return running.sender(engine, sends, permits=given, clock=sends.clock, batch_timeout=timedelta(hours=1))


@pytest.mark.parametrize("rate", [1, 14, 20, 100, -1])
def test_a_lone_activation_leaves_at_once_whatever_the_rate_is(engine: Engine, clock: Clock, rate: float) -> None:
    """With 14 a second, as most accounts begin, five permits are at hand, and never ten."""
    account(engine, rate)
    sends = Scripted()
    works = patient(engine, sends, permits(engine, clock, bulk_rate=1))
    with engine.connect() as connection:
        add_accounts(connection, 1)
    works.work_claim()
    assert sends.calls == [(ACTIVATION, 1)]


def test_claims_in_vain_ask_for_no_more_than_before(engine: Engine, clock: Clock) -> None:
    """In a fleet all but one claim in vain whenever somebody signs up. What comes back was not used."""
    account(engine, 100)
    held = permits(engine, clock)
    for _ in range(5):
        permit = held.take(10, urgent_waits=nobody_urgent)
        assert permit is not None
        with permit:
            permit.keep([])
    assert held.take(10, urgent_waits=nobody_urgent) is not None
    assert permits(engine, clock).take(10, urgent_waits=nobody_urgent) is not None  # of another process


def test_after_claims_in_vain_a_lone_activation_leaves_at_once(engine: Engine, clock: Clock) -> None:
    account(engine, 100)
    sends = Scripted()
    works = patient(engine, sends, permits(engine, clock, bulk_rate=1))
    for _ in range(5):
        assert works.work_claim() == Work(0, full=False)
    with engine.connect() as connection:
        add_accounts(connection, 1)
    works.work_claim()
    assert sends.calls == [(ACTIVATION, 1)]


@pytest.fixture
def seldom_looking(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have workers look only where something asks for it, and when they begin."""
    for name in ("worker.FIRST_LOOK", "report.REPORT_EVERY"):
        monkeypatch.setattr(f"mailroom.worker.{name}", timedelta(minutes=10))


@pytest.mark.slow
@pytest.mark.usefixtures("seldom_looking")
def test_where_permits_are_scarce_a_lone_activation_waits_as_long_as_it_should(engine: Engine, direct_url: str) -> None:
    """The look that follows the claim in vain tells when its time is over."""
    account(engine, 100)
    execute(engine, "UPDATE permits SET slowdown = 0.2, throttled_at = clock_timestamp() + interval '1 minute'")
    sends, given = Scripted(), FleetPermits(engine, mail_rate=None, bulk_rate=1)
    waits: dict[str, Any] = {"batch_timeout": timedelta(seconds=2), "sweep_interval": 600}
    with engine.connect() as connection, working(engine, sends, permits=given, listen=direct_url, **waits) as worker:
        eventually(lambda: worker._vitals.is_listening and worker._vitals.is_listening(), "the worker listens")
        execute(engine, "UPDATE permits SET throttled_at = clock_timestamp()")
        add_accounts(connection, 1)
        eventually(lambda: sends.calls, "it leaves")


class ScarceWhenTaken(NoLimit):
    """Permits that were scarce for each claim, and are no more at the look that follows, as on a slow machine."""

    def take(self, wanted: int, **_: Any) -> Permit:
        return Permit(wanted, scarce=True)


@pytest.mark.slow
@pytest.mark.usefixtures("seldom_looking")
def test_a_look_that_finds_permits_no_longer_scarce_leaves_no_lone_activation_to_the_next_sweep(
    engine: Engine, direct_url: str
) -> None:
    """It has a sender claim what that leaves again, since permits are scarce as soon as they are asked for."""
    sends = Scripted()
    waits: dict[str, Any] = {"batch_timeout": timedelta(seconds=1), "sweep_interval": 600}
    with (
        engine.connect() as connection,
        working(engine, sends, permits=ScarceWhenTaken(), listen=direct_url, **waits) as worker,
    ):
        eventually(lambda: worker._vitals.is_listening and worker._vitals.is_listening(), "the worker listens")
        add_accounts(connection, 1)
        eventually(lambda: sends.calls, "it leaves")
