"""Bad recipients and a broken configuration: the one holds nobody up, the other costs no mail anything."""

import io
import threading
import time
from collections.abc import Sequence
from datetime import timedelta

import pytest
from sqlalchemy import Connection, Engine, text

from mailroom.fleet import pauses
from mailroom.fleet.blocks import FleetPermits
from mailroom.mail.debug import DebugTransport
from mailroom.mail.transport import Mail, Transport
from mailroom.outcome import Outcome
from mailroom.simulator import Fault, Simulator
from mailroom.worker.refusals import MAX_PROBED
from mailroom.worker.sweep import Swept, sweep
from tests.kinds import ACTIVATION, RECOVERY
from tests.running import PATIENCE_SECONDS, Scripted, eventually, refuse, sender, shared, transport, working
from tests.worker.refusing import record, sign_up
from tests.world import add_accounts, ask_recovery, count, drained, misplaced, rows

# How SES refuses a mail for its recipient's sake: the entry, or the whole call.
BY_ENTRY = (
    Fault(operation="SendEmail", recipients="bad", error="MessageRejected", times=None),
    Fault(operation="SendBulkEmail", recipients="bad", matching="MESSAGE_REJECTED", times=None),
)
WHOLE = (Fault(recipients="bad", error="BadRequestException", times=None),)
REFUSES = pytest.mark.parametrize("faults", [BY_ENTRY, WHOLE], ids=["by entry", "whole calls"])
BROKEN = Fault(template="activationv1", error="BadRequestException", times=None)


@pytest.fixture(autouse=True)
def _long_probes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A probe tries all the mails that it may, however busy the machine is."""
    monkeypatch.setattr("mailroom.worker.probe.MAX_PROBE_TIME", timedelta(minutes=1))


def good_sent(simulator: Simulator) -> int:
    return sum("good" in mail.recipients[0] for mail in simulator.ledger.mails)


def calls(simulator: Simulator) -> int:
    return simulator.ledger.counts().requests


def over(connection: Connection, outcome: str) -> int:
    return count(connection, f"deliveries WHERE outcome = '{outcome}' AND retried_at IS NULL AND NOT late")


def hasten(connection: Connection) -> None:
    """Let nothing wait for its time."""
    connection.execute(text("UPDATE jobs SET due_at = now() WHERE due_at > now() AND due_at < 'infinity'"))
    connection.execute(text("UPDATE pauses SET probe_at = now() WHERE probe_at > now()"))


def assert_each_came_to_its_end(connection: Connection, simulator: Simulator, *, bad: int, good: int) -> None:
    def is_over() -> bool:
        """The mail that ends a pause is on record before that is; and what the pause has held comes back before it."""
        hasten(connection)
        return not pauses.read(connection) and drained(connection)

    eventually(is_over, "all is over")
    assert misplaced(connection) == []
    assert (over(connection, "sent"), over(connection, "rejected") + over(connection, "failed")) == (good, bad)
    assert simulator.ledger.duplicates() == {}


@pytest.mark.slow
@REFUSES
def test_a_hundred_bad_sign_ups_in_front_hold_up_no_others(
    engine: Engine, simulator: Simulator, monkeypatch: pytest.MonkeyPatch, faults: Sequence[Fault]
) -> None:
    simulator.faults.add(*faults)
    with engine.connect() as connection:
        sign_up(connection, bad=100, good=240)
        with working(engine, transport(simulator, monkeypatch), sweep_interval=0.2):
            eventually(lambda: good_sent(simulator) == 240, "all good mails are sent")
            assert calls(simulator) <= 300
            assert_each_came_to_its_end(connection, simulator, bad=100, good=240)
    assert calls(simulator) <= 600


@pytest.mark.slow
@pytest.mark.early
@REFUSES
def test_nor_do_those_among_them(
    engine: Engine, simulator: Simulator, monkeypatch: pytest.MonkeyPatch, faults: Sequence[Fault]
) -> None:
    simulator.faults.add(*faults)
    with engine.connect() as connection:
        sign_up(connection, bad=300, good=33, good_after=9)
        with working(engine, transport(simulator, monkeypatch), sweep_interval=0.2):
            eventually(lambda: good_sent(simulator) == 33, "all good mails are sent")
            assert calls(simulator) <= 900
            # Of the last bad ones nobody can tell, until another is accepted.
            add_accounts(connection, 1, prefix="good-at-last")
            assert_each_came_to_its_end(connection, simulator, bad=300, good=34)
    assert calls(simulator) <= 1_200


@pytest.mark.slow
@REFUSES
def test_nor_do_those_that_come_without_end(
    engine: Engine, simulator: Simulator, monkeypatch: pytest.MonkeyPatch, faults: Sequence[Fault]
) -> None:
    """Twenty bad sign-ups for each good one, which leaves before the next twenty have long come."""
    simulator.faults.add(*faults)
    with engine.connect() as connection:
        [person] = add_accounts(connection, 1, status="active", prefix="person")
        with working(engine, transport(simulator, monkeypatch), sweep_interval=0.2):
            for turn in range(6):
                for number in range(4):
                    add_accounts(connection, 5, prefix=f"bad{turn}n{number}n")
                add_accounts(connection, 1, prefix=f"good{turn}n")
                eventually(lambda: good_sent(simulator) == turn + 1, "it is sent")  # noqa: B023
            ask_recovery(connection, person)
            eventually(lambda: simulator.ledger.counts().mails == 7, "nor a recovery")
            assert_each_came_to_its_end(connection, simulator, bad=120, good=7)
    assert calls(simulator) <= 500


@pytest.mark.slow
def test_who_is_good_does_not_wait_for_the_many_who_are_known_to_be_refused(
    engine: Engine, simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only bad ones have signed up for long. They are tried less and less; whoever comes is tried at the next probe."""
    simulator.faults.add(*WHOLE)
    with engine.connect() as connection:
        sign_up(connection, bad=60, good=0)
        with working(engine, transport(simulator, monkeypatch), sweep_interval=0.2):
            eventually(lambda: all_tried(connection), "all are tried once")
            assert calls(simulator) <= 150
            add_accounts(connection, 1, prefix="good")
            hasten(connection)
            before = calls(simulator)
            eventually(lambda: good_sent(simulator) == 1, "it leaves")
            assert calls(simulator) - before <= 20
            assert_each_came_to_its_end(connection, simulator, bad=60, good=1)


def all_tried(connection: Connection) -> bool:
    connection.execute(text("UPDATE pauses SET probe_at = now()"))
    return not count(connection, "tokens WHERE id NOT IN (SELECT token FROM deliveries)")


@pytest.mark.slow
def test_a_broken_template_costs_no_mail_anything(
    engine: Engine, simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the first few nothing is sent but probes, by whomever; and once it is mended, all leave."""
    simulator.faults.add(BROKEN)
    with engine.connect() as connection:
        sign_up(connection, bad=0, good=150)
        for _ in range(3):  # each is a process that knows nothing of those before
            before = calls(simulator)
            with working(engine, transport(simulator, monkeypatch), sweep_interval=0.1):
                eventually(lambda: calls(simulator) > before, "it tries")  # noqa: B023
                eventually(lambda: pauses.read(connection), "it is paused")
            connection.execute(text("UPDATE pauses SET probe_at = now()"))
        searching, probing = simulator.ledger.requests[:10], simulator.ledger.requests[10:]
        assert [request.operation for request in searching].count("SendBulkEmail") == 5
        assert {request.operation for request in probing} <= {"SendEmail"}, "a probe's mails go alone"
        [pause] = rows(connection, "SELECT probes FROM pauses")
        assert len(probing) <= pause.probes * MAX_PROBED
        assert count(connection, "jobs WHERE attempt = 0") == 150
        simulator.faults.clear()
        with working(engine, transport(simulator, monkeypatch), sweep_interval=0.1):
            assert_each_came_to_its_end(connection, simulator, bad=0, good=150)
        assert count(connection, "deliveries WHERE outcome = 'sent' AND attempt = 0") == 150
        assert over(connection, "rejected") == 0


@pytest.mark.slow
def test_a_template_that_breaks_after_long_use_costs_no_mail_anything(
    engine: Engine, simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    with engine.connect() as connection:
        with working(engine, transport(simulator, monkeypatch), sweep_interval=0.1):
            sign_up(connection, bad=0, good=50)
            eventually(lambda: drained(connection), "all is sent")
            simulator.faults.add(BROKEN)
            before = calls(simulator)
            add_accounts(connection, 100, prefix="later")
            eventually(lambda: pauses.read(connection), "it is paused")
            eventually(lambda: calls(simulator) > before + 3, "it tries")
            simulator.faults.clear()
            assert_each_came_to_its_end(connection, simulator, bad=0, good=150)
        assert count(connection, "deliveries WHERE outcome = 'sent' AND attempt = 0") == 150


@pytest.mark.slow
def test_two_workers_and_one_that_follows_hold_up_nobody(
    engine: Engine, simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    simulator.faults.add(*WHOLE)
    first, second = transport(simulator, monkeypatch), transport(simulator, monkeypatch)
    with engine.connect() as connection:
        sign_up(connection, bad=100, good=100)
        with working(engine, first, sweep_interval=0.2):
            eventually(lambda: calls(simulator) > 5, "one begins")
        with working(engine, first, sweep_interval=0.2, concurrency=2), working(engine, second, sweep_interval=0.2):
            eventually(lambda: good_sent(simulator) == 100, "all good mails are sent")
            assert_each_came_to_its_end(connection, simulator, bad=100, good=100)
    assert calls(simulator) <= 500


@pytest.mark.slow
def test_sweeps_of_cron_alone_get_past_them(
    engine: Engine, simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each pass is a process of its own, and ends with what it can do: the first leaves no good mail behind."""
    simulator.faults.add(*BY_ENTRY)
    with engine.connect() as connection:
        sign_up(connection, bad=100, good=300)  # so that one of the ten that a probe tries is good
        for _ in range(10):
            process = shared(engine, transport(simulator, monkeypatch))
            swept = sweep(process, name="test", max_time=timedelta(seconds=60))
            assert good_sent(simulator) == 300
            hasten(connection)
            if swept is Swept.DRAINED and drained(connection):
                break
        assert_each_came_to_its_end(connection, simulator, bad=100, good=300)


@pytest.mark.slow
def test_a_few_mails_that_are_all_refused_pause_their_action_and_are_charged_nothing(
    engine: Engine, simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As by a sender that is none; and each sweep of cron is a process of its own."""
    simulator.faults.add(BROKEN)
    with engine.connect() as connection:
        add_accounts(connection, 3)
        for _ in range(8):
            hasten(connection)
            sweep(shared(engine, transport(simulator, monkeypatch)), name="test", max_time=timedelta(seconds=30))
        assert [pause.scope for pause in pauses.read(connection)] == ["activation"]
        assert count(connection, "jobs WHERE attempt = 0") == 3
        assert misplaced(connection) == []
        simulator.faults.clear()
        with working(engine, transport(simulator, monkeypatch), sweep_interval=0.1):
            assert_each_came_to_its_end(connection, simulator, bad=0, good=3)


def test_who_hands_its_mails_to_somebody_else_puts_back_what_was_refused(engine: Engine) -> None:
    """A call was in flight when the pause began. Who ends it knows no provider, but the log of the fleet."""
    with engine.connect() as connection:
        add_accounts(connection, 2)
        connection.execute(text("DELETE FROM jobs WHERE token = 1"))
        pauses.open_pause(connection, "activation", code="MessageRejected", reason="", probe_after=timedelta(0))
        record(connection, ("rejected", 1))
        process = shared(engine, DebugTransport(io.StringIO()))
        assert sweep(process, name="test", max_time=timedelta(seconds=60)) is Swept.DRAINED
        assert pauses.read(connection) == []
        assert sorted(row.token for row in rows(connection, "SELECT token FROM deliveries WHERE outcome = 'sent'")) == [
            1,
            2,
        ]


def test_a_recovery_waits_for_no_more_than_one_mail_of_a_probe(engine: Engine) -> None:
    sends = Scripted()
    sends.answers = [refuse]
    with engine.connect() as connection:
        [person] = add_accounts(connection, 1, status="active", prefix="person")
        sign_up(connection, bad=20, good=0)
        pauses.open_pause(connection, "activation", code="MessageRejected", reason="a reason", probe_after=timedelta(0))
        ask_recovery(connection, person)
        assert sender(engine, sends).prober.probe()
        assert [action for action, _ in sends.calls[:3]] == [
            ACTIVATION,
            RECOVERY,
            ACTIVATION,
        ]
        assert len(sends.calls) > 9


def test_what_others_were_refused_at_the_same_moment_counts_though_each_believed_it_of_its_own(
    engine: Engine,
) -> None:
    """The rows of the others are there once this one is settled, and were not when it was weighed."""

    with engine.connect() as connection:
        sign_up(connection, bad=0, good=5)
        sends = [Scripted() for _ in range(5)]
        barrier = threading.Barrier(6)

        def together(mails: Sequence[Mail]) -> Sequence[Outcome]:
            barrier.wait(PATIENCE_SECONDS)  # all have claimed
            barrier.wait(PATIENCE_SECONDS)  # and none can settle
            return refuse(mails)

        for one in sends:
            one.answers = [together]
        threads = [threading.Thread(target=one_claim, args=(engine, one)) for one in sends]
        for thread in threads:
            thread.start()
        barrier.wait(PATIENCE_SECONDS)
        with engine.connect().execution_options(isolation_level="READ COMMITTED") as holder:
            holder.execute(text("LOCK TABLE deliveries IN SHARE MODE"))
            barrier.wait(PATIENCE_SECONDS)
            eventually(lambda: waiting_for_locks(connection) == 5, "all have weighed what they were told")
            holder.commit()
        for thread in threads:
            thread.join()
        assert [pause.scope for pause in pauses.read(connection)] == ["activation"]
        assert count(connection, "jobs") == 5
        assert misplaced(connection) == []


def waiting_for_locks(connection: Connection) -> int:
    waiting = "SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    return len(rows(connection, waiting))


def one_claim(engine: Engine, sends: Transport) -> None:
    sender(engine, sends, batch_limit=1).work_claim()


@pytest.mark.slow
def test_what_is_paused_is_tried_while_other_mail_keeps_the_senders_busy(
    engine: Engine, simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    with engine.connect() as connection:
        [person] = add_accounts(connection, 1, status="active", prefix="person")
        ask_recovery(connection, person)
        pauses.open_pause(connection, "password_recovery", code="MessageRejected", reason="a reason")
        sign_up(connection, bad=0, good=3_000)  # more than leave until then, however long that takes
        with working(engine, transport(simulator, monkeypatch), sweep_interval=0.1, batch_limit=1, claim_limit=1):
            eventually(lambda: good_sent(simulator) > 0, "it is busy")
            connection.execute(text("UPDATE pauses SET probe_at = now()"))
            eventually(lambda: not pauses.read(connection), "the pause ends")
            assert count(connection, "jobs") > 0


@pytest.mark.alone
@pytest.mark.slow
@REFUSES
def test_at_the_rate_of_a_new_account_they_cost_no_more_than_their_turn(
    engine: Engine, simulator: Simulator, monkeypatch: pytest.MonkeyPatch, faults: Sequence[Fault]
) -> None:
    """One bulk call a second and 14 mails: the 130 mails take ten seconds, and those that are tried twice as long."""
    simulator.faults.add(*faults)
    permits = FleetPermits(engine, mail_rate=14, bulk_rate=1)
    with engine.connect() as connection:
        sign_up(connection, bad=100, good=30)
        with working(engine, transport(simulator, monkeypatch), permits=permits):
            began = time.monotonic()
            eventually(lambda: good_sent(simulator) == 30, "all good mails are sent")
            assert time.monotonic() - began < 40
