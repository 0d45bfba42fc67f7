"""`doctor` sees what somebody has changed by hand in the schema, says what undoes it, and lets be what does no harm."""

from pathlib import Path

import psycopg
import pytest
from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import IntegrityError, NotSupportedError, ProgrammingError

from mailroom.db import definitions, schema
from mailroom.db.definitions import comparable
from mailroom.db.engine import connect_engine
from mailroom.db.namespace import DEFAULT_SCHEMA
from mailroom.finding import Finding, Level
from mailroom.ops import doctor, grants
from tests.db.migrating import SCRIPTS, connected
from tests.db.test_enqueue import client
from tests.machine import ROOT
from tests.roles import a_role
from tests.servers import BINARIES, Server, Servers, migrate
from tests.world import execute

# Of the others, one waits for a notification.
CHECKS = ("database", "triggers", "functions", "indexes", "tables")


def look(engine: Engine) -> list[Finding]:
    """What is not well of the schema."""
    found = doctor.examine(engine, listening="host=127.0.0.1 port=1", channel="token_insert", queue="mailroom")
    return [each for each in found if each.check in CHECKS and each.level is not Level.OK]


def run(url: str, remedy: str) -> None:
    """Do what a remedy says, where nothing is found without its schema."""
    if remedy.startswith("mailroom migrate"):
        migrate(url)
        return
    statements = remedy.removeprefix("if nobody needs it: ").partition("; then ")[0].partition(" (it may")[0]
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("SET search_path = ''")
        for statement in statements.split("; "):
            connection.execute(statement.encode())


SOUND = "coalesce(nullif(current_setting('mailroom.triggers', true), ''), 'on')::boolean"
NOTHING = "CREATE FUNCTION public.nothing() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL;END'"
CHANGES = {
    # Columns
    "type": ("ALTER TABLE accounts ALTER login TYPE varchar(300)", "tables", "failed", "accounts.login is of the type"),
    "narrow": ("ALTER TABLE guesses ALTER made TYPE integer", "tables", "failed", "integer, and should be smallint"),
    "collation": ('ALTER TABLE accounts ALTER tenant TYPE text COLLATE "C"', "tables", "failed", 'text COLLATE "C"'),
    "null": ("ALTER TABLE tokens ALTER expires_at DROP NOT NULL", "tables", "failed", "tokens.expires_at is no longer"),
    "not null": (
        "ALTER TABLE deliveries ALTER batch SET NOT NULL",
        "tables",
        "failed",
        "deliveries.batch must be filled",
    ),
    "not null of theirs": (
        "ALTER TABLE accounts ALTER reference SET NOT NULL",
        "tables",
        "warning",
        "accounts.reference",
    ),
    "default": (
        "ALTER TABLE tokens ALTER code SET DEFAULT '00000'",
        "tables",
        "failed",
        "tokens.code is filled by '00000'",
    ),
    "no default": ("ALTER TABLE tokens ALTER code DROP DEFAULT", "tables", "failed", "tokens.code lacks its default"),
    "default of theirs": (
        "ALTER TABLE accounts ALTER status SET DEFAULT 'active'",
        "tables",
        "warning",
        "accounts.status",
    ),
    "identity": (
        "ALTER TABLE accounts ALTER id SET GENERATED ALWAYS",
        *("tables", "warning", "accounts.id is filled by GENERATED ALWAYS AS IDENTITY"),
    ),
    "strange column": ("ALTER TABLE jobs ADD mine text NOT NULL", "tables", "failed", "jobs.mine is not mailroom's"),
    # Constraints
    "check": (
        "ALTER TABLE pauses DROP CONSTRAINT pauses_probes, ADD CONSTRAINT pauses_probes CHECK (probes >= -1)",
        *("tables", "failed", "pauses_probes of pauses is CHECK"),
    ),
    "sound": (
        "ALTER TABLE jobs DROP CONSTRAINT jobs_sound, ADD CONSTRAINT jobs_sound CHECK (priority < 9)",
        *("tables", "failed", "jobs_sound of jobs is CHECK"),
    ),
    "no check": ("ALTER TABLE jobs DROP CONSTRAINT jobs_sound", "tables", "failed", "jobs lacks the constraint"),
    "no key": ("ALTER TABLE jobs DROP CONSTRAINT jobs_pkey", "tables", "failed", "jobs lacks its primary key"),
    "foreign key": (
        "ALTER TABLE tokens DROP CONSTRAINT tokens_account_fkey,"
        " ADD CONSTRAINT tokens_account_fkey FOREIGN KEY (account) REFERENCES accounts",
        *("tables", "failed", "tokens_account_fkey of tokens is FOREIGN KEY"),
    ),
    "not valid": (
        "ALTER TABLE pauses DROP CONSTRAINT pauses_probes, ADD CONSTRAINT pauses_probes CHECK (probes >= 0) NOT VALID",
        *("tables", "warning", "new rows alone"),
    ),
    "strange check": (
        "ALTER TABLE accounts ADD CONSTRAINT own CHECK (login <> '')",
        "tables",
        "warning",
        "own of accounts",
    ),
    "exclusion": ("ALTER TABLE tokens ADD EXCLUDE (code WITH =)", "tables", "failed", "may refuse its rows: EXCLUDE"),
    # Rules
    "rule": ("CREATE RULE quiet AS ON INSERT TO pauses DO INSTEAD NOTHING", "tables", "failed", "the rule quiet"),
    # Ids
    "end": ("ALTER SEQUENCE accounts_id_seq MAXVALUE 1000", "tables", "failed", "accounts has 999 ids left"),
    "near the end": (
        "ALTER SEQUENCE tokens_id_seq AS integer MAXVALUE 9000000",
        "tables",
        "warning",
        "tokens has 8999999",
    ),
    "kept ids": (
        "ALTER SEQUENCE tokens_id_seq CACHE 50",
        *("tables", "failed", "ids of tokens are not in order, since each session keeps 50"),
    ),
    "ids that go down": (
        "ALTER SEQUENCE tokens_id_seq INCREMENT -1",
        *("tables", "failed", "ids of tokens are not in order, since they go down"),
    ),
    "kept ids of the log": ("ALTER SEQUENCE deliveries_id_seq CACHE 50", "tables", "warning", "ids of deliveries are"),
    # What is around
    "published": (
        "CREATE PUBLICATION own FOR TABLE minutes; ALTER TABLE minutes REPLICA IDENTITY DEFAULT",
        *("tables", "failed", "minutes is published (own) and has no"),
    ),
    "published in vain": (
        "CREATE PUBLICATION own FOR TABLE jobs; ALTER TABLE jobs REPLICA IDENTITY NOTHING",
        *("tables", "failed", "jobs is published (own) and has no"),
    ),
    "domain": (
        "ALTER DOMAIN token_action ADD CONSTRAINT own CHECK (VALUE <> 'x')",
        *("tables", "failed", "the rule own of the type token_action is not mailroom's"),
    ),
    # Triggers
    "when": (
        "CREATE OR REPLACE TRIGGER token_starts BEFORE INSERT ON tokens"
        " FOR EACH ROW WHEN (NEW.address_hash IS NULL) EXECUTE FUNCTION token_starts()",
        *("triggers", "failed", "token_starts is BEFORE INSERT ON tokens"),
    ),
    "timing": (
        "DROP TRIGGER account_status_changes ON accounts;"
        " CREATE TRIGGER account_status_changes AFTER UPDATE ON accounts"
        f" FOR EACH ROW WHEN (NEW.status IS DISTINCT FROM OLD.status AND {SOUND})"
        " EXECUTE FUNCTION account_status_changes()",
        *("triggers", "failed", "account_status_changes is AFTER UPDATE"),
    ),
    "columns": (
        "CREATE OR REPLACE TRIGGER activate_account AFTER UPDATE OF code ON tokens FOR EACH ROW"
        f" WHEN (OLD.consumed_at IS NULL AND NEW.consumed_at IS NOT NULL AND {SOUND})"
        " EXECUTE FUNCTION activate_account()",
        *("triggers", "failed", "activate_account is AFTER UPDATE OF code"),
    ),
    "function elsewhere": (
        "CREATE FUNCTION public.enqueue_jobs() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL;END';"
        " CREATE OR REPLACE TRIGGER enqueue_jobs AFTER INSERT ON tokens"
        " REFERENCING NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION public.enqueue_jobs()",
        *("triggers", "failed", "EXECUTE FUNCTION public.enqueue_jobs()"),
    ),
    "strange trigger": (
        f'{NOTHING}; CREATE TRIGGER "My own" BEFORE INSERT ON tokens FOR EACH ROW EXECUTE FUNCTION public.nothing()',
        *("triggers", "warning", "My own is not mailroom's"),
    ),
    # Indexes
    "no index": ("DROP INDEX jobs_claim_idx", "indexes", "failed", "missing: jobs_claim_idx"),
    "no unique index": ("DROP INDEX accounts_email_key", "indexes", "failed", "missing: accounts_email_key"),
    "other columns": (
        "DROP INDEX jobs_claim_idx; CREATE INDEX jobs_claim_idx ON jobs (queue, priority, due_at)",
        *("indexes", "failed", "jobs_claim_idx is btree (queue, priority, due_at)"),
    ),
    "other rows": (
        "DROP INDEX tokens_newest_idx; CREATE INDEX tokens_newest_idx ON tokens (account, action, id)",
        *("indexes", "failed", "and should be btree (account, action, id) WHERE newest_only"),
    ),
    "not unique": (
        "DROP INDEX accounts_login_key; CREATE INDEX accounts_login_key ON accounts (login_key(login), tenant)",
        *("indexes", "failed", "should be UNIQUE btree"),
    ),
    "invalid": (
        "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'jobs_claim_idx'::regclass",
        *("indexes", "failed", "invalid: jobs_claim_idx"),
    ),
    "invalid key": (
        "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'jobs_pkey'::regclass",
        *("indexes", "failed", "invalid: jobs_pkey"),
    ),
    "strange unique": ('CREATE UNIQUE INDEX "One" ON accounts (email)', "indexes", "failed", "One is not mailroom's"),
    "strange key": ("ALTER TABLE accounts ADD UNIQUE (login)", "indexes", "failed", "accounts_login_key1 is not"),
    "strange in part": (
        "CREATE UNIQUE INDEX own ON deliveries (token) WHERE outcome = 'sent'",
        *("indexes", "failed", "own is not mailroom's"),
    ),
    "one null": (
        "CREATE UNIQUE INDEX own ON accounts (reference) NULLS NOT DISTINCT",
        *("indexes", "failed", "own is not mailroom's"),
    ),
    # Functions
    "comment": (
        "COMMENT ON FUNCTION settle IS NULL",
        *("functions", "warning", "without the comment by which mailroom knows its own, as after a restore: settle"),
    ),
    # Views
    "view": (
        "CREATE OR REPLACE VIEW known_workers AS SELECT * FROM workers WHERE NOT listening",
        *("functions", "warning", "known_workers"),
    ),
    "view for its caller": (
        "ALTER VIEW attempts SET (security_invoker = true)",
        *("functions", "warning", "attempts"),
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("change", CHANGES)
def test_a_change_is_seen_and_its_remedy_undoes_it(engine: Engine, direct_url: str, change: str) -> None:
    statement, check, level, words = CHANGES[change]
    execute(engine, *statement.split("; "))
    [found] = look(engine)
    assert (found.check, found.level, words in found.message) == (check, level, True), found
    run(direct_url, found.remedy)
    assert look(engine) == []


def test_a_function_that_a_constraint_calls_is_another_one(engine: Engine) -> None:
    execute(
        engine,
        "CREATE OR REPLACE FUNCTION is_address(given text) RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS"
        " 'BEGIN RETURN true; END'",
        "CREATE OR REPLACE FUNCTION address_key(address text) RETURNS text LANGUAGE sql IMMUTABLE"
        " RETURN lower(address)",
    )
    found = look(engine)
    assert [each.message.split()[2] for each in found] == ["address_key", "is_address"]
    assert {(each.check, each.level) for each in found} == {("tables", "failed")}


def test_a_function_that_folds_other_letters_is_another_one(engine: Engine) -> None:
    """It is written of the letters that Python knows, which are others in each version."""
    made = "CREATE OR REPLACE FUNCTION lowered(given text) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE RETURN"
    execute(engine, f"{made} translate(given, 'ABC', 'abc')")
    [found] = look(engine)
    assert (found.check, found.level) == ("tables", "failed")
    assert found.message.startswith("the function lowered is another one")
    execute(engine, f"{made} lower(given)")
    assert [each.message for each in look(engine)] == [found.message]


def test_a_value_that_has_another_name(engine: Engine) -> None:
    execute(engine, "ALTER TYPE event_kind RENAME VALUE 'reject' TO 'refused'")
    [found] = look(engine)
    assert (found.check, found.level, found.message) == ("tables", "failed", "the type event_kind lacks: reject")
    execute(engine, "ALTER TYPE event_kind RENAME VALUE 'refused' TO 'reject'")
    assert look(engine) == []


def test_a_collation_that_is_another_one_than_when_the_database_was_made(engine: Engine, direct_url: str) -> None:
    with engine.connect() as connection:
        if (connection.dialect.server_version_info or ()) < (15,):
            return
        version = "SELECT pg_database_collation_actual_version(oid) FROM pg_database WHERE datname = current_database()"
        actual = connection.scalar(text(version))
    execute(engine, "UPDATE pg_database SET datcollversion = '0' WHERE datname = current_database()")
    if actual is None:  # of C there is one version
        assert look(engine) == []
        return
    [found] = look(engine)
    assert (found.check, found.level) == ("tables", "warning")
    run(direct_url, found.remedy)
    assert look(engine) == []


def test_a_unique_index_that_takes_for_equal_what_differs(engine: Engine) -> None:
    try:
        execute(
            engine,
            "CREATE COLLATION public.loose (provider = icu, locale = 'und-u-ks-level1', deterministic = false)",
        )
    except NotSupportedError:  # a server without ICU has no such thing
        return
    execute(engine, "CREATE UNIQUE INDEX own ON accounts (reference COLLATE public.loose)")
    [found] = look(engine)
    assert (found.check, found.level) == ("indexes", "failed")
    assert found.remedy == 'if nobody needs it: DROP INDEX CONCURRENTLY "mailroom"."own"'


def test_a_column_of_another_name_is_told_once(engine: Engine) -> None:
    """Its name is in a key, in a constraint and in a view as well."""
    execute(engine, "ALTER TABLE accounts RENAME reference TO own", "ALTER TABLE deliveries RENAME error TO words")
    found = [each.message for each in look(engine)]
    assert found == ["accounts lacks the column reference", "deliveries lacks the column error"]


def test_an_index_that_was_not_built_to_its_end(engine: Engine, direct_url: str) -> None:
    """As CREATE INDEX CONCURRENTLY leaves it; its rows are still held to it."""
    execute(engine, "DROP INDEX accounts_login_key")
    add_account = "INSERT INTO accounts (email, login) VALUES ('{0}@example.com', 'ada')"
    execute(engine, *(add_account.format(name) for name in ("a", "b")))
    again = "CREATE UNIQUE INDEX CONCURRENTLY accounts_login_key ON accounts (login_key(login), tenant)"
    with pytest.raises(IntegrityError):
        execute(engine, again)
    [found] = look(engine)
    assert (found.check, found.level) == ("indexes", "failed")
    assert "invalid: accounts_login_key" in found.message
    execute(engine, "DELETE FROM accounts WHERE email = 'b@example.com'")
    run(direct_url, found.remedy)
    assert look(engine) == []


def test_a_view_with_other_columns(engine: Engine, direct_url: str) -> None:
    """It cannot be replaced: it has to go first."""
    execute(engine, "DROP VIEW known_workers", "CREATE VIEW known_workers AS SELECT name FROM workers")
    [found] = look(engine)
    assert (found.check, found.level) == ("functions", "warning")
    assert "`mailroom grants` after it" in found.remedy
    run(direct_url, found.remedy.partition("replace them: ")[2].partition(",")[0])
    migrate(direct_url)
    assert look(engine) == []


def test_a_sequence_that_was_set_to_its_end(engine: Engine) -> None:
    execute(engine, "SELECT setval('accounts_id_seq', 9223372036854775807)")
    [found] = look(engine)
    assert (found.check, found.level) == ("tables", "failed")
    assert "accounts has 0 ids left" in found.message
    assert "SELECT setval('mailroom.accounts_id_seq'" in found.remedy


def test_what_another_release_has_migrated_may_be_right(engine: Engine) -> None:
    """One release works on the database of the next."""
    execute(engine, "UPDATE mailroom_alembic_version SET version_num = '9999'", "DROP INDEX jobs_held_idx")
    execute(engine, "ALTER TABLE guesses ALTER made TYPE integer")
    found = look(engine)
    assert {(each.check, each.level) for each in found} == {("indexes", "warning"), ("tables", "warning")}
    assert all("another release has migrated" in each.remedy for each in found)


def test_what_only_a_newer_server_leaves_unproven(engine: Engine, direct_url: str) -> None:
    """NOT NULL and NOT VALID at once."""
    execute(engine, "ALTER TABLE jobs ALTER queue DROP NOT NULL")
    try:
        execute(engine, "ALTER TABLE jobs ADD CONSTRAINT filled NOT NULL queue NOT VALID")
    except ProgrammingError:  # this server has no such thing
        execute(engine, "ALTER TABLE jobs ALTER queue SET NOT NULL")
        assert look(engine) == []
        return
    [found] = look(engine)
    assert (found.check, found.level) == ("tables", "warning")
    run(direct_url, found.remedy)
    assert look(engine) == []


AFTERWARDS = "EXECUTE FUNCTION public.nothing()"
INNOCENT = {
    "indexes": [
        "CREATE INDEX own ON accounts (language)",
        "CREATE INDEX ON deliveries (message_id) WHERE message_id IS NOT NULL",
        "ALTER INDEX jobs_claim_idx SET (fillfactor = 70)",
        "ALTER INDEX tokens_account_idx RENAME TO tokens_of_account",
        "REINDEX INDEX CONCURRENTLY accounts_email_key",
        "REINDEX TABLE jobs",
        "CREATE UNIQUE INDEX identity ON accounts (id, tenant)",
        "ALTER TABLE accounts REPLICA IDENTITY USING INDEX identity",
        "ALTER TABLE tokens ADD UNIQUE (id, account)",
        "CREATE UNIQUE INDEX accounts_login_key_ccnew ON accounts (login_key(login), tenant)",
        "CREATE UNIQUE INDEX ON tokens (secret) WHERE consumed_at IS NULL",
        "CLUSTER jobs USING jobs_claim_idx",
        'CREATE UNIQUE INDEX ON accounts (reference COLLATE "C" text_pattern_ops)',
    ],
    "triggers": [
        NOTHING,
        f"CREATE TRIGGER audit AFTER INSERT OR UPDATE OR DELETE ON accounts FOR EACH ROW {AFTERWARDS}",
        f"CREATE TRIGGER cdc AFTER INSERT ON deliveries REFERENCING NEW TABLE AS n FOR EACH STATEMENT {AFTERWARDS}",
        f"CREATE CONSTRAINT TRIGGER later AFTER UPDATE ON tokens DEFERRABLE FOR EACH ROW {AFTERWARDS}",
        f"CREATE TRIGGER keep BEFORE TRUNCATE ON accounts FOR EACH STATEMENT {AFTERWARDS}",
        f"CREATE TRIGGER off BEFORE INSERT ON accounts FOR EACH ROW {AFTERWARDS}",
        "ALTER TABLE accounts DISABLE TRIGGER off",
        "ALTER TABLE accounts ENABLE ALWAYS TRIGGER account_starts",
        "CREATE PUBLICATION everything FOR TABLE accounts, deliveries",
        "CREATE PUBLICATION additions FOR TABLE minutes WITH (publish = 'insert')",
        "CREATE PUBLICATION whole FOR TABLE minutes",
    ],
    "columns": [
        "ALTER TABLE accounts ADD nickname text",
        "ALTER TABLE accounts ADD plan text NOT NULL DEFAULT 'free'",
        "ALTER TABLE deliveries ADD number bigint GENERATED ALWAYS AS IDENTITY",
        "ALTER TABLE accounts ALTER language SET DEFAULT 'en'",
        "ALTER TABLE accounts ALTER email SET STATISTICS 500, ALTER login SET STORAGE MAIN",
        "CREATE STATISTICS own ON action, outcome FROM deliveries",
        "COMMENT ON TABLE jobs IS 'what waits'",
        "COMMENT ON COLUMN jobs.queue IS 'whose'",
        "COMMENT ON FUNCTION address_key IS 'ours'",
        "ALTER TABLE jobs SET (fillfactor = 80, autovacuum_vacuum_cost_delay = 1)",
        "ALTER SEQUENCE accounts_id_seq INCREMENT 2 CACHE 10",
        "ALTER TABLE jobs RENAME CONSTRAINT jobs_sound TO jobs_are_sound",
        "VACUUM FULL jobs",
        "ANALYZE",
    ],
    "others": [
        "CREATE TABLE public.people (id bigint PRIMARY KEY REFERENCES accounts ON DELETE CASCADE)",
        "CREATE TABLE notes (id integer UNIQUE, at timestamptz NOT NULL)",
        "CREATE VIEW newest AS SELECT * FROM deliveries ORDER BY id DESC",
        "CREATE MATERIALIZED VIEW counted AS SELECT count(*) FROM deliveries",
        "CREATE FUNCTION own() RETURNS integer RETURN 1",
        "CREATE FUNCTION claim(own text) RETURNS integer RETURN 1",
        "ALTER TYPE account_status ADD VALUE 'deleted' BEFORE 'suspended'",
        "CREATE FUNCTION is_address(given integer) RETURNS boolean RETURN true",
        "CREATE FUNCTION address_key(given integer) RETURNS boolean RETURN true",
        "CREATE POLICY own ON accounts USING (true)",
        "ALTER TABLE accounts ENABLE ROW LEVEL SECURITY",
        "GRANT SELECT ON accounts TO PUBLIC",
    ],
}


@pytest.mark.slow
@pytest.mark.parametrize("what", INNOCENT)
def test_what_does_no_harm_is_let_alone(engine: Engine, what: str) -> None:
    execute(engine, *INNOCENT[what])
    assert look(engine) == []


@pytest.mark.slow
def test_whatever_is_set_a_definition_is_printed_alike(server: Server, engine: Engine) -> None:
    settings = {
        "quote_all_identifiers": "on",
        "intervalstyle": "sql_standard",
        "datestyle": "'SQL, DMY'",
        "timezone": "'Asia/Kathmandu'",
        "bytea_output": "escape",
        "search_path": "public",
        "standard_conforming_strings": "on",
        "extra_float_digits": "3",
    }
    with engine.connect() as connection:
        database = connection.scalar(text("SELECT current_database()"))
    for name, value in settings.items():
        server.execute(f"ALTER DATABASE {database} SET {name} = {value}")
    engine.dispose()
    assert look(engine) == []
    with engine.connect() as connection:
        assert connection.scalar(text("SHOW quote_all_identifiers")) == "on"


@pytest.mark.slow
def test_tables_of_another_owner_are_as_they_were(server: Server, engine: Engine, direct_url: str) -> None:
    with a_role(server) as (role, log_in):
        log_in(direct_url)
        for name in schema.metadata.tables:
            execute(engine, f"ALTER TABLE {name} OWNER TO {role}")
        assert look(engine) == []


@pytest.mark.slow
def test_a_worker_sees_the_same_and_what_it_may_not_see_is_not_gone(
    server: Server, engine: Engine, direct_url: str
) -> None:
    """Until it is granted what a new release calls, it says so."""
    with a_role(server) as (role, log_in):
        own = connect_engine(log_in(direct_url))
        with engine.connect() as connection:
            grants.apply(connection, grants.statements(connection, "worker", role))
        assert look(own) == []
        execute(engine, "DROP INDEX jobs_held_idx", "CREATE RULE quiet AS ON INSERT TO pauses DO INSTEAD NOTHING")
        assert look(own) == look(engine)
        assert len(look(own)) == 2
        execute(engine, f"REVOKE EXECUTE ON FUNCTION doctor_definitions FROM {role}")
        found = look(own)
        assert [each.check for each in found] == ["triggers", "functions", "indexes", "tables"]
        assert {each.remedy for each in found} == {"mailroom grants --worker ROLE --apply"}
        own.dispose()


@pytest.mark.slow
def test_an_owner_that_may_do_nothing_else_sees_the_same(server: Server, empty_url: str) -> None:
    with a_role(server) as (role, log_in):
        with connected(empty_url) as connection:
            connection.execute(text(f"CREATE SCHEMA mailroom AUTHORIZATION {role}"))
        own = log_in(empty_url)
        migrate(own)
        engine = connect_engine(own)
        assert look(engine) == []
        execute(engine, "DROP VIEW mailroom.attempts", "CREATE VIEW mailroom.attempts AS SELECT 1")
        assert [each.check for each in look(engine)] == ["functions"]
        engine.dispose()


@pytest.mark.slow
@pytest.mark.parametrize("revision", [each.revision for each in SCRIPTS.walk_revisions()])
def test_from_every_revision_the_way_up_leads_to_the_same(server: Server, empty_url: str, revision: str) -> None:
    migrate(empty_url, revision)
    migrate(empty_url)
    engine = connect_engine(empty_url)
    assert look(engine) == []
    engine.dispose()


@pytest.mark.slow
@pytest.mark.parametrize("schema_name", [DEFAULT_SCHEMA, 'Odd "name: 100%'])
def test_a_restored_dump_is_as_it_was(
    _servers: Servers,  # noqa: PT019 - what it has is used
    server: Server,
    empty_url: str,
    tmp_path: Path,
    schema_name: str,
) -> None:
    """On the same server, and on the newest: an older one takes no dump of a newer."""
    dump = str(tmp_path / "dump")
    migrate(empty_url, schema=schema_name)
    client(server, "pg_dump", "-Fc", "-f", dump, empty_url)
    for other in {server, _servers.get(max(BINARIES))}:
        with other.database("restored") as name:
            client(other, "pg_restore", "-d", other.database_url(name), "--no-owner", dump)
            engine = connect_engine(other.database_url(name), schema=schema_name)
            assert look(engine) == []
            engine.dispose()


def test_the_file_says_what_the_migrations_make(conn: Connection, tmp_path: Path) -> None:
    """On each server. Where it does not, the file has to be made anew."""
    kept = ROOT / "mailroom" / "db" / "definitions.txt"
    made = tmp_path / kept.name
    made.write_text("\n".join(definitions.lines(conn)) + "\n", encoding="utf-8")
    there, should = (
        [(*row[:3], comparable(row[3])) for row in (line.split("\t") for line in path.read_text("utf-8").splitlines())]
        for path in (made, kept)
    )
    assert there == should, f"cp {made} {kept}"


@pytest.mark.parametrize(
    ("one", "other", "alike"),
    [
        ("((a AND b) AND c)", "(a AND b AND c)", True),
        ("(c AND (a AND b))", "(c AND a AND b)", True),
        ("((a OR b) AND c)", "(a OR b AND c)", False),
        ("(a OR (b AND c))", "(a OR b AND c)", False),
        ("(NOT (a AND b) AND c)", "(NOT a AND b AND c)", False),
        ("(f(a AND b) AND c)", "(f a AND b AND c)", False),
        ("SELECT jobs.token FROM jobs", "SELECT token\n  FROM jobs", True),
        ("SELECT token FROM other.jobs", "SELECT token FROM jobs", False),
        ("(x = 'jobs.a  (b'::text)", "(x = 'a (b'::text)", False),
        ("(x = 'it''s (jobs.a'::text)", "(x = 'it''s (a'::text)", False),
        ('("jobs.a" > 1)', "(a > 1)", False),
    ],
)
def test_definitions_are_compared_without_what_is_printed_here_and_not_there(one: str, other: str, alike: bool) -> None:
    assert (comparable(one) == comparable(other)) == alike
