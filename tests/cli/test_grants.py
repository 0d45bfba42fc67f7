"""`grants`: each role logs in, does all of its work, and is refused the rest."""

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from itertools import count
from os import getpid

import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo
from psycopg.errors import InsufficientPrivilege
from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import ProgrammingError

from mailroom import tokens
from mailroom.db import functions, schema
from mailroom.db.engine import VERSION_TABLE, connect_engine
from mailroom.errors import TokenError
from mailroom.fleet import buckets, pauses, refusal_log
from mailroom.job import SesAccount
from mailroom.ops import grants, maintenance
from mailroom.queue import by_hand
from mailroom.simulator import Simulator
from tests.cli.command import end, sending, start
from tests.cli.conftest import Here
from tests.kinds import ACTIVATION, LANES, RECOVERY, sign
from tests.machine import missing
from tests.running import eventually, transport, working
from tests.servers import Server
from tests.world import KEY, add_accounts, ask_recovery, drained, misplaced, rows
from tests.world import count as number

EACH_SERVER = True

PARTS = ("app", "worker", "viewer")
PASSWORD = "no secret: a role of a test"
TABLES = {table.name for table in schema.metadata.sorted_tables} | {VERSION_TABLE}
# What PostgreSQL can grant on a table.
PRIVILEGES = "SELECT, INSERT, UPDATE, DELETE, TRUNCATE, REFERENCES, TRIGGER"
WAITING = "pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
_numbers = count()


@contextmanager
def roles_on(server: Server, url: str) -> Iterator[dict[str, str]]:
    """Roles that log in, with names that need quotes; they are dropped with all that they were granted."""
    owner = connect_engine(url)
    names = {part: f'the "{part}": 100%s {getpid()}-{next(_numbers)}' for part in PARTS}
    quoted = [sql.Identifier(name).as_string() for name in names.values()]
    with owner.connect() as connection:
        raw = connection.execution_options(no_parameters=True)
        if not connection.scalar(text("SELECT rolsuper FROM pg_roles WHERE rolname = current_user")):
            missing("a superuser, to make roles")
        for name in quoted:
            raw.exec_driver_sql(f"CREATE ROLE {name} LOGIN PASSWORD '{PASSWORD}'")
        try:
            yield names
        finally:
            for name in quoted:
                raw.exec_driver_sql(f"DROP OWNED BY {name}")
                raw.exec_driver_sql(f"DROP ROLE {name}")
    owner.dispose()


@pytest.fixture
def roles(server: Server, url: str) -> Iterator[dict[str, str]]:
    with roles_on(server, url) as names:
        yield names


def log_in(url: str, role: str) -> str:
    return make_conninfo(url, user=role, password=PASSWORD)


@contextmanager
def session(url: str, role: str) -> Iterator[Connection]:
    """What an application has: every statement commits, here."""
    engine = connect_engine(log_in(url, role))
    try:
        with engine.connect() as connection:
            yield connection
    finally:
        engine.dispose()


def asked(roles: dict[str, str]) -> list[str]:
    return [word for part, name in roles.items() for word in (f"--{part}", name)]


@pytest.fixture
def granted(here: Here, roles: dict[str, str], url: str) -> dict[str, str]:
    """The roles after `grants --apply`, on a database where nobody may call a function unless it is granted."""
    owner = connect_engine(url)
    with owner.connect() as connection:
        connection.execute(text("REVOKE EXECUTE ON ALL FUNCTIONS IN SCHEMA mailroom FROM PUBLIC"))
    owner.dispose()
    assert here("grants", *asked(roles), "--apply", env={"MAILROOM_DATABASE_URL": url}).code == 0
    return roles


def refused(connection: Connection, *statements: str) -> list[str]:
    """Which of these are refused for want of a right."""
    found = []
    for statement in statements:
        try:
            connection.execute(text(statement))
        except ProgrammingError as error:
            if isinstance(error.orig, InsufficientPrivilege):
                found.append(statement)
    return found


def touches(*names: str) -> list[str]:
    """What can be done to tables, each with one of its columns."""
    columns = {
        **dict.fromkeys(("tokens", "batches", "deliveries", "jobs"), "action"),
        "accounts": "id",
        "actions": "path",
        "guesses": "made",
        "locks": "name",
        "pauses": "scope",
        "permits": "bucket",
        **dict.fromkeys(("ses_account", "site", "feed"), "one"),
        "events": "kind",
        "resumptions": "scope",
        "suppressions": "type",
        **dict.fromkeys(("templates", "workers"), "name"),
        "readings": "one",
        "minutes": "code",
        VERSION_TABLE: "version_num",
    }
    return [
        words.format(name, columns[name])
        for name in names
        for words in (
            "SELECT {1} FROM {0}",
            "INSERT INTO {0} DEFAULT VALUES",
            "UPDATE {0} SET {1} = {1}",
            "DELETE FROM {0}",
            "TRUNCATE {0}",
            "DO 'BEGIN LOCK TABLE {0}; END'",
        )
    ]


def tables_within_reach(connection: Connection) -> list[str]:
    """The tables on which this role has any right at all, or on a column of which."""
    found = rows(
        connection,
        "SELECT name FROM unnest(CAST(:names AS text[])) AS name WHERE has_table_privilege(name, :any)"
        " OR has_any_column_privilege(name, 'SELECT, INSERT, UPDATE, REFERENCES')",
        names=sorted(TABLES),
        any=PRIVILEGES,
    )
    return [row.name for row in found]


# What is printed

LOOKS = [f"SELECT * FROM {name}" for name in (*functions.views(), "health(true)", "contract()")]  # noqa: S608


def test_it_prints_sql_and_grants_nothing(here: Here, roles: dict[str, str], url: str) -> None:
    ended = here("grants", *asked(roles), env={"MAILROOM_DATABASE_URL": url})

    assert (ended.code, ended.err) == (0, "")
    lines = ended.out.splitlines()
    name = '"' + roles["viewer"].replace('"', '""') + '"'
    assert f'GRANT SELECT ON TABLE "mailroom"."waiting_jobs" TO {name};' in lines
    assert f'GRANT USAGE ON SCHEMA "mailroom" TO {name};' in lines
    assert all(line.startswith("GRANT ") and line.endswith(";") for line in lines)
    with session(url, roles["viewer"]) as connection:
        for look in LOOKS:
            with pytest.raises(ProgrammingError):  # who may not use the schema finds nothing in it
                connection.execute(text(look))


def test_what_it_prints_can_be_run(here: Here, roles: dict[str, str], url: str, engine: Engine) -> None:
    ended = here("grants", "--viewer", roles["viewer"], env={"MAILROOM_DATABASE_URL": url})
    with engine.connect() as connection:
        connection.execution_options(no_parameters=True).exec_driver_sql(ended.out)
    with session(url, roles["viewer"]) as connection:
        assert refused(connection, *LOOKS, "SELECT FROM jobs") == ["SELECT FROM jobs"]


def test_what_a_role_lacks_is_known(here: Here, granted: dict[str, str], url: str, engine: Engine) -> None:
    with session(url, granted["worker"]) as connection:
        assert grants.lacking(connection, "worker") == []
        assert "SELECT (secret) ON TABLE tokens" not in grants.lacking(connection, "app")
        with engine.connect() as owner:
            name = sql.Identifier(granted["worker"]).as_string()
            raw = owner.execution_options(no_parameters=True)
            raw.exec_driver_sql(f"REVOKE SELECT ON attempts FROM {name}")  # noqa: S608 - a name that is quoted
            raw.exec_driver_sql(f"REVOKE EXECUTE ON FUNCTION claim FROM {name}")
            raw.exec_driver_sql("DROP VIEW open_pauses; DROP FUNCTION settle")
        lacking = ["EXECUTE ON FUNCTION claim", "EXECUTE ON FUNCTION settle"]
        lacking += ["SELECT ON TABLE attempts", "SELECT ON TABLE open_pauses"]
        assert grants.lacking(connection, "worker") == lacking
    ended = here("doctor", env={"MAILROOM_DATABASE_URL": log_in(url, granted["worker"])})
    assert f"lacks: {'; '.join(lacking)}" in ended.out


def test_it_wants_a_role_that_exists(here: Here, url: str) -> None:
    here("grants", "--app", "public", env={"MAILROOM_DATABASE_URL": url}).assert_one_line(2, "public is everybody")
    here("grants", env={"MAILROOM_DATABASE_URL": url}).assert_one_line(2, "--app ROLE")
    for part in PARTS:  # as of a variable that is not set
        others = [word for other in PARTS if other != part for word in (f"--{other}", "postgres")]
        ended = here("grants", f"--{part}", "", *others, "--apply", env={"MAILROOM_DATABASE_URL": url})
        ended.assert_one_line(2, f"--{part}: '' is not accepted")
    nobody = here("grants", "--app", "nobody there", "--apply", env={"MAILROOM_DATABASE_URL": url})
    nobody.assert_one_line(1, 'role "nobody there" does not exist')


def test_who_is_not_the_owner_grants_nothing_and_is_told(
    here: Here, granted: dict[str, str], url: str, engine: Engine
) -> None:
    """PostgreSQL only warns."""
    env = {"MAILROOM_DATABASE_URL": log_in(url, granted["worker"])}
    said = "nothing is granted: this role may not GRANT USAGE ON SCHEMA"
    here("grants", "--viewer", granted["viewer"], "--apply", env=env).assert_one_line(1, said, "run it as the owner")

    name = sql.Identifier(granted["worker"]).as_string()
    with engine.connect() as owner:
        raw = owner.execution_options(no_parameters=True)
        raw.exec_driver_sql(f"GRANT USAGE ON SCHEMA mailroom TO {name} WITH GRANT OPTION")
        raw.exec_driver_sql(f"GRANT EXECUTE ON FUNCTION contract TO {name} WITH GRANT OPTION")
    ended = here("grants", "--viewer", granted["viewer"], "--apply", env=env)
    ended.assert_one_line(1, 'this role may not GRANT EXECUTE ON FUNCTION "mailroom"."action_list"')


@pytest.mark.slow
@pytest.mark.parametrize("command", ["grants", "migrate", "migrate, later"])
def test_who_grants_at_the_same_time_is_waited_for(
    roles: dict[str, str], url: str, engine: Engine, command: str
) -> None:
    arguments = [*asked(roles), "--apply"] if command == "grants" else []
    other = engine.execution_options(isolation_level="READ COMMITTED")
    with engine.connect() as watching, other.connect() as connection, connection.begin() as granting:
        role = sql.Identifier(roles["app"]).as_string()
        connection.execute(text(f"GRANT EXECUTE ON FUNCTION mailroom.request_mail TO {role}"))
        process = start(command.split(",", maxsplit=1)[0], *arguments, env={"MAILROOM_DATABASE_URL": url})
        eventually(lambda: number(watching, WAITING) == 1, "it comes to the same function")
        if command == "migrate, later":
            assert process.stderr is not None
            assert any("a lock is held by others, trying again" in line for line in process.stderr)
        granting.commit()
        ended = end(process)
    assert ended.code == 0, ended.err


@pytest.mark.parametrize("part", PARTS)
def test_no_table_is_within_reach(granted: dict[str, str], url: str, engine: Engine, part: str) -> None:
    forbidden = touches(*sorted(TABLES))
    with engine.connect() as owner, session(url, granted[part]) as connection:
        ask_recovery(owner, add_accounts(owner, 1, status="active")[0])
        assert tables_within_reach(connection) == []
        assert refused(connection, *forbidden) == forbidden


def test_whoever_may_look_sees_no_people_and_no_secrets(engine: Engine) -> None:
    private = {"email", "login", "address_hash", "secret", "proof", "fence", "made"}
    with engine.connect() as owner:
        shown = rows(
            owner,
            "SELECT DISTINCT attname AS name FROM pg_attribute JOIN pg_class ON pg_class.oid = attrelid"
            " WHERE relkind = 'v' AND relnamespace = CAST('mailroom' AS regnamespace)",
        )
        assert "code" not in rows(owner, "SELECT * FROM token_states RIGHT JOIN (SELECT) AS one ON true")[0]._fields
    assert len(shown) > 20
    assert {row.name for row in shown} & private == set()


# The application


def test_an_application_lives_its_life(granted: dict[str, str], url: str, engine: Engine) -> None:
    with session(url, granted["app"]) as connection, engine.connect() as owner:
        account = connection.scalar(text("SELECT add_account('ada@example.com', 'ada', reference => 'a-1')"))
        other = connection.scalar(text("SELECT add_account('jo@example.com', 'jo', 'active', tenant => 't')"))
        assert connection.scalar(text("SELECT change_account(:a, email => 'Jö@bücher.example')"), {"a": other})
        assert rows(owner, "SELECT email, status FROM accounts ORDER BY id") == [
            ("ada@example.com", "provisioned"),
            ("Jö@bücher.example", "active"),
        ]
        [secret] = rows(owner, "SELECT secret FROM tokens WHERE account = :a", a=account)[0]
        link = tokens.sign(secret, path=ACTIVATION.path, key=KEY)
        assert tokens.consume(connection, link, action=ACTIVATION, key=KEY) == (account, "a-1", "ada@example.com")

        recovery = connection.scalar(text("SELECT request_mail('password_recovery', reference => 'a-1')"))
        [(secret, code)] = rows(owner, "SELECT secret, code FROM tokens WHERE id = :t", t=recovery)
        link = tokens.sign(secret, path=RECOVERY.path, key=KEY, code=code)
        with pytest.raises(TokenError):
            tokens.consume(connection, link, action=RECOVERY, key=KEY, code=f"{int(code) ^ 1:05}")
        assert tokens.consume(connection, link, action=RECOVERY, key=KEY, code=code).id == account

        for _ in range(2):
            connection.execute(text("SELECT request_mail('password_recovery', :a)"), {"a": account})
        assert connection.scalar(text("SELECT revoke_tokens(reference => 'a-1')")) == 2
        assert connection.scalar(text("SELECT change_account(:a, status => 'suspended')"), {"a": account})
        assert connection.scalar(text("SELECT remove_account(:a)"), {"a": account})
        assert not connection.scalar(text("SELECT remove_account(:a)"), {"a": account})
        assert rows(owner, "SELECT id FROM accounts") == [(other,)]


def test_an_application_sees_no_secret_and_touches_no_queue(granted: dict[str, str], url: str) -> None:
    forbidden = [
        "SELECT good_token(sha256(''), 'activation')",
        "CREATE TABLE mine ()",
        *touches(*sorted(TABLES)),
        *LOOKS,
        "SELECT * FROM token_find(1, NULL)",
        "SELECT * FROM job_drop('{1}')",
    ]
    with session(url, granted["app"]) as connection:
        connection.execute(text("SELECT request_mail('password_recovery', add_account('a@x.org', 'a', 'active'))"))
        if rows(connection, "SELECT WHERE has_schema_privilege('mailroom', 'CREATE')"):
            forbidden.remove("CREATE TABLE mine ()")  # PostgreSQL 14 lets everybody
        assert refused(connection, *forbidden) == forbidden


# The worker


@pytest.mark.slow
def test_a_worker_sends_sweeps_and_tidies_up(
    granted: dict[str, str],
    url: str,
    engine: Engine,
    here: Here,
    ses: Simulator,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    mine = log_in(url, granted["worker"])
    own = connect_engine(mine, pool_size=4)
    with engine.connect() as owner:
        active = add_accounts(owner, 3, status="active", prefix="active")
        add_accounts(owner, 12)
        owner.execute(text("UPDATE tokens SET expires_at = now()"))  # a late activation is renewed
        with working(own, transport(ses, monkeypatch), listen=mine, sweep_interval=0.2):
            eventually(lambda: drained(owner), "the worker sends it all")
            for account in active:
                ask_recovery(owner, account)
            eventually(lambda: drained(owner), "and what is asked meanwhile")
        assert ses.ledger.counts().mails == 15

        held = add_accounts(owner, 1, prefix="held")
        environment = sending(mine, ses)
        assert here("pause", "activation", env=environment).code == 0
        assert here("sweep", env=environment).code == 1
        assert here("resume", "activation", env=environment).code == 0
        assert here("sweep", "--full", env=environment).code == 0
        assert here("status", env=environment).code == 0
        assert ses.ledger.counts().mails == 16

        add_accounts(owner, 1, prefix="dropped")
        [(dropped,)] = rows(owner, "SELECT token FROM jobs")
        assert here("jobs", "drop", str(dropped), env=environment).code == 0
        assert here("jobs", "retry", str(dropped), env=environment).code == 0
        owner.execute(text("UPDATE batches SET lease_until = now()"))
        assert here("sweep", env=environment).code == 0
        assert misplaced(owner) == []

        owner.execute(text("UPDATE deliveries SET created_at = created_at - interval '9 days'"))
        owner.execute(text("UPDATE tokens SET expires_at = expires_at - interval '9 days'"))
        owner.execute(text("UPDATE ses_account SET refresh_due_at = now()"))
        with own.connect() as connection:
            permits = buckets.claim_refresh(connection).granted_before
            assert permits is not None
            known = SesAccount(14, 50_000, 0, sending_enabled=True, production_access=True, enforcement="HEALTHY")
            buckets.store(connection, known, granted_before=permits)
            assert maintenance.prune(connection, older_than=timedelta(days=2)).tokens > 0
        assert held
    own.dispose()


@pytest.mark.slow
def test_a_worker_puts_right_what_went_wrong(
    granted: dict[str, str],
    url: str,
    engine: Engine,
    here: Here,
    ses: Simulator,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Tokens without a job, late answers, a clock that was set back."""
    caplog.set_level(logging.INFO)
    env = sending(log_in(url, granted["worker"]), ses)
    with engine.connect() as owner:
        add_accounts(owner, 3)
        owner.execute(text("DELETE FROM jobs WHERE token = 1"))
        owner.execute(text("UPDATE jobs SET due_at = 'infinity' WHERE token = 2"))
        owner.execute(text("UPDATE jobs SET due_at = now() + interval '1 year' WHERE token = 3"))
        owner.execute(
            text(
                "INSERT INTO deliveries (token, batch, action, outcome, attempt, late, message_id)"
                " VALUES (2, 9, 'activation', 'sent', 0, true, 'm')"
            )
        )
        assert here("sweep", "--full", env=env).code == 0
        for said in ("had failed: freed=1", "reconciled tokens=1", "brought back: moments=1"):
            assert said in caplog.text
        assert ses.ledger.counts().mails == 2
        assert misplaced(owner) == []


def test_a_worker_pauses_the_fleet_and_slows_it_down(granted: dict[str, str], url: str, engine: Engine) -> None:
    codes = {"MessageRejected"}
    with engine.connect() as owner, session(url, granted["worker"]) as connection:
        add_accounts(owner, 2)
        refused = by_hand.drop(connection, [1])
        owner.execute(text("UPDATE deliveries SET outcome = 'rejected', error_code = 'MessageRejected'"))
        assert refusal_log.review(connection, ACTIVATION, codes).unbroken == 1
        assert refusal_log.refused_since_accepted(connection, ACTIVATION, codes) == refused
        assert refusal_log.put_back_once(connection, refused, queue="mailroom") == refused
        assert refusal_log.refused_since_accepted(connection, ACTIVATION, codes) == []

        assert pauses.open_pause(
            connection, "activation", code="MessageRejected", reason="a reason", probe_after=timedelta(0)
        )
        assert pauses.probe(connection, queue="mailroom", lanes=LANES, refusals=codes) == "activation"
        assert len(pauses.places(connection, queue="mailroom", lanes=LANES, most=9, refusals=codes)) == 2
        assert [pause.scope for pause in pauses.read(connection)] == ["activation"]
        assert pauses.close_pause(connection, "activation")
        assert buckets.slow_down(connection) == buckets.CUT


@pytest.mark.slow
def test_a_worker_serves_an_operator(
    granted: dict[str, str], url: str, engine: Engine, here: Here, ses: Simulator
) -> None:
    env = sending(log_in(url, granted["worker"]), ses)
    with engine.connect() as owner:
        add_accounts(owner, 2)
        owner.execute(text("UPDATE jobs SET due_at = 'infinity' WHERE token = 1"))
    assert "user1@example.com" in here("jobs", "list", "--show-addresses", env=env).out
    assert "user2@example.com" in here("jobs", "show", "2", "--show-addresses", env=env).out
    assert here("jobs", "release", "1", env=env).out == "released 1\n"
    signed = here("tokens", "sign", "2", env=env).out.strip()
    assert "token 2 of account 2: good until" in here("tokens", "verify", signed, env=env).out
    for words in (("add",), ("show", "--here"), ("release", "--here"), ("list",)):
        address = () if words == ("list",) else ("ada@example.com",)
        assert here("suppressions", *words, *address, env=env).code == 0
    doctor = here("doctor", env=env).out
    assert "ok      rights: this role may do what a worker does" in doctor
    assert "failed" not in doctor


def test_a_worker_makes_no_accounts_and_no_tokens(granted: dict[str, str], url: str, engine: Engine) -> None:
    forbidden = [
        "INSERT INTO accounts (email, login) VALUES ('eve@example.com', 'eve')",
        "UPDATE accounts SET email = 'eve@example.com'",
        "UPDATE accounts SET status = 'active'",
        "INSERT INTO tokens (action, account) VALUES ('password_recovery', 1)",
        "UPDATE tokens SET consumed_at = now()",
        "UPDATE tokens SET secret = sha256('')",
        "UPDATE tokens SET account = 1",
        "UPDATE deliveries SET outcome = 'sent'",
        "SELECT consume_token(sha256(''), 'activation')",
        "SELECT count_guess(sha256(''))",
        "SELECT uncount_guess(sha256(''))",
        "SELECT guesses_left(sha256(''))",
        "SELECT good_token(sha256(''), 'activation')",
        "SELECT action_room('{1}', '{}', 'activation', 1, 1)",
    ]
    with engine.connect() as owner, session(url, granted["worker"]) as connection:
        add_accounts(owner, 1)
        assert refused(connection, *forbidden) == forbidden


# Who only looks


def test_a_viewer_sees_the_status(granted: dict[str, str], url: str, engine: Engine, here: Here) -> None:
    with engine.connect() as owner:
        add_accounts(owner, 3)
        ask_recovery(owner, add_accounts(owner, 1, status="active", prefix="active")[0])
    environment = {"MAILROOM_DATABASE_URL": log_in(url, granted["viewer"])}

    found = json.loads(here("status", "--json", env=environment).out)
    assert [row["jobs"] for row in found["waiting"]] == [1, 3]
    assert here("jobs", "list", env=environment).code == 0
    assert here("jobs", "list", "--show-addresses", env=environment).code == 1
    assert here("jobs", "show", "1", env=environment).code == 0
    assert here("suppressions", "list", env=environment).code == 0
    assert here("templates", "list", env=environment).code == 0
    assert here("suppressions", "add", "ada@example.com", env=environment).code == 1


def test_a_viewer_may_send_lines(granted: dict[str, str], url: str, here: Here, ses: Simulator) -> None:
    """As docs/operating.md has it: whoever sends lines only asks which template stands for which number."""
    secret = sign(b"s" * 32, action=ACTIVATION, key=KEY)
    sent = here(
        "send",
        env=sending(None, ses) | {"MAILROOM_DATABASE_URL": log_in(url, granted["viewer"])},
        stdin=f"1,ada@example.com,ada,{secret},01234\n".encode(),
    )
    assert (sent.code, sent.err) == (0, "")
    assert ses.ledger.counts().mails == 1
    assert here("templates", "list", env={"MAILROOM_DATABASE_URL": log_in(url, granted["viewer"])}).code == 0


def test_a_viewer_sees_no_people_and_changes_nothing(granted: dict[str, str], url: str, engine: Engine) -> None:
    with engine.connect() as owner, session(url, granted["viewer"]) as connection:
        add_accounts(owner, 1)
        may = rows(
            connection,
            "SELECT proname AS name FROM pg_proc WHERE pronamespace = CAST('mailroom' AS regnamespace)"
            " AND prosecdef AND provolatile <> 'i' AND has_function_privilege(oid, 'EXECUTE') ORDER BY 1",
        )
        assert [row.name for row in may] == [
            *("action_list", "action_senders"),
            *(f"browse_{what}" for what in ("attempts", "fits", "flooded", "held", "lane", "lanes", "unconfirmed")),
            *("contract", "feed_state", "health", "reading_count", "reading_lanes"),
            *("reading_unconfirmed", "reputation", "suppression_list", "template_list"),
        ]
        forbidden = [
            "SELECT account_addresses('{1}')",
            "SELECT token_find(1, NULL)",
            "SELECT pause_close('account', true)",
            "SELECT suppression_find('ada@example.com')",
            "SELECT suppression_add('ada@example.com')",
            "SELECT suppression_release('ada@example.com')",
            "SELECT reputation_review('{}', '{}', '{}', 1)",
        ]
        assert refused(connection, *forbidden) == forbidden
        changes = ["UPDATE open_pauses SET reason = ''", "DELETE FROM token_states", "DELETE FROM attempts"]
        assert refused(connection, *changes) == changes


def test_functions_of_others_with_the_same_name_are_in_nobodys_way(here: Here, roles: dict[str, str], url: str) -> None:
    """With other arguments: an application may add one, once the schema is there."""
    owner = connect_engine(url)
    with owner.connect() as connection:
        connection.execute(text("CREATE FUNCTION claim(own text) RETURNS integer RETURN 1"))
        connection.execute(text("CREATE FUNCTION request_mail(own text[]) RETURNS integer RETURN 1"))
    owner.dispose()
    ended = here("grants", *asked(roles), "--apply", env={"MAILROOM_DATABASE_URL": url})
    assert (ended.code, ended.err) == (0, "")
    for part in ("app", "worker"):
        with session(url, roles[part]) as connection:
            assert grants.lacking(connection, part) == []
