"""Floods of recoveries, whoever asks and however many claim: who waits for whom, and what they cost."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from threading import Barrier

import pytest
from sqlalchemy import Connection, Engine, event, text

from mailroom import queue
from mailroom.job import Priority
from mailroom.ops import maintenance
from mailroom.queue.claim import FLOOD_LIMIT
from mailroom.queue.floors import Floors
from mailroom.simulator import Simulator
from tests.claiming import claim, waited
from tests.kinds import RECOVERY, limit_recoveries
from tests.queue.asking import active, ask, mail, mailed, over
from tests.running import eventually, transport, working
from tests.trouble import hurried_engine, let_statements_take, slow_down_rows
from tests.world import add_accounts, ask_recovery, drained, misplaced, rows, transaction

# Who waits for whom is decided by the statements, and what a flood costs is counted: neither is another in 15.
EACH_SERVER = False
THROUGH_PGBOUNCER = True


def tokens_of_new_accounts(connection: Connection, prefix: str) -> list[int]:
    """Let an account sign up; return its token."""
    accounts = add_accounts(connection, 1, prefix=prefix)
    return [row.id for row in rows(connection, "SELECT id FROM tokens WHERE account = ANY(:ids)", ids=accounts)]


# Claims at once


def test_of_two_claims_at_once_the_second_passes_over_the_account_and_then_sees_what_the_first_took(
    engine: Engine,
) -> None:
    with (
        engine.connect() as setup,
        transaction(engine, lock_timeout="30s") as first,
        transaction(engine, lock_timeout="30s") as second,
    ):
        limit_recoveries(setup, 1, 10)
        account = active(setup)
        [taken] = ask(setup, account)
        assert mailed(claim(first)) == [taken]  # and has not committed
        late = ask_recovery(setup, account)
        setup.execute(text("UPDATE jobs SET due_at = now() - interval '1 hour' WHERE token = :late"), {"late": late})
        assert claim(second).taken == 0
        second.commit()
        first.commit()
        [job] = rows(setup, "SELECT jobs.due_at - created_at AS waits FROM jobs JOIN tokens ON tokens.id = token")
        assert job.waits > queue.BUSY_WAIT / 2
        waited(setup)
        found = claim(setup)
        assert (mailed(found), over(found)) == ([], [(late, "cancelled", "TooMany")])
        assert misplaced(setup) == []


def test_who_holds_an_account_keeps_its_mail_alone_and_nobody_waits(engine: Engine) -> None:
    with (
        engine.connect() as setup,
        transaction(engine, lock_timeout="30s") as holder,
        transaction(engine, lock_timeout="30s") as claimer,
    ):
        held, free = add_accounts(setup, 2, status="active")
        [first], [second] = ask(setup, held), ask(setup, free)
        holder.execute(text("UPDATE accounts SET login = 'elsewhere' WHERE id = :held"), {"held": held})
        assert mailed(claim(claimer)) == [second]
        claimer.commit()
        assert misplaced(setup) == []
        holder.commit()
        waited(setup)
        assert mailed(claim(setup)) == [first]


def test_one_too_many_whose_token_somebody_holds_is_over_and_in_no_other_place(engine: Engine) -> None:
    """Of a kind whose tokens get their life back: to be mailed this one would have to be changed."""
    with (
        engine.connect() as setup,
        transaction(engine, lock_timeout="30s") as holder,
        transaction(engine, lock_timeout="30s") as claimer,
    ):
        limit_recoveries(setup, 0, 0)
        setup.execute(text("UPDATE actions SET renews = true WHERE name = 'password_recovery'"))
        [asked] = ask(setup, active(setup))
        setup.execute(text("UPDATE tokens SET expires_at = now()"))
        holder.execute(text("UPDATE tokens SET code = code"))
        found = claim(claimer)
        claimer.commit()
        assert over(found) == [(asked, "cancelled", "TooMany")]
        assert misplaced(setup) == []


def test_who_may_only_connect_holds_up_no_recovery(engine: Engine) -> None:
    """Advisory locks are anybody's to take: nothing waits for one."""
    with (
        engine.connect() as setup,
        transaction(engine, lock_timeout="30s") as other,
        transaction(engine, lock_timeout="30s") as claimer,
    ):
        account = active(setup)
        asked = ask(setup, account)
        for key in ("mailroom recovery", "mailroom reconcile"):
            other.execute(
                text(
                    "SELECT pg_advisory_xact_lock(hashtext(:key)),"
                    " pg_advisory_xact_lock(hashtext(:key), hashint8(:account))"
                ),
                {"key": key, "account": account},
            )
        assert mailed(claim(claimer)) == asked
        claimer.commit()
        assert maintenance.reconcile(engine, queue="mailroom").enqueued == ()


@pytest.mark.slow
def test_a_flood_of_recoveries_that_are_over_delays_nobody(
    engine: Engine, simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One account asks 5,000 times; who stands behind that, and who signs up, is mailed after a few claims."""
    claims: list[str] = []
    event.listen(engine, "before_cursor_execute", lambda _, __, sql, *___: claims.append(sql.split("\n")[0]))
    with engine.connect() as connection:
        [flooded, other] = add_accounts(connection, 2, status="active")
        connection.execute(
            text("INSERT INTO tokens (action, account) SELECT 'password_recovery', :id FROM generate_series(1, 5000)"),
            {"id": flooded},
        )
        late = ask_recovery(connection, other)
        [fresh] = tokens_of_new_accounts(connection, "late")
        with working(engine, transport(simulator, monkeypatch), sweep_interval=600):  # or more claims come with time
            eventually(lambda: drained(connection), "all is over")
        assert {late, fresh} < {int(token) for token in simulator.ledger.sent_tokens()}
        assert len([sql for sql in claims if ".claim(" in sql]) < 40
        assert misplaced(connection) == []


def test_mails_of_a_time_that_is_not_yet_do_not_count(engine: Engine) -> None:
    """The clock was set back: what was sent before that is in the future for as long."""
    with engine.connect() as connection:
        account = active(connection)
        mail(connection, account, 3)
        connection.execute(text("UPDATE deliveries SET created_at = created_at + interval '10 hours'"))
        asked = ask(connection, account)
        assert mailed(claim(connection)) == asked


@pytest.mark.slow
@pytest.mark.early
def test_a_flood_that_cannot_be_ended_at_once_is_ended_in_smaller_steps(
    engine: Engine, url: str, simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    with engine.connect() as connection:
        [flooded, other] = add_accounts(connection, 2, status="active")
        asking = "INSERT INTO tokens (action, account) SELECT 'password_recovery', :id FROM generate_series(1, 600)"
        connection.execute(text(asking), {"id": flooded})
        late = ask_recovery(connection, other)
        slow_down_rows(connection, "INSERT", "deliveries", 0.01, when="NEW.error_code = 'Superseded'")
        let_statements_take(connection, timedelta(seconds=1))
        with (
            hurried_engine(url, pool_size=5) as hurried,
            working(hurried, transport(simulator, monkeypatch), sweep_interval=0.5),
        ):
            eventually(lambda: drained(connection), "all is over")
        assert str(late) in simulator.ledger.sent_tokens()


@pytest.mark.slow
def test_accounts_that_somebody_holds_keep_their_own_mail_alone(
    engine: Engine, simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hundreds of them, ahead of the one that can be had: nobody waits for the next sweep."""
    with engine.connect() as connection, transaction(engine, lock_timeout="30s") as holder:
        held = add_accounts(connection, 400, status="active", prefix="held")
        for account in held:
            ask_recovery(connection, account)
        [free] = add_accounts(connection, 1, status="active", prefix="free")
        token = ask_recovery(connection, free)
        holder.execute(text("UPDATE accounts SET login = login || '-' WHERE id = ANY(:held)"), {"held": held})
        with working(engine, transport(simulator, monkeypatch), sweep_interval=600, concurrency=2):
            eventually(lambda: str(token) in simulator.ledger.sent_tokens(), "the free one is mailed")
            assert simulator.ledger.counts().mails == 1
            holder.rollback()
            eventually(lambda: drained(connection), "then the others are")
        assert misplaced(connection) == []


def test_in_a_flood_what_can_be_mailed_leaves_in_order(engine: Engine) -> None:
    """Of many looked at, a batch is mailed and the rest goes back as it was, and is found by the next claim."""
    with engine.connect() as connection:
        accounts = add_accounts(connection, 120, status="active")
        asked = [token for account in accounts for token in ask(connection, account)]
        gone = "DELETE FROM accounts WHERE id = ANY(:some)"
        connection.execute(text(gone), {"some": [account for account in accounts if account % 2]})
        floors, lane = Floors(), (Priority.URGENT, RECOVERY)
        left = [token for account, token in zip(accounts, asked, strict=True) if not account % 2]
        first = claim(connection, batch_limit=10, floors=floors, flood=(lane, FLOOD_LIMIT))
        assert mailed(first) == left[:10]
        assert len(over(first)) == 60
        assert misplaced(connection) == []
        assert mailed(claim(connection, batch_limit=10, floors=floors)) == left[10:20]


@pytest.mark.slow
def test_fifty_requests_at_once_and_eight_senders_make_three_mails(
    engine: Engine, direct_url: str, simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    with engine.connect() as connection:
        account = active(connection)
    everybody = Barrier(8)

    def request(_: int) -> None:
        with engine.connect() as connection:
            everybody.wait()
            for _ in range(10):
                ask_recovery(connection, account)

    sends = transport(simulator, monkeypatch)
    with working(engine, sends, concurrency=8, listen=direct_url, sweep_interval=0.1), ThreadPoolExecutor(8) as threads:
        list(threads.map(request, range(8)))
        with engine.connect() as connection:
            eventually(lambda: drained(connection), "all is over")
    with engine.connect() as connection:
        assert misplaced(connection) == []
    assert 1 <= simulator.ledger.counts().mails <= 3


# Its cost


def scanned(connection: Connection, relation: str) -> tuple[int, int]:
    """How often an index was asked, or a table read from its beginning, in this transaction; and what that returned."""
    counted = "SELECT pg_stat_get_xact_numscans(r), pg_stat_get_xact_tuples_returned(r) FROM CAST(:r AS regclass) AS r"
    [(scans, entries)] = rows(connection, counted.replace(":r ::regclass", "CAST(:r AS regclass)"), r=relation)
    return scans, entries


def cost(engine: Engine, act: Callable[[Connection], object]) -> dict[str, tuple[int, int]]:
    """Count what something reads, and undo it."""
    names = ("tokens", "tokens_newest_idx", "tokens_account_idx", "deliveries_limited_idx")
    with engine.connect().execution_options(isolation_level="READ COMMITTED") as connection:
        before = {name: scanned(connection, name) for name in names}
        act(connection)
        after = {name: scanned(connection, name) for name in names}
        connection.rollback()
    return {name: (after[name][0] - before[name][0], after[name][1] - before[name][1]) for name in names}


@pytest.mark.parametrize("analysed", [False, True])
def test_an_activation_costs_nothing_of_it(engine: Engine, analysed: bool) -> None:
    with engine.connect() as connection:
        add_accounts(connection, 1_000)
        waited(connection)
        if analysed:
            connection.execute(text("VACUUM ANALYZE"))
    paid = cost(engine, claim)
    assert [paid[name] for name in ("tokens_newest_idx", "tokens_account_idx", "deliveries_limited_idx")] == [
        (0, 0)
    ] * 3


@pytest.mark.slow
@pytest.mark.parametrize("analysed", [False, True])
def test_a_flood_drains_at_the_same_cost_from_its_beginning_to_its_end(engine: Engine, analysed: bool) -> None:
    """One entry of an index for each job, that of the newest; nothing is read from its beginning, and one is mailed."""
    flood = "INSERT INTO tokens (action, account) SELECT 'password_recovery', :account FROM generate_series(1, 2000)"
    with engine.connect() as connection:
        for table in ("jobs", "tokens", "deliveries"):
            connection.execute(text(f"ALTER TABLE {table} SET (autovacuum_enabled = off)"))
        account = active(connection)
        mail(connection, account, 2)  # functions keep the plans that they make on tables as small as these
        connection.execute(text(flood), {"account": account})
        waited(connection)
        if analysed:
            connection.execute(text("VACUUM ANALYZE"))
        first = cost(engine, claim)
        found = [claim(connection) for _ in range(39)]
        last = cost(engine, claim)
        assert first == {
            "tokens": (0, 0),
            "tokens_newest_idx": (50, 50),
            "tokens_account_idx": (0, 0),
            "deliveries_limited_idx": (0, 0),
        }
        assert last == first | {"tokens_newest_idx": (50, 49), "deliveries_limited_idx": (1, 2)}
        found.append(claim(connection))
        assert [len(mailed(each)) for each in found] == [0] * 39 + [1]
        assert misplaced(connection) == []
