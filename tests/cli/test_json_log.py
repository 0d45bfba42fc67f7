"""The log as JSON: the fields of each call that logs, with their types, and nothing that the text does not say."""

import ast
import json
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, text

from mailroom.cli.json_log import JsonLines, event_and_fields
from mailroom.cli.log import OneLine
from mailroom.simulator import Fault, Simulator
from tests.cli.command import MAILROOM, PATIENCE_SECONDS, end, killed_after, run, sending, start
from tests.machine import ROOT
from tests.running import eventually
from tests.world import add_accounts, count, until_somebody_waits

EACH_SERVER = False

# What an event may be about, where that is one of a few things: it is part of the event then.
UNNAMED = {
    "%s failed, trying again: %s",
    "%s, trying until that works: %s",
    "unknown variable %s: is it misspelt?",
    "no new client of %s, the old one goes on: %s",
    "throttled by SES: the fleet slows down to %.0f %% of its rate",
    "account not known what=%s code=%r: sending at the last known rate, and before any is known at MAILROOM_SES_RATE,"
    " or else %g mail a second",
}


def record(words: str, *values: object, level: int = logging.INFO, **more: object) -> logging.LogRecord:
    named = {"msg": words, "args": values, "levelno": level, "levelname": logging.getLevelName(level)}
    return logging.makeLogRecord(named | more)


def calls() -> Iterator[str]:
    """The words of each call that logs."""
    for path in (ROOT / "mailroom").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            match node:
                case ast.Call(
                    func=ast.Attribute(value=ast.Name(id="log"), attr=_), args=[ast.Constant(value=str(words)), *_]
                ):
                    yield words


@pytest.mark.parametrize("words", sorted(set(calls())))
def test_each_call_says_what_has_happened_and_names_its_values(words: str) -> None:
    values = [7 if one[:1] in "d.g" else "x" for one in words.replace("%%", "").split("%")[1:]]
    event, fields = event_and_fields(record(words, *values, level=logging.WARNING))
    assert event
    assert "%s" not in event
    assert "=" not in event
    unnamed = len(values) - len([value for value in fields.values() if value in (7, "x")])
    assert (unnamed > 0) == (words in UNNAMED)


@pytest.mark.parametrize(
    ("written", "event", "fields"),
    [
        (
            record("batch id=%d action=%s jobs=%d sent=%d ms=%d late=true", 8, "activation", 10, 10, 143.6),
            "batch",
            {"id": 8, "action": "activation", "jobs": 10, "sent": 10, "ms": 144, "late": True},
        ),
        (
            record("paused scope=%s code=%s reason=%r", "a", "B", "c d"),
            "paused",
            {"scope": "a", "code": "B", "reason": "c d"},
        ),
        (
            record("mail token=%d code=LeaseExpired worker=%s", 1, "other/7"),
            "mail",
            {"token": 1, "code": "LeaseExpired", "worker": "other/7"},
        ),
        (record("database error: %s", "gone", level=logging.WARNING), "database error", {"error": "gone"}),
        (record("no longer: %s", "the feed"), "no longer", {"what": "the feed"}),
        (record("ses retry=%d error=%s", 1, "E"), "ses", {"retry": 1, "error": "E"}),
        (record("line %d action=%s", 5, "1"), "line", {"line": 5, "action": "1"}),
        (record("warning code=%s %s", "C", "some words"), "warning", {"code": "C", "message": "some words"}),
        (record("%s failed: %s", "prune", "no", level=logging.ERROR), "prune failed", {"error": "no"}),
        (record("to %.0f %% of it", 50.0), "to 50 % of it", {}),
        (record("somebody else's {} words"), "somebody else's {} words", {}),
        (record("100% of nothing"), "100% of nothing", {}),
        (record("no more than 100%"), "no more than 100%", {}),
        (record("https://host/a%2C%20b is gone, 5%!"), "https://host/a%2C%20b is gone, 5%!", {}),
    ],
)
def test_values_are_fields_with_their_types(written: logging.LogRecord, event: str, fields: dict[str, Any]) -> None:
    assert event_and_fields(written) == (event, fields)


def test_a_line_is_an_object_with_the_moment_the_level_the_worker_and_the_trace() -> None:
    line = JsonLines().format(record("batch id=%d", 1, created=0.5, trace_id="ab", span_id="cd"))
    found = json.loads(line)
    assert found.pop("worker").count("/") == 1
    assert found == {
        "time": "1970-01-01T00:00:00.500Z",
        "level": "INFO",
        "event": "batch",
        "id": 1,
        "trace_id": "ab",
        "span_id": "cd",
    }


def test_an_error_is_named_with_where_it_was() -> None:
    try:
        raise ZeroDivisionError("no words")
    except ZeroDivisionError:
        found = json.loads(JsonLines().format(record("batch id=%d: a fault", 1, exc_info=sys.exc_info())))
    assert found["error"] == "ZeroDivisionError"
    assert "test_json_log.py" in found["traceback"]


def caused(address: str) -> Any:
    try:
        try:
            raise KeyError(address)
        except KeyError as error:
            raise ValueError(address) from error
    except ValueError:
        return sys.exc_info()


@pytest.mark.parametrize("formatter", [JsonLines(), OneLine("%(message)s")], ids=["json", "text"])
def test_of_an_error_no_word_is_told_since_it_may_quote_an_address(formatter: logging.Formatter) -> None:
    line = formatter.format(record("batch id=%d: a fault", 1, exc_info=caused("canary@example.com")))
    assert line.rindex("KeyError") < line.index("which led to") < line.rindex("ValueError")
    assert line.count("in caused") == 2
    assert "canary" not in line


def test_words_that_are_not_utf_8_are_what_every_reader_of_json_takes() -> None:
    """Such as the name of a variable: half a character alone is refused by some, and with it the line."""
    line = JsonLines().format(record("unknown variable %s", os.fsdecode(b"MAILROOM_\xff")))
    assert json.loads(line)["message"] == "MAILROOM_\\udcff"


def test_whatever_is_said_stays_on_its_line_and_is_obeyed_by_no_terminal() -> None:
    line = JsonLines().format(record("no longer: %s", "\x1b[31mred\r\n\x7f\x9b2J"))
    assert line.isprintable()
    assert json.loads(line)["what"] == "\x1b[31mred\r\n\x7f\x9b2J"


@pytest.mark.slow
def test_a_worker_writes_nothing_but_objects(url: str, engine: Engine, simulator: Simulator, tmp_path: Path) -> None:
    """From its first line to its last, and what it says is what it says as text."""
    simulator.faults.add(Fault(operation="SendBulkEmail", entries={0: "MESSAGE_REJECTED"}))
    environment = sending(url, simulator) | {"MAILROOM_LOG_FORMAT": "json", "MAILROOM_MISSPELT": "1"}
    log = tmp_path / "log"
    with log.open("w") as err, killed_after(start("worker", env=environment, stdout=None, stderr=err)) as worker:
        with engine.connect() as connection:
            add_accounts(connection, 3)
            eventually(lambda: count(connection, "deliveries") == 3, "it is on record")
        eventually(lambda: '"event": "batch"' in log.read_text(), "it is logged")
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(PATIENCE_SECONDS) == 0
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert [line["event"] for line in lines] == [
        "unknown variable MAILROOM_MISSPELT: is it misspelt?",
        "worker started",
        "batch",
        "mail",
        "worker stopped",
    ]
    [batch] = [line for line in lines if line["event"] == "batch"]
    assert (batch["jobs"], batch["sent"], batch["rejected"]) == (3, 2, 1)
    assert len({line["worker"] for line in lines}) == 1
    for line in lines:
        assert datetime.fromisoformat(line["time"]).utcoffset() == timedelta(0)


def test_so_does_a_command_that_fails() -> None:
    ended = run([*MAILROOM, "worker"], env={"MAILROOM_LOG_FORMAT": "json"})
    assert ended.code == 2
    [line] = ended.err.splitlines()
    found = json.loads(line)
    assert (found["level"], found["event"][:10]) == ("ERROR", "mailroom: ")
    assert "MAILROOM_DATABASE_URL is not set" in found["event"]


@pytest.mark.parametrize(
    ("usage", "said"),
    [
        ("worker --concurrency two", "--concurrency"),
        ("worker --nothing", "--nothing"),
        ("nothing", "No such command"),
        ("jobs", "Usage: mailroom jobs"),
    ],
)
def test_so_is_what_is_wrong_with_a_command_line(usage: str, said: str) -> None:
    """Whoever collects the log of a container reads no line of any other kind."""
    ended = run([*MAILROOM, *usage.split()], env={"MAILROOM_LOG_FORMAT": "json"})
    assert (ended.code, ended.out) == (2, "")
    found = json.loads(ended.err)
    assert (found["level"], said in found["event"]) == ("ERROR", True)


@pytest.mark.slow
def test_so_is_that_a_command_was_stopped(url: str, engine: Engine) -> None:
    environment = {"MAILROOM_LOG_FORMAT": "json", "MAILROOM_DATABASE_URL": url}
    with engine.connect().execution_options(isolation_level="READ COMMITTED") as holder, holder.begin():
        holder.execute(text("LOCK TABLE readings"))
        with killed_after(start("status", env=environment)) as command:
            until_somebody_waits(engine)
            command.send_signal(signal.SIGTERM)
            ended = end(command)
    assert (ended.code, ended.out) == (1, "")
    assert json.loads(ended.err)["event"] == "mailroom: stopped"


def test_a_format_that_is_none_is_an_error() -> None:
    ended = run([*MAILROOM, "worker"], env={"MAILROOM_LOG_FORMAT": "yaml"})
    ended.assert_one_line(2, "MAILROOM_LOG_FORMAT: 'yaml' is not accepted", "'text' or 'json'")


@pytest.mark.slow
def test_the_modules_of_the_log_are_loaded_by_who_asks_for_them() -> None:
    check = (
        "import sys; from mailroom.cli.app import command_line; command_line(());"
        " assert not {'mailroom.cli.json_log', 'prometheus_client'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", check], cwd=ROOT, check=True)
