"""The commands as a shell starts them, and words to wait for what they do."""

import contextlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Engine

from mailroom.simulator import Simulator
from tests.forked import Forked, can_run
from tests.world import KEY_HEX, add_accounts

MAILROOM = [sys.executable, "-W", "error", "-m", "mailroom"]
NO_AWS = {
    "AWS_EC2_METADATA_DISABLED": "true",
    "AWS_CONFIG_FILE": "/dev/null",
    "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
}
# A command of its own reads a thousand files before it begins, beside five others.
PATIENCE_SECONDS = 100


@dataclass(frozen=True, slots=True)
class Ended:
    """How a command ended, and what it said."""

    code: int
    out: str
    err: str

    def assert_one_line(self, code: int, *words: str) -> None:
        """It ended with this code, and with one line that holds these words."""
        assert (self.code, self.out, self.err.count("\n")) == (code, "", 1), self
        assert self.err.startswith("mailroom: ")
        for word in words:
            assert word in self.err


def aws(ses: Simulator) -> dict[str, str]:
    """The variables that point boto3 at a simulator."""
    return NO_AWS | {
        "AWS_ENDPOINT_URL_SESV2": ses.url,
        "AWS_REGION": "us-east-1",
        "AWS_ACCESS_KEY_ID": "nobody",
        "AWS_SECRET_ACCESS_KEY": "nothing",
    }


def sending(url: str | None, ses: Simulator) -> dict[str, str]:
    """All that a command needs to send at once, and to look again soon."""
    return {
        **({} if url is None else {"MAILROOM_DATABASE_URL": url}),
        "MAILROOM_SECRET_KEY": KEY_HEX,
        "MAILROOM_BATCH_TIMEOUT": "0",
        "MAILROOM_SES_BULK_RATE": "unlimited",
        "MAILROOM_SWEEP_INTERVAL": "50",
        **aws(ses),
    }


def small_environment(variables: dict[str, str]) -> dict[str, str]:
    """What every program needs, and nothing that this shell happens to export."""
    return {"PATH": os.environ["PATH"], "LANG": "C.UTF-8", **variables}


def start(*arguments: str, env: dict[str, str], **more: Any) -> "subprocess.Popen[str]":
    """Start a command; its output comes through pipes."""
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | more
    return subprocess.Popen([*MAILROOM, *arguments], env=small_environment(env), text=True, **streams)


@contextlib.contextmanager
def killed_after(process: "subprocess.Popen[str]") -> Iterator["subprocess.Popen[str]"]:
    """Make sure that it is gone, however the test went."""
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def run(command: Sequence[str], *, env: dict[str, str], **more: Any) -> Ended:
    """Run a program to its end."""
    if command[: len(MAILROOM)] == MAILROOM and not more and can_run(env):
        return _run_forked(command[len(MAILROOM) :], small_environment(env))
    done = subprocess.run(
        command,
        env=small_environment(env),
        capture_output=True,
        text=True,
        timeout=2 * PATIENCE_SECONDS,
        check=False,
        **more,
    )
    return Ended(done.returncode, done.stdout, done.stderr)


def _run_forked(arguments: Sequence[str], environment: dict[str, str]) -> Ended:
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err, open(os.devnull) as nothing:
        streams = (nothing.fileno(), out.fileno(), err.fileno())
        process = Forked(arguments, environment, streams=streams, strict=True)
        try:
            code = process.wait(2 * PATIENCE_SECONDS)
        finally:
            process.kill()
        out.seek(0)
        err.seek(0)
        return Ended(code, out.read(), err.read())


def end(process: "subprocess.Popen[str]") -> Ended:
    """Wait for a command to end."""
    out, err = process.communicate(timeout=PATIENCE_SECONDS)
    return Ended(process.returncode, out, err)


def add(engine: Engine, count: int, prefix: str = "user") -> list[int]:
    """Let so many people sign up; return the accounts."""
    with engine.connect() as connection:
        return add_accounts(connection, count, prefix=prefix)
