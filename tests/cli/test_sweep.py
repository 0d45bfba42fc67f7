"""`sweep`, for cron: it drains what is due and says by its exit code what is left, whoever works beside it."""

import contextlib
import signal
from collections.abc import Iterable, Iterator
from datetime import timedelta
from itertools import takewhile
from typing import Any

import pytest
from psycopg.errors import QueryCanceled
from sqlalchemy import Engine, ExceptionContext, event, text

from mailroom import queue
from mailroom.fleet import pauses
from mailroom.ops import reading
from mailroom.outcome import Sent
from mailroom.queue.verdict import judge
from mailroom.simulator import Fault, Simulator
from tests.claiming import claim
from tests.cli.command import add, end, sending, start
from tests.cli.conftest import Here
from tests.running import eventually
from tests.trouble import many_dead_jobs, statements
from tests.world import add_accounts, ask_recovery, count, misplaced, rows

LONG_BATCHES = {"MAILROOM_BATCH_TIMEOUT": "200000"}


def outcomes(engine: Engine) -> list[str]:
    """The outcomes on record, and the invariant on the way."""
    with engine.connect() as connection:
        assert misplaced(connection) == []
        return [row.outcome for row in rows(connection, "SELECT outcome FROM deliveries ORDER BY id")]


def before_counting(statements: Iterable[str]) -> list[str]:
    """What a sweep asks for until all is sent, and it counts for the fleet."""
    return list(takewhile(lambda statement: "reading_refresh" not in statement, statements))


def test_an_empty_queue_is_drained(here: Here, ses: Simulator, url: str) -> None:
    assert here("sweep", env=sending(url, ses)).code == 0
    assert here("sweep", "--max-seconds", "0", env=sending(url, ses)).code == 0
    assert ses.ledger.requests == []


def test_all_that_is_due_is_sent_however_young(here: Here, ses: Simulator, url: str, engine: Engine) -> None:
    add(engine, 25)
    with engine.connect() as connection:
        [active] = add_accounts(connection, 1, status="active", prefix="active")
        ask_recovery(connection, active)
    assert here("sweep", env=sending(url, ses) | LONG_BATCHES).code == 0
    assert outcomes(engine) == ["sent"] * 26
    assert (ses.ledger.counts().mails, ses.ledger.counts().requests) == (26, 4)


@pytest.mark.slow
def test_what_is_due_later_is_left_to_later(here: Here, ses: Simulator, url: str, engine: Engine) -> None:
    add(engine, 2)
    later = "UPDATE jobs SET due_at = now() + interval '100 s', attempt = 1 WHERE token = (SELECT max(token) FROM jobs)"
    with engine.connect() as connection:
        connection.execute(text(later))
    assert here("sweep", env=sending(url, ses)).code == 0
    assert here("sweep", "--max-seconds", "0", env=sending(url, ses)).code == 0
    assert outcomes(engine) == ["sent"]


@pytest.mark.slow
def test_only_its_own_queue_is_swept(here: Here, ses: Simulator, url: str, engine: Engine) -> None:
    with engine.connect() as connection:
        connection.execute(text("SET mailroom.queue = 'news'"))
        add_accounts(connection, 1)
        connection.execute(text("RESET mailroom.queue"))
    assert here("sweep", env=sending(url, ses)).code == 0
    assert outcomes(engine) == []
    assert here("sweep", "--queue-name", "news", env=sending(url, ses)).code == 0
    assert outcomes(engine) == ["sent"]


def test_time_that_is_up_leaves_due_jobs(here: Here, ses: Simulator, url: str, engine: Engine) -> None:
    add(engine, 3)
    ended = here("sweep", "--max-seconds", "0", env=sending(url, ses))
    assert (ended.code, ended.err) == (3, "")
    assert outcomes(engine) == []


def test_a_fault_of_the_account_fails(here: Here, ses: Simulator, url: str, engine: Engine) -> None:
    add(engine, 30)
    ses.faults.add(Fault(error="SendingPausedException", times=None))
    here("sweep", env=sending(url, ses)).assert_one_line(1, "SES takes no mail at present")
    assert outcomes(engine) == ["deferred"] * 10  # and not one batch after the other
    with engine.connect() as connection:
        assert {row.attempt for row in rows(connection, "SELECT attempt FROM jobs")} == {0}


def test_a_fault_of_one_kind_of_mail_fails_though_its_mails_come_again_in_some_seconds(
    here: Here, ses: Simulator, url: str, engine: Engine
) -> None:
    """They were due, none left, and the next sweep would say so of them."""
    add(engine, 3)
    ses.faults.add(Fault(error="NotFoundException", times=None))
    here("sweep", env=sending(url, ses)).assert_one_line(1, "what is left is paused: see `mailroom status`")
    assert outcomes(engine) == ["deferred"] * 3


def test_a_pause_of_other_mails_fails_nothing(here: Here, ses: Simulator, url: str, engine: Engine) -> None:
    add(engine, 1)
    with engine.connect() as connection:
        for scope in ("password_recovery", "priority:2", "queue:news"):
            pauses.open_pause(connection, scope, code="Fault", reason="a reason")
    ses.faults.add(Fault(error="ConflictException", times=None))
    assert here("sweep", env=sending(url, ses)).code == 0
    assert outcomes(engine) == ["deferred"]  # for its own sake: it waits a while for its next try


def test_what_is_paused_fails_and_says_where_to_look(here: Here, ses: Simulator, url: str, engine: Engine) -> None:
    add(engine, 1)
    with engine.connect() as connection:
        connection.execute(
            text("INSERT INTO pauses (scope, code, reason) VALUES ('activation', 'RenderingFailure', 'no name')")
        )
    here("sweep", env=sending(url, ses)).assert_one_line(1, "what is left is paused: see `mailroom status`")
    assert outcomes(engine) == []


def lose_jobs(engine: Engine, count: int, *, days_ago: int = 0) -> None:
    """Insert accounts as a session that replicates does: no trigger makes a job."""
    with engine.connect() as connection:
        add_accounts(connection, count)
        connection.execute(text("DELETE FROM jobs"))
        connection.execute(
            text("UPDATE tokens SET created_at = now() - make_interval(days => :days)"), {"days": days_ago}
        )


def test_tokens_without_a_job_are_mailed(
    here: Here, ses: Simulator, url: str, engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    lose_jobs(engine, 3)
    assert here("sweep", env=sending(url, ses)).code == 0
    assert outcomes(engine) == ["sent"] * 3
    assert "reconciled tokens=3 first=1" in caplog.messages


@pytest.mark.slow
@pytest.mark.parametrize("how", [[], ["--full"]], ids=["newest", "full"])
def test_they_go_to_the_queue_of_who_finds_them(
    here: Here, ses: Simulator, url: str, engine: Engine, how: list[str]
) -> None:
    lose_jobs(engine, 3)
    env = sending(url, ses)
    assert here("sweep", *how, env=env | {"MAILROOM_QUEUE_NAME": "news"}).code == 0
    assert outcomes(engine) == ["sent"] * 3


@pytest.mark.slow
def test_old_ones_are_mailed_if_somebody_says_so(here: Here, ses: Simulator, url: str, engine: Engine) -> None:
    lose_jobs(engine, 3, days_ago=30)
    assert here("sweep", env=sending(url, ses)).code == 0
    assert ses.ledger.mails == []
    ended = here("sweep", "--full", env=sending(url, ses))
    assert (ended.code, ended.out, ended.err) == (0, "", "")
    assert outcomes(engine) == ["sent"] * 3


def test_lost_batches_are_rescued(here: Here, ses: Simulator, url: str, engine: Engine) -> None:
    add(engine, 3)
    with engine.connect() as connection:
        claim(connection, lease=timedelta(0))
    assert here("sweep", env=sending(url, ses)).code == 0
    assert outcomes(engine) == ["unconfirmed"] * 3
    with engine.connect() as connection:  # after the grace for a late answer
        connection.execute(text("UPDATE jobs SET due_at = now()"))
    assert here("sweep", env=sending(url, ses)).code == 0
    assert outcomes(engine) == ["unconfirmed"] * 3 + ["sent"] * 3


@pytest.mark.slow
@pytest.mark.early
def test_sweeps_beside_a_worker_send_every_mail_once(ses: Simulator, url: str, engine: Engine) -> None:
    add(engine, 300)
    env = sending(url, ses)
    with contextlib.ExitStack() as stack:
        worker = stack.enter_context(
            start("worker", "--no-listen", "--concurrency", "2", "--batch-limit", "3", env=env)
        )
        sweeps = [stack.enter_context(start("sweep", "--batch-limit", "3", env=env)) for _ in range(2)]
        assert [end(sweep).code for sweep in sweeps] == [0, 0]
        eventually(lambda: ses.ledger.counts().mails == 300)
        worker.send_signal(signal.SIGTERM)
        assert end(worker).code == 0
    assert outcomes(engine) == ["sent"] * 300
    assert ses.ledger.duplicates() == {}
    assert len(ses.ledger.sent_tokens()) == 300


@pytest.mark.slow
def test_a_signal_ends_it_after_the_batch_in_flight(ses: Simulator, url: str, engine: Engine) -> None:
    add(engine, 40)
    ses.faults.add(Fault(latency_ms=1_000, times=None))
    with start("sweep", "--batch-limit", "2", env=sending(url, ses)) as sweep:
        eventually(lambda: ses.ledger.requests)
        sweep.send_signal(signal.SIGTERM)
        ended = end(sweep)
    assert ended.code == 3, ended.err
    assert "Traceback" not in ended.err
    assert outcomes(engine) == ["sent"] * ses.ledger.counts().mails
    assert ses.ledger.counts().mails < 40
    with engine.connect() as connection:
        assert rows(connection, "SELECT FROM batches") == []


@pytest.mark.parametrize("attempt", [0, 5])
def test_a_mail_that_ses_rejects_is_over(here: Here, ses: Simulator, url: str, engine: Engine, attempt: int) -> None:
    add(engine, 1)
    with engine.connect() as connection:
        connection.execute(text("UPDATE jobs SET attempt = :attempt"), {"attempt": attempt})
    ses.faults.add(Fault(error="MessageRejected"))
    assert here("sweep", env=sending(url, ses)).code == 0
    assert outcomes(engine) == ["rejected"]


CLAIM = ".claim("
# What reads jobs from a place in the queue on, and so passes what is dead there.
WALKS = (CLAIM, ".look(", ".scan_walk(")


@pytest.mark.slow
def test_a_due_job_that_somebody_holds_is_left_after_some_tries(
    here: Here, ses: Simulator, url: str, engine: Engine
) -> None:
    add(engine, 1)
    with engine.connect() as holder, holder.execution_options(isolation_level="READ COMMITTED").begin():
        holder.execute(text("SELECT FROM jobs FOR UPDATE"))
        with statements(Engine) as seen:
            assert here("sweep", env=sending(url, ses)).code == 3
        assert len(before_counting(seen)) < 80
    assert outcomes(engine) == []


def test_a_due_job_that_somebody_holds_for_a_moment_is_sent(
    here: Here, ses: Simulator, url: str, engine: Engine
) -> None:
    """For as long as a claim takes that finds it locked: it is let go as the second begins."""
    add(engine, 1)
    claims: list[str] = []
    with engine.connect() as holder:
        transaction = holder.execution_options(isolation_level="READ COMMITTED").begin()
        holder.execute(text("SELECT FROM jobs FOR UPDATE"))

        def let_go(_: object, __: object, statement: str, *___: object) -> None:
            if CLAIM in statement:
                claims.append(statement)
            if len(claims) == 2 and transaction.is_active:
                transaction.rollback()

        event.listen(Engine, "before_cursor_execute", let_go)
        try:
            ended = here("sweep", env=sending(url, ses))
        finally:
            event.remove(Engine, "before_cursor_execute", let_go)
    assert ended.code == 0
    assert len(claims) >= 2
    assert outcomes(engine) == ["sent"]


def test_a_lost_batch_that_somebody_holds_is_left(here: Here, ses: Simulator, url: str, engine: Engine) -> None:
    add(engine, 2)
    with engine.connect() as connection:
        claim(connection, batch_limit=1, lease=timedelta(0))
    with engine.connect() as holder, holder.execution_options(isolation_level="READ COMMITTED").begin():
        holder.execute(text("SELECT FROM batches FOR UPDATE"))
        with statements(Engine) as seen:
            assert here("sweep", env=sending(url, ses)).code == 0
        assert len(before_counting(seen)) < 40
    assert outcomes(engine) == ["sent"]


def test_a_batch_that_can_never_be_given_back_keeps_nothing(
    here: Here, ses: Simulator, url: str, engine: Engine
) -> None:
    add(engine, 6)
    with engine.connect() as connection:
        for _ in range(3):
            claim(connection, batch_limit=1, lease=timedelta(0))
        connection.execute(text("ALTER TABLE deliveries ADD CONSTRAINT never CHECK (token <> 1 OR late) NOT VALID"))
    assert here("sweep", env=sending(url, ses)).code == 0
    assert outcomes(engine) == ["sent"] * 3 + ["unconfirmed"] * 2


@contextlib.contextmanager
def walks_take(longest: timedelta) -> Iterator[list[str]]:
    """Cut off what walks over jobs and takes longer, and nothing else that a busy machine is slow at.

    Gives what was cut off.
    """
    cut_off: list[str] = []

    def limit(_: object, cursor: Any, statement: str, *__: object) -> None:
        walks = any(name in statement for name in WALKS)
        most = longest / timedelta(milliseconds=1) if walks else 0
        cursor.connection.execute(f"SET statement_timeout = {most:.0f}")

    def note(context: ExceptionContext) -> None:
        if isinstance(context.original_exception, QueryCanceled):
            cut_off.append(str(context.statement))

    event.listen(Engine, "before_cursor_execute", limit)
    event.listen(Engine, "handle_error", note)
    try:
        yield cut_off
    finally:
        event.remove(Engine, "before_cursor_execute", limit)
        event.remove(Engine, "handle_error", note)


@pytest.mark.slow
@pytest.mark.early
def test_behind_more_dead_rows_than_a_statement_can_pass_all_that_is_due_is_sent(
    here: Here, ses: Simulator, url: str, engine: Engine
) -> None:
    with engine.connect() as connection, many_dead_jobs(engine, connection) as walk:
        add_accounts(connection, 25)
        first = "UPDATE jobs SET due_at = now() - interval '2 hours' WHERE token = (SELECT min(token) FROM jobs)"
        connection.execute(text(first))  # so that dead rows lie behind a living one, too
        with walks_take(walk / 3) as cut_off:
            assert here("sweep", "--full", env=sending(url, ses)).code == 0
        assert cut_off, "every walk came to its end"
        assert [row.outcome for row in rows(connection, "SELECT outcome FROM deliveries")] == ["sent"] * 25


@pytest.mark.slow
def test_a_recovery_whose_account_somebody_holds_is_left(here: Here, ses: Simulator, url: str, engine: Engine) -> None:
    with engine.connect() as connection:
        [account] = add_accounts(connection, 1, status="active")
        ask_recovery(connection, account)
        with engine.connect().execution_options(isolation_level="READ COMMITTED") as holder:
            holder.execute(text("SELECT FROM accounts FOR UPDATE"))
            assert here("sweep", env=sending(url, ses)).code == 3
        connection.execute(text("UPDATE jobs SET due_at = now()"))  # it comes again in a moment
        assert here("sweep", env=sending(url, ses)).code == 0
    assert outcomes(engine) == ["sent"]


def test_what_is_held_and_was_accepted_late_is_over(here: Here, ses: Simulator, url: str, engine: Engine) -> None:
    add(engine, 1)
    with engine.connect() as connection:
        [batch] = claim(connection).batches
        connection.execute(text("UPDATE batches SET lease_until = clock_timestamp() - interval '1 second'"))
        queue.rescue(connection, resend_after=None)
        queue.settle(connection, [(batch, [judge(Sent("m"), attempt=0, jitter=0)])])
    assert here("sweep", env=sending(url, ses)).code == 0
    assert outcomes(engine) == ["unconfirmed", "sent", "sent"]
    assert ses.ledger.mails == []


def test_what_was_due_before_the_clock_was_set_back_is_sent(
    here: Here, ses: Simulator, url: str, engine: Engine
) -> None:
    add(engine, 12)
    with engine.connect() as connection:
        connection.execute(text("UPDATE jobs SET due_at = due_at + interval '10 minutes'"))
    assert here("sweep", env=sending(url, ses)).code == 0
    assert outcomes(engine) == ["sent"] * 12


def test_where_cron_alone_sweeps_each_sweep_counts_for_the_fleet_in_the_end(
    here: Here, ses: Simulator, url: str, engine: Engine
) -> None:
    add(engine, 3)
    assert here("sweep", env=sending(url, ses)).code == 0
    with engine.connect() as connection:
        found = reading.read(connection)
        assert found is not None
        assert found.outcomes["hour"] == {"sent": 3}
        assert [(each.name.endswith("/sweep/mailroom"), each.senders) for each in found.workers] == [(True, 0)]
        assert here("sweep", env=sending(url, ses)).code == 0
        assert count(connection, "workers") == 1


def test_a_count_that_fails_fails_no_sweep(
    here: Here, ses: Simulator, url: str, engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    add(engine, 3)
    with engine.connect() as connection:
        connection.execute(text("ALTER FUNCTION reading_refresh RENAME TO reading_refreshed"))
    assert here("sweep", env=sending(url, ses)).code == 0
    assert outcomes(engine) == ["sent"] * 3
    assert "the count for the fleet is left to the next sweep: " in caplog.text
