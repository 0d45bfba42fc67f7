"""What a trigger or a rule of the application's own refuses of evidence holds up nothing of other mails."""

import time

import pytest
from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import DBAPIError

from mailroom.outcome import Sent
from mailroom.queue import feed, late_acceptances
from mailroom.queue.late_acceptances import Applied
from tests.claiming import enqueue, run_out, settle, take, waiting
from tests.telling import BOUNCE, HARD, RENDERING_FAILURE, SEND, look_again, reasons, tell_of
from tests.world import misplaced, rows, transaction


def take_back(connection: Connection) -> list[int]:
    return sorted(mail.token for mail in feed.take_back(connection, queue="mailroom"))


def paused(connection: Connection) -> set[str]:
    return {row.scope for row in rows(connection, "SELECT scope FROM pauses")}


APPEND_ONLY = (
    "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'the log is kept as it is'; END $$;"
    " CREATE {kind} TRIGGER refuse {when} UPDATE ON deliveries {deferred} FOR EACH ROW EXECUTE FUNCTION refuse()"
)


@pytest.mark.parametrize(
    "refusing",
    [
        APPEND_ONLY.format(kind="", when="BEFORE", deferred=""),
        APPEND_ONLY.format(kind="CONSTRAINT", when="AFTER", deferred="DEFERRABLE INITIALLY DEFERRED"),
        "ALTER TABLE jobs ADD CHECK (attempt = 0) NOT VALID",
    ],
    ids=["log", "commit", "queue"],
)
def test_a_template_that_breaks_pauses_its_action_though_no_mail_may_be_taken_back(
    connection: Connection, refusing: str
) -> None:
    enqueue(connection)
    batch = take(connection)
    assert settle(connection, batch, Sent("m-1"))
    connection.execute(text(refusing))
    tell_of(connection, batch, RENDERING_FAILURE, "m-1")
    assert take_back(connection) == []
    assert paused(connection) == {"activation"}
    assert misplaced(connection) == []


def test_one_that_may_not_be_taken_back_holds_up_no_others(connection: Connection) -> None:
    tokens = enqueue(connection, 4)
    batch = take(connection)
    assert settle(connection, batch, *[Sent(f"m-{n}") for n in range(4)])
    connection.execute(text(f"ALTER TABLE jobs ADD CHECK (token <> {tokens[0]}) NOT VALID"))
    for n in range(4):
        tell_of(connection, batch, RENDERING_FAILURE, f"m-{n}", job=n)
    assert take_back(connection) == tokens[1:]
    assert [token for token, *_ in waiting(connection)] == tokens[1:]
    assert take_back(connection) == []
    connection.execute(text("ALTER TABLE jobs DROP CONSTRAINT jobs_token_check"))
    look_again(connection)
    assert take_back(connection) == tokens[:1]
    assert misplaced(connection) == []


@pytest.mark.parametrize(
    ("refusing", "act", "code"),
    [
        (APPEND_ONLY.format(kind="", when="BEFORE", deferred=""), "take_back", "P0001"),
        ("ALTER TABLE suppressions ADD CHECK (bounced_at IS NULL) NOT VALID", "review", "23514"),
    ],
)
def test_what_is_refused_of_evidence_is_in_the_log_with_its_token(
    connection: Connection,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    refusing: str,
    act: str,
    code: str,
) -> None:
    monkeypatch.setattr("mailroom.db.refused._said", {})
    [token] = enqueue(connection)
    batch = take(connection)
    assert settle(connection, batch, Sent("m-1"))
    if act == "review":
        tell_of(connection, batch, BOUNCE, "m-1", **HARD)
        connection.execute(text("DELETE FROM suppressions"))
        look_again(connection)
    else:
        tell_of(connection, batch, RENDERING_FAILURE, "m-1")
    connection.execute(text(refusing))
    assert take_back(connection) == []
    look_again(connection)
    assert take_back(connection) == []
    assert caplog.messages == [f"refused by the database act={act} code={code} token={token}"]


def test_an_address_that_may_not_be_suppressed_holds_up_no_others(connection: Connection) -> None:
    enqueue(connection, 3)
    batch = take(connection)
    assert settle(connection, batch, *[Sent(f"m-{n}") for n in range(3)])
    for n in range(2):
        tell_of(connection, batch, BOUNCE, f"m-{n}", job=n, **HARD)
    emails = [job.email for job in batch.jobs]
    connection.execute(text("DELETE FROM suppressions"))
    connection.execute(
        text(f"ALTER TABLE suppressions ADD CHECK (address_hash <> token_address_hash('{emails[0]}')) NOT VALID")
    )
    look_again(connection)
    tell_of(connection, batch, RENDERING_FAILURE, "m-2", job=2)
    assert take_back(connection) == [batch.jobs[2].token]
    assert reasons(connection) == {emails[1]: "bounce"}


def test_what_is_locked_is_waited_for_once_and_not_for_each(engine: Engine) -> None:
    with engine.connect() as connection:
        enqueue(connection, 40)
        batch = take(connection)
        assert settle(connection, batch, *[Sent(f"m-{n}") for n in range(40)])
        for n in range(40):
            tell_of(connection, batch, RENDERING_FAILURE, f"m-{n}", job=n)
    with transaction(engine) as holder, transaction(engine, lock_timeout="300ms") as sweep:
        holder.execute(text("LOCK TABLE jobs IN SHARE MODE"))
        began = time.monotonic()
        with pytest.raises(DBAPIError, match="lock timeout"):
            take_back(sweep)
        assert time.monotonic() - began < 3


def test_one_that_may_not_be_freed_holds_up_no_others(connection: Connection) -> None:
    tokens = enqueue(connection, 4)
    batch = take(connection)
    run_out(connection)
    connection.execute(text("SELECT * FROM rescue(10, 0, 6, NULL)"))
    for n in range(4):
        tell_of(connection, batch, SEND, f"m-{n}", job=n)
    connection.execute(text(f"ALTER TABLE jobs ADD CHECK (token <> {tokens[0]} OR due_at = 'infinity') NOT VALID"))
    assert late_acceptances.apply(connection) == Applied(freed=3, amended=0)
    assert rows(connection, "SELECT token FROM jobs WHERE due_at = 'infinity'") == [(tokens[0],)]


def test_one_that_may_not_be_amended_holds_up_no_others(connection: Connection) -> None:
    tokens = enqueue(connection, 4)
    connection.execute(text("UPDATE jobs SET attempt = 5"))
    batch = take(connection)
    run_out(connection)
    connection.execute(text("SELECT * FROM rescue(10, 0, 6, NULL)"))
    for n in range(4):
        tell_of(connection, batch, SEND, f"m-{n}", job=n)
    connection.execute(
        text(f"ALTER TABLE deliveries ADD CHECK (token <> {tokens[0]} OR late OR outcome <> 'sent') NOT VALID")
    )
    assert late_acceptances.apply(connection) == Applied(freed=0, amended=3)
    assert misplaced(connection) == []
