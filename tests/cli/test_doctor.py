"""`doctor`: every check passes where all is well, and each fails, with its remedy, for what it is there for."""

import json
from datetime import timedelta

import pytest
from sqlalchemy import Engine, text

from mailroom.db import functions
from mailroom.ops import session_settings
from mailroom.ops.doctor import TRIGGERS
from mailroom.ops.refresh import refresh
from mailroom.outcome import Sent
from mailroom.queue import listener
from mailroom.ses.doctor import variables
from mailroom.simulator import Fault, Simulator
from mailroom.simulator.templates import default_content
from tests.claiming import enqueue, settle, take
from tests.cli.command import sending
from tests.cli.conftest import Here
from tests.machine import closed_port
from tests.roles import a_role
from tests.servers import Server, migrate
from tests.world import add_accounts, execute, rows

EACH_SERVER = True

OF_SES = ["account", "identity", "configuration set", "template activationv1", "template passwordrecoveryv1"]
CHECKS = [
    *(
        "settings",
        "key",
        "database",
        "guarantee",
        "server",
        "triggers",
        "session settings",
        "functions",
        "indexes",
        "tables",
        "rights",
        "clock",
        "restore",
        "actions",
        "queue",
        "pauses",
        "channel",
        "listen",
    ),
    *OF_SES,
]


@pytest.fixture
def env(ses: Simulator, url: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The settings of a worker that lacks nothing, on a machine on which a notification may take its time."""
    monkeypatch.setattr(listener, "PING_PATIENCE", timedelta(seconds=60))
    return sending(url, ses) | {"MAILROOM_SES_SOURCE": "Ada <noreply@mail.example.com>"}


def ill(here: Here, env: dict[str, str]) -> dict[str, tuple[str, str]]:
    """What is not well: by check, its worse level, and each message with its remedy. The exit code has to fit."""
    ended = here("doctor", "--json", env=env)
    rows_told = [row for row in json.loads(ended.out) if row["check"] != "server"]  # the tests' server flushes nothing
    wrong = [row for row in rows_told if row["level"] != "ok"]
    assert ended.code == int(any(row["level"] == "failed" for row in wrong))
    assert all(row["remedy"] for row in wrong)
    found: dict[str, tuple[str, str]] = {}
    for row in wrong:
        level, words = found.get(row["check"], (row["level"], ""))
        said = f"{words}; " if words else ""
        found[row["check"]] = (min(level, row["level"]), f"{said}{row['message']} -> {row['remedy']}")
    return found


def assert_one(here: Here, env: dict[str, str], check: str, level: str, *words: str) -> None:
    wrong = ill(here, env)
    assert wrong.keys() == {check}
    assert wrong[check][0] == level
    for word in words:
        assert word in wrong[check][1]


def test_where_all_is_well_every_line_says_so(here: Here, ses: Simulator, env: dict[str, str]) -> None:
    assert ill(here, env) == {}
    ended = here("doctor", env=env)
    assert (ended.code, ended.err) == (0, "")
    assert [line.split(":")[0] for line in ended.out.splitlines()] == [
        f"{'warning' if check == 'server' else 'ok':8}{check}" for check in CHECKS
    ]
    assert (
        "server: a crash of the machine may damage it or forget: fsync, full_page_writes -> ALTER SYSTEM" in ended.out
    )
    assert "; SELECT pg_reload_conf()\n" in ended.out
    assert ses.ledger.mails == []


@pytest.mark.one_server
def test_the_name_of_a_sender_is_not_its_address(here: Here, env: dict[str, str]) -> None:
    assert ill(here, env | {"MAILROOM_SES_SOURCE": "Ada, Ltd. <noreply@mail.example.com>"}) == {}


@pytest.mark.one_server
def test_settings_that_cannot_be_read(here: Here, env: dict[str, str]) -> None:
    ended = here("doctor", env=env | {"MAILROOM_BATCH_LIMIT": "51"})
    assert (ended.code, ended.out.count("\n")) == (1, 1)
    assert ended.out.startswith("failed  settings: MAILROOM_BATCH_LIMIT: '51' is not accepted")


@pytest.mark.one_server
def test_settings_that_nothing_reads(here: Here, env: dict[str, str]) -> None:
    assert_one(here, env | {"MAILROOM_BATCH_LIMITS": "5"}, "settings", "warning", "MAILROOM_BATCH_LIMITS")


@pytest.mark.one_server
def test_no_key(here: Here, env: dict[str, str]) -> None:
    del env["MAILROOM_SECRET_KEY"]
    assert_one(here, env, "key", "failed", "MAILROOM_SECRET_KEY is not set")


@pytest.mark.one_server
def test_no_database(here: Here, env: dict[str, str]) -> None:
    env["MAILROOM_DATABASE_URL"] = f"postgresql://ada:hunter2@127.0.0.1:{closed_port()}/app"
    wrong = ill(here, env)
    assert list(wrong) == ["database", "templates"]
    assert "Connection refused" in wrong["database"][1]
    del env["MAILROOM_DATABASE_URL"]
    assert list(ill(here, env)) == ["database", "templates"]
    assert "MAILROOM_DATABASE_URL is not set" in ill(here, env)["database"][1]


def test_a_database_of_another_release(here: Here, env: dict[str, str], engine: Engine) -> None:
    older = "CREATE OR REPLACE FUNCTION contract() RETURNS TABLE (oldest int, newest int) LANGUAGE sql AS 'SELECT 0, 0'"
    execute(engine, older)
    assert_one(here, env, "database", "failed", "an older release", "mailroom migrate")


def test_jobs_of_an_action_that_there_is_no_row_of(here: Here, env: dict[str, str], engine: Engine) -> None:
    job = "INSERT INTO jobs (token, due_at, action, priority, queue) VALUES"
    execute(engine, f"{job} (1, now(), 'activation', 1, 'mailroom'), (2, now(), 'invitation', 1, 'mailroom')")
    assert_one(here, env, "actions", "failed", "no rows of: invitation", "insert them")


@pytest.mark.parametrize("trigger", TRIGGERS)
def test_a_trigger_that_is_disabled(here: Here, env: dict[str, str], engine: Engine, trigger: str) -> None:
    execute(engine, f"ALTER TABLE {TRIGGERS[trigger]} DISABLE TRIGGER {trigger}")
    assert_one(here, env, "triggers", "failed", f"disabled: {trigger}", f"ENABLE TRIGGER {trigger}", "sweep --full")


def test_a_trigger_that_fires_for_replicas_alone(here: Here, env: dict[str, str], engine: Engine) -> None:
    execute(engine, "ALTER TABLE tokens ENABLE REPLICA TRIGGER enqueue_jobs")
    assert_one(here, env, "triggers", "failed", "disabled: enqueue_jobs")


def test_a_trigger_that_is_gone(here: Here, env: dict[str, str], engine: Engine) -> None:
    execute(engine, "DROP TRIGGER enqueue_jobs ON tokens")
    assert_one(here, env, "triggers", "failed", ": enqueue_jobs")


def test_a_trigger_that_calls_another_function(here: Here, env: dict[str, str], engine: Engine) -> None:
    execute(
        engine,
        "DROP TRIGGER account_starts ON accounts",
        "CREATE TRIGGER account_starts BEFORE INSERT ON accounts"
        " FOR EACH ROW EXECUTE FUNCTION account_status_changes()",
    )
    assert_one(here, env, "triggers", "failed", ": account_starts")


def test_a_job_of_a_mail_that_is_over(here: Here, env: dict[str, str], engine: Engine) -> None:
    """As a restore leaves it that had its triggers on."""
    with engine.connect() as connection:
        add_accounts(connection, 3)
    execute(
        engine,
        "INSERT INTO deliveries (token, action, outcome, attempt)"
        " SELECT token, action, CASE WHEN token % 2 = 0 THEN 'deferred' ELSE 'sent' END::delivery_outcome, 1 FROM jobs",
    )
    assert_one(
        here, env, "restore", "failed", "2 jobs are of tokens whose mails are finished", "of token 1", "jobs drop"
    )


def test_tokens_in_no_place(here: Here, env: dict[str, str], engine: Engine) -> None:
    with engine.connect() as connection:
        add_accounts(connection, 3)
    execute(engine, "DELETE FROM jobs WHERE token > 1")
    assert_one(here, env, "restore", "warning", "2 tokens have neither a job nor a delivery, the first is 2", "sweep")


def test_sequences_that_were_not_restored(here: Here, env: dict[str, str], engine: Engine) -> None:
    with engine.connect() as connection:
        add_accounts(connection, 3)
    execute(engine, "ALTER SEQUENCE tokens_id_seq RESTART")
    assert_one(here, env, "restore", "failed", "ids that come again: tokens", "SELECT setval(")
    execute(engine, "SELECT setval(pg_get_serial_sequence('tokens', 'id'), max(id)) FROM tokens")
    assert ill(here, env) == {}


def test_rows_that_were_restored_while_triggers_made_others(here: Here, env: dict[str, str], engine: Engine) -> None:
    """The accounts came in and made tokens of their own; the log is of the tokens that had these ids before."""
    with engine.connect() as connection:
        add_accounts(connection, 3)
    execute(
        engine,
        "DELETE FROM jobs WHERE token = 1",
        "INSERT INTO deliveries (token, action, outcome, attempt, created_at)"
        " SELECT 1, 'activation', 'sent', 0, now() - interval '1 day'",
    )
    assert_one(here, env, "restore", "failed", "1 tokens are younger than what the log says of them, the first is 1")


def test_a_clock_that_was_set_back_is_no_restore(here: Here, env: dict[str, str], engine: Engine) -> None:
    """The token is of when the clock was ahead, and its mail left after that: nobody is to restore a backup for it."""
    with engine.connect() as connection:
        enqueue(connection, 2)
        settle(connection, take(connection), Sent("message"))
    execute(engine, "UPDATE tokens SET created_at = now() + interval '10 minutes' WHERE id = 1")
    assert ill(here, env) == {}
    execute(  # half an hour later
        engine,
        "UPDATE tokens SET created_at = created_at - interval '30 minutes'",
        "UPDATE deliveries SET created_at = created_at - interval '30 minutes'",
    )
    assert ill(here, env) == {}


def test_triggers_that_were_left_off(here: Here, env: dict[str, str], engine: Engine) -> None:
    with engine.connect() as connection:
        name = connection.scalar(text("SELECT quote_ident(current_database())"))
    execute(engine, f"ALTER DATABASE {name} SET mailroom.triggers = off")
    assert_one(here, env, "triggers", "failed", "mailroom.triggers is off", "everybody")
    execute(engine, f"ALTER DATABASE {name} RESET mailroom.triggers")
    execute(engine, f'ALTER DATABASE {name} SET "Mailroom.Triggers" = F')
    assert_one(here, env, "triggers", "failed", "mailroom.triggers is off", "everybody")
    execute(engine, f'ALTER DATABASE {name} RESET "Mailroom.Triggers"')
    for on in ("on", "t", "YE"):
        execute(engine, f"ALTER DATABASE {name} SET mailroom.triggers = {on}")
        assert ill(here, env) == {}
    try:
        execute(engine, "ALTER DATABASE postgres SET mailroom.triggers = off")  # in which mailroom is not
        assert ill(here, env) == {}
    finally:
        execute(engine, "ALTER DATABASE postgres RESET mailroom.triggers")


def test_a_role_that_nothing_was_granted_is_told_who_can(
    here: Here, env: dict[str, str], server: Server, url: str
) -> None:
    with a_role(server) as (_, log_in):
        mine = env | {"MAILROOM_DATABASE_URL": log_in(url)}
        level, words = ill(here, mine)["database"]
        assert (level, "permission denied" in words, "`mailroom grants`" in words) == ("failed", True, True)
        here("sweep", env=mine).assert_one_line(1, "permission denied for schema mailroom", "`mailroom grants`")


def test_triggers_that_are_off_on_the_whole_server(
    here: Here, env: dict[str, str], engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In its configuration: no role and no database carries it. A session that says so comes to the same."""
    monkeypatch.setenv("PGOPTIONS", "-c mailroom.triggers=off")
    assert_one(here, env, "triggers", "failed", "mailroom.triggers is off, and nothing is mailed")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("setting", "value", "level", "words"),
    [
        ("mailroom.bulk", "2", "failed", "it is on or off, and every sign-up fails"),
        ("mailroom.notify", "perhaps", "failed", "it is on or off, and every sign-up fails"),
        ("mailroom.queue", "a b", "failed", "no blank, and every sign-up fails"),
        ("mailroom.queue", "a\u00a0b", "failed", "no blank, and every sign-up fails"),
        ("mailroom.channel", "x" * 64, "failed", "no worker is woken"),
        ("mailroom.balk", "on", "warning", "nothing reads it"),
    ],
)
def test_a_setting_of_a_database_or_a_role_that_cannot_be_read(
    here: Here, env: dict[str, str], engine: Engine, server: Server, setting: str, value: str, level: str, words: str
) -> None:
    with a_role(server) as (role, _):
        for whose in ("DATABASE {database}", f"ROLE {role} IN DATABASE {{database}}", f"ROLE {role}"):
            with engine.connect() as connection:
                database = connection.scalar(text("SELECT quote_ident(current_database())"))
            subject = whose.format(database=database)
            execute(engine, f"ALTER {subject} SET {setting} = '{value}'")
            found = ill(here, env)[session_settings.CHECK]
            assert (found[0], setting in found[1], words in found[1]) == (level, True, True)
            execute(engine, found[1].partition(" -> ")[2])
            assert ill(here, env) == {}


@pytest.mark.parametrize("word", ["", "on", "OFF", " true ", "f", "ye", "1", "0", "of"])
def test_a_switch_that_postgresql_can_read_is_well(here: Here, env: dict[str, str], engine: Engine, word: str) -> None:
    with engine.connect() as connection:
        connection.scalar(text("SELECT CAST(coalesce(nullif(:word, ''), 'on') AS boolean)"), {"word": word})
        name = connection.scalar(text("SELECT quote_ident(current_database())"))
    execute(engine, f"ALTER DATABASE {name} SET mailroom.notify = '{word}'")
    assert ill(here, env) == {}


def test_a_setting_of_the_session_alone(here: Here, env: dict[str, str]) -> None:
    env["PGOPTIONS"] = "-c mailroom.bulk=2"
    assert_one(here, env, "session settings", "failed", "mailroom.bulk is '2' for this session", "PGOPTIONS")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("ALTER TABLE jobs DROP CONSTRAINT jobs_pkey", "jobs lacks its primary key"),
        ("ALTER TABLE tokens DROP CONSTRAINT tokens_account_fkey", "tokens lacks its foreign key"),
        ("ALTER TABLE tokens DROP CONSTRAINT tokens_secret_key", "tokens lacks the constraint tokens_secret_key"),
        ("ALTER TABLE jobs DROP CONSTRAINT jobs_sound", "jobs lacks the constraint jobs_sound"),
        ("ALTER TABLE tokens ALTER secret DROP DEFAULT", "tokens.secret lacks its default"),
        ("ALTER TABLE deliveries ALTER id DROP IDENTITY", "deliveries.id lacks its default"),
        ("ALTER TABLE batches RENAME worker TO whose", "batches lacks the column worker"),
        ("ALTER TABLE resumptions RENAME TO ended", "resumptions is missing"),
        ("ALTER TABLE tokens RENAME TO secrets", "tokens is missing"),
        ("ALTER TABLE deliveries ADD mine text NOT NULL", "deliveries.mine is not mailroom's"),
    ],
)
def test_a_table_that_somebody_has_changed(
    here: Here, env: dict[str, str], engine: Engine, change: str, words: str
) -> None:
    execute(engine, change)
    found = ill(here, env)["tables"]
    assert (found[0], words in found[1]) == ("failed", True), found


@pytest.mark.slow
@pytest.mark.parametrize(
    "change",
    [
        "CREATE OR REPLACE FUNCTION never_out(message text) RETURNS boolean LANGUAGE plpgsql STABLE SECURITY DEFINER"
        " SET search_path = mailroom, pg_temp AS 'BEGIN RETURN false; END'",
        "ALTER FUNCTION never_out SECURITY INVOKER",
    ],
)
def test_a_function_that_somebody_has_replaced(
    here: Here, env: dict[str, str], url: str, engine: Engine, change: str
) -> None:
    execute(engine, change)
    assert_one(here, env, "functions", "warning", "never_out", "mailroom migrate")
    migrate(url)
    assert ill(here, env) == {}


@pytest.mark.parametrize("index", ["jobs_claim_idx", "deliveries_token_idx"])
def test_an_index_that_is_gone(here: Here, env: dict[str, str], engine: Engine, index: str) -> None:
    execute(engine, f"DROP INDEX {index}")
    assert_one(here, env, "indexes", "failed", index)


def test_a_queue_that_no_worker_takes(here: Here, env: dict[str, str], engine: Engine) -> None:
    execute(
        engine,
        "DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET mailroom.queue = news', current_database()); END $$",
    )
    assert_one(here, env, "queue", "warning", "is news, and workers take mailroom", "MAILROOM_QUEUE_NAME")


def test_what_the_database_refuses_is_a_finding_and_the_rest_is_checked(
    here: Here, env: dict[str, str], engine: Engine
) -> None:
    """The queue's health asks for more than a worker's claim does."""
    with engine.connect() as connection:
        connection.execute(text("ALTER TABLE jobs RENAME COLUMN due_at TO later"))
    wrong = ill(here, env)
    assert wrong.keys() >= {"queue"}
    assert "the database refuses" in wrong["queue"][1]
    assert "account" not in wrong


@pytest.mark.slow
def test_a_role_for_which_no_trigger_fires(here: Here, env: dict[str, str], engine: Engine) -> None:
    execute(
        engine,
        "DO $$ BEGIN EXECUTE format("
        "'ALTER DATABASE %I SET session_replication_role = replica', current_database()); END $$",
    )
    assert_one(here, env, "guarantee", "failed", "session_replication_role is replica", "no trigger fires")


@pytest.mark.slow
@pytest.mark.parametrize("function", [*functions.triggers(), "claim", "doctor_functions"])
def test_a_function_without_a_path_of_its_own(here: Here, env: dict[str, str], engine: Engine, function: str) -> None:
    for change in ("RESET search_path", "SET search_path = mailroom"):
        execute(engine, f"ALTER FUNCTION {function} {change}")
        remedy = f"ALTER FUNCTION {functions.signature(function, 'mailroom')} SET search_path = mailroom, pg_temp"
        assert_one(here, env, "functions", "failed", remedy)
    execute(engine, remedy)
    assert ill(here, env) == {}


def test_a_path_is_set_again_beside_a_function_of_others_with_the_same_name(
    here: Here, env: dict[str, str], engine: Engine
) -> None:
    others = (
        "CREATE FUNCTION claim(integer) RETURNS integer LANGUAGE sql SET search_path = mailroom, pg_temp AS 'SELECT 1'"
    )
    with engine.connect() as connection:
        ours = functions.signature("claim", "mailroom")
        connection.execute(text(f"ALTER FUNCTION {ours} RESET search_path"))
        connection.execute(text(others))
    remedy = ill(here, env)["functions"][1].rpartition(" -> ")[2]
    execute(engine, remedy)
    assert ill(here, env) == {}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("function", "checks"),
    [
        ("claim", ["functions", "rights"]),
        ("doctor_functions", ["functions", "rights"]),
        ("doctor_triggers", ["triggers", "functions", "rights"]),
        ("doctor_sequences", ["functions", "rights", "restore"]),
        ("doctor_actions", ["functions", "rights", "actions"]),
        ("doctor_definitions", ["triggers", "functions", "indexes", "tables", "rights"]),
        ("doctor_ids", ["functions", "tables", "rights"]),
        ("count_guess", ["functions"]),
        ("health", ["functions", "rights", "queue"]),
        ("preflight", ["guarantee", "functions", "rights"]),
        ("contract", ["database"]),
    ],
)
def test_a_function_that_is_gone(
    here: Here, env: dict[str, str], url: str, engine: Engine, function: str, checks: list[str]
) -> None:
    """Also one that doctor itself calls: what cannot be checked without it says so, and how to have it back."""
    execute(engine, f"DROP FUNCTION {function}")
    wrong = ill(here, env)
    assert list(wrong) == checks
    wrong.pop("rights", None)  # nobody may call it
    for level, words in wrong.values():
        assert (level, "missing" in words, "mailroom migrate" in words) == ("failed", True, True)
    migrate(url)
    assert ill(here, env) == {}


@pytest.mark.slow
def test_a_view_that_is_gone(here: Here, env: dict[str, str], url: str, engine: Engine) -> None:
    execute(engine, "DROP VIEW attempts")
    assert ill(here, env)["functions"] == ("failed", "missing: attempts -> mailroom migrate")
    migrate(url)
    assert ill(here, env) == {}


def test_the_triggers_that_it_knows_are_those_there_are(engine: Engine) -> None:
    with engine.connect() as connection:
        there = rows(
            connection,
            "SELECT tgname, relname FROM pg_trigger JOIN pg_class ON pg_class.oid = tgrelid WHERE NOT tgisinternal",
        )
        there_too = rows(  # an immutable one looks at no table
            connection,
            "SELECT DISTINCT proname FROM pg_proc WHERE provolatile <> 'i'"
            " AND pronamespace = (SELECT oid FROM pg_namespace WHERE nspname = 'mailroom')",
        )
    assert {row.tgname: row.relname for row in there} == TRIGGERS
    assert {row.proname for row in there_too} == set(functions.names()) - {"most_guesses"}


def test_a_queue_that_suffers(here: Here, env: dict[str, str], engine: Engine) -> None:
    execute(engine, "ALTER TABLE jobs SET (autovacuum_enabled = off)")
    assert_one(here, env, "queue", "warning", "NoAutovacuum")


def test_a_fleet_that_counts_no_more(here: Here, env: dict[str, str], engine: Engine) -> None:
    """As where the last worker died at night: nothing is due yet, and the next mail will not leave."""
    assert refresh(engine)
    assert ill(here, env) == {}
    execute(engine, "UPDATE readings SET read_at = read_at - interval '5 minutes'")
    assert_one(here, env, "queue", "warning", "NoReading: nobody has counted for 3", "`mailroom worker`")


@pytest.mark.one_server
def test_what_is_paused(here: Here, env: dict[str, str]) -> None:
    """Of this no mail leaves; that somebody forgot it is told by nothing else, before mails are late."""
    assert here("pause", "account", "--reason", "a move", env=env).code == 0
    assert_one(here, env, "pauses", "warning", "account is paused since 20", "(a move)", "`mailroom resume account`")
    assert here("resume", "account", env=env).code == 0
    assert ill(here, env) == {}


@pytest.mark.one_server
def test_triggers_that_notify_another_channel(here: Here, env: dict[str, str]) -> None:
    assert_one(here, env | {"MAILROOM_CHANNEL_NAME": "news"}, "channel", "warning", "mailroom.channel", "news")


@pytest.mark.one_server
@pytest.mark.slow
def test_a_connection_that_cannot_listen(here: Here, env: dict[str, str]) -> None:
    env["MAILROOM_LISTEN_DATABASE_URL"] = f"postgresql://ada@127.0.0.1:{closed_port()}/app"
    assert_one(here, env, "listen", "failed", "refused", "MAILROOM_LISTEN_DATABASE_URL", "--no-listen")


@pytest.mark.slow  # it has to wait for what does not come
def test_a_connection_that_listens_elsewhere(
    here: Here, env: dict[str, str], empty_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As behind a pooler that forgets LISTEN, no notification ever comes."""
    monkeypatch.setattr(listener, "PING_PATIENCE", timedelta(seconds=5))
    env["MAILROOM_LISTEN_DATABASE_URL"] = empty_url
    assert_one(here, env, "listen", "failed", "does not arrive")


@pytest.mark.one_server
@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "level", "words"),
    [
        ({"enforcement_status": "SHUTDOWN"}, "failed", "suspended"),
        ({"enforcement_status": "PROBATION"}, "warning", "PROBATION"),
        ({"sending_enabled": False}, "failed", "paused"),
        ({"production_access_enabled": False}, "warning", "sandbox"),
        ({"max_send_rate": 0.0}, "failed", "0 mails a second"),
        ({"max_24_hour_send": 0.0}, "failed", "used up: 2 of 0"),
        ({"max_24_hour_send": -1.0}, "ok", ""),
        ({"max_24_hour_send": 2.0}, "failed", "used up: 2 of 2"),
        ({"max_24_hour_send": 2.2}, "warning", "nearly used up"),
        ({"max_24_hour_send": 50_000.0}, "ok", ""),
    ],
)
def test_the_account(
    here: Here, ses: Simulator, env: dict[str, str], engine: Engine, changes: dict[str, object], level: str, words: str
) -> None:
    with engine.connect() as connection:
        add_accounts(connection, 2)
    assert here("sweep", env=env).code == 0
    for name, value in changes.items():
        setattr(ses.account, name, value)
    if level == "ok":
        assert ill(here, env) == {}
    else:
        assert_one(here, env, "account", level, words)


@pytest.mark.one_server
@pytest.mark.slow
def test_a_sender_is_verified_by_itself_its_domain_or_one_above(
    here: Here, ses: Simulator, env: dict[str, str]
) -> None:
    ses.account.missing_identities = frozenset({"noreply@mail.example.com", "mail.example.com"})
    assert ill(here, env) == {}
    ses.account.missing_identities |= {"example.com"}
    assert_one(here, env, "identity", "failed", "neither noreply@mail.example.com nor its domain")
    ses.account.missing_identities = frozenset()
    ses.account.unverified_identities = frozenset({"noreply@mail.example.com"})
    assert ill(here, env) == {}
    ses.account.unverified_identities |= {"mail.example.com", "example.com"}
    assert_one(here, env, "identity", "failed", "noreply@mail.example.com is not verified")


@pytest.mark.one_server
@pytest.mark.parametrize("column", ["source", "reply_to"])
def test_a_sender_that_was_written_by_hand_and_is_no_address(
    here: Here, env: dict[str, str], engine: Engine, column: str
) -> None:
    """The CHECK takes more than SES does."""
    execute(engine, f"UPDATE actions SET {column} = 'x@-' WHERE name = 'activation'")  # noqa: S608 - a constant
    option = f"--{column.replace('_', '-')}"
    level, words = ill(here, env)["sender activation"]
    assert (level, f"{column} of activation is 'x@-'" in words) == ("failed", True)
    assert f"mailroom actions set activation {option} 'Shop <mail@example.com>'" in words
    assert here("actions", "set", "activation", option, "none", env=env).code == 0
    assert ill(here, env) == {}


@pytest.mark.one_server
def test_a_sender_with_a_name_is_well(here: Here, env: dict[str, str], engine: Engine) -> None:
    execute(engine, """UPDATE actions SET source = '"Shop, Inc." <a@example.com>', reply_to = ' b@example.com '""")
    assert ill(here, env) == {}


@pytest.mark.one_server
@pytest.mark.slow
def test_a_configuration_set_that_is_missing(here: Here, ses: Simulator, env: dict[str, str]) -> None:
    ses.configuration_sets.delete("default")
    assert_one(here, env, "configuration set", "failed", "default does not exist")
    assert ill(here, env | {"MAILROOM_SES_CONFIG_SET": ""}) == {}


@pytest.mark.one_server
def test_a_template_that_is_missing(here: Here, ses: Simulator, env: dict[str, str]) -> None:
    ses.templates.delete("passwordrecoveryv1")
    remedies = ("`mailroom templates push --use`", "create-email-template")
    assert_one(here, env, "template passwordrecoveryv1", "failed", "does not exist", *remedies)


@pytest.mark.one_server
@pytest.mark.parametrize(
    ("text_part", "level", "words"),
    [
        ("{{secret}} {{name}}", "warning", "uses name"),
        ("{{secret}} {{code}}", "failed", "uses code"),
        ("{{login_text}}", "failed", "no {{secret}}"),
    ],
)
def test_a_template_that_mailroom_cannot_fill(
    here: Here, ses: Simulator, env: dict[str, str], text_part: str, level: str, words: str
) -> None:
    ses.templates.update("activationv1", {"Subject": "Hello {{login_text}}", "Text": text_part})
    assert_one(here, env, "template activationv1", level, words)


@pytest.mark.one_server
def test_a_template_without_a_text_part(here: Here, ses: Simulator, env: dict[str, str]) -> None:
    content = {name: part for name, part in default_content("activationv1").items() if name != "Text"}
    ses.templates.update("activationv1", content)
    assert_one(here, env, "template activationv1", "warning", "no text part")


@pytest.mark.parametrize(
    ("template", "names"),
    [
        ("Hello {{login}} and {{{ login_text }}}", {"login", "login_text"}),
        ("{{! note }}{{#if code}}{{code}}{{else}}{{~secret~}}{{/if}}", {"code", "secret"}),
        ("{{&login}} {{> footer}} {{user.name}}", {"login", "footer", "user.name"}),
        ("no { braces } {{}}", set()),
        ('{{#* inline "foot"}}{{login}}{{/inline}}{{~> foot ~}}{{>foot}}{{> other}}', {"login", "other"}),
        ("{{!-- {{secret}} --}}{{login}}", {"login"}),
    ],
)
def test_what_a_template_needs(template: str, names: set[str]) -> None:
    assert variables(template) == names


@pytest.mark.one_server
def test_credentials_that_may_only_send_are_a_warning(here: Here, ses: Simulator, env: dict[str, str]) -> None:
    for operation in ("GetAccount", "GetEmailIdentity", "GetConfigurationSet", "GetEmailTemplate"):
        ses.faults.add(Fault(operation=operation, error="AccessDeniedException", status=403, times=None))
    wrong = ill(here, env)
    assert list(wrong) == OF_SES
    assert {level for level, _ in wrong.values()} == {"warning"}


@pytest.mark.one_server
@pytest.mark.slow
def test_an_ses_that_cannot_be_reached(here: Here, env: dict[str, str]) -> None:
    env["AWS_ENDPOINT_URL_SESV2"] = f"http://127.0.0.1:{closed_port()}"
    wrong = ill(here, env)
    assert list(wrong) == OF_SES
    assert all("EndpointConnectionError" in words for _, words in wrong.values())


@pytest.mark.one_server
def test_no_credentials(here: Here, env: dict[str, str]) -> None:
    del env["AWS_ACCESS_KEY_ID"], env["AWS_SECRET_ACCESS_KEY"]
    assert_one(here, env, "ses", "failed", "no AWS credentials")


@pytest.mark.one_server
def test_mails_that_are_only_printed(here: Here, env: dict[str, str]) -> None:
    assert_one(here, env | {"MAILROOM_DEBUG": "true"}, "ses", "warning", "MAILROOM_DEBUG")
