"""How PostgreSQL runs the functions of sql/: by index, and in constant work however long the queue, or dead rows, are.

What is looked at are the plans that are made inside of them, and kept there: by the session that has them, and for as
long as it has them.
"""

import contextlib
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import DBAPIError

from mailroom import queue
from mailroom.db import functions
from mailroom.event import Event, EventKind
from mailroom.job import Batch, Priority
from mailroom.ops import counting, health, maintenance
from mailroom.outcome import Sent
from mailroom.queue import by_hand, feed, late_acceptances
from mailroom.queue.events import Absorbed, absorb, site
from mailroom.queue.floors import Floors
from mailroom.queue.limits import MAX_CLAIM_JOBS
from tests.claiming import batch_of, claim, enqueue, look, run_out, start_over, take, verdicts
from tests.kinds import ACTIVATION, LANES
from tests.plans import Way, explained, watch
from tests.telling import HARD, of
from tests.world import add_accounts, misplaced, recompute_minutes, rows, transaction

LIMIT = 10
SENT = Sent("m")
MANY = 10_000
NINETY_DAYS = timedelta(days=90)


def claim_ten(connection: Connection, floors: Floors) -> Batch | None:
    return batch_of(claim(connection, batch_limit=LIMIT, floors=floors))


def look_for_ten(connection: Connection, floors: Floors, **how: Any) -> None:
    look(connection, batch_limit=LIMIT, floors=floors, **how)


def settle_sent(connection: Connection, *batches: Batch) -> bool:
    return bool(queue.settle(connection, [(batch, verdicts(batch, [SENT] * len(batch.jobs))) for batch in batches]))


def lose(connection: Connection) -> None:
    """Let every lease have run out, and rescue."""
    run_out(connection)
    queue.rescue(connection)


def leave_alone(connection: Connection) -> None:
    """Keep autovacuum away, so that it neither analyses nor clears anything in the midst of a test."""
    for table in ("jobs", "batches", "tokens", "accounts", "deliveries", "events", "suppressions"):
        connection.execute(text(f"ALTER TABLE {table} SET (autovacuum_enabled = off)"))


def fill(connection: Connection, count: int, *, prefix: str = "user") -> None:
    """Let so many activations wait since a minute ago, all of them tried before."""
    add_accounts(connection, count, prefix=prefix)
    connection.execute(text("UPDATE jobs SET attempt = 1, due_at = now() - interval '1 minute'"))
    connection.execute(
        text(
            "INSERT INTO deliveries (token, account, batch, action, outcome, attempt)"
            " SELECT id, account, 1, action, 'deferred', 0 FROM tokens"
        )
    )


def fill_with_jobs(connection: Connection, count: int) -> None:
    """Let so many more wait whose tokens are gone, since they are made in seconds."""
    connection.execute(
        text(
            "INSERT INTO jobs (token, due_at, action, priority, attempt, queue)"
            " SELECT 1000000 + n, now() - interval '30 seconds', 'activation', 2, 1, 'mailroom'"
            " FROM generate_series(1, :count) AS n"
        ),
        {"count": count},
    )


def run_everything(connection: Connection) -> None:
    """Run each function of a worker and of an operator once, as a session does that then keeps its plans."""
    look_for_ten(connection, Floors())
    if batch := claim_ten(connection, Floors()):
        assert settle_sent(connection, batch)
        assert not settle_sent(connection, batch)
        lose(connection)
    queue.rescue(connection)
    late_acceptances.apply(connection)
    maintenance.prune(connection, older_than=NINETY_DAYS, scan_limit=LIMIT)
    maintenance.reconcile(connection.engine, queue="mailroom", scan_limit=LIMIT)
    health.read(connection)
    functions.call(connection, "reading_lanes", {"most": 10, "known": []})
    functions.call(connection, "reading_unconfirmed", {"since": timedelta(days=1), "most": 10})
    counting.count(connection)
    recompute_minutes(connection)
    by_hand.retry(connection, [1], queue="mailroom")
    by_hand.release(connection, [1])
    by_hand.drop(connection, [1])


@pytest.fixture
def watched(engine: Engine) -> Engine:
    """The engine, of which each connection tells the plans that it makes."""
    watch(engine)
    return engine


# What a session finds that has run everything before, when there was
#   little: next to nothing, in tables that were never analysed;
#   nothing: nothing, and they had been analysed like that, as those of a queue that is drained are;
#   some: a few rows, and they had been analysed like that.
# A fresh one makes its plans when all is there. The others find a thousand, ten thousand or a million of jobs.
STATES = ["fresh", "fresh, analysed", "little", "nothing", "some", "analysed since", "a thousand"]
A_MILLION = "a million"


@pytest.fixture(params=STATES)
def used(request: pytest.FixtureRequest, watched: Engine) -> Iterator[Connection]:
    """A connection that finds a long queue, in a certain state."""
    state: str = request.param
    with watched.connect() as connection:
        leave_alone(connection)
        if state == "some":
            fill(connection, 20, prefix="early")
        if state in {"nothing", "some"}:
            connection.execute(text("VACUUM ANALYZE"))
        if state not in {"fresh", "fresh, analysed"}:
            run_everything(connection)
            enqueue(connection, 1, prefix="first")
            run_everything(connection)
        fill(connection, 1_000 if state == "a thousand" else MANY)
        if state == A_MILLION:
            fill_with_jobs(connection, 1_000_000)
        if state in {"fresh, analysed", "analysed since"}:
            connection.execute(text("VACUUM ANALYZE"))
        yield connection


@pytest.mark.slow
def test_a_claim_goes_by_index(used: Connection) -> None:
    floors = Floors()
    with explained(used.engine) as plans:
        claim_ten(used, floors)
        claim_ten(used, floors)
        claim(used, batch_limit=LIMIT, floors=floors, job_limit=MAX_CLAIM_JOBS)
    assert len(plans) == 3
    for plan in plans:
        assert plan.scans("jobs") == {"jobs_claim_idx", "TIDSCAN"}
        assert plan.scans("tokens") == {"tokens_pkey", "tokens_newest_idx", "tokens_consumed_idx"}
        assert plan.scans("accounts") == {"accounts_pkey"}
        assert plan.scans("deliveries") == {"deliveries_token_idx", "deliveries_accepted_late_idx"}


def test_a_claim_of_an_empty_queue_goes_by_index(watched: Engine) -> None:
    with watched.connect() as connection, explained(watched) as plans:
        assert claim_ten(connection, Floors()) is None
        connection.execute(text("VACUUM ANALYZE jobs"))
        assert claim_ten(connection, Floors()) is None
    for plan in plans:
        assert plan.scans("jobs") >= {"jobs_claim_idx"}
        assert plan.scans("jobs") <= {"jobs_claim_idx", "TIDSCAN"}


@pytest.mark.slow
def test_a_look_goes_by_index(used: Connection) -> None:
    floors = Floors()
    with explained(used.engine) as plans:
        look_for_ten(used, floors)
        claim_ten(used, floors)
        look_for_ten(used, floors)
    assert [plan.scans("jobs") for plan in (plans[0], plans[2])] == [{"jobs_claim_idx"}] * 2


@pytest.mark.slow
def test_settlements_and_rescues_go_by_index(used: Connection) -> None:
    settled, released, lost = (take(used, batch_limit=LIMIT) for _ in range(3))
    several = claim(used, batch_limit=LIMIT, floors=Floors(), job_limit=MAX_CLAIM_JOBS).batches
    assert len(several) == MAX_CLAIM_JOBS // LIMIT
    with explained(used.engine) as plans:
        assert settle_sent(used, settled)
        assert settle_sent(used, *several)
        assert queue.settle(used, [(released, [])])
        lose(used)
        assert not settle_sent(used, lost)
    *settlements, rescue, too_late, kept = plans
    assert len(settlements) == 3
    for plan in (*settlements, too_late):
        assert [plan.scans(table) for table in ("deliveries", "tokens")] == [set(), set()]
        assert plan.scans("batches") == {"batches_pkey"}
        assert plan.scans("jobs") <= {"jobs_claim_idx"}
    for plan in (rescue, kept):
        assert plan.scans("tokens") == {"tokens_pkey"}
        assert plan.scans("deliveries") == {"deliveries_token_idx"}
        assert plan.scans("jobs") == set()


@pytest.mark.slow
def test_the_fleet_is_counted_by_index(used: Connection) -> None:
    """And the minutes by the time at which attempts were recorded, whatever else there is."""
    with explained(used.engine) as plans:
        functions.call(used, "reading_lanes", {"most": 10_001, "known": ["mailroom"]})
        functions.call(used, "reading_unconfirmed", {"since": timedelta(days=1), "most": 10_000})
        used.execute(text("UPDATE readings SET minutes_until = NULL"))
        recompute_minutes(used)
        counting.count(used)
    lanes, unconfirmed, counted, whole = plans
    assert lanes.scans("jobs") == {"jobs_claim_idx"}
    assert unconfirmed.scans("deliveries") == {"deliveries_unconfirmed_idx", "deliveries_token_idx"}
    assert counted.scans("deliveries") == {"deliveries_created_at_idx"}
    assert counted.scans("minutes") <= {"minutes_at_idx"}
    assert whole.scans("deliveries") == {"deliveries_created_at_idx"}
    assert whole.scans("minutes") <= {"minutes_at_idx"}
    assert whole.scans("jobs") == set()  # but for what `lanes` has


@pytest.mark.slow
@pytest.mark.parametrize("used", [A_MILLION], indirect=True)
def test_of_a_million_jobs_all_of_that_goes_by_index(used: Connection) -> None:
    """One after the other, since so many take a while to make."""
    test_settlements_and_rescues_go_by_index(used)
    test_a_claim_goes_by_index(used)
    test_a_look_goes_by_index(used)
    test_the_fleet_is_counted_by_index(used)


def fill_with_events(connection: Connection, count: int) -> None:
    """Let so many mails be on record, with two events of each, and with an address of its own."""
    connection.execute(
        text(
            "INSERT INTO deliveries (token, account, batch, fence, action, outcome, attempt, message_id)"
            " SELECT 2000000 + n, n, n, gen_random_uuid(), 'activation', 'sent', 0, 'old-' || n"
            "   FROM generate_series(1, :count) AS n"
        ),
        {"count": count},
    )
    connection.execute(
        text(
            "INSERT INTO events (message_id, kind, at, token, fence, address_hash)"
            " SELECT message_id, kind, now(), token, fence, sha256(CAST(message_id AS bytea))"
            "   FROM deliveries, (VALUES (CAST('send' AS event_kind)), ('delivery')) AS told (kind)"
            "  WHERE message_id IS NOT NULL"
        )
    )


@pytest.mark.slow
@pytest.mark.parametrize("history", [MANY, pytest.param(500_000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("known", ["nothing", "analysed before", "analysed since"])
def test_events_are_absorbed_by_index_whatever_history_there_is(watched: Engine, known: str, history: int) -> None:
    """The session absorbed, reviewed and claimed first when there was nothing, and keeps its plans."""
    with watched.connect() as connection:
        leave_alone(connection)
        home = site(connection)

        def absorb_all(batch: Batch, *extra: Event) -> Absorbed:
            told = [of(batch, kind, f"m-{batch.id}", site=home, **HARD) for kind in EventKind]
            return absorb(connection, [*told, *extra])

        if known == "analysed before":
            connection.execute(text("VACUUM ANALYZE"))
        enqueue(connection, 1, prefix="first")
        absorb_all(take(connection))
        fill_with_events(connection, history)
        enqueue(connection, LIMIT, prefix="second")
        if known == "analysed since":
            connection.execute(text("VACUUM ANALYZE"))
        with explained(watched) as plans:
            batch = take(connection, batch_limit=LIMIT)
            nameless = Event(EventKind.DELIVERY, "old-1", datetime.now(UTC))
            assert absorb_all(batch, nameless) == Absorbed(len(EventKind) + 1, 0, 0, 0)
            hashes = [row.address_hash for row in rows(connection, "SELECT address_hash FROM suppressions")]
            functions.call(connection, "suppression_review", {"hashes": hashes})
    claimed, absorbed, reviewed = plans
    assert reviewed.scans("events") == {"events_once", "events_address_idx"}
    assert reviewed.scans("suppressions") == {"suppressions_pkey"}
    assert claimed.scans("suppressions") == {"suppressions_pkey"}
    assert absorbed.scans("deliveries") == {"deliveries_token_idx"}
    assert absorbed.scans("tokens") == {"tokens_pkey"}
    assert absorbed.scans("events") == {"events_once"}
    assert absorbed.scans("suppressions") == {"suppressions_pkey"}


NOBODYS = Batch(1, uuid4(), ACTIVATION, Priority.NORMAL, (), datetime.now(UTC))


def ways(engine: Engine) -> dict[str, dict[str, list[Way]]]:
    """How a session that is new looks, claims and settles, if there is anything to claim."""
    with engine.connect() as connection, explained(engine) as plans:
        look_for_ten(connection, Floors())
        batch = claim_ten(connection, Floors())
        queue.settle(connection, [(batch or NOBODYS, [])])
        connection.detach()  # it ends with this
    return {name: plan.ways() for name, plan in zip(("look", "claim", "settle"), plans, strict=True)}


@pytest.mark.slow
@pytest.mark.parametrize("analysed", [True, False])
def test_how_a_worker_comes_to_rows_is_the_same_whatever_there_is_and_whatever_is_known_of_it(
    watched: Engine, analysed: bool
) -> None:
    """So it is enough to know that it is good once, and a plan that is kept is as good as a new one."""
    found = [ways(watched)]
    with watched.connect() as connection:
        leave_alone(connection)
        for count in (0, 1, 20, 100, MANY):
            if count:
                fill(connection, count, prefix=f"of{count}-")
                found.append(ways(watched))
            if analysed:
                connection.execute(text("VACUUM ANALYZE"))
                found.append(ways(watched))
        for _ in range(100):
            assert claim_ten(connection, Floors())
        connection.execute(text("VACUUM ANALYZE"))
        found.append(ways(watched))
    last = found[-1]
    for each in found:
        # Where there is nothing to claim, it does not come to the other statements.
        known = {statement: last["claim"][statement] for statement in each["claim"]}
        assert each == last | {"claim": known}
    assert all(each["claim"].keys() == last["claim"].keys() for each in found[2:])


def entries_read(connection: Connection) -> int:
    """How many entries of the claim index this session has read, dead ones too, and rows that it read without."""
    read: int = connection.execute(
        text(
            "SELECT pg_stat_get_xact_tuples_returned('jobs_claim_idx'::regclass)"
            " + pg_stat_get_xact_tuples_returned('jobs'::regclass)"
        )
    ).scalar_one()
    return read


def cost(engine: Engine, act: Callable[[Connection], object]) -> int:
    """Count the entries of the claim index that something reads, and undo it."""
    with transaction(engine) as connection:
        read_before = entries_read(connection)
        act(connection)
        read = entries_read(connection) - read_before
        connection.rollback()
    return read


# A look, a first job that can be had, the jobs themselves: each at most a batch, and one entry to know the end.
BOUND = 2 * LIMIT + 1 + 2 * len(LANES)


@pytest.mark.slow
def test_a_claim_reads_no_more_than_it_takes_of_a_long_queue(engine: Engine) -> None:
    with engine.connect() as connection:
        leave_alone(connection)
        fill(connection, MANY)
        connection.execute(text("VACUUM jobs"))
    assert LIMIT < cost(engine, lambda connection: claim_ten(connection, Floors())) <= BOUND
    assert LIMIT <= cost(engine, lambda connection: look_for_ten(connection, Floors())) <= BOUND


@pytest.mark.slow
def test_under_an_old_snapshot_a_claim_does_not_walk_over_what_is_done(engine: Engine) -> None:
    floors = Floors()
    with engine.connect() as connection, transaction(engine, "REPEATABLE READ") as old:
        leave_alone(connection)
        fill(connection, 5_000)
        connection.execute(text("VACUUM ANALYZE jobs"))
        assert misplaced(old) == []  # the snapshot is taken, and held

        before = cost(engine, lambda connection: claim_ten(connection, floors))
        start_over(floors)
        for _ in range(90):
            batch = batch_of(claim(connection, floors=floors))
            assert batch is not None
            assert settle_sent(connection, batch)
        connection.execute(text("VACUUM jobs"))

        without_floors = cost(engine, lambda connection: claim_ten(connection, Floors()))
        assert without_floors > 4_500
        assert cost(engine, lambda connection: claim_ten(connection, floors)) <= before <= BOUND
        assert cost(engine, lambda connection: look_for_ten(connection, floors)) <= BOUND
        assert cost(engine, lambda connection: add_accounts(connection, 1, prefix="new")) <= len(LANES)


@pytest.mark.slow
def test_under_an_old_snapshot_one_look_and_not_each_claim_walks_over_a_lane_that_is_done(engine: Engine) -> None:
    """Activations are done, and bulk is at work."""
    floors = Floors()
    with engine.connect() as connection, transaction(engine, "REPEATABLE READ") as old:
        leave_alone(connection)
        fill(connection, 2_000)
        connection.execute(text("UPDATE jobs SET priority = 1"))
        connection.execute(text("VACUUM ANALYZE jobs"))
        assert misplaced(old) == []
        while batch := batch_of(claim(connection, floors=floors)):
            assert settle_sent(connection, batch)
        add_accounts(connection, 100, prefix="bulk")

        as_a_sweep = cost(engine, lambda connection: look_for_ten(connection, floors, from_start=True))
        assert as_a_sweep > 2_000
        for _ in range(2):
            assert cost(engine, lambda connection: claim_ten(connection, floors)) <= BOUND
        assert cost(engine, lambda connection: look_for_ten(connection, floors)) <= BOUND
        assert take(connection, batch_limit=LIMIT, floors=floors).priority is Priority.BULK


def test_a_look_leaves_the_floor_below_what_waits_and_below_what_may_still_commit(engine: Engine) -> None:
    floors = Floors()
    with engine.connect() as connection, transaction(engine) as slow:
        add_accounts(slow, 1, prefix="slow")  # due now, and not to be seen
        slow.execute(text("UPDATE jobs SET due_at = now() - interval '5 seconds', attempt = 1"))
        add_accounts(connection, 2)
        connection.execute(text("UPDATE jobs SET due_at = now() - interval '1 hour', attempt = 1 WHERE token = 2"))
        look_for_ten(connection, floors)
        assert [job.token for job in take(connection, batch_limit=LIMIT, floors=floors).jobs] == [2, 3]
        start_over(floors)
        look_for_ten(connection, floors)
        slow.commit()
        assert [job.token for job in take(connection, batch_limit=LIMIT, floors=floors).jobs] == [1]


def finish_old(connection: Connection) -> None:
    """Let every other token have been sent long ago, and its delivery be the oldest there is."""
    connection.execute(text("DELETE FROM jobs WHERE token % 2 = 0"))
    connection.execute(text("UPDATE deliveries SET outcome = 'sent' WHERE token % 2 = 0"))
    connection.execute(text("UPDATE deliveries SET created_at = now() - interval '100 days'"))
    connection.execute(text("UPDATE tokens SET expires_at = now() - interval '100 days'"))


@pytest.mark.slow
def test_maintenance_goes_by_index(used: Connection) -> None:
    finish_old(used)
    with explained(used.engine) as plans:
        maintenance.reconcile(used.engine, queue="mailroom", scan_limit=LIMIT)
        pruned = maintenance.prune(used, older_than=NINETY_DAYS, scan_limit=LIMIT)
        late_acceptances.apply(used)
    assert pruned.deliveries >= pruned.tokens >= LIMIT / 2
    reconciled, forgotten, accepted = plans
    assert reconciled.scans("tokens") == {"tokens_pkey"}
    assert reconciled.scans("jobs") == {"jobs_pkey"}
    assert reconciled.scans("deliveries") == {"deliveries_token_idx"}
    assert forgotten.scans("tokens") == {"tokens_pkey", "tokens_account_idx"}
    assert forgotten.scans("jobs") == {"jobs_pkey"}
    assert forgotten.scans("deliveries") == {"deliveries_pkey", "deliveries_token_idx"}
    assert accepted.scans("jobs") <= {"jobs_pkey", "jobs_held_idx", "all of jobs_held_idx"}
    # Of what was never sent, all, where that is next to nothing: this plan is made anew each time.
    assert accepted.scans("deliveries") <= {
        *("deliveries_unsent_idx", "all of deliveries_unsent_idx"),
        *("deliveries_accepted_late_idx", "deliveries_token_idx", "deliveries_pkey"),
    }


@pytest.mark.slow
def test_what_operators_do_goes_by_index(used: Connection) -> None:
    used.execute(text("UPDATE deliveries SET outcome = 'failed' WHERE token % 2 = 0"))
    used.execute(text("DELETE FROM jobs WHERE token % 2 = 0"))
    [failed, waiting] = used.scalars(text("SELECT max(token) FROM deliveries GROUP BY token % 2 ORDER BY token % 2"))
    with explained(used.engine) as plans:
        health.read(used)
        assert by_hand.retry(used, [waiting, failed], queue="mailroom").put_back == [failed]
        assert by_hand.release(used, [waiting]) == []
        assert by_hand.drop(used, [waiting]) == [waiting]
    looked, retried, released, dropped = plans
    assert looked.scans("jobs") <= {"jobs_claim_idx", "all of jobs_claim_idx"}
    assert (retried.scans("jobs"), retried.scans("deliveries")) == (
        {"jobs_pkey"},
        {"deliveries_token_idx", "deliveries_pkey"},
    )
    assert released.scans("jobs") <= {"jobs_pkey", "jobs_held_idx"}
    assert (dropped.scans("jobs"), dropped.scans("deliveries")) == ({"jobs_pkey"}, set())


def log_read(connection: Connection) -> int:
    """How many rows and index entries of deliveries this session has read."""
    read: int = connection.execute(
        text(
            "SELECT pg_stat_get_xact_tuples_returned('deliveries'::regclass)"
            " + pg_stat_get_xact_tuples_returned('deliveries_pkey'::regclass)"
            " + pg_stat_get_xact_tuples_returned('deliveries_token_idx'::regclass)"
        )
    ).scalar_one()
    return read


@pytest.mark.slow
def test_a_prune_reads_no_more_than_it_looks_at_of_a_long_log(engine: Engine) -> None:
    with engine.connect() as connection:
        leave_alone(connection)
        fill(connection, MANY)
        finish_old(connection)
        connection.execute(text("VACUUM deliveries"))
    with transaction(engine) as connection:
        before = log_read(connection)
        assert maintenance.prune(connection, older_than=NINETY_DAYS, scan_limit=LIMIT).deliveries == LIMIT / 2
        assert log_read(connection) - before <= 4 * LIMIT
        connection.rollback()


def test_a_prune_with_nothing_to_do_does_not_look_for_it_to_the_end(engine: Engine) -> None:
    with engine.connect() as connection:
        leave_alone(connection)
        fill(connection, MANY)
    with transaction(engine) as connection:
        before = log_read(connection)
        assert maintenance.prune(connection, older_than=NINETY_DAYS, scan_limit=LIMIT).after is None
        assert log_read(connection) - before <= 4 * LIMIT
        connection.rollback()


@pytest.mark.parametrize("nobodys", [1, 50])
def test_failures_without_tags_are_looked_for_in_one_walk_over_the_log(engine: Engine, nobodys: int) -> None:
    """They may be of whoever else sends through the account, and the plan expects next to none."""
    with engine.connect() as connection:
        leave_alone(connection)
        fill_with_events(connection, MANY)
        connection.execute(text("VACUUM ANALYZE deliveries, events"))
        told = [Event(EventKind.RENDERING_FAILURE, f"nobodys-{n}", datetime.now(UTC)) for n in range(nobodys)]
        absorb(connection, told)
    read = text("SELECT pg_stat_get_xact_tuples_fetched('deliveries'::regclass)")
    with transaction(engine) as connection:
        before = log_read(connection) + connection.scalar(read)
        assert feed.take_back(connection, queue="mailroom") == []
        assert log_read(connection) + connection.scalar(read) - before <= 3 * MANY
        connection.rollback()


# What an application asks


@pytest.mark.parametrize("few", [0, 1, 30])
def test_what_an_application_asks_goes_by_index_though_it_was_first_asked_of_next_to_nothing(
    engine: Engine, few: int
) -> None:
    relations = ("tokens", "tokens_account_idx", "tokens_consumed_idx", "accounts_pkey", "tokens_pkey", "accounts")
    read = " + ".join(f"pg_stat_get_xact_tuples_returned('{name}'::regclass)" for name in relations)
    asked = (
        "SELECT * FROM consume_token(:secret, 'password_recovery', '00000')",
        "SELECT guesses_left(:secret)",
        "SELECT request_mail('password_recovery', reference => 'r')",
        "SELECT change_account(reference => 'r', login => 'r')",
        "SELECT revoke_tokens(reference => 'r', action => 'activation')",
    )
    with transaction(engine) as connection:
        if few:
            add_accounts(connection, few, status="active", prefix="few")
        connection.execute(text("UPDATE tokens SET consumed_at = now()"))
        connection.commit()
        with engine.connect() as owner:
            owner.execute(text("VACUUM ANALYZE"))
        for call in asked:
            with contextlib.suppress(DBAPIError), connection.begin_nested():
                connection.execute(text(call), {"secret": b""} if ":secret" in call else {})
        add_accounts(connection, 5_000, status="active", prefix="many")
        connection.execute(text("UPDATE accounts SET reference = 'r' WHERE login = 'many7'"))
        many = (
            "INSERT INTO tokens (action, account, consumed_at)"
            " SELECT 'password_recovery', id, CASE WHEN login <> 'many7' THEN now() END FROM accounts"
        )
        connection.execute(text(many))
        connection.commit()
        [(secret,)] = rows(connection, "SELECT secret FROM tokens WHERE consumed_at IS NULL")
        for call in asked:
            before = connection.scalar(text(f"SELECT {read}"))
            connection.execute(text(call), {"secret": secret} if ":secret" in call else {})
            after = connection.scalar(text(f"SELECT {read}"))
            assert after - before < 60, call
