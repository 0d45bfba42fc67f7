"""One release works on the database of the next: migrate first, then replace workers one by one.

This release is the wheel of this checkout. The next is that of a copy, changed as a release may be: a migration adds
columns, and a function whose result has changed has a new name, beside the one that the release before goes on calling.
"""

import contextlib
import itertools
import re
import shutil
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, text

from mailroom.db.engine import CONTRACT
from mailroom.simulator import Simulator
from tests.cli.command import MAILROOM, Ended, run, sending
from tests.db.migrating import HEAD, connected, objects
from tests.machine import ROOT
from tests.running import Process, Processes, eventually
from tests.servers import UNLIMITED
from tests.wheels import install
from tests.world import add_accounts, ask_recovery, count, count_sent, drained, misplaced, rows

# What is asked is which of our releases is refused, and by which names it calls; migrations run on each in db.
EACH_SERVER = False

pytestmark = [pytest.mark.slow, pytest.mark.early]

MIGRATION = f'''
"""Made up: more is kept of each job and of each delivery."""
from alembic import op
revision, down_revision = "9999", {HEAD!r}
def upgrade():
    op.execute("ALTER TABLE jobs ADD later integer NOT NULL DEFAULT 0")
    op.execute("ALTER TABLE deliveries ADD later text NOT NULL DEFAULT 'none'")
def downgrade():
    op.execute("ALTER TABLE deliveries DROP later; ALTER TABLE jobs DROP later")
'''
# The version of the functions that the next release calls, and how contract() says which versions a database has.
NEXT = CONTRACT + 1
SUPPORTED = r"SELECT \d+, \d+"


@dataclass(frozen=True, slots=True)
class Release:
    """A wheel, unpacked: it is imported in place of the checkout, which is installed here and is where tests run."""

    installed: Path

    @property
    def environment(self) -> dict[str, str]:
        return {"PYTHONPATH": str(self.installed), "PYTHONSAFEPATH": "1"}

    def run(self, *arguments: str, url: str, simulator: Simulator) -> Ended:
        return run([*MAILROOM, *arguments], env=sending(url, simulator) | self.environment)

    def start(self, processes: Processes, *arguments: str, url: str, simulator: Simulator) -> Process:
        return processes.start(*arguments, url=url, simulator=simulator, **self.environment)

    def worker(self, processes: Processes, *, url: str, simulator: Simulator) -> Process:
        return processes.worker(url=url, simulator=simulator, **self.environment)


def change(file: Path, pattern: str, replacement: str) -> None:
    changed, times = re.subn(pattern, replacement, file.read_text(encoding="utf-8"))
    assert times > 0, f"{file} has no {pattern}"
    file.write_text(changed, encoding="utf-8")


def make_next(checkout: Path) -> None:
    """Make the next release of a copy of this one."""
    (checkout / "alembic" / "versions" / "9999_later.py").write_text(MIGRATION, encoding="utf-8")
    change(checkout / "pyproject.toml", r'(?m)^version = ".*"', 'version = "99.0.0"')
    change(checkout / "mailroom" / "db" / "engine.py", r"CONTRACT: Final = \d+", f"CONTRACT: Final = {NEXT}")
    sql = checkout / "mailroom" / "sql"
    change(sql / "contract.sql", SUPPORTED, f"SELECT {CONTRACT}, {NEXT}")
    shutil.copy(sql / "claim.sql", sql / "claim_2.sql")
    change(sql / "claim_2.sql", r"mailroom\.claim\(", "mailroom.claim_2(")
    change(sql / "claim_2.sql", r"\bclaim\.(?=\w)", "claim_2.")
    change(sql / "claim_2.sql", r"others boolean\n", "others boolean, later integer\n")
    change(sql / "claim_2.sql", r"lane\.others\n", "lane.others, 2\n")
    change(checkout / "mailroom" / "queue" / "claim.py", r'"claim"', '"claim_2"')
    change(checkout / "mailroom" / "queue" / "claim.py", r"others: bool\n\n", "others: bool\n    later: int\n\n")
    change(checkout / "mailroom" / "ops" / "grants.py", r'"claim", ', '"claim_2", ')


@pytest.fixture(scope="module")
def this(tmp_path_factory: pytest.TempPathFactory) -> Release:
    return Release(install(ROOT, tmp_path_factory.mktemp("this")))


@pytest.fixture(scope="module")
def following(tmp_path_factory: pytest.TempPathFactory) -> Release:
    """The next release."""
    folder = tmp_path_factory.mktemp("next")
    checkout = folder / "checkout"
    for part in ("mailroom", "alembic"):
        shutil.copytree(ROOT / part, checkout / part, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, checkout)
    make_next(checkout)
    return Release(install(checkout, folder))


def ask(connection: Connection, prefix: str, each: int = 50) -> None:
    """Let so many people sign up, and as many others forget their passwords."""
    add_accounts(connection, each, prefix=prefix)
    for account in add_accounts(connection, each, status="active", prefix=f"{prefix}-active"):
        ask_recovery(connection, account)


def send_all(connection: Connection, prefix: str) -> None:
    ask(connection, prefix)
    eventually(lambda: drained(connection), f"all of {prefix} has left")


def stop(worker: Process) -> None:
    worker.signal(signal.SIGTERM)
    assert worker.wait() == 0, worker.log.read_text()


def sent_by(worker: Process) -> int:
    """How many mails a worker says that it has sent; all of them once it has stopped."""
    return sum(map(int, re.findall(r"batch id=.* sent=(\d+)", worker.log.read_text())))


def functions_of(connection: Connection) -> list[Any]:
    source = "SELECT proname, prosrc FROM pg_proc WHERE pronamespace = CAST('mailroom' AS regnamespace) ORDER BY 1, 2"
    return rows(connection, source)


def test_what_runs_is_the_wheel(this: Release, following: Release, tmp_path: Path) -> None:
    for release, contract in ((this, CONTRACT), (following, NEXT)):
        where = "import mailroom.db.engine as engine; print(engine.__file__, engine.CONTRACT)"
        ended = run([*MAILROOM[:1], "-c", where], env=release.environment, cwd=ROOT)
        assert ended.out == f"{release.installed / 'mailroom' / 'db' / 'engine.py'} {contract}\n", ended.err


def test_workers_of_two_releases_send_beside_each_other(
    this: Release, following: Release, empty_url: str, simulator: Simulator, processes: Processes
) -> None:
    use: Any = {"url": empty_url, "simulator": simulator}
    assert this.run("migrate", **use).code == 0
    with connected(empty_url) as connection:
        connection.execute(text(UNLIMITED))
        before = this.worker(processes, **use)
        send_all(connection, "before")

        migrating = following.start(processes, "migrate", **use)
        for n in itertools.count():
            ask(connection, f"meanwhile{n}", 1)
            with contextlib.suppress(subprocess.TimeoutExpired):
                assert migrating.wait(0.02) == 0, migrating.log.read_text()
                break
        assert migrating.says("the database is at revision 9999")
        send_all(connection, "migrated")

        after = following.worker(processes, **use)
        send_all(connection, "both")
        stop(before)
        send_all(connection, "after")
        late = this.worker(processes, **use)  # as where one is started again that is not replaced yet
        stop(after)
        send_all(connection, "late")
        stop(late)

        assert misplaced(connection) == []
        sent = count_sent(connection)
        assert sent == count(connection, "tokens")
    counts = simulator.ledger.counts()
    assert (counts.mails, counts.duplicates) == (sent, 0)
    each = [sent_by(worker) for worker in (before, after, late)]
    assert min(each) >= 100, each
    assert sum(each) == sent
    for word in ("ERROR", "CRITICAL", "Traceback"):
        assert word not in processes.logs()


def test_a_release_is_refused_on_a_database_that_is_not_migrated_for_it(
    following: Release, url: str, simulator: Simulator
) -> None:
    ended = following.run("worker", url=url, simulator=simulator)
    ended.assert_one_line(1, "an older release", "run `mailroom migrate` of this one")


def test_a_release_is_refused_on_the_database_of_the_next_but_one(
    this: Release, following: Release, url: str, simulator: Simulator
) -> None:
    """That of the next has what this one calls; the one after it takes that away."""
    use: Any = {"url": url, "simulator": simulator}
    assert following.run("migrate", **use).code == 0
    assert this.run("sweep", **use).code == 0
    with connected(url) as connection:
        [(contract,)] = rows(connection, "SELECT pg_get_functiondef(CAST(to_regproc('contract') AS oid))")
        connection.exec_driver_sql(re.sub(SUPPORTED, f"SELECT {NEXT}, {NEXT + 1}", contract))
        connection.execute(text("DROP FUNCTION claim"))
        this.run("worker", **use).assert_one_line(1, "newer releases of mailroom: install one of those here")
        ask(connection, "new")
        assert following.run("sweep", **use).code == 0
        assert drained(connection)
        assert (count_sent(connection), misplaced(connection)) == (100, [])


def test_a_migration_is_not_undone_by_the_release_before(
    this: Release, following: Release, url: str, simulator: Simulator, processes: Processes
) -> None:
    use: Any = {"url": url, "simulator": simulator}
    assert following.run("migrate", **use).code == 0
    with connected(url) as connection:
        before = objects(url), functions_of(connection)
        worker = following.worker(processes, **use)
        ended = this.run("migrate", **use)
        assert (ended.code, ended.out) == (1, "")
        *log, said = ended.err.splitlines()
        assert said == "mailroom: the database cannot be migrated: Can't locate revision identified by '9999'"
        assert {line.split()[1] for line in log} == {"INFO"}
        assert (objects(url), functions_of(connection)) == before
        send_all(connection, "new")
        stop(worker)
        assert sent_by(worker) == count_sent(connection) == 100
