"""The PostgreSQL servers of the tests, and databases on them: copies of one that is migrated once."""

import base64
import contextlib
import functools
import hashlib
import hmac
import itertools
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import psycopg
from alembic import command
from alembic.config import Config
from psycopg.conninfo import make_conninfo
from sqlalchemy import text

from mailroom.db.engine import connect_engine, connection_string
from mailroom.db.namespace import DEFAULT_SCHEMA, quoted
from mailroom.demo.postgres import EmbeddedPostgres
from tests import pgbouncer
from tests.machine import ROOT, missing

GIVEN: Final = os.environ.get("MAILROOM_TEST_DATABASE_URL")
BINARIES: Final = {"pg18": None, "pg15": Path("/usr/lib/postgresql/15/bin")}
SETTINGS: Final = {
    "fsync": "off",
    "full_page_writes": "off",
    "max_connections": "200",
    "log_lock_waits": "on",
    "max_wal_size": "128MB",  # it is in memory
}
MEMORY: Final = "/dev/shm"
ENOUGH_MEMORY: Final = 4 * 2**30
# The server is there, and answers each who comes; how soon, where fifty come at once, is a matter of the machine.
CONNECT_SECONDS: Final = 60

# Where tests look that write SQL by hand; mailroom looks at no path.
TESTS_PATH: Final = f"{DEFAULT_SCHEMA}, public"

# As if SES had said for ever that the account has no limits; tests of the rate say otherwise.
UNLIMITED: Final = (
    "UPDATE ses_account SET fetched_at = now(), refresh_due_at = 'infinity', max_send_rate = -1, max_24_hour_send = -1,"
    " sent_last_24_hours = 0, sending_enabled = true, production_access = true, enforcement = 'HEALTHY'"
)

_numbers = itertools.count()


class Server:
    """A server to make databases on. `embedded` is None where the server was given, and cannot be stopped.

    `pooler_port` is that of a PgBouncer in front of it, where tests are to go through one.
    """

    def __init__(self, url: str, embedded: EmbeddedPostgres | None, pooler_port: int | None = None) -> None:
        self.url = url
        self.embedded = embedded
        self.pooler_port = pooler_port
        self._kept = contextlib.ExitStack()
        self._owner = connect_engine(url)
        self._templates: dict[str, str] = {}

    def __enter__(self) -> "Server":
        return self

    def __exit__(self, *_: object) -> None:
        self._kept.close()
        self._owner.dispose()

    def database_url(self, name: str) -> str:
        return make_conninfo(connection_string(self.url), dbname=name, connect_timeout=CONNECT_SECONDS)

    def pooled_url(self, name: str) -> str:
        """The same through PgBouncer, if there is one."""
        url = self.database_url(name)
        return make_conninfo(url, port=self.pooler_port) if self.pooler_port else url

    def execute(self, statement: str) -> None:
        with self._owner.connect() as connection:
            connection.execute(text(statement))

    @contextlib.contextmanager
    def database(self, kind: str, *, of: str | None = None) -> Iterator[str]:
        """A database with a name of its own: empty, or a copy of one that nobody is connected to."""
        name = f"mailroom_{kind}_{os.getpid()}_{next(_numbers)}"
        # Copied file by file, and not by way of the log: that takes half the time where nothing is flushed.
        self.execute(f"CREATE DATABASE {name}" + (f" TEMPLATE {of} STRATEGY file_copy" if of else ""))
        self.execute(f"ALTER DATABASE {name} SET search_path = {TESTS_PATH}")  # it is not copied
        try:
            yield name
        finally:
            self.execute(f"DROP DATABASE {name} WITH (FORCE)")

    @property
    def template(self) -> str:
        """The name of a migrated database that nobody is connected to, to be copied. It is there until the end."""
        return self.migrated()

    def migrated(self, schema: str = DEFAULT_SCHEMA) -> str:
        """The name of such a database with mailroom in that schema."""
        if schema not in self._templates:
            name = self._kept.enter_context(self.database("template"))
            migrate(self.database_url(name), schema=schema)
            with psycopg.connect(self.database_url(name), autocommit=True) as connection:
                connection.execute(f"SET search_path = {quoted(schema)}".encode())
                connection.execute(UNLIMITED.encode())
            # What the first session has to gather about a database is copied with it from now on.
            psycopg.connect(self.database_url(name)).close()
            self._templates[schema] = name
        return self._templates[schema]

    @functools.cached_property
    def shared(self) -> str:
        """The name of a copy of it, for tests that leave it as it was. It is there until the end."""
        return self._kept.enter_context(self.database("shared", of=self.template))


class Servers:
    """Starts each server when a test first asks for it; all of them end with this."""

    def __init__(self) -> None:
        self._kept = contextlib.ExitStack()
        self._started: dict[str, Server] = {}

    def __enter__(self) -> "Servers":
        return self

    def __exit__(self, *_: object) -> None:
        self._kept.close()

    def get(self, name: str) -> Server:
        """The one of this name in BINARIES, or the one that was `given`; as `pgbouncer` the first through PgBouncer."""
        if name not in self._started:
            self._started[name] = self._kept.enter_context(self._start(name))
        return self._started[name]

    def _start(self, name: str) -> Server:
        if GIVEN:
            return Server(GIVEN, None)
        if name == "pgbouncer":
            return self._pooled(self.get("pg18").embedded)
        binaries = BINARIES[name]
        if binaries is not None and not binaries.exists():
            missing(f"Debian's PostgreSQL in {binaries}")
        with in_memory():
            postgres = EmbeddedPostgres(binaries, settings=SETTINGS)
        return Server(quick_to_log_in(self._kept.enter_context(postgres)), postgres)

    def _pooled(self, postgres: EmbeddedPostgres | None) -> Server:
        assert postgres is not None
        if not pgbouncer.PROGRAM.exists():
            missing(f"Debian's PgBouncer, {pgbouncer.PROGRAM}")
        pooler = self._kept.enter_context(pgbouncer.PgBouncer(postgres))
        return Server(postgres.url(), postgres, pooler.port)


def migrate(url: str, revision: str = "head", *, schema: str = DEFAULT_SCHEMA) -> None:
    """Run `alembic upgrade` on a schema of a database, or `downgrade` to `base`."""
    engine = connect_engine(url, schema=schema, isolation_level="READ COMMITTED")
    config = Config(str(ROOT / "alembic.ini"))
    try:
        with engine.connect() as connection:
            config.attributes["connection"] = connection
            (command.downgrade if revision == "base" else command.upgrade)(config, revision)
    finally:
        engine.dispose()


@contextlib.contextmanager
def in_memory() -> Iterator[None]:
    """Let temporary folders be made in memory, if it has room: a database is hundreds of files, a test long."""
    before = tempfile.tempdir
    with contextlib.suppress(FileNotFoundError):
        memory = os.statvfs(MEMORY)
        programs_run = not memory.f_flag & os.ST_NOEXEC  # they may have to be copied there, too
        if programs_run and memory.f_bavail * memory.f_frsize >= ENOUGH_MEMORY and os.access(MEMORY, os.W_OK):
            tempfile.tempdir = MEMORY
    try:
        yield
    finally:
        tempfile.tempdir = before


def quick_to_log_in(postgres: EmbeddedPostgres) -> str:
    """Return its URL, once a password is no longer hashed thousands of times at each log-in.

    What a server keeps of a password says how often; before PostgreSQL 16 no setting does.
    """
    with psycopg.connect(postgres.url(), autocommit=True) as owner:
        owner.execute(f"ALTER ROLE CURRENT_USER PASSWORD '{hashed_once(postgres.password)}'".encode())
        if owner.info.server_version >= 16_00_00:
            owner.execute("ALTER SYSTEM SET scram_iterations = 1")
            owner.execute("SELECT pg_reload_conf()")
    return postgres.url()


def hashed_once(password: str) -> str:
    """Return what a server keeps of an ASCII password (RFC 5803), for one round of hashing."""
    salt = os.urandom(16)
    salted = hashlib.pbkdf2_hmac("sha256", password.encode("ascii"), salt, 1)
    client, server = (hmac.digest(salted, word, "sha256") for word in (b"Client Key", b"Server Key"))
    kept = (salt, hashlib.sha256(client).digest(), server)
    salt_word, stored_key, server_key = (base64.b64encode(part).decode() for part in kept)
    return f"SCRAM-SHA-256$1:{salt_word}${stored_key}:{server_key}"
