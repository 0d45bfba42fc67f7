"""Pauses of the whole fleet: seen by everybody, and who may try whether one can end."""

from datetime import timedelta

import pytest
from sqlalchemy import Connection, Engine, text

from mailroom import queue
from mailroom.fleet import pauses, refusal_log
from mailroom.outcome import Scope
from mailroom.ses.classify import REFUSALS
from tests.claiming import claim, look
from tests.kinds import ACTIVATION, LANES, RECOVERY
from tests.world import add_accounts, ask_recovery, misplaced, rows

THROUGH_PGBOUNCER = True


def claimed(connection: Connection, *, probing: bool = False) -> list[int]:
    """The tokens that a claim takes."""
    return [job.token for batch in claim(connection, probing=probing).batches for job in batch.jobs]


def try_probe(connection: Connection, *, queue: str = "mailroom") -> str | None:
    return pauses.probe(connection, queue=queue, lanes=LANES, refusals=REFUSALS)


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
    pauses.open_pause(conn, pauses.scope_name(Scope.ACTION, ACTIVATION), code="Fault", reason="a reason")
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


def test_only_the_first_to_meet_a_fault_opens_its_pause(conn: Connection) -> None:
    assert [pauses.open_pause(conn, "account", code=code, reason="a reason") for code in "AB"] == [True, False]
    assert [pause.code for pause in pauses.read(conn)] == ["A"]


def test_one_prober_at_a_time_and_later_and_later(conn: Connection) -> None:
    waiting(conn)
    pauses.open_pause(conn, "account", code="Fault", reason="a reason")
    assert try_probe(conn) is None
    for seconds in (4, 8, 16, 32, 60, 60, 60, 60):
        conn.execute(text("UPDATE pauses SET probe_at = now() - interval '1 ms'"))
        [before] = rows(conn, "SELECT clock_timestamp() AS now")
        assert [try_probe(conn), try_probe(conn)] == ["account", None]
        [row] = rows(conn, "SELECT probe_at, clock_timestamp() AS now FROM pauses")
        assert before.now <= row.probe_at - timedelta(seconds=seconds) <= row.now


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
    assert refusal_log.refused_since_accepted(conn, ACTIVATION, {"A"}) == [3]
    assert refusal_log.refused_since_accepted(conn, RECOVERY, {"A"}) == []


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
    assert refusal_log.refused_since_accepted(conn, ACTIVATION, {"A"}) == []
    conn.execute(text("UPDATE deliveries SET fence = gen_random_uuid() WHERE outcome = 'rejected'"))
    assert len(refusal_log.refused_since_accepted(conn, ACTIVATION, {"A"})) == 5


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


def test_what_waits_for_the_rate_is_no_probe_of_anything_else(conn: Connection) -> None:
    assert not pauses.is_action("priority:1")
    _, recovery = waiting(conn)
    ago = -timedelta(minutes=1)
    pauses.open_pause(conn, "priority:1", code="BounceRate", reason="a reason", probed=False)
    pauses.open_pause(conn, ACTIVATION, code="Fault", reason="a reason", probe_after=ago)
    assert try_probe(conn) is None
    pauses.open_pause(conn, "account", code="Fault", reason="a reason", probe_after=ago)
    assert try_probe(conn) == "account"
    assert claimed(conn, probing=True) == [recovery]
    assert not pauses.close_pause(conn, "priority:1")
