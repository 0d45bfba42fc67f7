"""Tokens become jobs: in which queue, how urgent, and what keeps the triggers still."""

import os
import subprocess
from collections import Counter
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import DataError, IntegrityError

from mailroom.db.engine import VERSION_TABLE, connect_engine
from mailroom.demo.postgres import wheel_binaries
from tests.claiming import claim
from tests.db.enqueueing import BULK, NORMAL, URGENT
from tests.machine import missing
from tests.servers import BINARIES, Server
from tests.world import add_accounts, ask_recovery, misplaced, rows


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
    mixed = "INSERT INTO tokens (action, account) SELECT name, accounts.id FROM accounts, actions"

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


@pytest.mark.parametrize("word", ["on", "OFF", " true ", "f", "ye", "1", "0", "of", "Fals"])
def test_a_setting_may_be_any_word_for_it(conn: Connection, word: str) -> None:
    setting(conn, "mailroom.bulk", word)
    add_accounts(conn, 1)

    [means] = conn.scalars(text("SELECT CAST(:word AS boolean)"), {"word": word})
    assert priorities(conn) == {("activation", BULK if means else NORMAL): 1}


@pytest.mark.parametrize("queue", ["x" * 64, " ", "news letter", " mailroom", "mailroom\n"])
def test_a_queue_that_no_worker_can_take_is_an_error(conn: Connection, queue: str) -> None:
    setting(conn, "mailroom.queue", queue)

    with pytest.raises(IntegrityError, match="jobs_queue_check"):
        add_accounts(conn, 1)


def calls(connection: Connection) -> Counter[str]:
    """Return how often this session has called each trigger's function; what was rolled back counts too."""
    found = rows(
        connection,
        "SELECT funcname, calls FROM pg_stat_xact_user_functions JOIN pg_proc ON pg_proc.oid = funcid"
        " WHERE prorettype = CAST('trigger' AS regtype)",
    )
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
    with server.database("restored", of=template) as other:
        client(server, "pg_restore", "--data-only", "-l", "-f", entries, dump)
        listed = Path(entries).read_text().splitlines()
        left_out = ("actions", "permits", "ses_account", "site", "feed", "readings", "workers", VERSION_TABLE)
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
            assert rows(connection, "SELECT doctor_sequences()") == []
            add_accounts(connection, 1, prefix="next")
            assert misplaced(connection) == []
        again.dispose()
