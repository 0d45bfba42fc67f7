"""A look foretells what a claim would do."""

from datetime import timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection, text

from mailroom.job import Action, Priority
from mailroom.queue.look import View
from tests.claiming import (
    NOTHING,
    claim,
    enqueue,
    enqueue_recovery,
    look,
)
from tests.kinds import ACTIONS, LANES

THROUGH_PGBOUNCER = True

a_job = st.tuples(
    st.sampled_from(Priority),
    st.sampled_from(ACTIONS),
    st.integers(-8, 8),  # due so many seconds from now
    st.sampled_from([0, 0, 1]),
)


@pytest.mark.slow
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(a_job, max_size=7), st.integers(1, 4), st.integers(0, 5))
def test_a_look_foretells_what_a_claim_does(
    conn: Connection, jobs: list[tuple[Priority, Action, int, int]], limit: int, timeout_seconds: int
) -> None:
    timeout = timedelta(seconds=timeout_seconds)
    with conn.begin_nested() as savepoint:
        for token, (priority, action, seconds, attempt) in enumerate(jobs, start=1):
            conn.execute(
                text(
                    "INSERT INTO jobs (token, due_at, action, priority, attempt, queue) VALUES"
                    " (:token, now() + make_interval(secs => :s), CAST(:a AS token_action), :p, :attempt, 'mailroom')"
                ),
                {"token": token, "s": seconds, "a": str(action), "p": priority.value, "attempt": attempt},
            )
        seen = look(conn, batch_limit=limit, batch_timeout=timeout)
        assert (seen.ready > 0) == would_claim(conn, limit=limit, timeout=timeout)
        assert seen.ready == sum(would_claim(conn, limit=limit, timeout=timeout, lane=lane) for lane in LANES)
        if seen.ready == 0 and jobs:
            assert seen.next is not None
            assert not would_claim(conn, limit=limit, timeout=timeout, later=seen.next - timedelta(microseconds=1))
            assert would_claim(conn, limit=limit, timeout=timeout, later=seen.next)
        savepoint.rollback()


def would_claim(
    connection: Connection,
    *,
    limit: int,
    timeout: timedelta,
    later: timedelta = NOTHING,
    lane: tuple[Priority, str] | None = None,
) -> bool:
    """Tell whether a claim would take anything that much later, if only this lane's jobs were there."""
    with connection.begin_nested() as savepoint:
        connection.execute(text("UPDATE jobs SET due_at = due_at - :later"), {"later": later})
        if lane is not None:
            connection.execute(
                text("DELETE FROM jobs WHERE NOT (priority = :p AND action = CAST(:a AS token_action))"),
                {"p": lane[0].value, "a": lane[1]},
            )
        taken = claim(connection, batch_limit=limit, batch_timeout=timeout).taken > 0
        savepoint.rollback()
    return taken


def test_a_job_that_is_put_off_for_ever_does_not_blind_a_look(conn: Connection) -> None:
    enqueue(conn)
    conn.execute(text("UPDATE jobs SET due_at = 'infinity'"))
    assert look(conn) == View(ready=0, next=None, rescuable=False, probeable=False)
    enqueue_recovery(conn)
    conn.execute(text("UPDATE jobs SET due_at = 'infinity' WHERE action = 'activation'"))
    assert look(conn).ready == 1
