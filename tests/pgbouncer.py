"""A real PgBouncer, in transaction mode unless asked, in front of a server, for its superuser with that password."""

import contextlib
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Self

from psycopg.conninfo import make_conninfo

from mailroom.demo.postgres import EmbeddedPostgres, free_port
from tests.running import eventually

PROGRAM = Path("/usr/sbin/pgbouncer")

SETTINGS = """
[databases]
* = host=127.0.0.1 port={target}

[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
pool_mode = {mode}
auth_type = scram-sha-256
max_client_conn = 500
default_pool_size = 5
server_reset_query =
server_login_retry = 1
"""


class PgBouncer:
    """Pools connections to any database of the server on a port. Its sessions change hands between transactions."""

    def __init__(self, target: EmbeddedPostgres, *, mode: str = "transaction") -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="mailroom-pgbouncer-"))
        self.port = free_port()
        settings = SETTINGS.format(target=target.port, port=self.port, mode=mode)
        users = self._folder / "users"
        users.touch(mode=0o600)
        users.write_text(f'"postgres" "{target.password}"\n')
        self._ini = self._folder / "pgbouncer.ini"
        self._ini.write_text(f"{settings}auth_file = {users}\nlogfile = {self._folder / 'log'}\n")

    def __enter__(self) -> Self:
        self._start()
        return self

    def url(self, direct: str) -> str:
        """The URL through it to the database of a direct URL."""
        return make_conninfo(direct, port=self.port)

    def restart(self) -> None:
        """Kill it, with all its connections, and start it anew on the same port."""
        self._process.kill()
        self._process.wait()
        self._start()

    def _start(self) -> None:
        account = []
        if os.geteuid() == 0:  # it refuses to be root
            nobody = pwd.getpwnam("nobody")
            for path in (self._folder, *self._folder.iterdir()):
                os.chown(path, nobody.pw_uid, nobody.pw_gid)
            account = ["-u", "nobody"]
        with (self._folder / "output").open("w") as out:
            self._process = subprocess.Popen([PROGRAM, *account, self._ini], stdout=out, stderr=out)
        eventually(self._listens, "it takes connections")

    def _listens(self) -> bool:
        assert self._process.poll() is None, (self._folder / "output").read_text()
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=1):
            return True
        return False

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self._process.terminate()
        self._process.wait()
        shutil.rmtree(self._folder, ignore_errors=True)
