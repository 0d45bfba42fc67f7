"""Real servers, a migrated template database, and copies of it: what nearly every test stands on.

Everything that uses a database runs on each server: PostgreSQL 18 from the wheel and Debian's 15, or the one server
that MAILROOM_TEST_DATABASE_URL names. A module that says THROUGH_PGBOUNCER = True runs behind PgBouncer as well.
"""

import itertools
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from alembic import command
from alembic.config import Config
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from sqlalchemy import Connection, Engine, text

from mailroom.db.engine import connect_engine, connection_string
from mailroom.demo.postgres import EmbeddedPostgres
from mailroom.simulator import Simulator
from tests import pgbouncer
from tests.running import Processes

# As if SES had said for ever that the account has no limits; tests of the rate say otherwise.
UNLIMITED = text(
    "UPDATE ses_account SET fetched_at = now(), refresh_due_at = 'infinity', max_send_rate = -1, max_24_hour_send = -1,"
    " sent_last_24_hours = 0, sending_enabled = true, production_access = true, enforcement = 'HEALTHY'"
)

ROOT = Path(__file__).parent.parent
GIVEN = os.environ.get("MAILROOM_TEST_DATABASE_URL")
BINARIES = {"pg18": None, "pg15": Path("/usr/lib/postgresql/15/bin")}
SETTINGS = {"fsync": "off", "full_page_writes": "off", "max_connections": "200", "log_lock_waits": "on"}


# How many tests were left to the other of the two runs.
OTHERS = pytest.StashKey[int]()


def missing(what: str) -> None:
    """Skip a test that needs something this machine lacks; in CI nothing may be lacking."""
    if os.environ.get("CI"):
        pytest.fail(f"{what} is missing, and CI skips nothing")
    pytest.skip(f"needs {what}")


def pytest_addoption(parser: pytest.Parser) -> None:
    """What is measured in seconds waits until nothing else runs."""
    parser.addoption("--alone", action="store_true", help="run what is marked `alone`, and nothing else")


@pytest.hookimpl(wrapper=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> Iterator[None]:
    """The second PostgreSQL and PgBouncer are not part of the quick run; in parallel nothing runs that is `alone`."""
    for item in items:
        if isinstance(item, pytest.Function) and ("pg15" in item.name or "pgbouncer" in item.name):
            item.add_marker(pytest.mark.slow)
    yield
    alone = config.getoption("--alone")
    if alone or "PYTEST_XDIST_WORKER" in os.environ:
        others = [item for item in items if alone != (item.get_closest_marker("alone") is not None)]
        items[:] = [item for item in items if item not in set(others)]
        config.hook.pytest_deselected(items=others)
        config.stash[OTHERS] = len(others)


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Of a selection, all may be `alone`, or none; but where `--alone` finds no test at all, there is none."""
    nothing = exitstatus == pytest.ExitCode.NO_TESTS_COLLECTED
    parallel = bool(getattr(session.config.option, "numprocesses", None))
    if nothing and (parallel or session.config.stash.get(OTHERS, 0)):
        session.exitstatus = pytest.ExitCode.OK


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing that this shell happens to export may decide a test."""
    for name in list(os.environ):
        if name.startswith(("MAILROOM_", "AWS_")) and not name.startswith("MAILROOM_TEST_"):
            monkeypatch.delenv(name)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run what uses a database on each server; modules that ask for it, through PgBouncer as well."""
    if "server" in metafunc.fixturenames:
        servers = ["given"] if GIVEN else list(BINARIES)
        if getattr(metafunc.module, "THROUGH_PGBOUNCER", False) and not GIVEN:
            servers.append("pgbouncer")
        metafunc.parametrize("server", servers, indirect=True, scope="session")


@dataclass
class Server:
    """A server to make databases on. `embedded` is None where the server was given, and cannot be stopped.

    `pooler_port` is that of a PgBouncer in front of it, where tests are to go through one.
    """

    url: str
    embedded: EmbeddedPostgres | None
    pooler_port: int | None = None

    def database_url(self, name: str) -> str:
        return make_conninfo(connection_string(self.url), dbname=name)

    def pooled_url(self, name: str) -> str:
        """The same through PgBouncer, if there is one."""
        url = self.database_url(name)
        return make_conninfo(url, port=self.pooler_port) if self.pooler_port else url

    def execute(self, sql: str) -> None:
        engine = connect_engine(self.url)
        try:
            with engine.connect() as connection:
                connection.execute(text(sql))
        finally:
            engine.dispose()


@pytest.fixture(scope="session")
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    if GIVEN:
        yield Server(GIVEN, None)
        return
    binaries = BINARIES.get(request.param)
    if binaries is not None and not binaries.exists():
        missing(f"Debian's PostgreSQL in {binaries}")
    with EmbeddedPostgres(binaries, settings=SETTINGS) as embedded:
        if request.param != "pgbouncer":
            yield Server(embedded.url(), embedded)
            return
        if not pgbouncer.PROGRAM.exists():
            missing(f"Debian's PgBouncer, {pgbouncer.PROGRAM}")
        with pgbouncer.PgBouncer(embedded) as pooler:
            yield Server(embedded.url(), embedded, pooler.port)


def migrate(url: str, revision: str = "head") -> None:
    """Run `alembic upgrade` on a database."""
    engine = connect_engine(url, isolation_level="READ COMMITTED")
    config = Config(str(ROOT / "alembic.ini"))
    try:
        with engine.connect() as connection:
            config.attributes["connection"] = connection
            (command.downgrade if revision == "base" else command.upgrade)(config, revision)
    finally:
        engine.dispose()


@pytest.fixture(scope="session")
def template(server: Server) -> Iterator[str]:
    """The name of a migrated database that nobody is connected to, to be copied."""
    name = f"mailroom_template_{os.getpid()}"
    server.execute(f"CREATE DATABASE {name}")
    migrate(server.database_url(name))
    engine = connect_engine(server.database_url(name))
    with engine.connect() as connection:
        connection.execute(UNLIMITED)
    engine.dispose()
    yield name
    server.execute(f"DROP DATABASE {name} WITH (FORCE)")


_numbers = itertools.count()


@pytest.fixture
def url(server: Server, template: str) -> Iterator[str]:
    """The URL of a fresh, migrated database of the test's own, for tests where commits matter."""
    name = f"mailroom_test_{os.getpid()}_{next(_numbers)}"
    server.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
    yield server.pooled_url(name)
    server.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def direct_url(server: Server, url: str) -> str:
    """The URL of the same database around PgBouncer, for LISTEN."""
    return server.database_url(str(conninfo_to_dict(url)["dbname"]))


@pytest.fixture
def empty_url(server: Server) -> Iterator[str]:
    """The URL of a fresh database that is not migrated."""
    name = f"mailroom_empty_{os.getpid()}_{next(_numbers)}"
    server.execute(f"CREATE DATABASE {name}")
    yield server.database_url(name)
    server.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def engine(url: str) -> Iterator[Engine]:
    """An engine on a fresh database on which every statement commits, as the worker's."""
    engine = connect_engine(url, pool_size=20)
    yield engine
    engine.dispose()


@pytest.fixture
def connection(engine: Engine) -> Iterator[Connection]:
    """A connection of that engine."""
    with engine.connect() as connection:
        yield connection


@pytest.fixture(scope="session")
def _shared(server: Server, template: str) -> Iterator[Engine]:
    name = f"mailroom_shared_{os.getpid()}"
    server.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
    engine = connect_engine(server.database_url(name), isolation_level="READ COMMITTED")
    yield engine
    engine.dispose()
    server.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def conn(_shared: Engine) -> Iterator[Connection]:
    """One transaction on a migrated database, rolled back at the end."""
    with _shared.connect() as connection, connection.begin() as transaction:
        yield connection
        transaction.rollback()


@pytest.fixture(scope="session")
def running() -> Iterator[Simulator]:
    """The one simulator of this process, as the tests before have left it."""
    with Simulator() as simulator:
        yield simulator


@pytest.fixture
def simulator(running: Simulator) -> Simulator:
    """The SES simulator with an empty ledger, no faults, and its own templates."""
    running.reset()
    return running


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[Processes]:
    """Starts `mailroom` commands that end with the test."""
    processes = Processes(tmp_path)
    yield processes
    processes.end()
