"""Pauses of the whole fleet: opened by what SES answers, seen by everybody, ended by one mail that goes through."""

import pytest
from sqlalchemy import Connection, Engine, text

from mailroom import queue
from mailroom.fleet import pauses, refusal_log
from mailroom.job import Action
from mailroom.outcome import Scope
from mailroom.ses.classify import REFUSALS
from mailroom.simulator import Fault, Simulator
from mailroom.simulator.templates import default_content
from tests.claiming import claim, look
from tests.running import eventually, transport, working
from tests.world import add_accounts, ask_recovery, count, drained, misplaced, rows

THROUGH_PGBOUNCER = True


def claimed(connection: Connection, *, probing: bool = False) -> list[int]:
    """The tokens that a claim takes."""
    return [job.token for batch in claim(connection, probing=probing).batches for job in batch.jobs]


def try_probe(connection: Connection, *, queue: str = "mailroom") -> str | None:
    return pauses.probe(connection, queue=queue, refusals=REFUSALS)


def waiting(connection: Connection) -> tuple[int, int]:
    """An activation and a recovery that wait, as tokens."""
    [account] = add_accounts(connection, 1, status="active", prefix="active")
    add_accounts(connection, 1)
    [activation] = rows(connection, "SELECT max(token) AS token FROM jobs")
    recovery = ask_recovery(connection, account)
    connection.execute(text("UPDATE jobs SET due_at = now()"))  # in one transaction now() stands still
    return activation.token, recovery


@pytest.mark.parametrize("scope", ["account", "configuration_set", "identity", "queue:mailroom"])
def test_a_pause_of_everything_stops_every_claim(conn: Connection, scope: str) -> None:
    activation, recovery = waiting(conn)
    assert pauses.open_pause(conn, scope, code="Fault", reason="a reason")
    assert claimed(conn) == []
    assert pauses.close_pause(conn, scope)
    assert [claimed(conn), claimed(conn)] == [[recovery], [activation]]


def test_a_pause_of_one_action_leaves_the_other_alone(conn: Connection) -> None:
    _, recovery = waiting(conn)
    pauses.open_pause(conn, pauses.scope_name(Scope.ACTION, Action.ACTIVATION), code="Fault", reason="a reason")
    assert [claimed(conn), claimed(conn)] == [[recovery], []]


def test_a_pause_of_another_queue_is_nothing_to_us(conn: Connection) -> None:
    _, recovery = waiting(conn)
    pauses.open_pause(conn, pauses.queue_scope("other"), code="Fault", reason="a reason")
    assert claimed(conn) == [recovery]


def test_a_probe_passes_all_pauses_but_those_by_hand(conn: Connection) -> None:
    activation, recovery = waiting(conn)
    for scope in ("account", "identity", "activation"):
        pauses.open_pause(conn, scope, code="Fault", reason="a reason")
    pauses.open_pause(conn, "password_recovery", code=pauses.BY_HAND, reason="a reason", probed=False)
    assert claimed(conn) == []
    assert claimed(conn, probing=True) == [activation]
    assert pauses.close_pause(conn, "password_recovery", by_hand=True)
    assert claimed(conn, probing=True) == [recovery]


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


def test_only_the_first_to_meet_a_fault_opens_its_pause(conn: Connection) -> None:
    assert [pauses.open_pause(conn, "account", code=code, reason="a reason") for code in "AB"] == [True, False]
    assert [pause.code for pause in pauses.read(conn)] == ["A"]


def test_one_prober_at_a_time_and_later_and_later(conn: Connection) -> None:
    waiting(conn)
    pauses.open_pause(conn, "account", code="Fault", reason="a reason")
    assert try_probe(conn) is None
    waits = []
    for _ in range(8):
        conn.execute(text("UPDATE pauses SET probe_at = now() - interval '1 ms'"))
        assert [
            try_probe(conn),
            try_probe(conn),
        ] == ["account", None]
        [row] = rows(conn, "SELECT round(extract(epoch FROM probe_at - clock_timestamp())) AS wait FROM pauses")
        waits.append(int(row.wait))
    assert waits == [4, 8, 16, 32, 60, 60, 60, 60]


def test_a_prober_passes_over_a_pause_that_another_is_taking(engine: Engine) -> None:
    with engine.connect().execution_options(isolation_level="READ COMMITTED") as first, engine.connect() as second:
        waiting(second)
        for scope in ("account", "identity"):
            pauses.open_pause(second, scope, code="Fault", reason="a reason")
        second.execute(text("UPDATE pauses SET probe_at = now() - interval '1 minute'"))
        second.execute(text("UPDATE pauses SET probe_at = now() - interval '2 minutes' WHERE scope = 'account'"))
        second.execute(text("SET lock_timeout = '10s'"))
        assert try_probe(first) == "account"  # and has not committed
        assert [try_probe(second) for _ in range(2)] == ["identity", None]
        second.execute(text("RESET lock_timeout"))


def test_who_has_nothing_to_try_does_not_put_off_those_who_have(conn: Connection) -> None:
    activation, recovery = waiting(conn)
    pauses.open_pause(conn, "account", code="Fault", reason="a reason")
    pauses.open_pause(conn, "activation", code="Fault", reason="a reason")
    conn.execute(text("UPDATE pauses SET probe_at = now() - interval '1 ms'"))
    assert try_probe(conn, queue="other") is None
    assert not look(conn, queue="other").probeable
    pauses.open_pause(conn, "queue:mailroom", code=pauses.BY_HAND, reason="maintenance", probed=False)
    assert (try_probe(conn), look(conn).probeable) == (None, False)
    assert pauses.close_pause(conn, "queue:mailroom", by_hand=True)
    conn.execute(text("DELETE FROM jobs WHERE token = :token"), {"token": activation})
    assert look(conn).probeable
    assert [try_probe(conn) for _ in range(2)] == [
        "account",
        None,
    ]  # no activation is due
    assert recovery
    assert [row.probes for row in rows(conn, "SELECT probes FROM pauses ORDER BY scope")] == [1, 0]


def test_a_pause_by_hand_ends_by_hand(conn: Connection) -> None:
    waiting(conn)
    pauses.open_pause(conn, "account", code="Fault", reason="a reason")
    pauses.open_pause(conn, "account", code=pauses.BY_HAND, reason="maintenance", probed=False)
    assert try_probe(conn) is None
    assert not pauses.close_pause(conn, "account")
    assert pauses.close_pause(conn, "account", by_hand=True)
    assert pauses.read(conn) == []


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


def test_what_was_refused_before_a_mail_was_accepted_stays_refused(conn: Connection) -> None:
    add_accounts(conn, 4)
    for token, outcome, code in ((1, "rejected", "A"), (2, "sent", None), (3, "rejected", "A"), (4, "rejected", "B")):
        conn.execute(
            text(
                "INSERT INTO deliveries (token, action, outcome, error_code, attempt)"
                " VALUES (:token, 'activation', CAST(:outcome AS delivery_outcome), :code, 0)"
            ),
            {"token": token, "outcome": outcome, "code": code},
        )
    assert refusal_log.refused_since_accepted(conn, Action.ACTIVATION, {"A"}) == [3]
    assert refusal_log.refused_since_accepted(conn, Action.PASSWORD_RECOVERY, {"A"}) == []


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
                eventually(lambda: count(connection, "jobs WHERE due_at <= now()") == 0, "it has tried", seconds=20)
        assert drained(connection)
        assert pauses.read(connection) == []
        assert misplaced(connection) == []
        assert count(connection, "deliveries WHERE outcome IN ('rejected', 'failed') AND retried_at IS NULL") == 6
    assert simulator.ledger.counts().mails == 1


def test_refusals_beside_an_acceptance_are_no_row(conn: Connection) -> None:
    add_accounts(conn, 6)
    conn.execute(
        text(
            "INSERT INTO deliveries (token, account, fence, action, outcome, error_code, attempt)"
            " SELECT token, token, '00000000-0000-0000-0000-000000000007', 'activation',"
            " CAST(CASE place WHEN 1 THEN 'sent' ELSE 'rejected' END AS delivery_outcome),"
            " CASE WHEN place > 1 THEN 'A' END, 0"
            " FROM (SELECT token, row_number() OVER (ORDER BY token) AS place FROM jobs) AS placed ORDER BY place"
        )
    )
    assert refusal_log.refused_since_accepted(conn, Action.ACTIVATION, {"A"}) == []
    conn.execute(text("UPDATE deliveries SET fence = gen_random_uuid() WHERE outcome = 'rejected'"))
    assert len(refusal_log.refused_since_accepted(conn, Action.ACTIVATION, {"A"})) == 5


def test_what_is_over_uses_up_no_probe(engine: Engine, simulator: Simulator, monkeypatch: pytest.MonkeyPatch) -> None:
    with engine.connect() as connection:
        for person in add_accounts(connection, 30, status="active", prefix="person"):
            ask_recovery(connection, person)
        connection.execute(text("UPDATE tokens SET expires_at = now()"))
        add_accounts(connection, 1)
        pauses.open_pause(connection, "account", code="Fault", reason="a reason")
        connection.execute(text("UPDATE pauses SET probe_at = now()"))
        with working(engine, transport(simulator, monkeypatch), sweep_interval=0.1):
            eventually(lambda: not pauses.read(connection), "the first probe ends the pause", seconds=20)
            eventually(lambda: count(connection, "deliveries WHERE outcome = 'expired'") == 30, "they are over")


def test_what_was_refused_in_the_air_goes_back_when_the_pause_ends(
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


def test_refusals_are_counted_over_all_processes(
    engine: Engine, simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each sweep of cron is a process that knows nothing of the others."""
    simulator.faults.add(Fault(template="activationv1", error="BadRequestException", times=None))
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


def test_a_job_whose_batch_was_lost_twice_is_taken_alone(conn: Connection) -> None:
    add_accounts(conn, 3)
    for _ in range(2):
        conn.execute(text("UPDATE jobs SET due_at = now()"))
        assert len(claimed(conn)) == 3
        conn.execute(text("UPDATE batches SET lease_until = now() - interval '1 second'"))
        queue.rescue(conn)
    assert {row.priority for row in rows(conn, "SELECT priority FROM jobs")} == {3}
    conn.execute(text("UPDATE jobs SET due_at = now()"))
    assert [len(claimed(conn)) for _ in range(4)] == [1, 1, 1, 0]
    assert misplaced(conn) == []


def test_quarantine_is_served_in_its_turn_and_not_last(conn: Connection) -> None:
    """Behind a day's import, two lost batches in a row would hold up innocent mails, recoveries too, for that day."""
    [account] = add_accounts(conn, 1, status="active", prefix="active")
    suspects = [ask_recovery(conn, account), *(enqueued(conn, 2, "suspect"))]
    normal, bulk = enqueued(conn, 1, "normal"), enqueued(conn, 60, "bulk")
    conn.execute(text("UPDATE jobs SET due_at = now() - interval '1 minute'"))
    quarantine = (
        "UPDATE jobs SET priority = 3, attempt = 2, due_at = now() - interval '2 minutes' WHERE token = ANY(:some)"
    )
    conn.execute(text(quarantine), {"some": suspects})
    order = []
    while found := claimed(conn):
        order.append(sorted(found))
    assert order == [[suspects[0]], [suspects[1]], [suspects[2]], normal, bulk[:50], bulk[50:]]
    assert misplaced(conn) == []


def enqueued(connection: Connection, count: int, prefix: str) -> list[int]:
    accounts = add_accounts(connection, count, prefix=prefix)
    return [r.id for r in rows(connection, "SELECT id FROM tokens WHERE account = ANY(:ids) ORDER BY id", ids=accounts)]
