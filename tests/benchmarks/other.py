"""What an insert costs with and without triggers, and what a worker costs that has nothing to do."""

import statistics
import time
from dataclasses import dataclass

from sqlalchemy import Connection, text

from tests.benchmarks.machine import (
    cpu_seconds,
    fresh_database,
    insert_accounts,
    process,
    wait_for,
    worker_environment,
)

ACCOUNTS = 100_000
IDLE_SECONDS = 30.0

# The rows that the triggers would make, by hand: the fair comparison.
BY_HAND = (
    "INSERT INTO accounts (email, login)"
    " SELECT 'user' || n || '@example.com', 'user' || n FROM generate_series(1, :count) AS n",
    "INSERT INTO tokens (action, account) SELECT 'activation', id FROM accounts",
    "INSERT INTO jobs (token, due_at, action, priority, queue) SELECT id, now(), action, 2, 'mailroom' FROM tokens",
)


@dataclass(frozen=True, slots=True)
class Inserted:
    """Seconds for ACCOUNTS accounts in one statement: by triggers, all three tables by hand, accounts alone."""

    triggers: float
    by_hand: float
    accounts_alone: float


@dataclass(frozen=True, slots=True)
class Idle:
    """What a worker costs that has nothing to do: statements a second, CPU percent of a core, resident MB."""

    statements: float
    cpu_percent: float
    memory: float


def measure_inserts(runs: int) -> Inserted:
    """The three ways in turn, each on tables that were just emptied; the median of each."""
    with fresh_database() as (_, engine):
        taken: dict[str, list[float]] = {"triggers": [], "by_hand": [], "accounts_alone": []}
        with engine.connect() as connection:
            for _ in range(runs):
                _empty(connection)
                taken["triggers"].append(insert_accounts(engine, ACCOUNTS))
                _switch_triggers(connection, "DISABLE")
                _empty(connection)
                taken["accounts_alone"].append(insert_accounts(engine, ACCOUNTS))
                _empty(connection)
                taken["by_hand"].append(_insert_by_hand(connection))
                _switch_triggers(connection, "ENABLE")
    return Inserted(**{name: statistics.median(seconds) for name, seconds in taken.items()})


def measure_idle() -> Idle:
    """One worker that listens, with 4 senders, left alone."""
    with fresh_database() as (postgres, engine), engine.connect() as connection:
        environment = worker_environment(postgres.url(), AWS_ENDPOINT_URL_SESV2="http://127.0.0.1:1")
        with process("-m", "mailroom", "worker", "--concurrency", "4", **environment) as worker:
            listening = text("SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'LISTEN%'")
            wait_for(lambda: bool(connection.scalar(listening)), worker)
            _wait(5)  # the looks that follow a start
            transactions, spent = _transactions(connection), cpu_seconds(worker)
            _wait(IDLE_SECONDS)
            # Reading the counter is a transaction as well.
            statements = (_transactions(connection) - transactions - 1) / IDLE_SECONDS
            percent = (cpu_seconds(worker) - spent) / IDLE_SECONDS * 100
            return Idle(statements, percent, worker.memory_info().rss / 2**20)


def _empty(connection: Connection) -> None:
    connection.execute(text("TRUNCATE accounts, tokens, jobs, batches, deliveries RESTART IDENTITY CASCADE"))
    connection.execute(text("CHECKPOINT"))


def _switch_triggers(connection: Connection, how: str) -> None:
    connection.execute(text(f"ALTER TABLE accounts {how} TRIGGER USER"))
    connection.execute(text(f"ALTER TABLE tokens {how} TRIGGER USER"))


def _insert_by_hand(connection: Connection) -> float:
    began = time.perf_counter()
    for statement in BY_HAND:
        connection.execute(text(statement), {"count": ACCOUNTS} if ":count" in statement else {})
    return time.perf_counter() - began


def _transactions(connection: Connection) -> int:
    connection.execute(text("SELECT pg_stat_clear_snapshot()"))
    found: int = connection.execute(
        text("SELECT xact_commit + xact_rollback FROM pg_stat_database WHERE datname = current_database()")
    ).scalar_one()
    return found


def _wait(seconds: float) -> None:
    ends = time.perf_counter() + seconds
    wait_for(lambda: time.perf_counter() > ends)
