"""Whom the commit of a job wakes."""

from typing import Any

import psycopg
import pytest
from psycopg import sql

from mailroom.demo.postgres import EmbeddedPostgres
from tests.db.enqueueing import URGENT, Hears, add, waiting
from tests.servers import TESTS_PATH, migrate

RECOVER = "INSERT INTO tokens (action, account) SELECT 'password_recovery', id FROM accounts"


def run(application: psycopg.Connection[Any], *statements: str | sql.Composed) -> None:
    """Execute the statements as one transaction, without a round trip in between."""
    application.execute(sql.SQL(";").join(sql.SQL(s) if isinstance(s, str) else s for s in statements))


def test_a_normal_job_wakes_an_idle_worker(application: psycopg.Connection[Any], hears: Hears) -> None:
    run(application, add())

    assert hears() == ["1"]


def test_many_jobs_of_a_statement_wake_once(application: psycopg.Connection[Any], hears: Hears) -> None:
    run(application, add(50))

    assert hears() == ["1"]


def test_a_normal_job_wakes_nobody_while_another_is_waiting(application: psycopg.Connection[Any], hears: Hears) -> None:
    run(application, waiting(), add())

    assert hears() == []


@pytest.mark.parametrize(
    "job",
    [
        waiting(queue="newsletter"),
        waiting(due_at="clock_timestamp() + interval '1 hour'"),
    ],
    ids=["of another queue", "due later"],
)
def test_a_job_that_nobody_is_busy_with_does_not_keep_quiet(
    application: psycopg.Connection[Any], hears: Hears, job: sql.Composed
) -> None:
    run(application, job, add())

    assert hears() == ["1"]


@pytest.mark.parametrize(
    "job",
    [
        waiting(),
        waiting(priority=URGENT, action="password_recovery"),
        waiting(priority=URGENT, action="password_recovery", due_at="clock_timestamp() - interval '1500 milliseconds'"),
        waiting(priority=URGENT, action="password_recovery", due_at="clock_timestamp() - interval '1 minute'"),
    ],
    ids=["a normal one", "an urgent one", "for more than a second", "for long"],
)
def test_an_urgent_job_always_wakes(application: psycopg.Connection[Any], hears: Hears, job: sql.Composed) -> None:
    run(application, "SET mailroom.bulk = 'on'", add(), job, RECOVER)

    assert hears() == ["0"]


def test_an_urgent_job_wakes_once_among_many(application: psycopg.Connection[Any], hears: Hears) -> None:
    run(application, "SET mailroom.notify = 'off'", add(60))
    assert hears() == []

    both = "INSERT INTO tokens (action, account) SELECT name, accounts.id FROM accounts, actions"
    run(application, "SET mailroom.notify = 'on'", both)

    assert hears() == ["0"]


def test_statements_of_a_transaction_wake_once(application: psycopg.Connection[Any], hears: Hears) -> None:
    run(application, add(), RECOVER, RECOVER, add(prefix="other"), RECOVER)

    assert hears() == ["1", "0"]


def test_bulk_wakes_nobody(application: psycopg.Connection[Any], hears: Hears) -> None:
    run(application, add(51))
    run(application, "SET LOCAL mailroom.bulk = 'on'", add(prefix="other"))

    assert hears() == []


def test_an_import_of_ten_thousand_wakes_nobody(application: psycopg.Connection[Any], hears: Hears) -> None:
    run(application, add(10_000))

    assert hears() == []


def test_accounts_without_a_token_wake_nobody(application: psycopg.Connection[Any], hears: Hears) -> None:
    run(application, "INSERT INTO accounts (email, login, status) VALUES ('ada@x', 'ada', 'active')")
    run(application, "INSERT INTO accounts (email, login) SELECT '', '' WHERE false")

    assert hears() == []


def test_a_rolled_back_insert_wakes_nobody(application: psycopg.Connection[Any], hears: Hears) -> None:
    with application.transaction(force_rollback=True):
        run(application, add())

    assert hears() == []


def test_a_transaction_can_keep_quiet(application: psycopg.Connection[Any], hears: Hears) -> None:
    run(application, "SET LOCAL mailroom.notify = 'off'", add(), RECOVER)
    assert hears() == []

    run(application, RECOVER)
    assert hears() == ["0"]


def test_a_channel_that_nobody_can_listen_to_fails_no_sign_up(application: psycopg.Connection[Any]) -> None:
    """PostgreSQL refuses a name of more than 63 bytes."""
    run(application, f"SET LOCAL mailroom.channel = '{'é' * 32}'", add(), RECOVER)
    assert application.execute("SELECT count(*) FROM jobs").fetchall() == [(2,)]


def test_a_database_can_keep_quiet(url: str, application: psycopg.Connection[Any], hears: Hears) -> None:
    name = sql.Identifier(application.info.dbname)
    application.execute(sql.SQL("ALTER DATABASE {} SET mailroom.notify = off").format(name))

    with psycopg.connect(url, autocommit=True) as connection:
        run(connection, add(), RECOVER)

    assert hears() == []
    assert application.execute("SELECT count(*) FROM jobs").fetchall() == [(2,)]


def fill_up(other: psycopg.Connection[Any]) -> None:
    for _ in range(1_000):
        other.execute("SELECT pg_notify('anything', n || repeat('x', 7000)) FROM generate_series(1, 8) AS n")


@pytest.mark.slow
def test_a_queue_of_notifications_that_is_full_fails_no_sign_up() -> None:
    """It is one for all databases, and is full when anybody who listens has been in a transaction for long."""
    with EmbeddedPostgres(settings={"search_path": TESTS_PATH, "fsync": "off", "max_notify_queue_pages": "64"}) as full:
        migrate(full.url())
        elsewhere = psycopg.connect(full.url(), dbname="postgres")
        with elsewhere as busy, psycopg.connect(full.url(), autocommit=True) as other:
            busy.execute("LISTEN anything")
            busy.commit()
            busy.execute("SELECT")  # and stays in this transaction
            with pytest.raises(psycopg.OperationalError, match="too many notifications"):
                fill_up(other)
            with psycopg.connect(full.url()) as application:
                run(application, add())
                run(application, RECOVER)
                application.commit()
                assert application.execute("SELECT count(*) FROM jobs").fetchall() == [(2,)]
