"""Standard streams that take nothing, are closed, or belong to a terminal that obeys what it is shown."""

import contextlib
import logging
import os
import shlex
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine, text

from mailroom.cli import log
from mailroom.cli.log import MAX_WAITING, LogWriter, OneLine
from mailroom.simulator import Simulator
from tests.cli.command import MAILROOM, PATIENCE_SECONDS, Ended, end, killed_after, run, sending, start
from tests.cli.conftest import Here
from tests.running import eventually
from tests.world import add_accounts, count, drained, misplaced, rows

PRINTING = ["status", "status --json", "jobs list", "jobs list --json", "jobs show 1", "pause account", "doctor"]
ESCAPES = "\x1b[31mred\x1b]0;owned\x07\r\n\x9b2J"
UNBROKEN = ESCAPES.replace("\r\n", "")  # a name of a queue has no blanks


@contextlib.contextmanager
def stalled_pipe() -> Iterator[tuple[int, int]]:
    """A pipe that is full, with a reader that does not read."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(writer, b"." * 512)
    os.set_blocking(writer, True)
    yield reader, writer
    os.close(reader)
    os.close(writer)


def closing(redirection: str, command: str, env: dict[str, str]) -> Ended:
    return run(["bash", "-c", f"exec {shlex.join(MAILROOM)} {command} {redirection}"], env=env)


@pytest.mark.slow
def test_a_log_that_nobody_reads_holds_up_no_mail_and_no_stop(ses: Simulator, url: str, engine: Engine) -> None:
    with engine.connect() as connection, stalled_pipe() as (_, full):
        add_accounts(connection, 3)
        with killed_after(start("worker", env=sending(url, ses), stdout=None, stderr=full)) as worker:
            eventually(lambda: drained(connection), "the mails leave")
            worker.send_signal(signal.SIGTERM)
            assert worker.wait(PATIENCE_SECONDS) == 0
        assert ses.ledger.counts().mails == 3


@pytest.mark.slow
def test_nor_does_an_error_that_nobody_reads(ses: Simulator) -> None:
    with stalled_pipe() as (_, full), killed_after(start("status", env={}, stdout=None, stderr=full)) as status:
        assert status.wait(PATIENCE_SECONDS) == 2


def test_lines_that_are_not_taken_are_dropped_and_counted() -> None:
    with stalled_pipe() as (reader, full):
        writer = LogWriter(full)
        record = logging.makeLogRecord({"msg": "a line"})
        writer.handle(record)
        eventually(writer._waiting.empty, "the writer is stuck with it")
        for _ in range(MAX_WAITING + 5):
            writer.handle(record)
        with open(reader, closefd=False) as lines:
            said = [next(lines) for _ in range(MAX_WAITING + 2)]
    assert [line for line in said if "a line" not in line] == ["log lines dropped=5: nobody took them in time\n"]


def test_an_orderly_end_leaves_no_line_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log, "LAST_LINES_SECONDS", 60.0)  # whoever writes them may stand still for a while
    reader, writer = os.pipe()
    handler = LogWriter(writer)
    for number in range(100):
        handler.handle(logging.makeLogRecord({"msg": f"line {number}"}))
    handler.flush()
    os.close(writer)
    with open(reader) as lines:
        assert lines.read().splitlines() == [f"line {number}" for number in range(100)]


def test_an_event_is_a_line_whatever_its_words_hold() -> None:
    formatted = OneLine("%(message)s").format(logging.makeLogRecord({"msg": ESCAPES}))
    assert formatted.isprintable()


@pytest.mark.slow
@pytest.mark.parametrize("command", [*PRINTING, "--help", "worker --help"])
def test_a_full_disk_is_said_in_one_line(ses: Simulator, url: str, engine: Engine, command: str) -> None:
    with engine.connect() as connection:
        add_accounts(connection, 1)
    with Path("/dev/full").open("w") as full:
        ended = end(start(*command.split(), env=sending(url, ses), stdout=full))
    Ended(ended.code, "", ended.err).assert_one_line(1, "No space left on device")


@pytest.mark.slow
@pytest.mark.parametrize("command", PRINTING)
def test_so_is_a_reader_that_is_gone(ses: Simulator, url: str, engine: Engine, command: str) -> None:
    with engine.connect() as connection:
        add_accounts(connection, 1)
    reader, writer = os.pipe()
    os.close(reader)
    process = start(*command.split(), env=sending(url, ses), stdout=writer)
    os.close(writer)
    ended = end(process)
    Ended(ended.code, "", ended.err).assert_one_line(1, "Broken pipe")


@pytest.mark.slow
@pytest.mark.parametrize("redirection", [">&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_so_is_an_output_that_is_closed(ses: Simulator, url: str, redirection: str) -> None:
    ended = closing(redirection, "status", sending(url, ses))
    assert ended.code == 1
    assert ended.err in ("", "mailroom: the output cannot be written: Bad file descriptor\n")


@pytest.mark.slow
def test_a_worker_needs_no_streams_at_all(ses: Simulator, url: str, engine: Engine) -> None:
    """And nothing that it opens takes their numbers, and with them what is written there."""
    command = ["bash", "-c", f"exec {shlex.join(MAILROOM)} worker <&- >&- 2>&-"]
    with engine.connect() as connection:
        add_accounts(connection, 3)
        environment = {"PATH": os.environ["PATH"], **sending(url, ses)}
        with killed_after(subprocess.Popen(command, env=environment, text=True)) as worker:
            eventually(lambda: drained(connection), "the mails leave")
            for number in (0, 1, 2):
                assert os.readlink(f"/proc/{worker.pid}/fd/{number}") == os.devnull
            worker.send_signal(signal.SIGTERM)
            assert worker.wait(PATIENCE_SECONDS) == 0


@pytest.mark.slow
def test_a_token_cannot_be_read_from_an_input_that_is_closed(ses: Simulator) -> None:
    closing("<&-", "tokens verify", sending(None, ses)).assert_one_line(2, "the standard input is closed")


@pytest.mark.slow
@pytest.mark.parametrize("debug", [False, True])
def test_a_full_disk_gives_the_batch_back(ses: Simulator, url: str, engine: Engine, debug: bool) -> None:
    command = ["worker"] if debug else ["collect"]
    with engine.connect() as connection:
        add_accounts(connection, 3)
        with Path("/dev/full").open("w") as full:
            env = sending(url, ses) | ({"MAILROOM_DEBUG": "true"} if debug else {})
            ended = end(start(*command, "--no-listen", env=env, stdout=full))
        assert ended.code == 1
        last = ended.err.splitlines()[-1]
        assert last == "mailroom: the output is closed, and the batch returned: No space left on device"
        assert "Traceback" not in ended.err
        assert count(connection, "jobs WHERE attempt = 0") == 3
        assert count(connection, "batches") == 0
        assert misplaced(connection) == []


@pytest.mark.slow
@pytest.mark.parametrize("command", ["sweep", "collect"])
def test_mails_are_written_in_any_locale(ses: Simulator, url: str, engine: Engine, command: str) -> None:
    env = sending(url, ses) | {"MAILROOM_DEBUG": "true", "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONIOENCODING": "ascii"}
    with engine.connect() as connection:
        add = "SELECT add_account('jo@b\u00fccher.example', '\u0141ukasz')"
        assert connection.scalar(text(add))
        process = start(command, env=env, encoding="utf-8")
        eventually(lambda: drained(connection), "the mail is written")
        process.send_signal(signal.SIGTERM)
        ended = end(process)
        assert "jo@b\u00fccher.example" in ended.out
        assert "Traceback" not in ended.err
        assert rows(connection, "SELECT outcome FROM deliveries") == [("sent",)]


def test_what_is_echoed_does_nothing_to_a_terminal(here: Here, ses: Simulator, url: str, engine: Engine) -> None:
    env = sending(url, ses)
    for arguments in (
        ["pause", f"queue:{UNBROKEN}", "--reason", ESCAPES],
        ["status"],
        ["resume", f"queue:{UNBROKEN}"],
        ["resume", f"queue:{UNBROKEN}"],
        ["pause", ESCAPES],
        ["jobs", "list", "--since", ESCAPES],
        ["jobs", "list", "--outcome", ESCAPES],
        ["sweep", "--batch-limit", ESCAPES],
        ["grants", "--app", ESCAPES],
        ["simulator", "--host", ESCAPES],
        [ESCAPES],
        ["status", ESCAPES],
    ):
        ended = here(*arguments, env=env)
        shown = (ended.out + ended.err).replace("\n", "")
        assert shown.isprintable(), (arguments, shown)
        assert "owned" in shown, arguments
    with engine.connect() as connection:
        connection.execute(text("UPDATE mailroom_alembic_version SET version_num = :escapes"), {"escapes": "\x1b[31m"})
        assert rows(connection, "SELECT FROM mailroom_alembic_version")
    assert here("status", env=env).err.removesuffix("\n").isprintable()


@pytest.mark.parametrize("seconds", ["inf", "nan", "1e300", "-inf"])
def test_a_time_that_nobody_lives_to_see_is_refused(here: Here, ses: Simulator, url: str, seconds: str) -> None:
    ended = here("sweep", f"--max-seconds={seconds}", env=sending(url, ses))
    assert ended.code == 2
    assert "--max-seconds" in ended.err


@pytest.mark.parametrize(
    "command",
    [
        "jobs show {}",
        "jobs retry {}",
        "jobs drop {}",
        "jobs release {}",
        "jobs list --token {}",
        "jobs list --account {}",
        "jobs list --limit {}",
        "tokens sign {}",
    ],
)
def test_a_number_that_no_column_holds_is_refused(here: Here, ses: Simulator, url: str, command: str) -> None:
    for number in (2**63, 10**400):
        ended = here(*command.format(number).split(), env=sending(url, ses))
        assert ended.code == 2, ended
        assert "Usage" in ended.err
