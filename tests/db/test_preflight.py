"""What is refused before work starts; nothing else that a role or a database sets changes what mailroom does."""

from collections.abc import Iterator
from datetime import timedelta
from itertools import chain, zip_longest
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from sqlalchemy import Connection, Engine, event, text
from sqlalchemy.exc import SQLAlchemyError

from mailroom import queue, tokens
from mailroom.db import preflight
from mailroom.db.engine import connect_engine
from mailroom.errors import DatabaseError
from mailroom.fleet.blocks import FleetPermits
from mailroom.ops import health, jobs, status
from mailroom.ops.jobs import Filters
from mailroom.ops.maintenance import Maintenance, prune, reconcile
from mailroom.outcome import Deferred, Outcome, Rejected, Sent, Unconfirmed
from mailroom.queue.floors import Floors
from mailroom.queue.verdict import judge
from mailroom.simulator import Simulator
from tests.claiming import batch_of, claim
from tests.cli.command import sending
from tests.cli.conftest import Here, here, ses
from tests.kinds import ACTIVATION, LANES, RECOVERY
from tests.machine import ROOT, missing
from tests.pgbouncer import PROGRAM, PgBouncer
from tests.roles import a_role
from tests.running import connecting, eventually, transport, working
from tests.servers import TESTS_PATH, Server, migrate
from tests.world import KEY, add_accounts, ask_recovery, count_sent, execute, misplaced, rows

__all__ = ["here", "ses"]

NAME = "Łukasz"
PREFLIGHT = ROOT / "mailroom" / "sql" / "preflight.sql"


class Setter:
    """Sets what a database carries, for those who connect to it from now on."""

    def __init__(self, server: Server, url: str) -> None:
        self._server = server
        self._name = conninfo_to_dict(url)["dbname"]

    def set(self, setting: str, value: str) -> None:
        value = value.replace("'", "''").replace(":", "\\:")
        self._server.execute(f"ALTER DATABASE {self._name} SET {setting} = '{value}'")

    def set_path(self, path: str) -> None:
        self._server.execute(f"ALTER DATABASE {self._name} SET search_path = {path}")

    def reset(self) -> None:
        self._server.execute(f"ALTER DATABASE {self._name} RESET ALL")
        self.set_path(TESTS_PATH)


@pytest.fixture
def carried(server: Server, url: str) -> Setter:
    if server.embedded is None:
        missing("a server where databases may be changed")
    return Setter(server, url)


REFUSED = [
    ("synchronous_commit", "off"),
    ("default_transaction_read_only", "on"),
    ("default_transaction_isolation", "serializable"),
    ("default_transaction_isolation", "repeatable read"),
    ("array_nulls", "off"),
    ("session_replication_role", "replica"),
    ("client_min_messages", "error"),
    ("extra_float_digits", "-3"),
    ("restrict_nonsystem_relation_kind", "view, foreign-table"),
    pytest.param("statement_timeout", "9ms", marks=pytest.mark.alone),  # what asks for it has no more than that
    ("idle_session_timeout", "9s"),
]
COMMANDS = [
    ("worker",),
    ("sweep",),
    ("collect",),
    ("prune", "--older-than", "90d"),
    ("jobs", "retry", "1"),
    ("pause", "activation"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("setting", "value"), REFUSED)
def test_what_the_guarantee_does_not_stand_is_refused_by_name(
    here: Here, ses: Simulator, url: str, carried: Setter, setting: str, value: str
) -> None:
    carried.set(setting, value)
    here("sweep", env=sending(url, ses)).assert_one_line(1, setting)
    assert setting in here("doctor", env=sending(url, ses)).out


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_whatever_changes_the_queue_refuses(
    here: Here, ses: Simulator, url: str, carried: Setter, command: tuple[str, ...]
) -> None:
    carried.set("synchronous_commit", "off")
    here(*command, env=sending(url, ses)).assert_one_line(
        1, "synchronous_commit is off for this role", "ALTER ROLE … IN DATABASE … SET synchronous_commit = 'on'"
    )


def test_what_comes_with_the_connection_is_not_to_be_set_for_the_role(
    here: Here, ses: Simulator, url: str, engine: Engine
) -> None:
    """It would count for nothing: what the connection asks for comes later."""
    given = make_conninfo(url, options="-c synchronous_commit=off")
    ended = here("sweep", env=sending(given, ses))
    ended.assert_one_line(1, "synchronous_commit is off for this role (set by: client)", "take it out of PGOPTIONS")
    assert "ALTER ROLE" not in ended.err
    assert here("sweep", env=sending(url, ses)).code == 0


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        *(("synchronous_commit", value) for value in ("on", "local", "remote_write", "remote_apply")),
        ("default_transaction_isolation", "read uncommitted"),  # PostgreSQL reads what is committed all the same
    ],
)
def test_what_is_enough_is_not_refused(engine: Engine, url: str, carried: Setter, setting: str, value: str) -> None:
    carried.set(setting, value)
    preflight.check(engine)


END_OTHERS = (
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
    " WHERE pid <> pg_backend_pid() AND datname = current_database()"
)


@pytest.mark.slow
def test_a_worker_refuses_what_is_only_so_after_its_start_until_it_is_not(
    url: str,
    connection: Connection,
    carried: Setter,
    simulator: Simulator,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """As where a failover leads to a server that is set otherwise."""
    caplog.set_level("INFO")
    with connecting(url, pool_size=4) as own:
        preflight.check(own)
        with working(own, transport(simulator, monkeypatch), sweep_interval=0.2):
            carried.set("synchronous_commit", "off")
            connection.execute(text(END_OTHERS))
            add_accounts(connection, 3)
            eventually(lambda: "synchronous_commit is off" in caplog.text, "it is said")
            assert count_sent(connection) == 0
            carried.reset()
            eventually(lambda: count_sent(connection) == 3, "all is sent")


def test_sessions_that_are_set_otherwise_while_they_last_are_left_within_a_minute(url: str) -> None:
    """As by a server whose configuration is read again."""
    with connecting(url) as own:
        preflight.check(own)
        with own.connect() as connection:
            connection.execute(text("SET synchronous_commit TO off"))
        work = Maintenance(own, queue="mailroom", prune_after=None)
        work.step(0)
        with own.connect() as connection:
            assert connection.scalar(text("SHOW synchronous_commit")) == "on"


@pytest.mark.parametrize("command", [("status",), ("jobs", "list")], ids=" ".join)
def test_who_only_looks_may_look_at_a_reader(
    here: Here, ses: Simulator, url: str, carried: Setter, command: tuple[str, ...]
) -> None:
    carried.set("default_transaction_read_only", "on")
    assert here(*command, env=sending(url, ses)).code == 0


@pytest.mark.parametrize("encoding", ["SQL_ASCII", "LATIN1"])
def test_a_database_of_another_encoding_is_refused(server: Server, empty_url: str, encoding: str) -> None:
    """No migration makes one; a dump may have been restored into one."""
    name = f"{conninfo_to_dict(empty_url)['dbname']}_encoded"
    server.execute(f"CREATE DATABASE {name} TEMPLATE template0 ENCODING '{encoding}' LOCALE 'C'")
    engine = connect_engine(server.database_url(name))
    try:
        with engine.connect() as connection:
            connection.execute(text("CREATE SCHEMA mailroom"))
            connection.exec_driver_sql(PREFLIGHT.read_text(encoding="utf-8"))
            fault = next(preflight.faults(connection))
        assert fault.message.startswith(f"server_encoding is {encoding}")
    finally:
        engine.dispose()
        server.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.mark.slow
def test_rows_that_are_hidden_are_not_taken_for_gone(
    here: Here, ses: Simulator, server: Server, empty_url: str
) -> None:
    """From the owner, with whose rights functions see; from an owner they are hidden only where that is forced."""
    with (
        a_role(server) as (owner, own),
        a_role(server) as (worker, log_in),
        psycopg.connect(empty_url, autocommit=True) as superuser,
    ):
        superuser.execute(f"CREATE SCHEMA mailroom AUTHORIZATION {owner}")
        migrate(own(empty_url))
        assert here("grants", "--worker", worker, "--apply", env={"MAILROOM_DATABASE_URL": own(empty_url)}).code == 0
        env = sending(log_in(empty_url), ses)
        superuser.execute("ALTER TABLE tokens ENABLE ROW LEVEL SECURITY")
        assert here("sweep", env=env).code == 0
        superuser.execute("ALTER TABLE accounts ENABLE ROW LEVEL SECURITY")
        superuser.execute("ALTER TABLE accounts FORCE ROW LEVEL SECURITY")
        said = "row-level security hides rows of accounts from the owner of mailroom's functions"
        here("sweep", env=env).assert_one_line(1, said)
        assert said in here("doctor", env=env).out
        superuser.execute(f"ALTER ROLE {owner} BYPASSRLS")
        assert here("sweep", env=env).code == 0


def test_tables_that_a_crash_empties_are_refused(engine: Engine) -> None:
    with engine.connect() as connection:
        connection.execute(text("ALTER TABLE jobs SET UNLOGGED"))
    with pytest.raises(DatabaseError, match=r"jobs would be empty after a crash .* SET LOGGED"):
        preflight.check(engine)


def test_a_part_of_the_log_that_a_crash_empties_is_refused(engine: Engine) -> None:
    """What is not on record any more is mailed again."""
    parts = (
        "CREATE TABLE parted (LIKE deliveries) PARTITION BY RANGE (created_at)",
        "CREATE UNLOGGED TABLE deliveries_2026 PARTITION OF parted DEFAULT",
        "ALTER TABLE deliveries RENAME TO deliveries_before",
        "ALTER TABLE parted RENAME TO deliveries",
    )
    execute(engine, *parts)
    with pytest.raises(DatabaseError, match="deliveries_2026 would be empty after a crash"):
        preflight.check(engine)


def test_ids_that_come_again_after_a_crash_are_refused(engine: Engine) -> None:
    try:
        execute(engine, "ALTER SEQUENCE tokens_id_seq SET UNLOGGED")
    except SQLAlchemyError:  # PostgreSQL 14 has no such sequences
        return
    with pytest.raises(DatabaseError, match="tokens_id_seq would be empty after a crash"):
        preflight.check(engine)


@pytest.mark.parametrize(
    "settings",
    [
        {"client_encoding": "LATIN1"},
        {"client_encoding": "SQL_ASCII"},
        {"client_encoding": "EUC_JP"},
        {"standard_conforming_strings": "off"},
        {"datestyle": "German, DMY", "timezone": "America/St_Johns", "intervalstyle": "iso_8601"},
    ],
    ids=str,
)
def test_a_name_is_mailed_whatever_the_session_would_be(
    here: Here, ses: Simulator, url: str, engine: Engine, carried: Setter, settings: dict[str, str]
) -> None:
    with engine.connect() as connection:
        connection.execute(text("INSERT INTO accounts (email, login) VALUES ('l@example.com', :name)"), {"name": NAME})
    for name, value in settings.items():
        carried.set(name, value)
    assert here("sweep", env=sending(url, ses)).code == 0
    [mail] = ses.ledger.mails
    assert NAME in str(mail)


@pytest.mark.parametrize(
    "options",
    [
        "-c standard_conforming_strings=off -c backslash_quote=on -c escape_string_warning=off",
        "-c client_encoding=LATIN1 -c datestyle=German -c intervalstyle=sql_standard -c timezone=Asia/Kathmandu",
        "-c array_nulls=off -c transform_null_equals=on -c bytea_output=escape -c extra_float_digits=-15",
    ],
)
def test_the_sessions_of_an_application_may_be_as_they_like(direct_url: str, engine: Engine, options: str) -> None:
    """The text of functions is read as the session of the caller reads, also that of a trigger."""
    with psycopg.connect(direct_url, autocommit=True, options=options) as application:
        application.execute("INSERT INTO accounts (email, login) VALUES ('ada@example.com', 'ada')")
        with engine.connect() as connection:
            [job] = claim(connection).batches[0].jobs
        consumed = application.execute("SELECT account FROM consume_token(%b, 'activation')", [job.secret]).fetchall()
        assert consumed == [(job.account,)]
        again = application.execute(
            "INSERT INTO tokens (action, account) VALUES ('password_recovery', %s) RETURNING id", [job.account]
        ).fetchall()
        with engine.connect() as connection:
            [job] = claim(connection).batches[0].jobs
        assert again == [(job.token,)]
        recovered = "SELECT guesses_left(%b), account FROM consume_token(%b, 'password_recovery', %s)"
        assert application.execute(recovered, [job.secret, job.secret, job.code]).fetchall() == [(5, job.account)]


# Everything that a role can carry

STRINGS = {
    "client_encoding": ("LATIN1", "SQL_ASCII", "EUC_JP", "EUC_TW"),
    "datestyle": ("German, DMY", "SQL, MDY", "Postgres, YMD"),
    "timezone": ("Asia/Kathmandu", "America/St_Johns", "<+05>-5", "Pacific/Apia"),
    "restrict_nonsystem_relation_kind": ("view, foreign-table",),
    "plpgsql.extra_errors": ("all",),
    "plpgsql.extra_warnings": ("all",),
    "timezone_abbreviations": ("India",),
    "default_text_search_config": ("pg_catalog.german",),
}
PATHS = ("mailroom, pg_catalog", "pg_temp, mailroom", "information_schema, mailroom")
# Without track_counts nothing is vacuumed, and a warning says so.
CARRIED = """
SELECT name, vartype, setting, enumvals, min_val, max_val FROM pg_settings
 WHERE context IN ('user', 'superuser') AND vartype <> 'string' AND name <> 'track_counts' ORDER BY name
"""


def others(row: Any) -> list[str]:
    """Return the other values of a setting that are worth a try."""
    match row.vartype:
        case "bool":
            values = ["on", "off"]
        case "enum":
            values = list(row.enumvals)
        case "integer":
            values = [row.min_val, str(int(row.min_val) + 1), "100", row.max_val]
        case _:
            values = [row.min_val, row.max_val]
    return [value for value in dict.fromkeys(values) if value != row.setting]


def tries(connection: Connection) -> Iterator[tuple[str, str]]:
    connection.execute(text("LOAD 'plpgsql'"))
    for row in rows(connection, CARRIED):
        for value in others(row):
            yield row.name, value
    for name, values in STRINGS.items():
        for value in values:
            yield name, value


def settle(connection: Connection, *outcomes: Outcome, resend_after: timedelta | None = None) -> list[int]:
    batch = batch_of(claim(connection))
    assert batch is not None
    verdicts = [
        judge(outcome, attempt=job.attempt, jitter=0, resend_after=resend_after)
        for job, outcome in zip(batch.jobs, outcomes, strict=True)
    ]
    assert queue.settle(connection, [(batch, verdicts)]) == {batch.fence}
    return [job.token for job in batch.jobs]


def life(engine: Engine) -> list[Any]:
    """Live a short life of everything, leave nothing, and return what it was like."""
    with engine.connect() as connection:
        try:
            return list(lived(engine, connection))
        finally:
            for statement in ("DELETE FROM accounts", "TRUNCATE jobs, batches, deliveries"):
                connection.execute(text(statement))


def lived(engine: Engine, connection: Connection) -> Iterator[Any]:
    for address, name in (("l", NAME), ("b", "b"), ("c", "c"), ("d", "d")):
        connection.execute(
            text("INSERT INTO accounts (email, login) VALUES (:address || '@example.com', :name)"),
            {"address": address, "name": name},
        )
    yield rows(connection, "SELECT login, email, status FROM accounts ORDER BY id")
    view = queue.look(
        connection, queue="mailroom", batch_limit=50, batch_timeout=timedelta(0), floors=Floors(), lanes=LANES
    )
    yield view.ready, view.next is None, view.rescuable
    outcomes = (Sent("m"), Rejected("Code", NAME), Deferred("Throttled", "later", charged=False), Unconfirmed("?", "?"))
    settle(connection, *outcomes)
    yield rows(
        connection,
        "SELECT outcome, attempt, late, message_id, error_code, error IS NULL FROM deliveries ORDER BY token, id",
    )
    yield rows(connection, "SELECT priority, attempt, due_at = 'infinity', queue FROM jobs ORDER BY token")
    # Some settings make a session so slow that what is deferred for seconds comes due meanwhile.
    connection.execute(text("UPDATE jobs SET due_at = due_at + interval '1 day'"))
    [(secret, account)] = rows(connection, "SELECT secret, account FROM tokens ORDER BY id LIMIT 1")
    link = tokens.sign(secret, path=ACTIVATION.path, key=KEY)
    yield tokens.consume(connection, link, action=ACTIVATION, key=KEY) == account
    recovery = ask_recovery(connection, account)
    yield settle(connection, Sent("m")) == [recovery]
    [(secret, code)] = rows(connection, "SELECT secret, code FROM tokens WHERE id = :t", t=recovery)
    link = tokens.sign(secret, path=RECOVERY.path, key=KEY, code=code)
    yield tokens.consume(connection, link, action=RECOVERY, key=KEY, code=code) == account
    connection.execute(text("INSERT INTO accounts (email, login) VALUES ('lost@example.com', 'lost')"))
    lost = claim(connection, lease=timedelta(0))
    yield [len(batch.jobs) for batch in lost.batches], len(queue.rescue(connection))
    yield rows(connection, "SELECT status, activated_at IS NULL FROM accounts ORDER BY id")
    yield rows(connection, "SELECT CAST(extract(epoch FROM expires_at - created_at) AS int) FROM tokens")
    yield reconcile(connection.engine, queue="mailroom").enqueued, prune(connection, older_than=timedelta(days=1))
    yield sorted(health.warnings(health.read(connection))), type(status.read(connection)).__name__
    yield sorted(
        (row.state, row.attempt)
        for row in jobs.find(connection, Filters((), None, (), None, None, None, None, False), limit=9)
    )
    permit = FleetPermits(engine, mail_rate=14.0, bulk_rate=None).take(1, urgent_waits=lambda: False)
    yield permit is not None
    yield misplaced(connection)


def plain(words: str) -> str:
    return words.lower().replace("_", " ").replace("-", " ")


def differs(url: str, setting: str, expected: list[Any]) -> str | None:
    """Return what is otherwise than it should be, or None where it is the same, or refused by name."""
    engine = connect_engine(url, pool_size=4)
    made: list[Any] = []
    # SQLAlchemy lets go, unclosed, of a connection whose first statement fails, as it does where time-outs are tiny.
    event.listen(engine, "connect", lambda connection, _: made.append(connection), insert=True)
    try:
        preflight.check(engine)
        found = life(engine)
    except DatabaseError as error:
        # A session that ends at once cannot even be asked why.
        named = plain(setting) in plain(str(error)) or setting == "idle_session_timeout"
        return None if named else f"refused as {error}"
    except (SQLAlchemyError, AssertionError) as error:
        return f"{type(error).__name__}: {str(error)[:300]}"
    finally:
        engine.dispose()
        for connection in made:
            connection.close()
    different = [pair for pair in zip(expected, found, strict=False) if pair[0] != pair[1]]
    return str(different) if different else None


# Settings of different kinds do not make up for each other, and are carried together: what is refused by name, and what
# is of no kind here, is carried alone.
KINDS_OF_SETTINGS = {
    "Query Tuning": "how",
    "Resource Usage": "how",
    "Developer Options": "how",
    "Client Connection Defaults": "what",
    "Version and Platform Compatibility": "what",
    "Reporting and Logging": "logged",
    "Vacuuming": "vacuumed",
    "Write-Ahead Log": "written",
    "Connections and Authentication": "connected",
    "Statistics": "counted",
}
Tried = tuple[str, str]


def together(connection: Connection, wanted: list[Tried]) -> Iterator[list[Tried]]:
    """Give what is carried at once: of each kind one value of one setting."""
    kinds: dict[str, str | None] = {
        row.name: KINDS_OF_SETTINGS.get(row.category.partition(" / ")[0])
        for row in rows(connection, "SELECT name, category FROM pg_settings")
    }
    alike: dict[str, list[Tried]] = {}
    for setting, value in wanted:
        kind = None if setting in preflight.DEMANDS else kinds.get(setting.lower())
        if kind is None:
            yield [(setting, value)]
        else:
            alike.setdefault(kind, []).append((setting, value))
    for each in zip_longest(*alike.values()):
        yield [one for one in each if one is not None]


def carry(carried: Setter, tried: list[Tried]) -> list[Tried]:
    """Let the database carry these, and nothing else; return what it can carry."""
    carried.reset()
    taken = []
    for setting, value in tried:
        try:
            if setting == "search_path":
                carried.set_path(value)
            else:
                carried.set(setting, value)
        except SQLAlchemyError:
            continue  # no role can carry that
        taken.append((setting, value))
    return taken


@pytest.mark.early
@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_whatever_a_role_carries_changes_nothing_or_is_refused_by_name(
    server: Server, url: str, engine: Engine, carried: Setter
) -> None:
    expected = life(engine)
    with engine.connect() as connection:
        wanted = [*tries(connection), *(("search_path", path) for path in PATHS)]
        all_at_once = list(together(connection, wanted))
    assert sorted(chain.from_iterable(all_at_once)) == sorted(wanted)
    found, tried = [], 0
    for each in all_at_once:
        taken = carry(carried, each)
        tried += len(taken)
        difference = taken and differs(url, " and ".join(setting for setting, _ in taken), expected)
        alone = [(one, differs(url, one[0], expected)) for one in taken if difference and carry(carried, [one])]
        if difference and len(taken) > 1 and not any(why for _, why in alone):
            alone.append((("together", str(taken)), difference))
        found += [f"{setting} = {value}: {why}" for (setting, value), why in alone if why]
    carried.reset()
    assert not found, "\n".join(found)
    assert tried > 200


@pytest.mark.slow
def test_a_pooler_that_knows_statements_and_no_transactions_is_refused(
    here: Here, ses: Simulator, server: Server, url: str
) -> None:
    if server.embedded is None or not PROGRAM.exists():
        missing("PgBouncer, and a server of our own behind it")
    with PgBouncer(server.embedded, mode="statement") as pooler:
        env = sending(pooler.url(url), ses)
        for command in (("worker", "--no-listen"), ("sweep",), ("migrate",)):
            here(*command, env=env).assert_one_line(1, "statement pooling mode")
