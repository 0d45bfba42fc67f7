"""What a worker does to keep the tables in order, and how often."""

import logging

import pytest
from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import DBAPIError

from mailroom.ops.maintenance import MAX_STEP, Maintenance
from mailroom.simulator import Simulator
from tests.ops.aging import AGED, age, everything, lose_jobs, mail, prune
from tests.running import Processes, connecting, eventually
from tests.world import count, count_sent, misplaced, rows, transaction

THROUGH_PGBOUNCER = True


def test_a_worker_finds_lost_tokens_each_minute_and_further_back_each_time(
    engine: Engine, connection: Connection
) -> None:
    lose_jobs(connection, "activation", count=45)
    work = Maintenance(engine, queue="mailroom", prune_after=None, scan_limit=10)
    found = []
    for now in (0.0, 59.9, 60.0, 120.0, 180.0):
        work.step(now)
        found.append(count(connection, "jobs"))
    assert found == [20, 20, 30, 40, 45]
    lose_jobs(connection, "activation")
    work.step(240.0)
    assert (count(connection, "jobs"), misplaced(connection)) == (46, [])


def test_a_worker_prunes_only_if_told_to(engine: Engine, connection: Connection) -> None:
    mail(connection, 3)
    age(connection, 91)
    Maintenance(engine, queue="mailroom", prune_after=None).step(0)
    assert count(connection, "deliveries") == 3
    Maintenance(engine, queue="mailroom", prune_after=AGED).step(0)
    assert everything(connection) == (0, 0, 0)


def test_a_worker_prunes_a_backlog_step_by_step_and_then_hourly(engine: Engine, connection: Connection) -> None:
    mail(connection, 25)
    age(connection, 91)
    work = Maintenance(engine, queue="mailroom", prune_after=AGED, scan_limit=10)
    left = []
    for now in (0.0, 1.0, 5.0, 10.0):
        work.step(now)
        left.append(count(connection, "deliveries"))
    assert left == [15, 15, 5, 0]
    mail(connection, 1, prefix="more")
    age(connection, 91)
    work.step(3609.0)
    assert count(connection, "deliveries") == 1
    work.step(3610.0)
    assert count(connection, "deliveries") == 0


def test_what_the_database_refuses_is_said_once_and_stops_nothing_else(
    engine: Engine, connection: Connection, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    mail(connection, 1)
    age(connection, 91)
    connection.execute(text("CREATE TABLE theirs (token bigint REFERENCES tokens)"))
    connection.execute(text("INSERT INTO theirs SELECT id FROM tokens"))
    with pytest.raises(DBAPIError, match="theirs"):
        prune(engine)
    [lost] = lose_jobs(connection, "activation")
    work = Maintenance(engine, queue="mailroom", prune_after=AGED)
    work.step(0)
    work.step(3600)
    assert rows(connection, "SELECT token FROM jobs") == [(lost,)]
    reconciled, failed = [message for message in caplog.messages if not message.startswith("refused by the database")]
    assert failed.startswith("prune failed, trying again: ")
    assert reconciled == f"reconciled tokens=1 first={lost}"
    assert len([message for message in caplog.messages if "prune failed" in message]) == 1


def test_what_the_database_refuses_of_single_mails_is_one_line_of_the_log(
    engine: Engine, connection: Connection, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the code and the first token, and nothing that whoever refuses says of them."""
    monkeypatch.setattr("mailroom.db.refused._said", {})
    forgotten = mail(connection, 9)
    age(connection, 91)
    connection.execute(text("CREATE TABLE theirs (token bigint REFERENCES tokens)"))
    connection.execute(text("INSERT INTO theirs VALUES (:token)"), {"token": forgotten[4]})
    connection.execute(
        text(
            "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS"
            " $$ BEGIN RAISE 'not for %', (SELECT email FROM accounts LIMIT 1) USING ERRCODE = 'SH001'; END $$"
        )
    )
    lost = lose_jobs(connection, "activation", count=12)
    refusing = "CREATE TRIGGER refuse BEFORE INSERT ON jobs FOR EACH ROW WHEN (NEW.token IN ({}, {}))"
    connection.execute(text(f"{refusing.format(*lost[3:5])} EXECUTE FUNCTION refuse()"))
    work = Maintenance(engine, queue="mailroom", prune_after=AGED)
    for now in (0, 60, 3600):
        work.step(now)
    assert [message for message in caplog.messages if message.startswith("refused")] == [
        f"refused by the database act=reconcile code=SH001 token={lost[4]}",
        f"refused by the database act=prune code=23503 token={forgotten[4]}",
    ]
    assert "@example.com" not in caplog.text
    assert count(connection, "jobs") == 10


def test_a_step_of_which_nothing_may_go_keeps_nothing_behind_it(
    engine: Engine, connection: Connection, caplog: pytest.LogCaptureFixture
) -> None:
    mail(connection, 35)
    age(connection, 91)
    connection.execute(text("CREATE TABLE theirs (token bigint REFERENCES tokens)"))
    connection.execute(text("INSERT INTO theirs SELECT id FROM tokens ORDER BY id LIMIT 20"))
    work = Maintenance(engine, queue="mailroom", prune_after=AGED, scan_limit=10)
    left = []
    for now in (0, 5, 10, 15, 20, 3620):
        work.step(now)
        left.append(count(connection, "deliveries"))
    assert left == [35, 35, 25, 20, 20, 20]
    assert next(message for message in caplog.messages if "prune failed" in message).endswith('table "theirs"')
    mail(connection, 1, prefix="more")
    age(connection, 91)
    for now in (3625, 3630):
        work.step(now)
    assert count(connection, "deliveries") == 20


def test_a_table_that_somebody_has_locked_holds_a_worker_up_once_and_not_for_each_of_what_is_due(
    url: str, engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    """As where events are written anew (VACUUM FULL): a worker looks for mails meanwhile, and stops in time."""
    with connecting(url, answer_within=MAX_STEP) as own:
        work = Maintenance(own, queue="mailroom", prune_after=None)
        with transaction(engine) as holder:
            holder.execute(text("LOCK TABLE events"))
            work.step(0)
            assert len([message for message in caplog.messages if "failed, trying again" in message]) == 1
            assert work.owes
            work.step(1)
            assert len([message for message in caplog.messages if "failed, trying again" in message]) == 2
        work.step(2)
        assert not work.owes


@pytest.mark.slow
def test_a_worker_that_runs_mails_what_was_lost_and_forgets_what_is_old(
    url: str, connection: Connection, simulator: Simulator, processes: Processes
) -> None:
    old = mail(connection, 3)
    age(connection, 91)
    [lost] = lose_jobs(connection, "activation")
    processes.worker("--no-listen", url=url, simulator=simulator, MAILROOM_PRUNE_AFTER="90d")
    eventually(lambda: count_sent(connection) == 1, "the lost one is sent, and what is old is gone")
    assert [mail.tags["mailroom_token"] for mail in simulator.ledger.mails] == [str(lost)]
    eventually(lambda: rows(connection, "SELECT id FROM tokens") == [(lost,)], "the old ones are forgotten")
    assert lost not in old
