"""A policy that allows some mails: it stops those alone. One that allows none pauses what it is for."""

from datetime import timedelta

import pytest
from sqlalchemy import Connection, Engine, text

from mailroom.fleet import pauses
from mailroom.simulator import Fault, Simulator
from mailroom.worker.sweep import Swept, sweep
from tests import running
from tests.running import eventually, transport, working
from tests.world import add_accounts, ask_recovery, count, count_sent, drained, misplaced, rows

DENIAL = "AccessDeniedException"
DUE = text("UPDATE jobs SET due_at = now() WHERE due_at > now()")


def denied(**which: str) -> Fault:
    return Fault(error=DENIAL, status=403, times=None, **which)  # type: ignore[arg-type]


def tried_again(connection: Connection, number: int) -> bool:
    """Whether what is denied was tried more often than that; it need not wait."""
    connection.execute(DUE)
    return count(connection, "deliveries WHERE outcome IN ('deferred', 'failed')") > number


@pytest.mark.slow
@pytest.mark.parametrize("batch_limit", [1, 50])
def test_a_recipient_that_a_policy_denies_stops_nobody_else(
    engine: Engine,
    simulator: Simulator,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    batch_limit: int,
) -> None:
    caplog.set_level("INFO")
    simulator.faults.add(denied(recipients="denied"))
    sends = transport(simulator, monkeypatch)
    with engine.connect() as connection, working(engine, sends, sweep_interval=0.1, batch_limit=batch_limit):
        add_accounts(connection, 1, prefix="first")
        eventually(lambda: drained(connection), "one is accepted")
        add_accounts(connection, 15, prefix="before")
        [account] = add_accounts(connection, 1, status="active", prefix="denied")
        ask_recovery(connection, account)
        add_accounts(connection, 15, prefix="after")
        for number in range(60):
            eventually(lambda: count_sent(connection) == 31 + number, "the others leave")  # noqa: B023
            eventually(lambda: tried_again(connection, number), "it is tried again")  # noqa: B023
            if drained(connection):
                break
            [other] = add_accounts(connection, 1, status="active", prefix=f"n{number}n")
            ask_recovery(connection, other)
        ended = rows(connection, "SELECT error_code, attempt FROM deliveries WHERE outcome = 'failed'")
        assert [tuple(row) for row in ended] == [(DENIAL, 5)]
        assert misplaced(connection) == []
    assert "paused" not in caplog.text
    assert "backing off" not in caplog.text


def test_one_that_is_denied_again_and_again_holds_nobody_back(
    engine: Engine, simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing else is sent meanwhile, so that nobody can tell; and whoever comes then must not wait."""
    simulator.faults.add(denied(recipients="denied"))
    sends = transport(simulator, monkeypatch)
    with engine.connect() as connection, working(engine, sends, sweep_interval=0.1) as worker:
        add_accounts(connection, 1, prefix="first")
        eventually(lambda: drained(connection), "one is accepted")
        add_accounts(connection, 1, prefix="denied")
        for tried in range(8):
            eventually(lambda: tried_again(connection, tried), "it is tried again")  # noqa: B023
        assert pauses.read(connection) == []
        assert not worker._shared.breaker.is_open
        assert count(connection, "deliveries WHERE attempt > 0") == 0


def test_a_policy_without_bulk_calls_lets_each_mail_leave_alone(
    engine: Engine, simulator: Simulator, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    simulator.faults.add(denied(operation="SendBulkEmail"))
    sends = transport(simulator, monkeypatch)
    with engine.connect() as connection, working(engine, sends, sweep_interval=0.1, batch_limit=50):
        add_accounts(connection, 1, prefix="first")
        eventually(lambda: drained(connection), "one is accepted")
        add_accounts(connection, 40)
        eventually(lambda: drained(connection), "all is sent")
        add_accounts(connection, 40, prefix="later")
        eventually(lambda: drained(connection), "all is sent")
        assert count(connection, "deliveries WHERE outcome = 'sent' AND attempt = 0") == 81
    assert "paused" not in caplog.text
    assert simulator.ledger.counts().requests <= 81 + 5


INVITATION = text(
    "INSERT INTO actions (name, number, template, path, source)"
    " VALUES ('invitation', 9, 'activationv1', '/invite', 'shop@example.com')"
)


def invite(connection: Connection, number: int, prefix: str) -> None:
    accounts = add_accounts(connection, number, status="active", prefix=prefix)
    asked = text("INSERT INTO tokens (action, account) SELECT 'invitation', unnest(CAST(:accounts AS bigint[]))")
    connection.execute(asked, {"accounts": accounts})


def denied_so_far(connection: Connection) -> int:
    [number] = connection.execute(
        text("SELECT count(DISTINCT token) FROM deliveries WHERE error_code = :code"), {"code": DENIAL}
    ).scalars()
    return int(number)


@pytest.mark.parametrize("before", [0, 1], ids=["never accepted", "accepted before"])
def test_a_sender_of_one_action_that_is_denied_pauses_that_action_while_all_others_leave(
    engine: Engine, simulator: Simulator, monkeypatch: pytest.MonkeyPatch, before: int
) -> None:
    """Or its mails would be tried again and again, for as long as any other is accepted between."""
    simulator.faults.add(denied(recipients="guest"))
    sends = transport(simulator, monkeypatch)
    with engine.connect() as connection, working(engine, sends, sweep_interval=0.1):
        connection.execute(INVITATION)
        invite(connection, before, "early")
        add_accounts(connection, 1, prefix="first")
        eventually(lambda: drained(connection), "they are accepted")
        invite(connection, 3, "guest")
        eventually(lambda: pauses.read(connection) or denied_so_far(connection) == 3, "they are denied")
        connection.execute(text("UPDATE tokens SET consumed_at = now() WHERE action = 'invitation'"))
        add_accounts(connection, 1, prefix="second")
        eventually(lambda: count_sent(connection) == 3 + before - 1, "another leaves")
        invite(connection, 3, "later-guest")
        eventually(lambda: pauses.read(connection), "it is paused", seconds=10)
        assert [(pause.scope, pause.code) for pause in pauses.read(connection)] == [("invitation", DENIAL)]
        add_accounts(connection, 1, prefix="third")
        eventually(lambda: count_sent(connection) == 3 + before, "others leave")
        assert count(connection, "deliveries WHERE attempt > 0") == 0


@pytest.mark.parametrize("resource", ["identity/noreply@example.com", "identity/example.com"])
def test_where_the_sender_of_all_others_is_denied_mails_with_their_own_leave_at_once(
    engine: Engine, simulator: Simulator, monkeypatch: pytest.MonkeyPatch, resource: str
) -> None:
    """Or the whole account is paused, and a guest's invitation waits for a probe: for a minute, and again later."""
    named = f"User: x is not authorized to perform: ses:SendEmail on resource: arn:aws:ses:eu-west-1:1:{resource}"
    simulator.faults.add(denied(recipients="denied", message=named))
    sends = transport(simulator, monkeypatch)
    with engine.connect() as connection, working(engine, sends, sweep_interval=0.1):
        connection.execute(INVITATION)
        add_accounts(connection, 3, prefix="denied")
        eventually(lambda: pauses.read(connection), "it is paused")
        assert [(pause.scope, pause.code) for pause in pauses.read(connection)] == [("identity", DENIAL)]
        connection.execute(text("UPDATE pauses SET probe_at = now() + interval '1 hour'"))
        invite(connection, 1, "guest")
        eventually(lambda: count_sent(connection) == 1, "the guest is invited", seconds=10)
        assert [pause.scope for pause in pauses.read(connection)] == ["identity"]
        assert count(connection, "deliveries WHERE attempt > 0") == 0


@pytest.mark.slow
def test_a_queue_whose_workers_may_send_nothing_loses_nothing_though_others_send(
    engine: Engine, simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where the queues are of two regions, or two accounts. What others are accepted for tells nothing of it."""
    with Simulator() as elsewhere, engine.connect() as connection:
        elsewhere.configuration_sets.create("default")
        elsewhere.faults.add(denied())
        bad, good = transport(elsewhere, monkeypatch), transport(simulator, monkeypatch)
        with working(engine, good, sweep_interval=0.1), working(engine, bad, sweep_interval=0.1, queue="elsewhere"):
            add_accounts(connection, 1, prefix="first")
            eventually(lambda: drained(connection), "one is accepted")
            connection.execute(text("SET mailroom.queue = 'elsewhere'"))
            add_accounts(connection, 1, prefix="denied")
            connection.execute(text("RESET mailroom.queue"))
            for number in range(6):
                eventually(lambda: tried_again(connection, number), "it is tried again")  # noqa: B023
                add_accounts(connection, 1, prefix=f"n{number}n")
                eventually(lambda: count_sent(connection) == 2 + number, "others leave")  # noqa: B023
        assert count(connection, "jobs WHERE queue = 'elsewhere' AND attempt = 0") == 1
        assert pauses.read(connection) == []


def test_rights_that_are_taken_away_after_long_use_pause_the_account_and_cost_no_mail_anything(
    engine: Engine, simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    sends = transport(simulator, monkeypatch)
    with engine.connect() as connection, working(engine, sends, sweep_interval=0.1):
        add_accounts(connection, 10, prefix="first")
        eventually(lambda: drained(connection), "they are accepted")
        requests = simulator.ledger.counts().requests
        simulator.faults.add(denied())
        add_accounts(connection, 60)
        eventually(lambda: pauses.read(connection), "it is paused")
        assert [(pause.scope, pause.code) for pause in pauses.read(connection)] == [("account", DENIAL)]
        assert simulator.ledger.counts().requests - requests <= 30
        simulator.faults.clear()
        connection.execute(DUE)
        connection.execute(text("UPDATE pauses SET probe_at = now()"))
        eventually(lambda: not pauses.read(connection), "a probe ends the pause")
        connection.execute(DUE)
        eventually(lambda: drained(connection), "all is sent")
        assert count(connection, "deliveries WHERE outcome = 'sent' AND attempt = 0") == 70
        assert misplaced(connection) == []


def test_a_probe_finds_the_one_that_is_allowed_among_many_that_are_not(
    engine: Engine, simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where people try things out, and a policy lets mails go to their own domain alone."""
    simulator.faults.add(denied(recipients="denied"))
    with engine.connect() as connection:
        add_accounts(connection, 60, prefix="denied")
        with working(engine, transport(simulator, monkeypatch), sweep_interval=0.1, batch_limit=50):
            eventually(lambda: pauses.read(connection), "it is paused")
            add_accounts(connection, 1, prefix="allowed")
            connection.execute(DUE)
            connection.execute(text("UPDATE pauses SET probe_at = now()"))
            eventually(lambda: simulator.ledger.counts().mails == 1, "the first probe lets it go", seconds=10)
        assert count(connection, "deliveries WHERE attempt > 0") == 0
        assert misplaced(connection) == []


@pytest.mark.slow
def test_sweeps_of_cron_get_past_it(engine: Engine, simulator: Simulator, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is a process that knows nothing of the others."""
    simulator.faults.add(denied(recipients="denied"))
    sends = transport(simulator, monkeypatch)
    with engine.connect() as connection:
        add_accounts(connection, 1, prefix="first")
        sweep(running.shared(engine, sends), name="test", max_time=timedelta(seconds=10))
        add_accounts(connection, 1, prefix="denied")
        for number in range(20):
            add_accounts(connection, 1, prefix=f"n{number}n")
            connection.execute(text("UPDATE jobs SET priority = 2 WHERE token <> 2"))  # in a lane behind it
            connection.execute(DUE)
            assert sweep(running.shared(engine, sends), name="test", max_time=timedelta(seconds=10)) is Swept.DRAINED
            assert count_sent(connection) == 2 + number
            if drained(connection):
                break
        assert pauses.read(connection) == []
        assert count(connection, f"deliveries WHERE outcome = 'failed' AND error_code = '{DENIAL}'") == 1
