"""A machine that is alone with a fault stops alone; a fault of all pauses all."""

import itertools
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import timedelta

import pytest
from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import DBAPIError

from mailroom import ses
from mailroom.fleet import pauses
from mailroom.outcome import Scope, Sent
from mailroom.simulator import Fault, Simulator
from mailroom.worker import acceptances, probe_turn
from mailroom.worker.own_fault import OwnFault
from mailroom.worker.sweep import Swept, sweep
from mailroom.worker.vitals import process_name
from tests import running
from tests.claiming import settle_alike, take
from tests.kinds import ACTIVATION, RECOVERY
from tests.running import eventually, transport, working
from tests.trouble import statements
from tests.worker.test_given_back import lose_one_answer
from tests.world import add_accounts, count, drained, misplaced, rows

LOOK = ".look("
Wrong = Callable[[Simulator, pytest.MonkeyPatch], AbstractContextManager[ses.SesTransport]]


def of_another_set(simulator: Simulator, monkeypatch: pytest.MonkeyPatch) -> ses.SesTransport:
    return transport(simulator, monkeypatch, config_set="defualt")


@contextmanager
def with_another_set(simulator: Simulator, monkeypatch: pytest.MonkeyPatch) -> Iterator[ses.SesTransport]:
    yield of_another_set(simulator, monkeypatch)


@contextmanager
def with_another_sender(_: Simulator, monkeypatch: pytest.MonkeyPatch) -> Iterator[ses.SesTransport]:
    """The simulator minds no sender; SES does."""
    failed = "Email address is not verified. The following identities failed the check in region EU-WEST-1: "
    with Simulator() as elsewhere:
        elsewhere.configuration_sets.create("default")
        elsewhere.faults.add(Fault(error="MessageRejected", message=f"{failed}noreply@exmaple.com", times=None))
        yield transport(elsewhere, monkeypatch, source="noreply@exmaple.com")


@contextmanager
def in_another_region(_: Simulator, monkeypatch: pytest.MonkeyPatch) -> Iterator[ses.SesTransport]:
    """Where there are no templates."""
    with Simulator() as elsewhere:
        elsewhere.configuration_sets.create("default")
        for template in ("activationv1", "passwordrecoveryv1"):
            elsewhere.templates.delete(template)
        yield transport(elsewhere, monkeypatch)


def flow(connection: Connection, seconds: float) -> float:
    """Let people sign up for a while; return which share of the time anything was paused."""
    ends, paused, looks = time.monotonic() + seconds, 0, 0
    for number in itertools.count():
        add_accounts(connection, 5, prefix=f"n{number}n")
        for _ in range(5):
            paused += bool(pauses.read(connection))
            looks += 1
            time.sleep(0.02)
        if time.monotonic() > ends:
            return paused / looks
    raise AssertionError


@pytest.mark.slow
@pytest.mark.alone
@pytest.mark.parametrize("wrong", [with_another_set, with_another_sender, in_another_region])
def test_a_machine_with_a_wrong_setting_stops_alone(
    engine: Engine,
    simulator: Simulator,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    wrong: Wrong,
) -> None:
    with engine.connect() as connection, wrong(simulator, monkeypatch) as bad:
        good = transport(simulator, monkeypatch)
        with working(engine, good, sweep_interval=0.1), working(engine, bad, concurrency=3, sweep_interval=0.1):
            assert flow(connection, 8) < 0.3
            stopped = caplog.text.count("not paused scope=")
            assert stopped >= 2
            assert caplog.text.count("paused scope=") - stopped <= 1
            eventually(lambda: drained(connection), "all is sent by the others")
        assert count(connection, "deliveries WHERE outcome = 'sent'") == count(connection, "accounts")
        charged = "SELECT * FROM deliveries WHERE attempt > 0 OR outcome = 'unconfirmed' ORDER BY id"
        assert rows(connection, charged) == []
        assert misplaced(connection) == []


def test_a_pause_says_who_has_found_the_fault(
    engine: Engine, simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    with engine.connect() as connection:
        add_accounts(connection, 1)
        with working(engine, of_another_set(simulator, monkeypatch), sweep_interval=0.1):
            [pause] = eventually(lambda: pauses.read(connection), "it is paused")
    assert pause.reason == f"SES refuses the configuration set (found by {process_name()})"


@pytest.mark.slow
@pytest.mark.parametrize("error", ["AccountSuspendedException", "MailFromDomainNotVerifiedException"])
def test_a_fault_of_all_pauses_all_soon_though_all_were_accepted_before(
    engine: Engine, simulator: Simulator, monkeypatch: pytest.MonkeyPatch, error: str
) -> None:
    with engine.connect() as connection:
        both = (transport(simulator, monkeypatch), transport(simulator, monkeypatch))
        with working(engine, both[0], sweep_interval=0.1), working(engine, both[1], sweep_interval=0.1):
            flow(connection, 1)
            eventually(lambda: drained(connection), "all is sent")
            simulator.faults.add(Fault(error=error, times=None))
            add_accounts(connection, 40, prefix="later")
            eventually(lambda: pauses.read(connection), "it is paused", seconds=12)
            simulator.faults.clear()
            eventually(lambda: drained(connection), "a probe ends the pause, and all is sent")
        assert pauses.read(connection) == []
        assert count(connection, "deliveries WHERE attempt > 0") == 0


def test_a_sweep_that_is_alone_with_a_fault_leaves_the_rest(
    engine: Engine, simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It tries no pause again, and claims nothing more."""
    with engine.connect() as connection:
        add_accounts(connection, 20)
        for scope in ("account", "activation"):
            pauses.open_pause(connection, scope, code="Fault", reason="a reason")
        connection.execute(text("UPDATE pauses SET probe_at = now()"))
        shared = running.shared(engine, of_another_set(simulator, monkeypatch))
        assert sweep(shared, name="test", max_time=timedelta(seconds=30)) is Swept.REFUSED
        assert sum(row.probes for row in rows(connection, "SELECT probes FROM pauses")) == 1
        assert count(connection, "jobs") == 20


@pytest.mark.slow
def test_a_worker_that_backs_off_leaves_probes_to_others(
    engine: Engine, simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    with engine.connect() as connection:
        add_accounts(connection, 1)
        pauses.open_pause(connection, "account", code="Fault", reason="a reason")
        monkeypatch.setattr(probe_turn, "LEFT_TO_OTHERS", timedelta(hours=1))  # they are somewhere, and busy
        with (
            statements(engine) as seen,
            working(engine, transport(simulator, monkeypatch), sweep_interval=0.05) as worker,
        ):
            breaker = worker._shared.breaker  # it is nobody's own
            breaker.trip("Fault", "a reason", now=time.monotonic() - 60, jitter=0)  # open, and it may try again
            connection.execute(text("UPDATE pauses SET probe_at = now()"))
            before = len(seen)
            eventually(lambda: sum(LOOK in one for one in seen[before:]) > 25, "it sees that the pause can be probed")
            [row] = rows(connection, "SELECT probes FROM pauses")
            assert row.probes == 0
            breaker.reset()
            eventually(lambda: drained(connection), "it probes")


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def sent(connection: Connection, action: str, *, ago: float) -> None:
    connection.execute(
        text(
            "INSERT INTO deliveries (token, account, action, outcome, attempt, created_at)"
            " VALUES (1, 1, :action, 'sent', 0, clock_timestamp() - make_interval(secs => :ago))"
        ),
        {"action": action, "ago": ago},
    )


def own_fault(engine: Engine, clock: Clock) -> OwnFault:
    known = {str(ACTIVATION): ACTIVATION, str(RECOVERY): RECOVERY}
    return OwnFault(engine, known=lambda: known, clock=clock)


def test_what_others_had_accepted_before_our_last_answer_tells_nothing(engine: Engine, connection: Connection) -> None:
    clock = Clock()
    mine = own_fault(engine, clock)
    clock.now = 150
    sent(connection, "activation", ago=20)
    assert mine.is_own("activation", Scope.ACCOUNT, began=149)
    clock.now = 151
    assert not mine.is_own("activation", Scope.ACCOUNT, began=150.5)
    assert mine.is_own("activation", Scope.IDENTITY, began=150.5)
    mine.accepted(ACTIVATION)
    assert not mine.is_own("activation", Scope.CONFIGURATION_SET, began=140)


def test_a_fault_of_which_the_log_could_not_be_asked_hides_nothing(engine: Engine, connection: Connection) -> None:
    """Or the next one of this machine would pause the fleet: since a moment ago nobody had a mail accepted."""
    clock = Clock()
    mine = own_fault(engine, clock)
    clock.now = 150
    sent(connection, "activation", ago=20)
    lose_one_answer(engine, "attempts")
    with pytest.raises(DBAPIError):
        mine.is_own("activation", Scope.ACCOUNT, began=149)
    clock.now = 151
    assert mine.is_own("activation", Scope.ACCOUNT, began=150.5)


def test_a_call_that_was_in_flight_at_the_last_fault_is_judged_like_it(engine: Engine, connection: Connection) -> None:
    clock = Clock()
    mine = own_fault(engine, clock)
    clock.now = 150
    sent(connection, "activation", ago=20)
    assert [mine.is_own("activation", Scope.ACCOUNT, began=149) for _ in range(3)] == [True] * 3


def test_another_action_tells_nothing_of_a_template(engine: Engine, connection: Connection) -> None:
    clock = Clock()
    mine = own_fault(engine, clock)
    clock.now = 150
    sent(connection, "password_recovery", ago=20)
    assert not mine.is_own("activation", Scope.ACTION, began=149)
    assert mine.is_own("activation", Scope.ACCOUNT, began=149)


def test_what_others_sent_while_the_clock_was_ahead_says_nothing_of_now(connection: Connection) -> None:
    add_accounts(connection, 1)
    settle_alike(connection, take(connection), Sent("m"))
    assert acceptances.newest(connection, ["activation"]) is not None
    connection.execute(text("UPDATE deliveries SET created_at = created_at + interval '1 day'"))
    assert acceptances.newest(connection, ["activation"]) is None
