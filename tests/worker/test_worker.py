"""The worker in this process: waking up, batching, pausing, and surviving what happens to its connections."""

import os
import socket
import statistics
import threading
import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from itertools import pairwise
from typing import Any

import pytest
from sqlalchemy import Engine, event, text

from mailroom.errors import MailroomError
from mailroom.fleet.permits import NoLimit
from mailroom.mail.transport import Mail
from mailroom.outcome import Outcome
from mailroom.queue.listener import NORMAL, URGENT
from mailroom.simulator import Fault, Simulator
from mailroom.worker.breaker import Breaker
from mailroom.worker.vitals import Vitals
from mailroom.worker.worker import Worker
from tests.claiming import run_out
from tests.proxy import HalfOpenProxy
from tests.running import (
    PATIENCE_SECONDS,
    Held,
    Scripted,
    accept,
    connecting,
    eventually,
    shared,
    transport,
    working,
)
from tests.world import add_accounts, ask_recovery, count, drained, misplaced, rows

EACH_SERVER = True  # connections that are ended, that listen, that find locks
THROUGH_PGBOUNCER = True

LISTENING = "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND query LIKE 'LISTEN%'"


@pytest.mark.slow
def test_a_row_becomes_a_mail(engine: Engine, simulator: Simulator, monkeypatch: pytest.MonkeyPatch) -> None:
    with engine.connect() as connection, working(engine, transport(simulator, monkeypatch), concurrency=2):
        add_accounts(connection, 42)
        eventually(lambda: drained(connection), "all is sent")
        assert misplaced(connection) == []
        assert count(connection, "deliveries WHERE outcome = 'sent' AND message_id IS NOT NULL") == 42
    assert sorted(mail.recipients[0] for mail in simulator.ledger.mails) == sorted(
        f"user{n}@example.com" for n in range(1, 43)
    )


@pytest.mark.alone
def test_a_recovery_is_at_ses_within_100_ms_of_its_commit(
    engine: Engine, direct_url: str, simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    with engine.connect() as connection:
        accounts = add_accounts(connection, 200, status="active")
        with working(engine, transport(simulator, monkeypatch), listen=direct_url):
            eventually(lambda: rows(connection, LISTENING), "the worker listens")
            waits: list[float] = []
            for account in accounts:
                token = ask_recovery(connection, account)
                eventually(lambda: simulator.ledger.counts().mails > len(waits), "the mail is there")
                [accepted] = [m.accepted_at for m in simulator.ledger.newest(1)]
                [row] = rows(connection, "SELECT created_at FROM tokens WHERE id = :id", id=token)
                waits.append((accepted - row.created_at).total_seconds() * 1000)
    assert statistics.quantiles(waits, n=20)[-1] < 100, sorted(waits)[-20:]


@pytest.mark.slow
def test_without_listen_the_sweep_delivers(
    engine: Engine, simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    with engine.connect() as connection:
        [account] = add_accounts(connection, 1, status="active")
        with working(engine, transport(simulator, monkeypatch), sweep_interval=0.3) as worker:
            eventually(lambda: rows(connection, "SELECT FROM pg_stat_activity"), "the first look is over")
            ask_recovery(connection, account)
            eventually(lambda: simulator.ledger.counts().mails == 1, "the sweep sends it")
            assert worker


@pytest.mark.slow
def test_a_killed_listen_connection_is_made_again(
    engine: Engine, direct_url: str, simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    with engine.connect() as connection:
        [account] = add_accounts(connection, 1, status="active")
        with working(engine, transport(simulator, monkeypatch), listen=direct_url, sweep_interval=600):
            [first] = eventually(lambda: rows(connection, LISTENING), "the worker listens")
            connection.execute(text("SELECT pg_terminate_backend(:pid)"), {"pid": first.pid})
            [second] = eventually(
                lambda: [row for row in rows(connection, LISTENING) if row.pid != first.pid], "it listens again"
            )
            assert second.pid != first.pid
            ask_recovery(connection, account)
            eventually(lambda: simulator.ledger.counts().mails == 1, "a notification wakes it")


@pytest.mark.slow
def test_a_listen_connection_that_is_silently_dead_is_noticed_and_made_again(
    engine: Engine,
    direct_url: str,
    simulator: Simulator,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")
    with engine.connect() as connection, HalfOpenProxy(direct_url) as proxy:
        [account] = add_accounts(connection, 1, status="active")
        sends = transport(simulator, monkeypatch)
        with working(engine, sends, listen=proxy.url, sweep_interval=0.5, healthcheck_interval=0.5):
            eventually(lambda: rows(connection, LISTENING), "the worker listens")
            proxy.freeze()
            ask_recovery(connection, account)
            eventually(lambda: simulator.ledger.counts().mails == 1, "the sweep delivers meanwhile")
            eventually(lambda: "listen lost" in caplog.text, "the silence is noticed")
            proxy.thaw()
            eventually(lambda: proxy.connections >= 2, "it connects again")
            eventually(lambda: "listen restored" in caplog.text, "and proves it")


@pytest.mark.slow
@pytest.mark.early
def test_a_sender_does_not_hang_in_a_connection_that_is_silently_dead(
    engine: Engine, url: str, simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    with engine.connect() as connection, HalfOpenProxy(url) as proxy:
        sends = transport(simulator, monkeypatch)
        with (
            connecting(proxy.url, pool_size=4, answer_within=timedelta(seconds=1)) as through,
            working(through, sends, concurrency=2, sweep_interval=0.2),
        ):
            eventually(lambda: proxy.connections >= 1, "the worker is connected")
            proxy.freeze()
            add_accounts(connection, 20)
            threading.Event().wait(1)
            proxy.thaw()
            eventually(lambda: drained(connection), "all is sent over new connections")
            assert simulator.ledger.counts().mails == 20


def test_a_lone_activation_leaves_at_once(
    engine: Engine, direct_url: str, simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    sends = transport(simulator, monkeypatch)
    with (
        engine.connect() as connection,
        working(engine, sends, listen=direct_url, sweep_interval=600, batch_timeout=timedelta(hours=1)),
    ):
        eventually(lambda: rows(connection, LISTENING), "the worker listens")
        add_accounts(connection, 1)
        eventually(lambda: simulator.ledger.counts().mails == 1, "it leaves alone")


def test_batches_form_while_all_senders_are_in_calls(engine: Engine, direct_url: str) -> None:
    sends, may_answer = Scripted(), threading.Event()

    def in_a_call(mails: Sequence[Mail]) -> Sequence[Outcome]:
        may_answer.wait(60)
        return accept(mails)

    sends.answers = [in_a_call]
    with (
        engine.connect() as connection,
        working(engine, sends, concurrency=2, listen=direct_url, sweep_interval=600, batch_timeout=timedelta(hours=1)),
    ):
        add_accounts(connection, 1, prefix="first")
        eventually(lambda: len(sends.calls) == 1, "one sender is in a call")
        add_accounts(connection, 1, prefix="second")
        eventually(lambda: len(sends.calls) == 2, "both senders are in calls")
        for number in range(7):
            add_accounts(connection, 1, prefix=f"n{number}-")
        may_answer.set()
        eventually(lambda: drained(connection), "all are sent")
    assert sum(mails for _, mails in sends.calls) == 9
    assert len(sends.calls) <= 4


def test_a_full_claim_starts_another_sender_before_its_call(engine: Engine) -> None:
    """Nobody notifies of bulk, and a call may take long."""
    sends, may_answer = Scripted(), threading.Event()

    def in_a_call(mails: Sequence[Mail]) -> Sequence[Outcome]:
        may_answer.wait(60)
        return accept(mails)

    sends.answers = [in_a_call]
    with engine.connect() as connection:
        add_accounts(connection, 100)
        with working(engine, sends, concurrency=4, sweep_interval=600):
            eventually(lambda: len(sends.calls) == 4, "all senders are in calls")
            may_answer.set()
            eventually(lambda: drained(connection), "all are sent")


@pytest.mark.slow
def test_where_permits_are_scarce_a_lone_activation_waits_for_company_only_so_long(
    engine: Engine, direct_url: str, simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    sends = transport(simulator, monkeypatch)
    given: dict[str, Any] = {
        "sweep_interval": 600,
        "batch_timeout": timedelta(seconds=1),
        "permits": NoLimit(batches_wait=True),
    }
    with engine.connect() as connection:
        with working(engine, sends, listen=direct_url, **given):
            add_accounts(connection, 1)
            eventually(lambda: simulator.ledger.counts().mails == 1, "it leaves after the batch timeout")
        [row] = rows(
            connection, "SELECT extract(epoch FROM d.created_at - t.created_at) AS waited FROM deliveries d, tokens t"
        )
        assert row.waited >= 1


@pytest.mark.slow
def test_there_a_full_batch_and_a_recovery_do_not_wait(
    engine: Engine, direct_url: str, simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    sends = transport(simulator, monkeypatch)
    given: dict[str, Any] = {
        "sweep_interval": 600,
        "batch_timeout": timedelta(hours=1),
        "permits": NoLimit(batches_wait=True),
    }
    with engine.connect() as connection:
        [account] = add_accounts(connection, 1, status="active", prefix="active")
        with working(engine, sends, listen=direct_url, **given):
            eventually(lambda: rows(connection, LISTENING), "the worker listens")
            add_accounts(connection, 9)
            ask_recovery(connection, account)
            eventually(lambda: simulator.ledger.counts().mails == 1, "the recovery leaves alone")
            assert count(connection, "jobs") == 9
            add_accounts(connection, 1, prefix="tenth")
            eventually(lambda: simulator.ledger.counts().mails == 11, "the tenth fills the batch")


@pytest.mark.slow
@pytest.mark.parametrize("backlog", [5_000, pytest.param(100_000, marks=pytest.mark.slow)])
def test_a_recovery_overtakes_a_backlog_of_bulk(
    engine: Engine, direct_url: str, simulator: Simulator, monkeypatch: pytest.MonkeyPatch, backlog: int
) -> None:
    """Once a process has heard of it, it makes hardly a call for others before."""
    heard_after: list[int] = []

    class Hearing(Worker):
        def woken(self, payload: str) -> None:
            super().woken(payload)
            if payload == URGENT:
                heard_after.append(simulator.ledger.counts().requests)

    monkeypatch.setattr("tests.running.Worker", Hearing)
    with engine.connect() as connection:
        [account] = add_accounts(connection, 1, status="active", prefix="active")
        with working(engine, transport(simulator, monkeypatch), listen=direct_url) as worker:
            eventually(lambda: worker._report.listener and worker._report.listener.is_listening, "it listens")
            add_accounts(connection, backlog)
            eventually(lambda: simulator.ledger.counts().mails > 100, "the backlog is being sent")
            token = ask_recovery(connection, account)
            eventually(lambda: count(connection, f"deliveries WHERE token = {token}"), "the recovery is sent")
            behind = count(connection, f"jobs WHERE token <> {token}")
            eventually(lambda: heard_after, "it has heard of it")
            mails = simulator.ledger.mails
            [mail] = [mail for mail in mails if mail.tags["mailroom_token"] == str(token)]
            assert behind + sum(other.request > mail.request for other in mails) > 0
            assert mail.request - heard_after[0] <= 3
            assert misplaced(connection) == []


def let_it_resume_after(faults: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no sender say that all is well until so many faults are known: one may stand still before it tells of its."""
    trip, reset = Breaker.trip, Breaker.reset
    known: list[str] = []

    def note(breaker: Breaker, code: str, reason: str, *, now: float, jitter: float) -> None:
        trip(breaker, code, reason, now=now, jitter=jitter)
        known.append(code)

    def wait(breaker: Breaker) -> None:
        eventually(lambda: len(known) >= faults, "all faults are known")
        reset(breaker)

    monkeypatch.setattr(Breaker, "trip", note)
    monkeypatch.setattr(Breaker, "reset", wait)


@pytest.mark.slow
@pytest.mark.early
def test_a_throttled_account_costs_no_attempt_and_is_said_once(
    engine: Engine,
    simulator: Simulator,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")
    simulator.faults.add(Fault(error="TooManyRequestsException", times=4))  # as many as there are senders
    let_it_resume_after(4, monkeypatch)
    with engine.connect() as connection, working(engine, transport(simulator, monkeypatch), concurrency=4):
        add_accounts(connection, 200)
        eventually(lambda: "resumed" in caplog.text, "it resumes by itself")
        connection.execute(text("UPDATE jobs SET due_at = now()"))
        eventually(lambda: drained(connection), "all is sent")
        assert count(connection, "deliveries WHERE outcome = 'sent' AND attempt > 0") == 0
        assert misplaced(connection) == []
    assert caplog.text.count("backing off code=TooManyRequestsException") == 1
    assert simulator.ledger.counts().requests <= 4 + 4 + 20 + 4


class Rounds(Vitals):
    """When who looks for work came round, and which statements that cost; the first are of what came before."""

    def __init__(self) -> None:
        super().__init__()
        self.began: list[float] = []
        self.cost: list[list[str]] = [[]]

    def came_round(self) -> None:
        self.began.append(time.monotonic())
        self.cost.append([])
        super().came_round()


@pytest.mark.slow
@pytest.mark.early
def test_an_idle_worker_costs_one_statement_a_sweep_interval(
    engine: Engine, simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever looks comes round no sooner, and then that is all, but for a report every 15 seconds."""
    rounds = Rounds()
    event.listen(engine, "before_cursor_execute", lambda _c, _cu, statement, *_: rounds.cost[-1].append(statement))
    interval, begun, seen = 0.5, 3, 6
    with working(engine, transport(simulator, monkeypatch), concurrency=4, sweep_interval=interval, vitals=rounds):
        eventually(lambda: len(rounds.began) > begun + seen, "it has come round that often")
    costs = [(moment, cost) for moment, cost in zip(rounds.began, rounds.cost[1:], strict=True)][begun : begun + seen]
    idle = [(moment, len(cost)) for moment, cost in costs if not any(".worker_seen(" in one for one in cost)]
    assert len(idle) > seen / 2
    assert {cost for _, cost in idle} == {1}
    assert min(later - moment for (moment, _), (later, _) in pairwise(idle)) >= interval


@pytest.mark.slow
def test_a_late_answer_of_a_frozen_worker_prevents_a_second_mail(
    engine: Engine, simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answer takes longer than the lease; another worker rescues the batch; the answer then arrives."""
    first, second = Held(transport(simulator, monkeypatch)), transport(simulator, monkeypatch)
    later = timedelta(hours=1)  # until then what is rescued waits for an answer
    with engine.connect() as connection:
        add_accounts(connection, 1)
        with working(engine, first, resend_after=later, sweep_interval=600), first:
            assert first.answered.wait(PATIENCE_SECONDS), "the first has sent it"
            run_out(connection)
            with working(engine, second, resend_after=later, sweep_interval=0.2):
                eventually(lambda: count(connection, "deliveries WHERE outcome = 'unconfirmed'"), "it is rescued")
                first.let_go.set()
                eventually(lambda: count(connection, "deliveries WHERE late"), "the answer is kept as late")
                connection.execute(text("UPDATE jobs SET due_at = now()"))
                eventually(lambda: drained(connection), "the job is over")
        assert simulator.ledger.counts().mails == 1
        assert misplaced(connection) == []
        final = "deliveries WHERE outcome = 'sent' AND NOT late AND message_id IS NOT NULL"
        assert count(connection, final) == 1


@pytest.mark.slow
def test_a_worker_stays_idle_for_as_long_as_it_likes(
    engine: Engine, simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[str] = []
    event.listen(engine, "before_cursor_execute", lambda _c, _cu, statement, *_: looks.append(statement))
    with engine.connect() as connection, working(engine, transport(simulator, monkeypatch), sweep_interval=0.01):
        eventually(lambda: len(looks) > 100, "it has looked a hundred times")
        add_accounts(connection, 1)
        eventually(lambda: drained(connection), "it still works")


@pytest.mark.slow
def test_a_worker_reads_its_moments_whatever_the_date_style_of_the_database(
    engine: Engine, url: str, simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    with engine.connect() as connection:
        name = connection.scalar(text("SELECT quote_ident(current_database())"))
        connection.execute(text(f"ALTER DATABASE {name} SET datestyle = 'SQL, DMY'"))
    with (
        connecting(url, pool_size=4) as anew,
        engine.connect() as connection,
        working(anew, transport(simulator, monkeypatch)),
    ):
        add_accounts(connection, 3)
        eventually(lambda: drained(connection), "all is sent")
        assert count(connection, "deliveries WHERE outcome = 'sent'") == 3


def test_what_ses_has_accepted_is_settled_once_whatever_keeps_it_from_being(
    engine: Engine, simulator: Simulator, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with engine.connect() as connection:
        connection.execute(text("ALTER TABLE deliveries ADD CONSTRAINT missing_partition CHECK (false) NOT VALID"))
        add_accounts(connection, 3)
        with working(engine, transport(simulator, monkeypatch)):
            eventually(lambda: "not settled yet" in caplog.text, "settling fails")
            connection.execute(text("ALTER TABLE deliveries DROP CONSTRAINT missing_partition"))
            eventually(lambda: drained(connection), "it is settled")
        assert count(connection, "deliveries WHERE outcome = 'sent'") == 3
    assert simulator.ledger.counts().mails == 3


@pytest.mark.slow
def test_a_job_that_committed_late_is_found_by_the_sweep(
    engine: Engine, simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    sends = transport(simulator, monkeypatch)
    with engine.connect() as connection, engine.connect() as late, working(engine, sends, sweep_interval=0.3):
        transaction = late.execution_options(isolation_level="READ COMMITTED").begin()
        add_accounts(late, 1, prefix="late")
        late.execute(text("UPDATE jobs SET due_at = due_at - interval '1 minute'"))
        add_accounts(connection, 3)
        eventually(lambda: simulator.ledger.counts().mails == 3, "the others are sent")
        transaction.commit()
        eventually(lambda: simulator.ledger.counts().mails == 4, "the sweep finds it")


@pytest.mark.slow
@pytest.mark.parametrize("payload", ["of somebody else", NORMAL, URGENT])
def test_notifications_without_end_cost_ten_looks_a_second(engine: Engine, payload: str) -> None:
    """Whoever may connect to the database may notify, and of whatever they like: of mails that are not there, too."""
    asked: list[str] = []
    with working(engine, Scripted()) as worker:
        event.listen(engine, "before_cursor_execute", lambda *given: asked.append(given[2]))

        def notify_until(is_enough: Callable[[], bool]) -> None:
            while not is_enough():
                worker.woken(payload)
                threading.Event().wait(0.001)

        def count_asked(what: str) -> int:
            return sum(what in one for one in asked)

        began = time.monotonic()
        notify_until(lambda: count_asked(".look(") > 1 or time.monotonic() - began > PATIENCE_SECONDS)
        looks, ends = count_asked(".look("), time.monotonic() + 1
        assert looks > 1
        notify_until(lambda: time.monotonic() > ends)
        assert count_asked(".look(") < looks + 20
        assert count_asked(".claim(") < 40
        with engine.connect() as connection:
            add_accounts(connection, 1)
            worker.woken(payload)
            eventually(lambda: drained(connection), "what does come is sent")


def test_a_host_whose_name_is_no_text_sends_as_any_other(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: os.fsdecode(b"h\xffst"))
    with engine.connect() as connection, working(engine, Scripted()):
        add_accounts(connection, 3)
        eventually(lambda: drained(connection), "all is sent")
        eventually(lambda: count(connection, "workers"), "it is seen")


def test_a_worker_whose_senders_cannot_all_be_started_ends(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that could must not keep a process alive that looks for nothing, and that its probes call alive."""
    worker = Worker(shared(engine, Scripted()), concurrency=3, sweep_interval=timedelta(seconds=5))
    before, start, room = set(threading.enumerate()), threading.Thread.start, iter((True, True, False))

    def start_if_there_is_room(thread: threading.Thread) -> None:
        if not next(room):
            raise RuntimeError("can't start new thread")
        start(thread)

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", start_if_there_is_room)
        with pytest.raises(MailroomError, match="can't start new thread"):
            worker.run()
    eventually(lambda: before.issuperset(threading.enumerate()), "none of them is left")
