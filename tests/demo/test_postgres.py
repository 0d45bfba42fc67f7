"""The embedded server: nobody else gets in, nothing of ours is in another's folder, and it ends with us."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from mailroom.demo.postgres import EmbeddedPostgres
from mailroom.errors import MailroomError
from tests.machine import missing
from tests.running import eventually
from tests.servers import BINARIES, GIVEN

pytestmark = pytest.mark.skipif(bool(GIVEN), reason="a server was given")

HOLD = """
from mailroom.demo.postgres import EmbeddedPostgres
with EmbeddedPostgres() as postgres:
    print(postgres.pid, postgres.log.parent, flush=True)
    input()
"""


@pytest.fixture(scope="module", params=list(BINARIES))
def pg(request: pytest.FixtureRequest) -> Iterator[EmbeddedPostgres]:
    binaries = BINARIES[request.param]
    if binaries is not None and not binaries.exists():
        missing(f"Debian's PostgreSQL in {binaries}")
    with EmbeddedPostgres(binaries) as postgres:
        yield postgres


def processes_saying(words: str) -> list[str]:
    """The command lines of this machine with these words in them."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            line = (process / "cmdline").read_text()
        except OSError:  # gone meanwhile
            continue
        if words in line:
            found.append(line)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("password", ["", "postgres", "guessed"])
def test_only_the_password_lets_in(pg: EmbeddedPostgres, password: str) -> None:
    with pytest.raises(psycopg.OperationalError, match=r"password|no password supplied"):
        psycopg.connect(make_conninfo(pg.url(), password=password))
    with psycopg.connect(pg.url()) as connection:
        ways = connection.execute("SELECT DISTINCT auth_method FROM pg_hba_file_rules").fetchall()
        sockets = connection.execute("SHOW unix_socket_directories").fetchone()
    assert ways == [("scram-sha-256",)]
    assert sockets == ("",)


def test_no_command_line_shows_the_password(pg: EmbeddedPostgres) -> None:
    assert processes_saying(str(pg.log.parent))
    assert processes_saying(pg.password) == []
    assert [file for file in pg.log.parent.iterdir() if file.is_file() and pg.password in file.read_text()] == []


def test_what_we_write_and_read_is_in_a_folder_of_ours(pg: EmbeddedPostgres, tmp_path: Path) -> None:
    """The data is `nobody`'s, who may fill it with links; root must not follow them."""
    ours = tmp_path / "ours"
    ours.write_text("untouched")
    folder = pg.log.parent
    for owned in (folder, *(file for file in folder.iterdir() if file.is_file())):
        assert owned.stat().st_uid == os.geteuid()
        assert owned.stat().st_mode & 0o066 == 0
    pid = pg.pid
    for name in ("output", "log", "password"):
        (folder / "data" / name).symlink_to(ours)
    (folder / "data" / "postmaster.pid").write_text("1\n")
    assert pg.pid == pid
    pg.stop()
    (folder / "data" / "postmaster.pid").unlink(missing_ok=True)
    pg.start()
    pg.run("pg_ctl", "status")
    assert ours.read_text() == "untouched"


def test_it_can_be_stopped_and_started(pg: EmbeddedPostgres) -> None:
    pg.stop("immediate")
    with pytest.raises(MailroomError, match="does not run"):
        pg.stop()
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(pg.url())
    pg.start()
    psycopg.connect(pg.url()).close()


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGHUP])
def test_it_ends_with_the_process_that_started_it_however_that_ends(number: signal.Signals) -> None:
    holder = subprocess.Popen([sys.executable, "-c", HOLD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    pid, folder = holder.stdout.readline().split()
    with holder:
        holder.send_signal(number)
    eventually(lambda: not Path(f"/proc/{pid}").exists(), "the server ends")
    eventually(lambda: not [*Path(folder).glob("data/*")], "its data is gone")
    shutil.rmtree(folder, ignore_errors=True)
