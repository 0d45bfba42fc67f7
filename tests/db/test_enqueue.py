"""Tokens become jobs: in which queue, how urgent, and whom the commit wakes."""

import os
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict
from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import DataError, IntegrityError

from mailroom.db.engine import VERSION_TABLE, connect_engine
from mailroom.demo.postgres import wheel_binaries
from tests.claiming import claim
from tests.machine import missing
from tests.servers import BINARIES, Server
from tests.world import add_accounts, ask_recovery, misplaced, rows

URGENT, NORMAL, BULK = 0, 1, 2


def priorities(connection: Connection) -> dict[tuple[str, int], int]:
    """Return how many jobs wait, by action and priority."""
    found = rows(connection, "SELECT action, priority, count(*) AS jobs FROM jobs GROUP BY 1, 2")
    return {(row.action, row.priority): row.jobs for row in found}


def setting(connection: Connection, name: str, value: str) -> None:
    """Set it for the rest of the transaction, as SET LOCAL does."""
    connection.execute(text("SELECT set_config(:name, :value, true)"), {"name": name, "value": value})


def test_an_activation_is_normal(conn: Connection) -> None:
    add_accounts(conn, 1)

    assert priorities(conn) == {("activation", NORMAL): 1}


def test_a_recovery_is_urgent(conn: Connection) -> None:
    [account] = add_accounts(conn, 1, status="active")

    ask_recovery(conn, account)

    assert priorities(conn) == {("password_recovery", URGENT): 1}


@pytest.mark.parametrize(("count", "priority"), [(50, NORMAL), (51, BULK)])
def test_more_than_fifty_activations_in_a_statement_are_bulk(conn: Connection, count: int, priority: int) -> None:
    add_accounts(conn, count)

    assert priorities(conn) == {("activation", priority): count}


def test_the_statement_counts_and_not_the_transaction(conn: Connection) -> None:
    add_accounts(conn, 50)
    add_accounts(conn, 50, prefix="other")

    assert priorities(conn) == {("activation", NORMAL): 100}


@pytest.mark.parametrize(("activations", "priority"), [(50, NORMAL), (51, BULK)])
def test_recoveries_beside_activations_stay_urgent(conn: Connection, activations: int, priority: int) -> None:
    """In one statement; the recoveries do not count towards bulk."""
    add_accounts(conn, activations, status="active")
    mixed = "INSERT INTO tokens (action, account) SELECT unnest(enum_range(NULL::token_action)), id FROM accounts"

    conn.execute(text(mixed.replace(":", r"\:")))

    assert priorities(conn) == {("activation", priority): activations, ("password_recovery", URGENT): activations}


def test_an_importer_that_inserts_row_by_row_can_say_so(conn: Connection) -> None:
    conn.execute(text("SET LOCAL mailroom.bulk = 'on'"))
    [account] = add_accounts(conn, 1)
    ask_recovery(conn, account)
    conn.execute(text("SET LOCAL mailroom.bulk = 'off'"))
    add_accounts(conn, 1, prefix="other")

    assert priorities(conn) == {("activation", BULK): 1, ("activation", NORMAL): 1, ("password_recovery", URGENT): 1}


def test_a_job_is_due_at_once_and_was_never_attempted(conn: Connection) -> None:
    [account] = add_accounts(conn, 1)

    [job] = rows(conn, "SELECT * FROM jobs")
    [token] = rows(conn, "SELECT id FROM tokens WHERE account = :account", account=account)
    assert (job.token, job.action, job.attempt) == (token.id, "activation", 0)
    [(due,)] = rows(conn, "SELECT due_at BETWEEN now() AND clock_timestamp() FROM jobs")
    assert due


def test_a_session_chooses_its_queue(conn: Connection) -> None:
    add_accounts(conn, 1)
    setting(conn, "mailroom.queue", "newsletter")
    add_accounts(conn, 2, prefix="reader")
    setting(conn, "mailroom.queue", "")
    add_accounts(conn, 1, prefix="other")

    found = rows(conn, "SELECT queue, count(*) FROM jobs GROUP BY 1 ORDER BY 1")
    assert [tuple(row) for row in found] == [("mailroom", 2), ("newsletter", 2)]


@pytest.mark.parametrize(
    ("name", "value"), [("mailroom.bulk", "perhaps"), ("mailroom.notify", "perhaps"), ("mailroom.notify", " ")]
)
def test_a_setting_that_is_neither_on_nor_off_is_an_error(conn: Connection, name: str, value: str) -> None:
    setting(conn, name, value)

    with pytest.raises(DataError, match="invalid input syntax for type boolean"):
        add_accounts(conn, 1)


@pytest.mark.parametrize("queue", ["x" * 64, " ", "news letter", " mailroom", "mailroom\n"])
def test_a_queue_that_no_worker_can_take_is_an_error(conn: Connection, queue: str) -> None:
    setting(conn, "mailroom.queue", queue)

    with pytest.raises(IntegrityError, match="jobs_queue_check"):
        add_accounts(conn, 1)


def calls(connection: Connection) -> Counter[str]:
    """Return how often this session has called each function; what was rolled back counts too."""
    found = rows(connection, "SELECT funcname, calls FROM pg_stat_xact_user_functions")
    return Counter({row.funcname: row.calls for row in found})


@pytest.mark.parametrize("count", [10_000, pytest.param(100_000, marks=pytest.mark.slow)])
def test_an_import_is_one_statement_for_each_table(conn: Connection, count: int) -> None:
    """One call of each trigger, however many rows there are."""
    conn.execute(text("SET LOCAL track_functions = 'pl'"))
    before = calls(conn)

    add_accounts(conn, count)

    assert calls(conn) - before == {"enqueue_jobs": 1, "make_activation_tokens": 1}
    assert priorities(conn) == {("activation", BULK): count}
    assert misplaced(conn) == []


# Who is woken

Hears = Callable[[], list[str]]
ADD = """
INSERT INTO accounts (email, login)
SELECT {prefix} || n || '@example.com', {prefix} || n FROM generate_series(1, {count}) AS n
"""
RECOVER = "INSERT INTO tokens (action, account) SELECT 'password_recovery', id FROM accounts"
# A job that waits, put there in the same moment as what comes after it.
WAITING = """
INSERT INTO jobs (token, due_at, action, priority, queue) VALUES (-1, {due_at}, 'activation', {priority}, {queue})
"""


def add(count: int = 1, prefix: str = "user") -> sql.Composed:
    return sql.SQL(ADD).format(prefix=sql.Literal(prefix), count=count)


def waiting(*, due_at: str = "clock_timestamp()", queue: str = "mailroom", priority: int = NORMAL) -> sql.Composed:
    return sql.SQL(WAITING).format(due_at=sql.SQL(due_at), queue=sql.Literal(queue), priority=priority)


@pytest.fixture
def application(url: str) -> Iterator[psycopg.Connection[Any]]:
    """A connection on which whatever is executed at once is one transaction."""
    with psycopg.connect(url, autocommit=True) as connection:
        yield connection


@pytest.fixture
def hears(url: str) -> Iterator[Hears]:
    """What a listener has heard since it was last asked.

    Notifications arrive in the order of their commits, so one of our own says when all before it are in.
    """
    with psycopg.connect(url, autocommit=True) as listener, psycopg.connect(url, autocommit=True) as last:
        listener.execute("LISTEN token_insert")

        def hear() -> list[str]:
            last.execute("NOTIFY token_insert, 'that is all'")
            heard: list[str] = []
            for notification in listener.notifies(timeout=30):
                if notification.payload == "that is all":
                    return heard
                heard.append(notification.payload)
            raise AssertionError("the listener heard nothing for half a minute")

        yield hear


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


def test_an_urgent_job_always_wakes(application: psycopg.Connection[Any], hears: Hears) -> None:
    run(application, "SET mailroom.bulk = 'on'", add(), waiting(), RECOVER)

    assert hears() == ["0"]


def test_an_urgent_job_wakes_once_among_many(application: psycopg.Connection[Any], hears: Hears) -> None:
    run(application, "SET mailroom.notify = 'off'", add(60))
    assert hears() == []

    both = "INSERT INTO tokens (action, account) SELECT unnest(enum_range(NULL::token_action)), id FROM accounts"
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


# Beside others, at SERIALIZABLE

Work = Callable[["psycopg.Connection[Any]", int], object]
ROWS, ROUNDS = 4000, 25
# Enough of each that no two who meet have to do with the same page of an index: PostgreSQL tells no rows of it apart.
CROWD = f"""
INSERT INTO accounts (email, login, status)
SELECT n || '@crowd.example', 'crowd' || n, CASE WHEN n % 2 = 0 THEN 'active' ELSE 'provisioned' END::account_status
  FROM generate_series(1, {ROWS}) AS n;
INSERT INTO tokens (action, account) SELECT 'password_recovery', id FROM accounts WHERE id % 6 = 0;
UPDATE tokens SET consumed_at = now() WHERE account % 6 = 0;
INSERT INTO tokens (action, account) SELECT 'password_recovery', id FROM accounts WHERE status = 'active';
UPDATE tokens SET code = '00000';
"""  # noqa: S608 - a constant


def sign_up(connection: psycopg.Connection[Any], number: int) -> None:
    connection.execute(add(prefix=f"new{number}-"))


def recover(connection: psycopg.Connection[Any], number: int) -> None:
    every = "INSERT INTO tokens (action, account) SELECT 'password_recovery', id FROM accounts WHERE login = %s"
    connection.execute(every, (f"crowd{2 * number}",))


def use(action: str) -> Work:
    def work(connection: psycopg.Connection[Any], number: int) -> None:
        [secret] = chosen(connection, action)[0 if number <= ROUNDS else -1]
        found = connection.execute("SELECT consume_token(%s, %s, '00000')", (secret, action)).fetchone()
        assert found != (None,)

    return work


def chosen(connection: psycopg.Connection[Any], action: str) -> list[tuple[bytes]]:
    """The newest token of each account, by their secrets, so that first and last are far apart in each index."""
    with psycopg.connect(connection.info.dsn, password=connection.info.password, autocommit=True) as other:
        return other.execute(
            "SELECT secret FROM (SELECT DISTINCT ON (account) account, secret FROM tokens"
            " WHERE action = %s AND consumed_at IS NULL ORDER BY account, id DESC) AS newest"
            " ORDER BY account < (SELECT avg(id) FROM accounts), secret",
            (action,),
        ).fetchall()


@pytest.mark.parametrize(
    "work",
    [sign_up, recover, use("activation"), use("password_recovery")],
    ids=["sign up", "recover", "activate", "use"],
)
def test_two_at_once_do_not_fail_each_other_at_serializable(
    url: str, application: psycopg.Connection[Any], work: Work
) -> None:
    application.execute(CROWD)
    application.execute("ANALYZE")
    with psycopg.connect(url) as one, psycopg.connect(url) as other:
        for connection in (one, other):
            connection.isolation_level = psycopg.IsolationLevel.SERIALIZABLE
        for number in range(1, ROUNDS + 1):
            application.execute("DELETE FROM jobs")  # as a worker does, so that nothing waits
            for connection in (one, other):
                connection.execute("SELECT")
            work(one, number)
            work(other, ROWS // 2 - 2 * number)
            one.commit()
            other.commit()


def test_a_snapshot_that_is_old_keeps_nobody_asleep(
    url: str, application: psycopg.Connection[Any], hears: Hears
) -> None:
    """A job that it shows may have been done long ago."""
    with psycopg.connect(url) as connection:
        connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        application.execute(waiting(due_at="clock_timestamp() + interval '200 ms'"))
        connection.execute("SELECT FROM jobs")
        application.execute("DELETE FROM jobs")
        connection.execute(add())
        connection.commit()

    assert hears() == ["1"]


# Triggers that are kept still


def test_nothing_follows_from_rows_that_are_restored(conn: Connection) -> None:
    setting(conn, "mailroom.triggers", "off")
    add_accounts(conn, 2)
    [account] = add_accounts(conn, 1, status="active", prefix="active")
    token = ask_recovery(conn, account)
    conn.execute(text("UPDATE accounts SET status = 'suspended' WHERE id = :account"), {"account": account})
    conn.execute(text("UPDATE tokens SET consumed_at = now(), action = 'activation'"))

    assert rows(conn, "SELECT FROM jobs") == []
    assert [row.id for row in rows(conn, "SELECT id FROM tokens")] == [token]
    assert rows(conn, "SELECT FROM accounts WHERE status_changed_at IS NOT NULL OR suspended_at IS NOT NULL") == []
    assert rows(conn, "SELECT FROM accounts WHERE status = 'active'") == []

    setting(conn, "mailroom.triggers", "")
    add_accounts(conn, 1, prefix="other")
    assert priorities(conn) == {("activation", NORMAL): 1}


def test_a_token_proves_one_address_also_when_triggers_are_kept_still(conn: Connection) -> None:
    [account] = add_accounts(conn, 1, status="active")
    setting(conn, "mailroom.triggers", "off")
    ask_recovery(conn, account)

    assert rows(conn, "SELECT FROM tokens WHERE address_hash IS NULL") == []


@pytest.mark.parametrize("value", ["perhaps", " "])
def test_keeping_triggers_still_perhaps_is_an_error(conn: Connection, value: str) -> None:
    setting(conn, "mailroom.triggers", value)

    with pytest.raises(DataError, match="invalid input syntax for type boolean"):
        add_accounts(conn, 1)


def client(server: Server, program: str, *arguments: str, env: dict[str, str] | None = None) -> str:
    """Run one of PostgreSQL's own programs, of the version of the server."""
    if server.embedded is None:
        missing("the programs of the server")
    with psycopg.connect(server.url) as connection:
        version = connection.info.server_version // 10000
    folder = BINARIES["pg15"] if version == 15 else wheel_binaries()
    command = [str(Path(str(folder)) / program), *arguments]
    return subprocess.run(command, env=os.environ | (env or {}), check=True, capture_output=True, text=True).stdout


def test_what_was_dumped_is_restored_and_mails_nobody(
    server: Server, url: str, template: str, engine: Engine, tmp_path: Path
) -> None:
    """As docs/operating.md has it."""
    with engine.connect() as connection:
        active = add_accounts(connection, 3, status="active", prefix="active")
        add_accounts(connection, 3)
        claimed = claim(connection, batch_limit=2)
        assert len(claimed.batches) == 1
        [(done,)] = rows(connection, "SELECT min(token) FROM jobs")
        connection.execute(
            text(
                "WITH job AS (DELETE FROM jobs WHERE token = :done RETURNING token, action)"
                " INSERT INTO deliveries (token, action, outcome, attempt) SELECT token, action, 'sent', 1 FROM job"
            ),
            {"done": done},
        )
        ask_recovery(connection, active[0])
        connection.execute(text("UPDATE accounts SET status = 'suspended' WHERE id = :a"), {"a": active[1]})
    dump, entries, wanted = (str(tmp_path / name) for name in ("dump", "entries", "wanted"))
    client(server, "pg_dump", "-Fc", "-f", dump, url)
    other = f"restored_{conninfo_to_dict(url)['dbname']}"
    server.execute(f"CREATE DATABASE {other} TEMPLATE {template}")
    try:
        client(server, "pg_restore", "--data-only", "-l", "-f", entries, dump)
        listed = Path(entries).read_text().splitlines()
        left_out = ("permits", "ses_account", VERSION_TABLE)
        Path(wanted).write_text(
            "\n".join(line for line in listed if line.split()[-2:-1] not in [[t] for t in left_out])
        )
        where = ("-d", server.database_url(other), "--data-only", "--single-transaction", "-L", wanted)
        client(server, "pg_restore", *where, dump, env={"PGOPTIONS": "-c mailroom.triggers=off"})
        for table in ("accounts", "tokens", "guesses", "jobs", "batches", "deliveries"):
            everything = f"SELECT * FROM {table} ORDER BY 1"  # noqa: S608 - a constant
            with psycopg.connect(url) as before, psycopg.connect(server.database_url(other)) as after:
                assert after.execute(everything.encode()).fetchall() == before.execute(everything.encode()).fetchall()
        again = connect_engine(server.database_url(other))
        with again.connect() as connection:
            assert misplaced(connection) == []
            assert rows(connection, "SELECT sequences_behind()") == []
            add_accounts(connection, 1, prefix="next")
            assert misplaced(connection) == []
        again.dispose()
    finally:
        server.execute(f"DROP DATABASE {other} WITH (FORCE)")
