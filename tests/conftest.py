"""What nearly every test stands on: servers, databases on them, the simulator of SES, and processes that end in time.

On which server a test runs that uses a database:

- What asks the server something of which the answer may be another one in another version (SQL, triggers, migrations,
  plans, locks, sessions) runs on each: PostgreSQL 18 from the wheel and Debian's 15. These are the folders db, queue,
  fleet, ops and tokens, what lies at the root, and of the others what says EACH_SERVER = True.
- What is about our own words (the commands, the simulator, the transport, the demo), and what processes do with the
  answers of functions and statements that are tested on each (the worker), runs once, on PostgreSQL 18. So does,
  elsewhere, a module that says EACH_SERVER = False, and in the others a test that is marked `one_server`.
- A module that says THROUGH_PGBOUNCER = True runs behind PgBouncer as well.

If MAILROOM_TEST_DATABASE_URL names a server, everything runs once, on that. `make test` leaves to `make test-all` what
is slow: the second PostgreSQL, PgBouncer, and what is marked so, since it takes more than a second while six run side
by side: it starts processes or a browser, fills tables, or tries each of many cases. What is marked `early` begins
before the others, so that nothing long ends last; what is marked `alone` is measured in seconds, and waits for all
others: fleets of processes go one by one, and beside them what mostly waits.
"""

import functools
import gc
import os
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pytest
from botocore.hooks import EventAliaser, HierarchicalEmitter
from botocore.loaders import JSONFileLoader, Loader
from hypothesis import HealthCheck, settings
from psycopg.conninfo import conninfo_to_dict
from sqlalchemy import Connection, Engine, event

from mailroom.db.engine import connect_engine
from mailroom.simulator import Simulator
from tests.running import Processes
from tests.servers import BINARIES, GIVEN, Server, Servers
from tests.simulator.client import ask

# Folders of what is ours alone, and of what processes do.
ONCE = {"cli", "demo", "mail", "ses", "simulator", "worker"}

# A machine that is busy may take seconds for an example, or to think of one.
settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
if settings.get_current_profile_name() != "ci":  # which says so, too
    settings.load_profile("patient")

# How many more objects there are before it is looked which of them are of no use any more. Python's own 700 are few.
GARBAGE = 50_000

# How many tests, or files of them, were left to the other of the two runs.
OTHERS = pytest.StashKey[int]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """What is measured in seconds waits until nothing else runs."""
    parser.addoption("--alone", action="store_true", help="run what is marked `alone`, and nothing else")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Where nothing runs but what is `alone`, a file that does not say so is not even imported."""
    if not config.getoption("--alone") or not collection_path.match("test_*.py"):
        return None
    if "alone" in collection_path.read_text(encoding="utf-8"):
        return None
    config.stash[OTHERS] = config.stash.get(OTHERS, 0) + 1
    return True


@pytest.hookimpl(wrapper=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> Iterator[None]:
    """The second PostgreSQL and PgBouncer are not part of the quick run; in parallel nothing runs that is `alone`."""
    for item in items:
        if isinstance(item, pytest.Function) and ("pg15" in item.name or "pgbouncer" in item.name):
            item.add_marker(pytest.mark.slow)
    yield
    items.sort(key=lambda item: item.get_closest_marker("early") is None)
    alone = config.getoption("--alone")
    if alone or "PYTEST_XDIST_WORKER" in os.environ:
        others = [item for item in items if alone != (item.get_closest_marker("alone") is not None)]
        items[:] = [item for item in items if item not in set(others)]
        config.hook.pytest_deselected(items=others)
        config.stash[OTHERS] = config.stash.get(OTHERS, 0) + len(others)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """All that thousands of tests consist of is there until the end: it need not be looked through for garbage."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()


def pytest_collection_finish() -> None:
    """Nor ever again. And what tests leave is looked for less often: that took a twelfth of their time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(GARBAGE)


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Of a selection, all may be `alone`, or none; but where `--alone` finds no test at all, there is none."""
    nothing = exitstatus == pytest.ExitCode.NO_TESTS_COLLECTED
    parallel = bool(getattr(session.config.option, "numprocesses", None))
    if nothing and (parallel or session.config.stash.get(OTHERS, 0)):
        session.exitstatus = pytest.ExitCode.OK


@pytest.fixture(scope="session", autouse=True)
def _models_are_read_once() -> Iterator[None]:
    """For each of hundreds of clients botocore would read its models of AWS again, megabytes of files that stay.

    And look through hundreds of folders for the services that it knows, and make the same names of events out of the
    same again. But for SQS's model, which is small: moto changes what it has read.
    """
    as_it_is = JSONFileLoader.load_file
    once = functools.cache(lambda path: as_it_is(JSONFileLoader(), path))
    look = Loader.list_available_services
    known = functools.cache(lambda kind, paths: look(Loader(paths, include_default_search_paths=False), kind))
    call = vars(EventAliaser)["_alias_event_name"]
    called = functools.cache(lambda name: call(EventAliaser(HierarchicalEmitter()), name))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(EventAliaser, "_alias_event_name", lambda own, event_name: called(event_name))
        patch.setattr(
            JSONFileLoader, "load_file", lambda own, path: as_it_is(own, path) if "/sqs/" in path else once(path)
        )
        patch.setattr(
            Loader, "list_available_services", lambda own, type_name: list(known(type_name, tuple(own.search_paths)))
        )
        yield


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing that this shell happens to export may decide a test."""
    for name in list(os.environ):
        if name.startswith(("MAILROOM_", "AWS_")) and not name.startswith("MAILROOM_TEST_"):
            monkeypatch.delenv(name)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run what uses a database where it is to run."""
    if "server" in metafunc.fixturenames:
        once = metafunc.definition.get_closest_marker("one_server") is not None
        servers = ["given"] if GIVEN else servers_of(metafunc.module, once=once)
        metafunc.parametrize("server", servers, indirect=True, scope="session")


def servers_of(module: Any, *, once: bool) -> list[str]:
    """Where a module runs by the rule above, or a test of it that runs `once`, but for PgBouncer."""
    folder = module.__name__.split(".")[1]
    first, *others = BINARIES
    servers = [first, *others] if getattr(module, "EACH_SERVER", folder not in ONCE) and not once else [first]
    return [*servers, "pgbouncer"] if getattr(module, "THROUGH_PGBOUNCER", False) else servers


@pytest.fixture(scope="session")
def _servers() -> Iterator[Servers]:
    with Servers() as servers:
        yield servers


@pytest.fixture(scope="session")
def server(request: pytest.FixtureRequest, _servers: Servers) -> Server:
    return _servers.get(request.param)


@pytest.fixture(scope="session")
def template(server: Server) -> str:
    """The name of a migrated database that nobody is connected to, to be copied."""
    return server.template


@pytest.fixture
def url(server: Server) -> Iterator[str]:
    """The URL of a fresh, migrated database of the test's own, for tests where commits matter."""
    with server.database("test", of=server.template) as name:
        yield server.pooled_url(name)


@pytest.fixture
def direct_url(server: Server, url: str) -> str:
    """The URL of the same database around PgBouncer, for LISTEN."""
    return server.database_url(str(conninfo_to_dict(url)["dbname"]))


@pytest.fixture
def empty_url(server: Server) -> Iterator[str]:
    """The URL of a fresh database that is not migrated."""
    with server.database("empty") as name:
        yield server.database_url(name)


@pytest.fixture
def engine(url: str) -> Iterator[Engine]:
    """An engine on a fresh database on which every statement commits, as the worker's."""
    engine = connect_engine(url, pool_size=20)
    yield engine
    # What a thread that is still at work gives back comes to a pool that nobody closes any more.
    event.listen(engine, "checkin", lambda given_back, _: given_back.close())
    engine.dispose()


@pytest.fixture
def connection(engine: Engine) -> Iterator[Connection]:
    """A connection of that engine."""
    with engine.connect() as connection:
        yield connection


@pytest.fixture(scope="session")
def _shared(server: Server) -> Iterator[Engine]:
    engine = connect_engine(server.database_url(server.shared), isolation_level="READ COMMITTED")
    yield engine
    engine.dispose()


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
    """The SES simulator with an empty ledger, no faults, its own templates, and the configuration set `default`.

    What clients have asked of it that gave up, it does before: it must not meet the faults of this test, nor be in its
    ledger or its queues. Whoever asks later is answered later; a second time, since it takes a moment more until it
    knows that a client is gone.
    """
    for _ in range(2):
        ask(f"{running.url}/_simulator/counts")
    running.reset()
    running.configuration_sets.create("default")
    return running


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[Processes]:
    """Starts `mailroom` commands that end with the test."""
    processes = Processes(tmp_path)
    yield processes
    processes.end()
