"""Everything works in any schema, for sessions whose search_path leads elsewhere, or nowhere."""

import contextlib
import json
import signal
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import psycopg
import pytest
from psycopg import sql
from sqlalchemy import Connection, Engine, create_engine, text

from mailroom import tokens
from mailroom.db.engine import connect_engine
from mailroom.db.namespace import DEFAULT_SCHEMA, quoted
from mailroom.errors import TokenError
from mailroom.simulator import Simulator
from tests.cli.command import sending
from tests.cli.conftest import Here, here, ses
from tests.kinds import ACTIVATION, RECOVERY
from tests.roles import a_role
from tests.running import Processes, eventually
from tests.servers import UNLIMITED, Server, migrate
from tests.world import KEY, add_accounts, ask_recovery, count_sent, drained, misplaced, rows

__all__ = ["here", "ses"]

# How a name is found is the same in every version; what a pooler keeps of a session is not the same as without one.
EACH_SERVER = False
THROUGH_PGBOUNCER = True

SCHEMAS = [DEFAULT_SCHEMA, 'we"ird Näme']
PATHS = ["''", '"$user", public']


@dataclass(frozen=True, slots=True)
class Home:
    """Mailroom in a schema, how it is reached, also without a pooler, and a connection that has a path there."""

    schema: str
    url: str
    direct_url: str
    owner: Connection

    def env(self, ses: Simulator) -> dict[str, str]:
        found = {"MAILROOM_SCHEMA": self.schema, "MAILROOM_LISTEN_DATABASE_URL": self.direct_url}
        return sending(self.url, ses) | found | {"MAILROOM_SES_SOURCE": "Ada <noreply@mail.example.com>"}


@contextlib.contextmanager
def at_home(server: Server, name: str, schema: str) -> Iterator[Home]:
    """A mailroom that is there, whose owner finds its tables."""
    direct = server.database_url(name)
    engine = connect_engine(direct, schema=schema)
    with engine.connect() as connection:
        connection.execute(text(f"SET search_path = {quoted(schema)}"))
        yield Home(schema, server.pooled_url(name), direct, connection)
    engine.dispose()


@pytest.fixture(params=PATHS)
def path(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=SCHEMAS)
def home(server: Server, path: str, request: pytest.FixtureRequest) -> Iterator[Home]:
    with server.database("path", of=server.migrated(request.param)) as name:
        server.execute(f"ALTER DATABASE {name} SET search_path = {path}")
        with at_home(server, name, request.param) as home:
            yield home


@pytest.fixture
def application(home: Home) -> Iterator[Engine]:
    """An engine of the application's own, which knows of no schema."""
    engine = create_engine("postgresql+psycopg://", creator=lambda: psycopg.connect(home.url, prepare_threshold=None))
    yield engine
    engine.dispose()


def doctored(here: Here, home: Home, ses: Simulator) -> dict[str, str]:
    """The remedy of each check that is not well; the tests' server flushes nothing."""
    said = json.loads(here("doctor", "--json", env=home.env(ses)).out)
    return {row["check"]: row["remedy"] for row in said if row["level"] != "ok" and row["check"] != "server"}


@pytest.mark.slow
def test_a_worker_is_woken_sends_and_sweeps(home: Home, simulator: Simulator, processes: Processes) -> None:
    settings = {"MAILROOM_SCHEMA": home.schema, "MAILROOM_LISTEN_DATABASE_URL": home.direct_url}
    process = processes.worker(url=home.url, simulator=simulator, MAILROOM_SWEEP_INTERVAL="100", **settings)
    accounts = add_accounts(home.owner, 30)
    eventually(lambda: drained(home.owner), "activations are sent")
    home.owner.execute(text("UPDATE accounts SET status = 'active'"))
    ask_recovery(home.owner, accounts[0])
    eventually(lambda: drained(home.owner), "a recovery is sent")
    assert (count_sent(home.owner), misplaced(home.owner)) == (31, [])
    assert not process.says("ERROR")
    assert not process.says("WARNING")


@pytest.mark.slow
def test_an_application_consumes(home: Home, application: Engine) -> None:
    [account] = add_accounts(home.owner, 1)
    [row] = rows(home.owner, "SELECT secret FROM tokens")
    link = tokens.sign(row.secret, path=ACTIVATION.path, key=KEY)
    with application.begin() as connection:
        assert tokens.consume(connection, link, action=ACTIVATION, key=KEY, schema=home.schema).id == account

    recovery = ask_recovery(home.owner, account)
    [row] = rows(home.owner, "SELECT secret, code FROM tokens WHERE id = :id", id=recovery)
    link = tokens.sign(row.secret, path=RECOVERY.path, key=KEY, code=row.code)
    given: dict[str, Any] = {"action": RECOVERY, "key": KEY, "schema": home.schema}
    with application.begin() as connection:
        with pytest.raises(TokenError):
            tokens.consume(connection, link, code=f"{(int(row.code) + 1) % 100_000:05}", **given)
        assert rows(home.owner, "SELECT token, made FROM guesses") == [(recovery, 1)]
        assert tokens.consume(connection, link, code=row.code, **given).id == account


@pytest.mark.slow
def test_collect_prints_what_is_due(home: Home, simulator: Simulator, processes: Processes) -> None:
    settings = {"MAILROOM_SCHEMA": home.schema, "MAILROOM_LISTEN_DATABASE_URL": home.direct_url}
    add_accounts(home.owner, 3)
    process = processes.start("collect", url=home.url, simulator=simulator, **settings)
    eventually(lambda: drained(home.owner), "they are collected")
    process.signal(signal.SIGTERM)
    assert process.wait() == 0
    assert all(process.says(f"user{number}@example.com") for number in (1, 2, 3))
    assert (count_sent(home.owner), misplaced(home.owner)) == (3, [])


@pytest.mark.slow
def test_the_commands_do_their_work(here: Here, ses: Simulator, home: Home) -> None:
    def run(*command: str) -> str:
        ended = here(*command, env=home.env(ses))
        assert ended.code == 0, (command, ended)
        return ended.out

    add_accounts(home.owner, 5)
    run("pause", "activation", "--reason", "no hurry")
    assert "no hurry" in run("status")
    run("resume", "activation")
    run("sweep")
    run("sweep", "--full")
    assert len(ses.ledger.mails) == 5
    token, *_, last = (str(row.id) for row in rows(home.owner, "SELECT id FROM tokens ORDER BY id"))
    assert len(json.loads(run("jobs", "list", "--outcome", "sent", "--show-addresses", "--json"))) == 5
    home.owner.execute(
        text("UPDATE deliveries SET outcome = 'rejected' WHERE token IN (:a, :b)"), {"a": token, "b": last}
    )
    run("jobs", "retry", token, last)
    run("jobs", "drop", last)
    home.owner.execute(text("UPDATE jobs SET due_at = 'infinity'"))
    assert f'"token": {token}' in run("jobs", "list", "--held", "--json")
    run("jobs", "release", token)
    run("sweep")
    assert "user1@example.com" in run("jobs", "show", token, "--show-addresses")
    assert f"token {token} of account" in run("tokens", "verify", run("tokens", "sign", token).strip())
    home.owner.execute(text("UPDATE tokens SET expires_at = expires_at - interval '1 year'"))
    home.owner.execute(text("UPDATE deliveries SET created_at = created_at - interval '1 year'"))
    assert "5 tokens" in run("prune", "--older-than", "90d")
    run("migrate")
    assert run("status")
    assert (len(ses.ledger.mails), misplaced(home.owner)) == (6, [])


@pytest.mark.slow
def test_doctor_sees_what_is_wrong_and_says_what_mends_it(here: Here, ses: Simulator, home: Home) -> None:
    assert doctored(here, home, ses) == {}
    with psycopg.connect(home.direct_url, autocommit=True) as anybody:  # without our path
        for broken, check in {
            "ALTER TABLE accounts DISABLE TRIGGER account_starts": "triggers",
            "ALTER FUNCTION claim SET search_path = public": "functions",
            "INSERT INTO deliveries (id, action, outcome, attempt) OVERRIDING SYSTEM VALUE"
            " VALUES (7, 'activation', 'sent', 0)": "restore",
        }.items():
            home.owner.execute(text(broken))
            remedies = doctored(here, home, ses)
            assert remedies.keys() == {check}
            anybody.execute(remedies[check].partition("; then ")[0].encode())
            assert doctored(here, home, ses) == {}
    home.owner.execute(text("DROP VIEW attempts; DROP INDEX jobs_claim_idx; DROP FUNCTION claim"))
    assert doctored(here, home, ses).keys() == {"functions", "indexes", "rights"}


@pytest.mark.slow
def test_each_role_does_its_work_with_what_it_is_granted(
    here: Here, ses: Simulator, server: Server, home: Home
) -> None:
    """Without a pooler: it knows no role but ours."""
    with a_role(server) as (app, as_app), a_role(server) as (worker, as_worker), a_role(server) as (viewer, as_viewer):
        granting = ("grants", "--app", app, "--worker", worker, "--viewer", viewer, "--apply")
        env = home.env(ses) | {"MAILROOM_DATABASE_URL": home.direct_url}
        assert here(*granting, env=env).code == 0
        with psycopg.connect(as_app(home.direct_url)) as connection:
            add = sql.Identifier(home.schema, "add_account")
            connection.execute(sql.SQL("SELECT {}('ada@example.com', 'ada')").format(add))
        own = home.env(ses) | {"MAILROOM_DATABASE_URL": as_worker(home.direct_url)}
        assert here("sweep", env=own).code == 0
        assert doctored(here, replace(home, url=as_worker(home.direct_url)), ses) == {}
        assert here("prune", "--older-than", "90d", env=own).code == 0
        looks = home.env(ses) | {"MAILROOM_DATABASE_URL": as_viewer(home.direct_url)}
        assert here("status", env=looks).code == here("jobs", "list", env=looks).code == 0
        assert here("jobs", "list", "--show-addresses", env=looks).code == 1
        [row] = rows(home.owner, "SELECT secret, account FROM tokens")
        engine = create_engine("postgresql+psycopg://", creator=lambda: psycopg.connect(as_app(home.direct_url)))
        link = tokens.sign(row.secret, path=ACTIVATION.path, key=KEY)
        with engine.begin() as connection:
            found = tokens.consume(connection, link, action=ACTIVATION, key=KEY, schema=home.schema)
        engine.dispose()
    assert (found.id, len(ses.ledger.mails)) == (row.account, 1)


@pytest.mark.slow
def test_two_installations_in_one_database_do_not_disturb_each_other(
    server: Server, path: str, simulator: Simulator, processes: Processes
) -> None:
    """Each has the mail of its own accounts sent by its own worker, though both hear each notification.

    Both are migrated there, with that path.
    """
    with contextlib.ExitStack() as stack:
        name = stack.enter_context(server.database("path"))
        server.execute(f"ALTER DATABASE {name} SET search_path = {path}")
        for schema in SCHEMAS:
            migrate(server.database_url(name), schema=schema)
        homes = [stack.enter_context(at_home(server, name, schema)) for schema in SCHEMAS]
        for home in homes:
            home.owner.execute(text(UNLIMITED))
        for number, home in enumerate(homes):
            settings = {"MAILROOM_SCHEMA": home.schema, "MAILROOM_LISTEN_DATABASE_URL": home.direct_url}
            source = {"MAILROOM_SES_SOURCE": f"home{number}@example.com"}
            processes.worker(url=home.url, simulator=simulator, **settings, **source)
        for number, home in enumerate(homes):
            add_accounts(home.owner, 20 + number, prefix=f"home{number}-")
        for number, home in enumerate(homes):
            eventually(lambda: drained(home.owner), "all is sent")  # noqa: B023
            assert (count_sent(home.owner), misplaced(home.owner)) == (20 + number, [])
    for mail in simulator.ledger.mails:
        assert mail.recipients[0].partition("-")[0] == mail.source.partition("@")[0]
    assert len(simulator.ledger.mails) == 41
