"""Who truncates accounts or tokens while workers claim."""

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import pytest
from sqlalchemy import Connection, Engine, text

from mailroom.event import Event, EventKind
from mailroom.outcome import Sent
from mailroom.queue import feed
from mailroom.queue.events import absorb
from tests.claiming import claim, enqueue, settle, take
from tests.telling import RENDERING_FAILURE, tell_of
from tests.world import misplaced, rows, transaction, until_somebody_waits


@pytest.mark.slow
@pytest.mark.parametrize("truncated", ["accounts CASCADE", "tokens CASCADE"])
@pytest.mark.parametrize("claimed", [False, True], ids=["first claim", "planned before"])
def test_who_truncates_beside_a_claim_waits_for_none_that_waits_for_it(
    engine: Engine, truncated: str, claimed: bool
) -> None:
    """The trigger takes jobs away: a claim that came meanwhile must hold none before it has the tables."""
    with (
        transaction(engine) as reader,
        transaction(engine) as application,
        transaction(engine) as worker,
        ThreadPoolExecutor(2) as threads,
    ):
        enqueue(worker)
        if claimed:
            claim(worker)
            enqueue(worker, prefix="other")
        worker.commit()
        rows(reader, "SELECT count(*) FROM accounts, tokens")
        truncating = threads.submit(application.execute, text(f"TRUNCATE {truncated}"))
        until_somebody_waits(engine)
        claiming = threads.submit(claim, worker)
        until_somebody_waits(engine, 2)
        reader.rollback()
        truncating.result(timeout=60)
        application.commit()
        assert claiming.result(timeout=60).batches == ()
        worker.commit()
        assert misplaced(worker) == []
        assert rows(worker, "SELECT FROM jobs") == []


@pytest.mark.slow
@pytest.mark.parametrize("planned", [False, True], ids=["first", "planned before"])
def test_nor_for_who_looks_at_what_contradicts_an_acceptance(engine: Engine, planned: bool) -> None:
    """The trigger takes events away: who looks at them must hold none before it has the tables."""
    with (
        transaction(engine) as holder,
        transaction(engine) as application,
        transaction(engine) as sweep,
        ThreadPoolExecutor(2) as threads,
    ):
        if planned:
            feed.take_back(sweep, queue="mailroom")
        enqueue(sweep)
        batch = take(sweep)
        assert settle(sweep, batch, Sent("m-1"))
        tell_of(sweep, batch, RENDERING_FAILURE, "m-1")
        sweep.execute(text("UPDATE events SET look_at = now() + interval '1 day'"))  # as if the clock was set back
        enqueue(sweep, prefix="other")
        sweep.commit()
        rows(holder, "SELECT FROM jobs FOR UPDATE")
        truncating = threads.submit(application.execute, text("TRUNCATE tokens CASCADE"))
        until_somebody_waits(engine)
        sweeping = threads.submit(feed.take_back, sweep, queue="mailroom")
        until_somebody_waits(engine, 2)
        holder.rollback()
        truncating.result(timeout=60)
        application.commit()
        assert sweeping.result(timeout=60) == []
        sweep.commit()
        assert rows(sweep, "SELECT FROM jobs") == []


def test_what_nobody_here_knows_yet_is_kept(conn: Connection) -> None:
    """A failure to render may be of a mail whose settlement is still to come, as after a failover."""
    enqueue(conn)
    batch = take(conn)
    assert settle(conn, batch, Sent("m-1"))
    tell_of(conn, batch, RENDERING_FAILURE, "m-1")
    absorb(conn, [Event(EventKind.RENDERING_FAILURE, "m-2", datetime.now(UTC))])
    conn.execute(text("TRUNCATE accounts CASCADE"))
    assert rows(conn, "SELECT message_id FROM events") == [("m-2",)]
