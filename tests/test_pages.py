"""What the pages say is what there is: commands with their options, links, files, and the tests that they name."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from mailroom.cli.app import command_line
from tests.machine import ROOT

PAGES = sorted([ROOT / "README.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").glob("*.md")])
BLOCK = re.compile(r"```(?:console|sh|cron)\n(.*?)```", re.DOTALL)
ANY_BLOCK = re.compile(r"```.*?```", re.DOTALL)
CALL = re.compile(r"(?:\$ |(?:\* ){5})?mailroom (.+)")
every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)


def calls(page: Path) -> Iterator[list[str]]:
    """The words that follow `mailroom`, in what is to be typed and within sentences."""
    text = page.read_text(encoding="utf-8").replace("\\\n", " ")
    typed = [line.partition(" #")[0] for block in BLOCK.findall(text) for line in block.splitlines()]
    said = [" ".join(words.split()) for words in re.findall(r"`(mailroom [a-z][^`]*)`", ANY_BLOCK.sub("", text))]
    for line in typed + said:
        for part in line.replace("\\|", "|").split("|"):
            if found := CALL.match(part.strip()):
                yield shlex.split(found[1].replace("…", ""))


def known_options(words: list[str]) -> set[str]:
    """The options of the command that these words call."""
    command: Any = get_command(command_line(()))
    for word in words:
        if not hasattr(command, "commands") or word.startswith("-"):
            break
        command = command.commands[word]
    return {"--help", *(option for one in command.params for option in (*one.opts, *one.secondary_opts))}


@every_page
def test_the_commands_that_it_shows_are_there_with_their_options(page: Path) -> None:
    for words in calls(page):
        options = {word.partition("=")[0] for word in words if word.startswith("--")}
        assert options <= known_options(words), words


def test_the_commands_are_found() -> None:
    assert sum(len(list(calls(page))) for page in PAGES) > 150
    assert ["prune", "--older-than", "90d"] in calls(ROOT / "docs" / "operating.md")


def anchors(page: Path) -> set[str]:
    """What can stand behind the # of a link to a page."""
    headings = re.findall(r"^#+ (.*)$", ANY_BLOCK.sub("", page.read_text(encoding="utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@every_page
def test_what_it_links_to_is_there(page: Path) -> None:
    for target in re.findall(r"\]\(([^)]+)\)", page.read_text(encoding="utf-8")):
        if target.startswith("https://"):
            continue
        name, _, anchor = target.partition("#")
        file = (page.parent / name).resolve() if name else page
        assert file.exists(), target
        assert not anchor or anchor in anchors(file), target


@every_page
def test_the_files_and_the_tests_that_it_names_are_there(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for name in re.findall(r"`((?:mailroom|tests|docs|alembic|examples)/[\w./-]+)`", text):
        assert (ROOT / name).exists(), name
    tests = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("test_*.py"))
    for name in set(re.findall(r"`(test_\w+)`", text)):
        assert f"def {name}(" in tests, name
