"""What a command loads. boto3 takes a third of a second and 17 MB: only a command that asks AWS has it."""

import re
import signal
import subprocess
import sys

import pytest
from sqlalchemy import Engine

from mailroom.simulator import Simulator
from tests.cli.command import Ended, end, killed_after, run, sending, small_environment
from tests.machine import ROOT
from tests.running import eventually
from tests.world import add_accounts, count

# Runs a command that fails where it loads what is not for it.
PROGRAM = """
import sys

class Refusing:
    def find_spec(self, name, path=None, target=None):
        assert not f"{{name}}.".startswith({refused}), f"it loads {{name}}"

sys.meta_path.insert(0, Refusing())
sys.argv = ["mailroom", *{arguments}]
from mailroom.__main__ import main
main()
"""
# Runs a command, and tells how many modules it has loaded by its end.
COUNTING = """
import atexit, sys

before = len(sys.modules)
atexit.register(lambda: print("loaded", len(sys.modules) - before, file=sys.stderr))
sys.argv = ["mailroom", *{arguments}]
from mailroom.__main__ import main
main()
"""
# How many modules each loaded when this was written (on Python 3.11, with what `requirements.lock` pins). It may be 5 %
# more; what is worth its time at each start may raise this.
LOADED = {"--help": 675, "status": 622, "worker": 856}
MORE = 1.05
OF_AWS = {"boto3", "botocore"}
OF_THE_WINDOW = {"starlette", "uvicorn", "jinja2", "prometheus_client"}
# What looks, checks and changes, each for a person who asks for it.
OF_OTHERS = {"mailroom.cli.jobs", "mailroom.ops.status", "mailroom.ops.doctor", "mailroom.templates", "mailroom.window"}
OF_OTHERS |= {"mailroom.ses.doctor", "mailroom.ses.event_doctor", "mailroom.ses.templates"}
COMMANDS = [
    "status --json",
    "jobs list",
    "suppressions release ada@example.com --here",
    "templates list",
    "tokens sign 1",
    "sweep",
]


def loading(arguments: str, refused: set[str]) -> list[str]:
    begins = tuple(f"{name}." for name in refused)
    program = PROGRAM.format(refused=begins, arguments=arguments.split())
    return [sys.executable, "-c", program]


@pytest.mark.slow
@pytest.mark.parametrize("arguments", COMMANDS)
def test_a_command_that_does_not_send_loads_nothing_of_aws_and_nothing_of_the_window(
    ses: Simulator, url: str, engine: Engine, arguments: str
) -> None:
    """A sweep sends, but not where it only prints."""
    with engine.connect() as connection:
        add_accounts(connection, 1)
    env = sending(url, ses) | {"MAILROOM_DEBUG": "true"}
    ended = run(loading(arguments, OF_AWS | OF_THE_WINDOW | {"alembic"}), env=env, cwd=ROOT)
    assert ended.code == 0, ended.err


@pytest.mark.slow
def test_a_migration_loads_nothing_of_aws(ses: Simulator, empty_url: str) -> None:
    ended = run(loading("migrate", OF_AWS | OF_THE_WINDOW), env=sending(empty_url, ses), cwd=ROOT)
    assert ended.code == 0, ended.err


@pytest.mark.slow
def test_what_sends_loads_nothing_of_other_commands(ses: Simulator, url: str, engine: Engine) -> None:
    """A worker would keep it for ever."""
    with engine.connect() as connection:
        add_accounts(connection, 1)
    ended = run(loading("sweep", {"rich", "alembic"} | OF_THE_WINDOW | OF_OTHERS), env=sending(url, ses), cwd=ROOT)
    assert ended.code == 0, ended.err


@pytest.mark.slow
def test_what_is_loaded_all_the_same_is_noticed(ses: Simulator, url: str) -> None:
    ended = run(loading("sweep", OF_AWS), env=sending(url, ses), cwd=ROOT)
    assert ended.code == 1
    assert "it loads boto" in ended.err


def counting(arguments: str) -> list[str]:
    return [sys.executable, "-c", COUNTING.format(arguments=arguments.split())]


def loaded(ended: Ended) -> int:
    assert ended.code == 0, ended
    [number] = re.findall(r"^loaded (\d+)$", ended.err, re.MULTILINE)
    return int(number)


@pytest.mark.slow
@pytest.mark.parametrize("arguments", ["--help", "status"])
def test_a_command_loads_no_more_than_it_did(ses: Simulator, url: str, engine: Engine, arguments: str) -> None:
    """So that nobody waits longer for it, without a reason that somebody has weighed."""
    with engine.connect() as connection:
        add_accounts(connection, 1)
    assert loaded(run(counting(arguments), env=sending(url, ses), cwd=ROOT)) <= MORE * LOADED[arguments]


@pytest.mark.slow
def test_an_idle_worker_loads_no_more_than_it_did(ses: Simulator, url: str, engine: Engine) -> None:
    """By when it has looked, cared for the queue and counted, as it does again and again."""
    environment = small_environment(sending(url, ses))
    process = subprocess.Popen(
        counting("worker"), env=environment, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    with killed_after(process), engine.connect() as connection:
        eventually(lambda: count(connection, "readings WHERE read_at IS NOT NULL"), "it has counted")
        process.send_signal(signal.SIGTERM)
        ended = end(process)
    assert loaded(ended) <= MORE * LOADED["worker"]
