"""Transactions that commit out of order: a cursor over ids loses their mail, the queue must not."""

import random
from collections import Counter
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from time import monotonic

import pytest
from sqlalchemy import Connection, Engine, event, text

from mailroom import queue
from mailroom.job import Position, Priority
from mailroom.outcome import Sent
from mailroom.queue.floors import SLACK, Floors
from tests.claiming import claim, start_over, verdicts
from tests.kinds import ACTIVATION, LANES
from tests.world import add_accounts, misplaced, rows, transaction

THROUGH_PGBOUNCER = True

SESSIONS = 8
INSERTS = 6
PATIENCE = 200.0
LANE = (Priority.NORMAL, ACTIVATION)
BEFORE = datetime(2020, 1, 1, tzinfo=UTC)


def take_ten(connection: Connection, floors: Floors) -> list[int]:
    return [job.token for batch in claim(connection, batch_limit=10, floors=floors).batches for job in batch.jobs]


def overtaken(engine: Engine, claimer: Connection, floors: Floors, *, first: timedelta, second: timedelta) -> int:
    """Insert a job, claim one that was inserted later and committed sooner, commit the first. Return its token.

    They come due that long before the claimer's now, which stands still in its transaction.
    """
    now = claimer.execute(text("SELECT now()")).scalar_one()
    due = text("UPDATE jobs SET due_at = :due_at WHERE token IN (SELECT id FROM tokens WHERE account = :account)")
    with transaction(engine) as slow, transaction(engine) as fast:
        [account] = add_accounts(slow, 1, prefix="slow")
        slow.execute(due, {"account": account, "due_at": now - first})
        [later_account] = add_accounts(fast, 1, prefix="fast")
        fast.execute(due, {"account": later_account, "due_at": now - second})
        assert later_account > account
        fast.commit()
        [taken] = take_ten(claimer, floors)
        slow.commit()
    [waiting] = rows(claimer, "SELECT token FROM jobs")
    assert waiting.token < taken
    return int(waiting.token)


def test_a_commit_that_was_overtaken_a_moment_ago_is_found_by_the_next_claim(engine: Engine) -> None:
    floors = Floors()
    with transaction(engine) as claimer:
        token = overtaken(engine, claimer, floors, first=timedelta(seconds=0.9), second=timedelta(seconds=0.1))
        assert take_ten(claimer, floors) == [token]


def test_a_commit_that_was_overtaken_long_ago_is_found_after_the_sweep(engine: Engine) -> None:
    floors = Floors()
    with transaction(engine) as claimer:
        token = overtaken(engine, claimer, floors, first=timedelta(seconds=10), second=timedelta(seconds=5))
        assert take_ten(claimer, floors) == []
        start_over(floors)
        assert take_ten(claimer, floors) == [token]


def test_a_claim_that_was_under_way_when_floors_were_lowered_does_not_undo_it(engine: Engine) -> None:
    floors = Floors()
    with transaction(engine) as claimer:
        token = overtaken(engine, claimer, floors, first=timedelta(seconds=10), second=timedelta(seconds=5))
        seen = floors.read(LANES)
        start_over(floors)
        for lane, end in seen.items():
            floors.advance(lane, seen=end, end=end)
        assert take_ten(claimer, floors) == [token]


def test_a_claim_that_was_under_way_when_jobs_came_back_does_not_pass_over_them() -> None:
    floors = Floors()
    seen = floors.read(LANES)[LANE]
    floors.lower(LANE, Position(BEFORE, 0))  # what another sender gives back, which the claim under way has not seen
    assert not floors.advance(LANE, seen=seen, end=Position(BEFORE + timedelta(seconds=1), 1))
    assert floors.read(LANES)[LANE].due_at is None


def test_what_a_claim_has_locked_and_left_is_not_passed_over(engine: Engine) -> None:
    """A last part that is not full stays. Another claim, which skips what is locked, may end behind it meanwhile."""
    floors = Floors()
    with engine.connect() as connection:
        add_accounts(connection, 15)
        connection.execute(text("UPDATE jobs SET due_at = :due_at"), {"due_at": BEFORE})

        def meanwhile(*_: object) -> None:
            floors.advance(LANE, seen=floors.read(LANES)[LANE], end=Position(datetime.now(UTC) - timedelta(hours=1), 0))

        event.listen(connection, "after_cursor_execute", meanwhile)
        several = claim(connection, batch_limit=10, job_limit=40, batch_timeout=timedelta(days=9999), floors=floors)
        event.remove(connection, "after_cursor_execute", meanwhile)
        assert [len(batch.jobs) for batch in several.batches] == [10]
        assert len(take_ten(connection, floors)) == 5


@pytest.mark.parametrize("jobs", [5, 10])
def test_a_claim_that_left_nothing_lowers_no_floor(engine: Engine, jobs: int) -> None:
    """Another's floor is the higher one, and what lies below it need not be walked over again."""
    floors = Floors()
    higher = Position(datetime.now(UTC) - timedelta(hours=1), 0)
    with engine.connect() as connection:
        add_accounts(connection, jobs)
        connection.execute(text("UPDATE jobs SET due_at = :due_at"), {"due_at": BEFORE})

        def meanwhile(*_: object) -> None:
            floors.advance(LANE, seen=floors.read(LANES)[LANE], end=higher)

        event.listen(connection, "after_cursor_execute", meanwhile)
        assert claim(connection, batch_limit=10, job_limit=10 if jobs == 10 else 40, floors=floors).taken == jobs
        assert floors.read(LANES)[LANE] == higher


@pytest.mark.parametrize(
    ("now", "to", "found"),
    [(3, 2, 2), (2, 3, 2), (2, 2, 2)],
)
def test_a_floor_is_lowered_to_a_place_and_never_raised(now: int, to: int, found: int) -> None:
    floors = Floors()
    floors.advance(LANE, seen=floors.read(LANES)[LANE], end=Position(BEFORE, now))
    floors.lower(LANE, Position(BEFORE, to))
    assert floors.read(LANES)[LANE] == Position(BEFORE, found)


def insert_and_hold(engine: Engine, session: int) -> int:
    """Insert accounts again and again, each time committing a random while later, once long after the slack."""
    chance = random.Random(session)
    inserted = 0
    holds = [chance.uniform(0, 0.05) for _ in range(INSERTS)]
    holds[chance.randrange(INSERTS)] = SLACK.total_seconds() * chance.uniform(0.2, 1.3)
    for number, hold in enumerate(holds):
        with transaction(engine) as connection:
            inserted += len(add_accounts(connection, chance.randint(1, 4), prefix=f"s{session}n{number}-"))
            connection.execute(text("SELECT pg_sleep(:hold)"), {"hold": hold})
            connection.commit()
    return inserted


def send_all(engine: Engine, floors: Floors, writers: list[Future[int]]) -> list[int]:
    """Claim and settle until nobody inserts any more and nothing waits, as a worker does; return the tokens mailed."""
    mailed: list[int] = []
    until = monotonic() + PATIENCE
    with engine.connect() as connection:
        while monotonic() < until:
            over = all(writer.done() for writer in writers)
            found = claim(connection, batch_limit=7, job_limit=21, floors=floors)
            assert not found.finished
            if found.batches:
                mailed += [job.token for batch in found.batches for job in batch.jobs]
                assert queue.settle(
                    connection, [(batch, verdicts(batch, [Sent("m")] * len(batch.jobs))) for batch in found.batches]
                ) == {batch.fence for batch in found.batches}
            elif over and not rows(connection, "SELECT token FROM jobs LIMIT 1"):
                return mailed
            else:
                start_over(floors)
    pytest.fail("jobs still wait that no claim takes")


@pytest.mark.slow
def test_every_mail_leaves_once_whatever_the_order_of_commits(engine: Engine) -> None:
    floors = Floors()
    with ThreadPoolExecutor(SESSIONS + 2) as threads:
        writers = [threads.submit(insert_and_hold, engine, session) for session in range(SESSIONS)]
        senders = [threads.submit(send_all, engine, floors, writers) for _ in range(2)]
        inserted = sum(writer.result() for writer in writers)
        mailed = Counter(token for sender in senders for token in sender.result())

    with engine.connect() as connection:
        assert misplaced(connection) == []
        sent = rows(connection, "SELECT token FROM deliveries WHERE outcome = 'sent' AND NOT late")
    assert len(mailed) == len(sent) == inserted
    assert set(mailed.values()) == {1}
