"""How long a mail that may be out waits before it is sent again: longer while SES is heard, which may tell of it."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import Connection, Engine, text

from mailroom.mail.transport import Mail
from mailroom.ops import maintenance
from mailroom.outcome import Outcome, Sent, Unconfirmed
from mailroom.queue import feed
from mailroom.queue.verdict import GRACE, GRACE_HEARD
from mailroom.simulator import Fault, Simulator
from mailroom.worker.worker import Worker
from tests import running
from tests.claiming import enqueue, run_out, settle, take
from tests.running import Processes, Scripted, eventually
from tests.telling import SEND, tell_of
from tests.world import add_accounts, misplaced, rows

# As they are where nothing is set.
LIMITS: dict[str, Any] = {"resend_after": GRACE, "resend_after_heard": GRACE_HEARD}


def unheard(mails: Sequence[Mail]) -> Sequence[Outcome]:
    return [Unconfirmed("ReadTimeoutError", "no answer")] * len(mails)


def hear(connection: Connection) -> None:
    """Let a mail go out, and SES tell of it."""
    enqueue(connection, prefix="heard")
    batch = take(connection)
    assert settle(connection, batch, Sent("m-1"))
    tell_of(connection, batch, SEND, "m-1")
    assert feed.state(connection).live


def fall_silent(connection: Connection) -> None:
    """Let that have been long ago, and a mail have gone out since that SES never told of."""
    connection.execute(text("UPDATE feed SET heard_at = heard_at - interval '1 hour'"))
    connection.execute(text("UPDATE deliveries SET created_at = created_at - interval '11 minutes' WHERE NOT late"))
    assert feed.state(connection).silent


def waits(connection: Connection, prefix: str) -> list[int]:
    """For how many seconds the mails of these accounts wait since they became unconfirmed."""
    found = rows(
        connection,
        "SELECT round(extract(epoch FROM jobs.due_at - deliveries.created_at)) AS seconds"
        "  FROM jobs JOIN deliveries USING (token) JOIN accounts ON accounts.id = deliveries.account"
        " WHERE outcome = 'unconfirmed' AND login LIKE :prefix || '%'",
        prefix=prefix,
    )
    return [int(row.seconds) for row in found]


def knows(worker: Worker, wait: timedelta) -> None:
    eventually(lambda: worker._shared.resend.current == wait, f"mails wait for {wait}")


@pytest.mark.slow
def test_in_silence_the_wait_of_a_worker_is_short_again_and_it_warns(
    engine: Engine, connection: Connection, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Trap 22, from end to end."""
    caplog.set_level("INFO")
    monkeypatch.setattr(maintenance, "MINUTE", timedelta(milliseconds=50))
    sends = Scripted()
    sends.answers = [unheard]
    hear(connection)
    with running.working(engine, sends, sweep_interval=0.05, **LIMITS) as worker:
        knows(worker, GRACE_HEARD)
        add_accounts(connection, 1, prefix="live")
        eventually(lambda: waits(connection, "live") == [60], "it waits for SES to tell of it")
        assert "FeedSilent" not in caplog.text
        fall_silent(connection)
        eventually(lambda: "warning code=FeedSilent no event for mails sent more than 10" in caplog.text, "it warns")
        add_accounts(connection, 1, prefix="silent")
        eventually(lambda: waits(connection, "silent") == [5], "it waits a moment")
        connection.execute(text("UPDATE feed SET heard_at = now()"))
        eventually(lambda: "warning over code=FeedSilent" in caplog.text, "SES is heard again")
        add_accounts(connection, 1, prefix="again")
        eventually(lambda: waits(connection, "again") == [60], "and so it waits for that")
    assert misplaced(connection) == []


@pytest.mark.parametrize(("live", "seconds"), [(True, 60), (False, 5)])
def test_what_a_process_finds_lost_when_it_starts_waits_as_long(
    engine: Engine, connection: Connection, live: bool, seconds: int
) -> None:
    """Its first look, before it has done anything else."""
    if live:
        hear(connection)
    enqueue(connection, prefix="lost")
    take(connection)
    run_out(connection)
    with running.working(engine, Scripted(), **LIMITS):
        eventually(lambda: waits(connection, "lost") == [seconds], "it is given back")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("state", "settings", "seconds"),
    [
        ("never heard", {}, 5),
        ("live", {}, 60),
        ("silent", {}, 5),
        ("live", {"MAILROOM_UNCONFIRMED_WAIT": "20000"}, 20),
        ("silent", {"MAILROOM_UNCONFIRMED_WAIT": "20000"}, 20),
    ],
)
def test_a_sweep_lets_wait_as_long_as_is_set(
    url: str,
    connection: Connection,
    simulator: Simulator,
    processes: Processes,
    state: str,
    settings: dict[str, str],
    seconds: int,
) -> None:
    if state != "never heard":
        hear(connection)
    if state == "silent":
        fall_silent(connection)
    add_accounts(connection, 1, prefix="new")
    simulator.faults.add(Fault(accept_then="drop"))
    sweep = processes.start("sweep", url=url, simulator=simulator, **settings)
    sweep.wait()
    assert waits(connection, "new") == [seconds]
