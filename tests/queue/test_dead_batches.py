"""Batches that are done stay as dead rows as long as an old snapshot does: nobody walks over all of them each time."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta

import pytest
from sqlalchemy import Connection, Engine, text

from mailroom import queue
from mailroom.event import EventKind
from mailroom.queue import events, feed
from mailroom.queue.floors import Floors
from mailroom.queue.look import View
from tests.claiming import claim, enqueue, enqueue_recovery, look, run_out, take, tokens_of
from tests.kinds import KINDS
from tests.telling import of
from tests.world import misplaced, rows, transaction

DEAD = 3_000
# More than the newest ones that are looked at each time.
SINCE = 1_000_000


def pass_by(connection: Connection) -> None:
    """Let many batches have been opened since."""
    connection.execute(text("SELECT setval('batches_id_seq', nextval('batches_id_seq') + :since)"), {"since": SINCE})


@pytest.fixture
def many_dead(engine: Engine) -> Iterator[Engine]:
    """A database in which many batches were opened and closed, while an old snapshot keeps them."""
    with engine.connect() as connection, transaction(engine, "REPEATABLE READ") as old:
        connection.execute(text("ALTER TABLE batches SET (autovacuum_enabled = off)"))
        assert rows(old, "SELECT FROM batches") == []
        connection.execute(
            text(
                "INSERT INTO batches (queue, worker, action, priority, due_at, tokens, attempts, lease_until)"
                " SELECT 'mailroom', 'test', 'activation', 1, now(), ARRAY[-n], ARRAY[0], now()"
                "   FROM generate_series(1, :dead) AS n"
            ),
            {"dead": DEAD},
        )
        connection.execute(text("DELETE FROM batches"))
        pass_by(connection)
        yield engine


def read(engine: Engine, act: Callable[[Connection], object]) -> int:
    """Count the entries of the index of batches that something reads, dead ones too, and undo it."""
    entries = text(
        "SELECT pg_stat_get_xact_tuples_returned('batches_pkey'::regclass)"
        f" + {DEAD} * pg_stat_get_xact_numscans('batches'::regclass)"  # or all of the table
    )
    with transaction(engine) as connection:
        before: int = connection.execute(entries).scalar_one()
        act(connection)
        after: int = connection.execute(entries).scalar_one()
        connection.rollback()
    return after - before


def floors_of_now(connection: Connection) -> Floors:
    """The floors of a process that has looked from the beginning."""
    floors = Floors()
    look(connection, floors=floors, from_start=True)
    return floors


def look_on(connection: Connection, floors: Floors) -> View:
    return look(connection, floors=floors)


def test_neither_a_look_nor_a_claim_nor_a_rescue_walks_over_what_is_done(many_dead: Engine) -> None:
    with many_dead.connect() as connection:
        floors = floors_of_now(connection)
        enqueue_recovery(connection)
        assert read(many_dead, lambda sweep: look(sweep, from_start=True)) >= DEAD
        assert read(many_dead, lambda worker: look_on(worker, floors)) < 10
        assert read(many_dead, lambda worker: take(worker, lanes=KINDS)) < 10
        enqueue(connection, 3, prefix="lost")
        lost = take(connection)
        run_out(connection, lost)
        assert look_on(connection, floors).rescuable
        assert read(many_dead, queue.rescue) < 10


def test_nor_does_evidence(many_dead: Engine) -> None:
    with many_dead.connect() as connection:
        enqueue(connection, 2)
        batch = take(connection)
        sent = of(batch, EventKind.SEND, "m", site=events.site(connection))
        assert read(many_dead, lambda worker: events.absorb(worker, [sent])) < 10
        untagged = replace(sent, fence=None, site=None)
        assert read(many_dead, lambda worker: events.absorb(worker, [untagged])) < 10
        failures = [
            of(batch, EventKind.RENDERING_FAILURE, f"m{job}", job=job, site=events.site(connection)) for job in (0, 1)
        ]
        feed.absorb(connection, failures, queue="mailroom")
        connection.execute(text("UPDATE events SET look_at = now(), absorbed_at = now() - interval '2 hours'"))
        assert read(many_dead, lambda worker: feed.take_back(worker, queue="mailroom")) < 1.5 * DEAD


def test_a_lost_batch_that_is_none_of_the_newest_is_given_back_whatever_is_refused(
    engine: Engine, connection: Connection
) -> None:
    enqueue(connection, 1)
    old = take(connection)
    pass_by(connection)
    enqueue(connection, 1, prefix="since")
    new = take(connection)
    run_out(connection)
    assert look(connection, from_start=True).rescuable
    assert [job.token for job in queue.rescue(connection, batch_limit=1, passed_over=1)] == tokens_of(old)
    assert [job.token for job in queue.rescue(connection)] == tokens_of(new)
    assert misplaced(connection) == []


def test_an_event_of_a_batch_that_is_none_of_the_newest_is_believed(connection: Connection) -> None:
    enqueue(connection, 1)
    batch = take(connection, lease=timedelta(days=1))
    pass_by(connection)
    assert events.absorb(connection, [of(batch, EventKind.SEND, "m", site=events.site(connection))]).added == 1
    run_out(connection)
    queue.rescue(connection)
    connection.execute(text("UPDATE jobs SET due_at = now()"))
    assert [job.error_code for job in claim(connection).finished] == ["AcceptedLate"]
