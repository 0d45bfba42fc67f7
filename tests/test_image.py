"""What compose.yaml and the Dockerfile run, as far as that can be seen without a container engine."""

import os
import re
import shutil
import signal
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import psycopg
import pytest
import yaml
from psycopg.conninfo import make_conninfo
from sqlalchemy import Engine

from mailroom.demo.postgres import EmbeddedPostgres, wheel_binaries
from mailroom.simulator import Fault, Simulator
from tests.cli.command import Ended, killed_after, run, sending, small_environment
from tests.machine import ROOT
from tests.running import PATIENCE_SECONDS, eventually
from tests.servers import GIVEN
from tests.signalling import NEW_PID_1, child, needs_namespaces
from tests.world import add_accounts, count, misplaced

EACH_SERVER = False

COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text())
SERVICES: dict[str, Any] = COMPOSE["services"]
PASSWORDS = {"OWNER_PASSWORD": "o'wner\\ $1", "MAILER_PASSWORD": 'mail"er; --'}
PROGRAMS = f"{Path(sys.executable).parent}:{wheel_binaries()}:{os.environ['PATH']}"


def pinned(lock: str) -> dict[str, str]:
    """The versions of a lock file, by name; all of it has hashes."""
    text = (ROOT / lock).read_text()
    found = dict(re.findall(r"^([A-Za-z0-9._-]+)==(\S+)", text, re.MULTILINE))
    assert all("--hash=sha256:" in part for part in re.split(r"^(?=\S+==)", text, flags=re.MULTILINE) if part)
    return found


def test_secrets_are_kept_out_of_the_repository_and_the_image() -> None:
    git = shutil.which("git") or "git"
    assert subprocess.run([git, "check-ignore", "-q", ".env"], cwd=ROOT, check=False).returncode == 0
    assert ".env" in (ROOT / ".dockerignore").read_text().splitlines()


def test_every_variable_that_compose_asks_for_is_in_the_example_and_has_no_default() -> None:
    text = (ROOT / "compose.yaml").read_text()
    asked = set(re.findall(r"\$\{([A-Z0-9_]+):\?", text))
    example = re.findall(r"^([A-Z0-9_]+)=(.*)$", (ROOT / ".env.example").read_text(), re.MULTILINE)
    assert asked == {name for name, _ in example}
    assert {value for _, value in example} == {""}
    assert set(re.findall(r"\$\{([A-Z0-9_]+)-", text)) == {"MAILROOM_SES_CONFIG_SET"}


def test_the_image_knows_its_version(tmp_path: Path) -> None:
    dockerfile = (ROOT / "Dockerfile").read_text()
    assert "COPY pyproject.toml .\n" in dockerfile
    (command,) = re.findall(r"^RUN (python -c .*)$", dockerfile, re.MULTILINE)
    done = run(["sh", "-ec", command.replace("/app", str(tmp_path))], env={"PATH": PROGRAMS}, cwd=ROOT)
    assert done.code == 0, done.err
    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    (found,) = metadata.distributions(name="mailroom", path=[str(tmp_path)])
    assert found.version == wanted


@pytest.mark.slow
def test_what_runs_from_a_folder_says_that_it_knows_no_version(tmp_path: Path) -> None:
    """As `version` does where the package is copied: what it depends on is installed, and it is not."""
    hidden = "import importlib.metadata as m; found = m.version; m.version = lambda name: found(f'{name}-never')"
    code = f"{hidden}; import sys; sys.argv = ['mailroom', '--version']; import mailroom.__main__ as it; it.main()"
    ended = run([sys.executable, "-c", code], env={})
    assert (ended.code, ended.out) == (0, "mailroom unknown\n"), ended.err


def test_what_is_in_the_database_outlives_its_container() -> None:
    # The image of PostgreSQL 18 keeps its data below this folder.
    assert SERVICES["database"]["image"] == "postgres:18"
    assert SERVICES["database"]["volumes"] == ["database:/var/lib/postgresql"]
    assert set(COMPOSE["volumes"]) == {"database"}


def test_nobody_sends_as_the_owner_and_nobody_works_as_superuser() -> None:
    users = {name: service["environment"].get("MAILROOM_DATABASE_URL", "") for name, service in SERVICES.items()}
    roles = {name: re.findall(r"user=(\w+)", url) for name, url in users.items()}
    assert roles == {
        "database": [],
        "migrate": ["owner"],
        "grants": ["owner"],
        "worker": ["mailer"],
        "sweep": ["mailer"],
    }
    for name, service in SERVICES.items():
        secrets = {key for key in service["environment"] if "PASSWORD" in key}
        assert name == "database" or secrets == {"PGPASSWORD"}


def test_the_image_installs_what_the_lock_says_and_nothing_else() -> None:
    dockerfile = (ROOT / "Dockerfile").read_text()
    for line in re.findall(r"^.*pip install.*$", dockerfile, re.MULTILINE):
        assert "--require-hashes" in line
    locked, all_locked = pinned("requirements-run.lock"), pinned("requirements.lock")
    assert locked.items() <= all_locked.items()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [
        *project["dependencies"],
        *(one for name in ("otel", "window") for one in project["optional-dependencies"][name]),
    ]
    assert {re.split(r"[<>=\[]", one)[0] for one in wanted} <= locked.keys()
    assert not {"pytest", "playwright", "opentelemetry-sdk", "hatchling"} & locked.keys()


@pytest.fixture
def made() -> Iterator[EmbeddedPostgres]:
    """A server with the roles that the database's container makes."""
    with EmbeddedPostgres() as postgres:
        with psycopg.connect(postgres.url(), autocommit=True) as connection:
            connection.execute("CREATE DATABASE app")
        script = COMPOSE["configs"]["roles.sh"]["content"].replace("$$", "$")
        login = {"PGHOST": "127.0.0.1", "PGPORT": str(postgres.port), "PGPASSWORD": postgres.password}
        done = run(["sh", "-ec", script], env=PASSWORDS | login | {"PATH": PROGRAMS})
        assert done.code == 0, done.err
        yield postgres


@pytest.mark.slow
@pytest.mark.skipif(bool(GIVEN), reason="roles are made for a server of one's own")
def test_the_services_do_their_work_in_their_roles(made: EmbeddedPostgres, simulator: Simulator) -> None:
    def service(name: str, command: list[str]) -> Ended:
        found = SERVICES[name]["environment"]["MAILROOM_DATABASE_URL"]
        password = PASSWORDS[re.sub(r"\W|see.*", "", SERVICES[name]["environment"]["PGPASSWORD"])]
        there = make_conninfo(found, host="127.0.0.1", port=made.port)
        return run(
            [sys.executable, "-m", "mailroom", *command], env=sending(there, simulator) | {"PGPASSWORD": password}
        )

    for name in ("migrate", "grants"):
        ended = service(name, SERVICES[name]["command"])
        assert ended.code == 0, ended.err
    with psycopg.connect(made.url("app"), autocommit=True) as connection:
        add = "INSERT INTO mailroom.accounts (email, login) VALUES ('ada@example.com', 'ada')"
        connection.execute(add)
        assert connection.execute(
            "SELECT rolname FROM pg_roles WHERE rolsuper AND NOT rolname ~ '^pg_'"
        ).fetchall() == [("postgres",)]
    ended = service("sweep", ["sweep"])
    assert ended.code == 0, ended.err
    assert simulator.ledger.counts().mails == 1


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_of_the_sweeps_waits_for_the_call_under_way(
    number: signal.Signals, simulator: Simulator, url: str, engine: Engine
) -> None:
    """The very command of compose.yaml as PID 1: what it leaves behind is killed."""
    needs_namespaces()
    simulator.faults.add(Fault(latency_ms=1500, times=None))
    shell = [part.replace("$$", "$") for part in SERVICES["sweep"]["entrypoint"]]
    environment = small_environment(sending(url, simulator)) | {"PATH": PROGRAMS}
    with engine.connect() as connection:
        add_accounts(connection, 300)
        with killed_after(subprocess.Popen([*NEW_PID_1, *shell], env=environment, cwd=ROOT, text=True)) as process:
            pid = eventually(lambda: child(process.pid), "it is there")
            eventually(lambda: simulator.ledger.counts().mails, "a call is under way")
            os.kill(pid, number)
            assert process.wait(PATIENCE_SECONDS) == 0
        assert count(connection, "batches") == 0
        assert count(connection, "deliveries WHERE outcome = 'sent'") == simulator.ledger.counts().mails < 300
        assert misplaced(connection) == []


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_stop_of_all_at_once_is_one_stop(
    number: signal.Signals, simulator: Simulator, url: str, engine: Engine
) -> None:
    """A terminal and systemd tell each process of a group, and the shell passes on what it was told."""
    simulator.faults.add(Fault(latency_ms=1500, times=None))
    shell = [part.replace("$$", "$") for part in SERVICES["sweep"]["entrypoint"]]
    environment = small_environment(sending(url, simulator)) | {"PATH": PROGRAMS}
    group = subprocess.Popen(shell, env=environment, cwd=ROOT, text=True, start_new_session=True)
    with engine.connect() as connection, killed_after(group) as process:
        add_accounts(connection, 300)
        eventually(lambda: simulator.ledger.counts().mails, "a call is under way")
        os.killpg(process.pid, number)
        assert process.wait(PATIENCE_SECONDS) == 0
        assert count(connection, "batches") == 0
        assert count(connection, "deliveries WHERE outcome = 'sent'") == simulator.ledger.counts().mails < 300
        assert misplaced(connection) == []
