"""Connections that end what they give up, leave a server that is of no use, and tell nothing of a password."""

import contextlib
import os
import resource
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from functools import partial

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict
from sqlalchemy import Engine, event, text
from sqlalchemy.exc import DBAPIError, OperationalError

from mailroom import queue
from mailroom.db.engine import (
    CANCEL_WITHIN,
    OutcomeUnknownError,
    check_contract,
    connect_engine,
    connection_string,
    first_line,
    is_retryable,
    renew_connections,
    unusable,
)
from mailroom.demo.postgres import EmbeddedPostgres
from mailroom.errors import SettingsError
from mailroom.outcome import Sent
from mailroom.queue.listener import Listener
from mailroom.queue.verdict import judge
from tests.claiming import claim
from tests.machine import missing
from tests.proxy import HalfOpenProxy
from tests.running import eventually
from tests.servers import Server, migrate
from tests.world import add_accounts, count, misplaced

THROUGH_PGBOUNCER = True

BLOCKED = """
SELECT pid FROM pg_stat_activity
 WHERE datname = current_database() AND wait_event_type = 'Lock' AND pid <> pg_backend_pid()
"""
SHORT = timedelta(seconds=0.5)
# So soon gives up who has to be answered all the same where nothing holds it up.
SOON = timedelta(seconds=3)


@pytest.fixture
def impatient(url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Engine]:
    """An engine that gives up soon, and then waits patiently for the word that the server has ended it."""
    monkeypatch.setattr("mailroom.db.engine.CANCEL_WITHIN", timedelta(minutes=1))
    engine = connect_engine(url, pool_size=3, answer_within=SOON)
    yield engine
    engine.dispose()


def give_up_a_claim(engine: Engine) -> psycopg.Error:
    with engine.connect() as connection, pytest.raises(DBAPIError) as raised:
        claim(connection)
    assert isinstance(raised.value.orig, psycopg.Error)
    return raised.value.orig


# What is given up is ended


@pytest.mark.slow
def test_a_claim_that_is_given_up_is_ended_on_the_server(impatient: Engine, engine: Engine, direct_url: str) -> None:
    with engine.connect() as connection:
        add_accounts(connection, 3)
    with psycopg.connect(direct_url) as holder, psycopg.connect(direct_url, autocommit=True) as watcher:
        holder.execute("LOCK TABLE batches")
        for _ in range(2):
            assert isinstance(give_up_a_claim(impatient), psycopg.errors.QueryCanceled)
        eventually(lambda: not watcher.execute(BLOCKED).fetchall(), "nobody waits for the lock any more")

    with impatient.connect() as connection:
        assert (count(connection, "batches"), count(connection, "jobs")) == (0, 3)
        [batch] = claim(connection).batches
        assert len(batch.jobs) == 3


@pytest.mark.slow
def test_a_migration_goes_through_a_pooler(url: str) -> None:
    migrate(url, "base")
    migrate(url)
    engine = connect_engine(url)
    check_contract(engine)
    engine.dispose()


@pytest.mark.slow
def test_a_connection_goes_on_after_a_statement_was_cancelled(impatient: Engine) -> None:
    with impatient.connect() as connection:
        with pytest.raises(OperationalError, match="no answer came in time, so it was cancelled") as raised:
            connection.execute(text("SELECT pg_sleep(60)"))
        assert isinstance(raised.value.orig, psycopg.errors.QueryCanceled)
        assert "statement_timeout" not in str(unusable(raised.value))
        assert connection.scalar(text("SELECT 1")) == 1


@pytest.mark.alone
def test_where_not_even_the_cancelling_is_answered_nobody_knows(url: str, engine: Engine) -> None:
    with HalfOpenProxy(url) as proxy:
        through = connect_engine(proxy.url, answer_within=SHORT)
        with through.connect() as connection:
            assert connection.scalar(text("SELECT 1")) == 1
        proxy.freeze()
        began = time.monotonic()
        assert isinstance(give_up_a_claim(through), OutcomeUnknownError)
        assert time.monotonic() - began < (SHORT + 3 * CANCEL_WITHIN).total_seconds()
        proxy.thaw()
        with through.connect() as connection:
            assert connection.scalar(text("SELECT 2")) == 2
        through.dispose()


def test_of_a_statement_whose_connection_breaks_nobody_knows(url: str, direct_url: str) -> None:
    with (
        HalfOpenProxy(url) as proxy,
        psycopg.connect(direct_url) as holder,
        psycopg.connect(direct_url, autocommit=True) as watcher,
        ThreadPoolExecutor() as beside,
    ):
        watcher.execute("INSERT INTO accounts (email, login) VALUES ('user@example.com', 'user')")
        holder.execute("LOCK TABLE batches")
        through = connect_engine(proxy.url, answer_within=timedelta(seconds=20))
        given_up = beside.submit(give_up_a_claim, through)
        eventually(lambda: watcher.execute(BLOCKED).fetchall(), "the claim waits")
        proxy.drop()
        assert isinstance(given_up.result(), OutcomeUnknownError)
        through.dispose()


CANCEL_COMMITS = "SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE wait_event = 'SyncRep'"


@contextlib.contextmanager
def without_standby(server: Server) -> Iterator[None]:
    """Let commits wait for a standby that is not there."""
    if server.embedded is None:
        missing("a server whose configuration can be changed")
    writer = connect_engine(server.url, answer_within=SHORT)

    def commits() -> bool:
        try:
            with writer.connect() as connection:
                connection.execute(text("SELECT pg_logical_emit_message(true, '', '')"))
        except OperationalError:
            return False
        return True

    try:
        server.execute("ALTER SYSTEM SET synchronous_standby_names = 'nobody'")
        server.execute("SELECT pg_reload_conf()")
        eventually(lambda: not commits(), "the server knows")
        yield
    finally:
        server.execute("ALTER SYSTEM RESET synchronous_standby_names")
        server.execute("SELECT pg_reload_conf()")
        eventually(commits, "as before")
        writer.dispose()


@pytest.mark.slow
def test_a_commit_that_still_waits_for_its_standby_is_not_called_done(
    server: Server, impatient: Engine, engine: Engine
) -> None:
    """Told to stop waiting, PostgreSQL warns, and answers as if all were well."""
    with engine.connect() as connection:
        add_accounts(connection, 2)
        [batch] = claim(connection).batches
    verdicts = [judge(Sent("m"), attempt=job.attempt, jitter=0) for job in batch.jobs]
    with without_standby(server), impatient.connect() as connection:
        with pytest.raises(OperationalError) as raised:
            queue.settle(connection, [(batch, verdicts)])
        assert isinstance(raised.value.orig, OutcomeUnknownError)
    with engine.connect() as connection:
        queue.settle(connection, [(batch, verdicts)])
        assert misplaced(connection) == []


@pytest.mark.slow
def test_nor_is_one_that_somebody_else_tells_to_wait_no_longer(server: Server, engine: Engine) -> None:
    """As an administrator does who sees commits hang. A failover would forget the claim, and its mails go out twice."""
    with engine.connect() as connection:
        add_accounts(connection, 2)
    with without_standby(server), ThreadPoolExecutor(1) as thread, engine.connect() as connection:
        claimed = thread.submit(claim, connection)
        while not claimed.done():
            server.execute(CANCEL_COMMITS)
        with pytest.raises(OperationalError) as raised:
            claimed.result()
        assert isinstance(raised.value.orig, OutcomeUnknownError)
        assert raised.value.connection_invalidated


@pytest.mark.slow
@pytest.mark.parametrize("words", [b"SET datestyle", b"LISTEN"])
def test_a_listener_does_not_wait_for_ever_for_its_first_answers(
    direct_url: str, caplog: pytest.LogCaptureFixture, words: bytes
) -> None:
    with HalfOpenProxy(direct_url) as proxy:
        woken: list[str] = []
        listener = Listener(
            proxy.url,
            "token_insert",
            healthcheck_interval=timedelta(seconds=60),
            woken=woken.append,
            ping=lambda channel, payload: True,
        )
        proxy.freeze_at(words)
        thread = threading.Thread(target=listener.run)
        thread.start()
        eventually(lambda: "listen lost" in caplog.text, "it notices")
        proxy.thaw()
        eventually(lambda: woken, "it listens again")
        listener.stop()
        thread.join()


# A server that is of no use


@pytest.fixture(scope="module")
def reader(server: Server) -> Iterator[EmbeddedPostgres]:
    """Another server with the same password, which takes writes until it is told otherwise."""
    if server.embedded is None:
        pytest.skip("the password of a server that was given is not ours to give to another")
    with EmbeddedPostgres(password=server.embedded.password) as other:
        with psycopg.connect(other.url(), autocommit=True) as connection:
            connection.execute("CREATE TABLE written (n int)")
        yield other


@pytest.fixture
def writer(server: Server) -> Iterator[str]:
    """The URL of the same database on the server of the tests."""
    url = server.database_url("postgres")
    server.execute("CREATE TABLE written (n int)")
    yield url
    server.execute("DROP TABLE written")


def set_reading(server: EmbeddedPostgres, on: str) -> None:
    with psycopg.connect(server.url(), autocommit=True) as connection:
        connection.execute(f"ALTER SYSTEM SET default_transaction_read_only = {on}")
        connection.execute("SELECT pg_reload_conf()")
        shown = "SHOW default_transaction_read_only"
        eventually(lambda: connection.execute(shown).fetchone() == (on,), "the server knows")


def write(engine: Engine) -> str:
    """Write a row; return what was said."""
    try:
        with engine.connect() as connection:
            connection.execute(text("INSERT INTO written VALUES (1)"))
    except DBAPIError as error:
        return first_line(error)
    return "written"


@pytest.mark.slow
def test_a_reader_is_left_as_soon_as_the_name_leads_to_the_primary(reader: EmbeddedPostgres, writer: str) -> None:
    set_reading(reader, "on")
    with HalfOpenProxy(reader.url()) as proxy:
        engine = connect_engine(proxy.url)
        looking = connect_engine(proxy.url, writes=False)
        for _ in range(2):
            assert write(engine).startswith("this server takes no writes: default_transaction_read_only is on")
            with looking.connect() as connection:
                assert count(connection, "written") == 0
        proxy.lead_to(writer)
        assert write(engine) == "written"
        engine.dispose()
        looking.dispose()


def test_a_primary_that_became_a_reader_is_left_with_all_its_connections(reader: EmbeddedPostgres, writer: str) -> None:
    set_reading(reader, "off")
    with HalfOpenProxy(reader.url()) as proxy:
        engine = connect_engine(proxy.url, pool_size=2)
        with engine.connect() as one, engine.connect() as other:
            assert (one.scalar(text("SELECT 1")), other.scalar(text("SELECT 1"))) == (1, 1)
        set_reading(reader, "on")
        with engine.connect() as one, engine.connect() as other:
            for each in (one, other):  # each session hears of it by itself
                shown = partial(each.scalar, text("SHOW default_transaction_read_only"))
                eventually(lambda: shown() == "on", "the session knows")  # noqa: B023
        proxy.lead_to(writer)
        assert write(engine).startswith("cannot execute INSERT in a read-only transaction")
        with engine.connect() as one, engine.connect() as other:
            for connection in (one, other):
                connection.execute(text("INSERT INTO written VALUES (2)"))
        engine.dispose()


# Nothing of a password


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://ada:p@ssw0rd@127.0.0.1/app",
        "postgresql://ada:p/ssw0rd@127.0.0.1/app",
        "postgresql://ada:1/ssw0rd@127.0.0.1/app",
        "postgresql://ada:p?s@ssw0rd@127.0.0.1/app",
        "postgresql://ada:p:x@ssw0rd@127.0.0.1:5432/app",
        "postgresql+psycopg://ada:ssw0rd@@127.0.0.1/app",
        "postgresql://ada:p%ssw0rd@127.0.0.1/app",
        "postgresql://a@da:ssw0rd@127.0.0.1/app",
        "postgresql://ada:ssw0rd/app",
        "postgresql://ada:p@[ssw0rd@127.0.0.1/app",
        "host=ada@ssw0rd dbname=app",
        "host=127.0.0.1 port=ssw0rd",
        "host=127.0.0.1 password=p ssw0rd",
    ],
)
def test_a_url_of_which_a_password_would_be_the_host_is_refused_unshown(url: str) -> None:
    with pytest.raises(SettingsError, match="a password in a URL has %40 for @") as raised:
        connection_string(url)
    assert "ssw0rd" not in str(raised.value)


@pytest.mark.parametrize(
    ("url", "password", "host"),
    [
        ("postgresql://ada:p%40ss%2Fw%3Ard@127.0.0.1:5432/app", "p@ss/w:rd", "127.0.0.1"),
        ("postgresql://ada:p?w@127.0.0.1/app", "p?w", "127.0.0.1"),
        ("postgresql://ada:p:w@one,two:5433/app?user=ada@home", "p:w", "one,two"),
        ("host=@abstract password='a://b@c@d/e@f'", "a://b@c@d/e@f", "@abstract"),
    ],
)
def test_what_is_spelt_right_is_taken(url: str, password: str, host: str) -> None:
    given = conninfo_to_dict(connection_string(url))
    assert (given["password"], given["host"]) == (password, host)


@pytest.mark.parametrize(
    "query", ["schema=public", "sslmode=require&pgbouncer=true", "connection_limit=5", "ssl=require"]
)
def test_of_what_only_other_drivers_know_in_a_url_it_is_said_that_libpq_does_not(query: str) -> None:
    with pytest.raises(SettingsError, match="after the question mark only what libpq knows") as raised:
        connection_string(f"postgresql://ada:ssw0rd@127.0.0.1/app?{query}")
    assert "ssw0rd" not in str(raised.value)


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("url", ["postgresql://127.0.0.1/app", "postgresql+psycopg://127.0.0.1/app", "dbname=app"])
def test_the_end_of_the_line_in_a_file_of_secrets_is_no_part_of_it(url: str, end: str) -> None:
    assert conninfo_to_dict(connection_string(url + end))["dbname"] == "app"


@pytest.mark.parametrize(
    ("said", "again"),
    [
        (psycopg.errors.UndefinedTable, True),
        (psycopg.errors.InsufficientPrivilege, True),
        (psycopg.errors.CheckViolation, True),
        (psycopg.errors.IndexCorrupted, True),
        (psycopg.errors.QueryCanceled, True),
        (psycopg.errors.InvalidTextRepresentation, False),
    ],
)
def test_a_settlement_is_repeated_unless_its_own_values_are_wrong(said: type[psycopg.Error], again: bool) -> None:
    assert is_retryable(DBAPIError("settle", {}, said())) is again


def test_a_machine_that_has_no_file_descriptor_left_has_an_error_of_the_database_and_goes_on(url: str) -> None:
    """psycopg takes one, besides that of the connection, to wait for it."""
    engine = connect_engine(url)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with open(os.devnull, encoding="ascii") as lowest:
        number = lowest.fileno()
    resource.setrlimit(resource.RLIMIT_NOFILE, (number + 1, hard))
    try:
        with pytest.raises(DBAPIError, match="this machine cannot connect: Too many open files"):
            engine.connect()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    with engine.connect() as connection:
        assert connection.exec_driver_sql("SELECT 1").scalar() == 1
    engine.dispose()


def test_a_connection_that_is_made_while_all_are_to_be_renewed_is_used_once(url: str) -> None:
    """As where many senders fail at once, and each asks for new ones: SQLAlchemy makes a second, and no third."""
    engine = connect_engine(url)
    event.listen(engine, "connect", lambda *_: renew_connections(engine))
    made = []
    for _ in range(2):
        with engine.connect() as connection:
            made.append(connection.connection.driver_connection)
    assert len(set(made)) == 2
    engine.dispose()
