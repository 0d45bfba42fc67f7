"""`--help` is the manual: it needs no settings, cuts nothing off, and ends with an example that works."""

import re
import shlex
from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import Engine
from typer.main import get_command

from mailroom.cli.app import command_line
from mailroom.settings import Settings, variable
from tests.cli.conftest import Here
from tests.world import KEY_HEX, add_accounts

ROOT = get_command(command_line(()))
# What runs for ever, asks SES, or needs roles: their own tests run them.
NOT_RUN_HERE = {"worker", "sweep", "collect", "send", "simulator", "demo", "grants", "doctor", "events", "window"}
NOT_RUN_HERE |= {"templates diff", "templates push"}


def walk(command: Any, *path: str) -> Iterator[tuple[str, Any]]:
    """A command and all below it, each with its words."""
    yield " ".join(path), command
    for name, below in getattr(command, "commands", {}).items():
        yield from walk(below, *path, name)


COMMANDS = dict(walk(ROOT))
every_command = pytest.mark.parametrize("command", COMMANDS)


def manual(here: Here, command: str, columns: int = 80) -> str:
    ended = here(*command.split(), "--help", env={"COLUMNS": str(columns)})
    assert (ended.code, ended.err) == (0, "")
    return ended.out


def example(text: str) -> str:
    """The line that the help ends with."""
    heading, line = text.splitlines()[-2:]
    assert heading == "  Example:"
    assert line.startswith("    $ mailroom ")
    return line.removeprefix("    $ ")


def entry(text: str, name: str) -> str:
    """What is said of an option, argument, command or setting: its line, and those that are set in below it."""
    found = re.search(rf"^  (?:\S+ / )?{re.escape(name)}(?: .*)?$(?:\n {{4,}}.*)*", text, re.MULTILINE)
    assert found, f"{name} has no line of its own"
    return " ".join(found[0].split())


def mailroom_calls(line: str) -> list[list[str]]:
    """The words of each `mailroom` in a pipe."""
    words = [shlex.split(part) for part in line.split(" | ")]
    assert all(first == "mailroom" for first, *_ in words)
    return [rest for _, *rest in words]


def test_the_commands_are_found() -> None:
    assert {"", "worker", "jobs", "jobs list", "tokens sign"} <= COMMANDS.keys()


@every_command
@pytest.mark.parametrize("columns", [80, 60])
def test_nothing_is_cut_off(here: Here, command: str, columns: int) -> None:
    text = manual(here, command, columns)
    usage, body = text.split("\n\n", 1)
    assert f"{command} [OPTIONS]" in " ".join(usage.split())
    assert "…" not in text
    assert "..." not in body
    for line in body.splitlines():
        assert len(line) <= columns or line.startswith("    $ ")
        assert not line.endswith("-"), "a name is broken at its hyphen"
    for name in re.findall(r"\b(?:MAILROOM|AWS)_\w+", " ".join(str(texts(COMMANDS[command])).split())):
        assert re.search(rf"\b{name}\b", text), f"{name} is broken"


def texts(command: Any) -> list[Any]:
    """All that is written about a command."""
    return [command.help, *((each.help, each.show_default) for each in command.params)]


@every_command
def test_every_option_shows_its_type_and_its_default(here: Here, command: str) -> None:
    text = manual(here, command)
    for parameter in COMMANDS[command].params:
        is_option = parameter.param_type_name == "option"
        for name in [*parameter.opts, *parameter.secondary_opts] if is_option else [parameter.metavar]:
            told = entry(text, name)
            if getattr(parameter, "is_flag", False):
                continue
            assert re.search(rf"{name} ([A-Z]+|<\S+>)( |$)", told), f"{name} has no type"
            assert ("[required" in told) if parameter.required else ("[default: " in told), f"{name} has no default"


def test_a_default_that_comes_from_a_variable_is_told_with_it(here: Here) -> None:
    assert "[default: (MAILROOM_BATCH_LIMIT, or 10)]" in entry(manual(here, "worker"), "--batch-limit")
    assert "[default: (MAILROOM_BATCH_TIMEOUT, or 5000)]" in entry(manual(here, "collect"), "--batch-timeout")
    assert "[default: (MAILROOM_PRUNE_AFTER)]" in entry(manual(here, "prune"), "--older-than")


@every_command
def test_every_command_has_a_line_in_the_list(here: Here, command: str) -> None:
    for name in getattr(COMMANDS[command], "commands", {}):
        assert entry(manual(here, command), name).endswith(".")


@every_command
def test_every_command_tells_its_exit_codes(here: Here, command: str) -> None:
    text = " ".join(manual(here, command).split())
    assert "Exit codes: 0 " in text
    assert "2 wrong settings or usage." in text


def test_sweep_has_a_code_more(here: Here) -> None:
    assert "3 due jobs are left" in manual(here, "sweep")


def test_verify_tells_what_a_wrong_token_is(here: Here) -> None:
    assert "Exit 1 if it is not valid" in manual(here, "tokens verify")


def test_every_variable_is_told_with_its_default(here: Here) -> None:
    text = manual(here, "")
    for name, field in Settings.model_fields.items():
        told = entry(text, variable(name))
        assert "default" in told or "required" in told
        if isinstance(field.default, (int, str)) and field.default:
            assert f"[default: {field.default}]" in told


@every_command
def test_the_example_is_one_that_parses(here: Here, command: str) -> None:
    calls = mailroom_calls(example(manual(here, command)))
    for words in calls:
        found, rest = ROOT, words
        while below := getattr(found, "commands", {}):
            found, rest = below[rest[0]], rest[1:]
        found.make_context("mailroom", list(rest))
    assert any(" ".join(words).startswith(command) for words in calls), "it shows another command"


@pytest.mark.slow
def test_the_examples_work(here: Here, url: str, engine: Engine) -> None:
    env = {"MAILROOM_DATABASE_URL": url, "MAILROOM_SECRET_KEY": KEY_HEX}
    with engine.begin() as connection:
        add_accounts(connection, 50)
    run = set()
    for command in COMMANDS:
        piped = b""
        for words in mailroom_calls(example(manual(here, command))):
            if not {words[0], " ".join(words[:2])} & NOT_RUN_HERE:
                ended = here(*words, env=env, stdin=piped)
                assert (ended.code, ended.err) == (0, ""), words
                piped = ended.out.encode()
                run.add(" ".join(words[:2]))
    assert {"jobs drop", "tokens verify", "prune --older-than", "resume activation"} <= run
