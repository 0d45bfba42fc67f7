"""Pauses are opened by what SES answers, and ended by one mail that goes through."""

from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import Engine, event, text

from mailroom.fleet import pauses
from mailroom.simulator import Fault, Simulator
from mailroom.simulator.templates import default_content
from mailroom.worker.sweep import Swept, sweep
from tests.running import eventually, shared, transport, working
from tests.world import add_accounts, ask_recovery, count, drained, execute, misplaced, rows

THROUGH_PGBOUNCER = True


def test_pauses_that_cover_each_other_all_end(
    engine: Engine, simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    with engine.connect() as connection:
        add_accounts(connection, 3)
        for scope in ("account", "identity", "configuration_set", "activation"):
            pauses.open_pause(connection, scope, code="Fault", reason="a reason")
        connection.execute(text("UPDATE pauses SET probe_at = now()"))
        with working(engine, transport(simulator, monkeypatch), sweep_interval=0.2):
            eventually(lambda: drained(connection), "all is sent")
        assert pauses.read(connection) == []


@pytest.mark.slow
def test_a_missing_template_stops_its_action_until_it_is_there(
    engine: Engine, simulator: Simulator, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    simulator.templates.delete("activationv1")
    with engine.connect() as connection, working(engine, transport(simulator, monkeypatch), sweep_interval=0.2):
        [account] = add_accounts(connection, 1, status="active", prefix="active")
        add_accounts(connection, 30)
        eventually(lambda: pauses.read(connection), "the action is paused")
        assert [pause.scope for pause in pauses.read(connection)] == ["activation"]
        ask_recovery(connection, account)
        eventually(lambda: simulator.ledger.counts().mails == 1, "the other action flows")
        simulator.templates.create("activationv1", default_content("activationv1"))
        connection.execute(text("UPDATE jobs SET due_at = now()"))
        eventually(lambda: not pauses.read(connection), "a probe ends the pause")
        connection.execute(text("UPDATE jobs SET due_at = now()"))
        eventually(lambda: drained(connection), "all is sent")
        assert count(connection, "deliveries WHERE outcome = 'sent' AND attempt = 0") == 31
        assert misplaced(connection) == []
    assert caplog.text.count("paused scope=activation code=") == 1
    assert caplog.text.count("resumed scope=activation") == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("scope", "fault"),
    [
        ("account", Fault(error="AccountSuspendedException", times=None)),
        ("account", Fault(error="SendingPausedException", times=None)),
        ("account", Fault(error="LimitExceededException", times=None)),
        ("account", Fault(error="AccessDeniedException", status=403, times=None)),
        ("account", Fault(error="TooManyRequestsException", message="Daily message quota exceeded.", times=None)),
        ("configuration_set", Fault(error="NotFoundException", message="Configuration set x.", times=None)),
        ("identity", Fault(error="MailFromDomainNotVerifiedException", times=None)),
    ],
    ids=lambda value: value if isinstance(value, str) else value.error,
)
def test_an_answer_pauses_its_scope_and_a_probe_ends_it(
    engine: Engine, simulator: Simulator, monkeypatch: pytest.MonkeyPatch, scope: str, fault: Fault
) -> None:
    simulator.faults.add(fault)
    with engine.connect() as connection, working(engine, transport(simulator, monkeypatch), sweep_interval=0.2):
        add_accounts(connection, 20)
        eventually(lambda: pauses.read(connection), "it is paused")
        assert [pause.scope for pause in pauses.read(connection)] == [scope]
        requests = simulator.ledger.counts().requests
        assert requests <= 3
        simulator.faults.clear()
        connection.execute(text("UPDATE jobs SET due_at = now()"))
        connection.execute(text("UPDATE pauses SET probe_at = now()"))
        eventually(lambda: not pauses.read(connection), "a probe ends the pause")
        connection.execute(text("UPDATE jobs SET due_at = now()"))
        eventually(lambda: drained(connection), "all is sent")
        assert count(connection, "deliveries WHERE outcome = 'sent' AND attempt = 0") == 20
        assert misplaced(connection) == []


def test_mails_that_are_refused_alike_pause_their_action_and_cost_no_mail(
    engine: Engine, simulator: Simulator, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A bad deploy: SES refuses every mail of one action. What was refused before that was clear goes back too."""
    simulator.faults.add(Fault(template="activationv1", error="BadRequestException", times=None))
    with engine.connect() as connection:
        [account] = add_accounts(connection, 1, status="active", prefix="active")
        add_accounts(connection, 8)
        with working(engine, transport(simulator, monkeypatch), sweep_interval=0.1, batch_limit=1):
            eventually(lambda: pauses.read(connection), "the action is paused")
            eventually(lambda: "put back jobs=1 action=activation" in caplog.text, "it goes back")
            ask_recovery(connection, account)
            eventually(lambda: simulator.ledger.counts().mails == 1, "the other action flows")
        assert [pause.scope for pause in pauses.read(connection)] == ["activation"]
        assert count(connection, "jobs") == 8
        assert misplaced(connection) == []
        simulator.faults.clear()
        with working(engine, transport(simulator, monkeypatch), sweep_interval=0.1):
            connection.execute(text("UPDATE jobs SET due_at = now()"))
            connection.execute(text("UPDATE pauses SET probe_at = now()"))
            eventually(lambda: not pauses.read(connection), "a probe ends the pause")
            connection.execute(text("UPDATE jobs SET due_at = now()"))
            eventually(lambda: drained(connection), "all is sent")
        assert count(connection, "deliveries WHERE outcome = 'sent'") == 9
        assert misplaced(connection) == []


def test_a_probe_believes_no_refusal_and_charges_none(
    engine: Engine, simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each probe by a worker that has only just started, which knows nothing of what others were refused."""
    simulator.faults.add(Fault(template="activationv1", error="BadRequestException", times=None))
    with engine.connect() as connection:
        add_accounts(connection, 2)
        pauses.open_pause(connection, "activation", code="BadRequestException", reason="a reason")
        for probe in range(3):
            with working(engine, transport(simulator, monkeypatch), sweep_interval=0.1):
                connection.execute(text("UPDATE jobs SET due_at = now()"))
                connection.execute(text("UPDATE pauses SET probe_at = now()"))
                eventually(lambda: count(connection, "deliveries") > 2 * probe, "both are tried")  # noqa: B023
        assert [pause.scope for pause in pauses.read(connection)] == ["activation"]
        assert [
            (row.attempt, row.n) for row in rows(connection, "SELECT attempt, count(*) AS n FROM jobs GROUP BY 1")
        ] == [(0, 2)]
        assert misplaced(connection) == []


def test_a_few_bad_mails_do_not_keep_an_action_paused(
    engine: Engine, simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever signs up with addresses that SES refuses must not keep others from it."""
    simulator.faults.add(Fault(template="activationv1", error="BadRequestException", times=6))
    with engine.connect() as connection:
        add_accounts(connection, 7)
        pauses.open_pause(connection, "activation", code="BadRequestException", reason="a reason")
        connection.execute(text("UPDATE pauses SET probe_at = now()"))
        with working(engine, transport(simulator, monkeypatch), sweep_interval=0.1):
            eventually(lambda: not pauses.read(connection), "the first good one ends the pause")
            assert [row.probes for row in rows(connection, "SELECT probes FROM pauses")] == []
        assert misplaced(connection) == []
    assert simulator.ledger.counts().mails >= 1


def test_a_pause_ends_though_the_most_urgent_mail_has_no_template(
    engine: Engine, simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    simulator.templates.delete("passwordrecoveryv1")
    with engine.connect() as connection:
        [account] = add_accounts(connection, 1, status="active", prefix="active")
        ask_recovery(connection, account)
        add_accounts(connection, 5)
        for scope in ("account", "password_recovery"):
            pauses.open_pause(connection, scope, code="Fault", reason="a reason")
        connection.execute(text("UPDATE pauses SET probe_at = now()"))
        with working(engine, transport(simulator, monkeypatch), sweep_interval=0.1):
            eventually(lambda: simulator.ledger.counts().mails == 5, "the others leave")
        assert [pause.scope for pause in pauses.read(connection)] == ["password_recovery"]


def test_an_address_that_ses_cannot_take_does_not_keep_a_pause(
    engine: Engine, simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    with engine.connect() as connection:
        connection.execute(text("INSERT INTO accounts (email, login) VALUES ('jörg@example.com', 'jörg')"))
        add_accounts(connection, 60)
        pauses.open_pause(connection, "account", code="Fault", reason="a reason")
        connection.execute(text("UPDATE pauses SET probe_at = now()"))
        with working(engine, transport(simulator, monkeypatch), sweep_interval=0.1):
            eventually(lambda: drained(connection), "all is over")
        assert count(connection, "deliveries WHERE outcome = 'rejected'") == 1
    assert simulator.ledger.counts().mails == 60


def test_bad_mails_that_are_claimed_together_end_once_another_was_accepted(
    engine: Engine, simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Six of the seven that wait are bad. Each incident believes nothing; what is refused after it is bad."""
    simulator.account.production_access_enabled = False
    with engine.connect() as connection:
        add_accounts(connection, 6)
        connection.execute(
            text("INSERT INTO accounts (email, login) VALUES ('success@simulator.amazonses.com', 'success')")
        )
        connection.execute(text("UPDATE jobs SET due_at = now() - interval '1 second' * (100 - token)"))
        with working(engine, transport(simulator, monkeypatch), sweep_interval=0.1, batch_limit=50):
            for _ in range(60):
                eventually(lambda: count(connection, "batches") == 0, "all is settled")
                connection.execute(text("UPDATE jobs SET due_at = now() WHERE due_at > now()"))
                connection.execute(text("UPDATE pauses SET probe_at = now()"))
                if drained(connection) and not pauses.read(connection):
                    break
                eventually(lambda: count(connection, "jobs WHERE due_at <= now()") == 0, "it has tried")
        assert drained(connection)
        assert pauses.read(connection) == []
        assert misplaced(connection) == []
        assert count(connection, "deliveries WHERE outcome IN ('rejected', 'failed') AND retried_at IS NULL") == 6
    assert simulator.ledger.counts().mails == 1


def test_what_is_over_uses_up_no_probe(engine: Engine, simulator: Simulator, monkeypatch: pytest.MonkeyPatch) -> None:
    """Or it would take thirty of them, with more and more time between them."""
    monkeypatch.setattr("mailroom.worker.probe.MAX_PROBE_TIME", timedelta(minutes=1))  # however busy the machine is
    with engine.connect() as connection:
        for person in add_accounts(connection, 30, status="active", prefix="person"):
            ask_recovery(connection, person)
        connection.execute(text("UPDATE tokens SET expires_at = now()"))
        add_accounts(connection, 1)
        pauses.open_pause(connection, "account", code="Fault", reason="a reason")
        connection.execute(text("UPDATE pauses SET probe_at = now()"))
        with working(engine, transport(simulator, monkeypatch), sweep_interval=0.1):
            eventually(lambda: not pauses.read(connection), "the first probe ends the pause")
            eventually(lambda: count(connection, "deliveries WHERE outcome = 'expired'") == 30, "they are over")


def test_what_was_refused_in_flight_goes_back_when_the_pause_ends(
    engine: Engine, simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its call was answered after another process had opened the pause; or who opened it died before it put it back."""
    with engine.connect() as connection:
        add_accounts(connection, 3)
        [refused] = rows(connection, "DELETE FROM jobs WHERE token = 1 RETURNING token")
        pauses.open_pause(connection, "activation", code="BadRequestException", reason="a reason")
        connection.execute(
            text(
                "INSERT INTO deliveries (token, account, action, outcome, error_code, attempt)"
                " VALUES (:token, 1, 'activation', 'rejected', 'BadRequestException', 0)"
            ),
            {"token": refused.token},
        )
        connection.execute(text("UPDATE pauses SET probe_at = now()"))
        with working(engine, transport(simulator, monkeypatch), sweep_interval=0.1):
            eventually(lambda: count(connection, "deliveries WHERE outcome = 'sent'") == 3, "all is sent")
        assert misplaced(connection) == []


# What is to be tried again waits longer: a mail that is refused twice, and nothing accepted between, would
# pause its action as well.
PUT_OFF = [
    "CREATE FUNCTION put_off() RETURNS trigger LANGUAGE plpgsql AS"
    " $$ BEGIN NEW.attempt := 1; NEW.due_at := clock_timestamp() + interval '100 s'; RETURN NEW; END $$",
    "CREATE TRIGGER put_off BEFORE INSERT ON jobs FOR EACH ROW WHEN (NEW.due_at > clock_timestamp())"
    " EXECUTE FUNCTION put_off()",
]


@pytest.mark.slow
def test_refusals_are_counted_over_all_processes(
    engine: Engine, simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each sweep of cron is a process that knows nothing of the others."""
    simulator.faults.add(Fault(template="activationv1", error="BadRequestException", times=None))
    execute(engine, *PUT_OFF)
    with engine.connect() as connection:
        for number in range(5):
            assert pauses.read(connection) == []
            add_accounts(connection, 1, prefix=f"n{number}n")
            with working(engine, transport(simulator, monkeypatch), sweep_interval=0.1):
                refused = "(SELECT DISTINCT token FROM deliveries) AS mail"
                eventually(lambda: count(connection, refused) > number, "it is refused")  # noqa: B023
        eventually(lambda: pauses.read(connection), "the action is paused")
        assert count(connection, "jobs") == 5
        assert misplaced(connection) == []


def test_what_comes_due_after_a_sweep_has_looked_is_not_taken_for_paused(
    engine: Engine, simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    statements: list[str] = []

    def comes_due(*given: Any) -> None:
        if ".pause_probe(" not in given[2]:
            return
        statements.append(given[2])
        if len(statements) == 4:  # two when it begins, two when nothing else is left
            execute(engine, "UPDATE jobs SET due_at = now() - interval '1 ms' WHERE due_at > now()")

    with engine.connect() as connection:
        [account] = add_accounts(connection, 1, status="active", prefix="active")
        ask_recovery(connection, account)
        execute(engine, "UPDATE jobs SET due_at = now() + interval '5 minutes', attempt = 1")
        pauses.open_pause(connection, "activation", code="Fault", reason="a reason")
        event.listen(engine, "after_cursor_execute", comes_due)
        swept = sweep(shared(engine, transport(simulator, monkeypatch)), name="test", max_time=timedelta(seconds=30))
        assert count(connection, "jobs WHERE due_at <= now()") == 1, "it came due before the sweep ended"
    assert swept is Swept.DRAINED
