"""What the README says is what there is."""

import re
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import Connection
from typer.main import get_command

from mailroom.cli.app import command_line
from mailroom.cli.pipe import DEFAULT_OUTPUT_PATH
from mailroom.outcome import Deferred, Outcome, Sent
from mailroom.settings import Settings, variable
from mailroom.worker.batch_log import log_batch
from tests.claiming import enqueue, take, verdicts
from tests.machine import ROOT

EACH_SERVER = False

README = (ROOT / "README.md").read_text()


def table(heading: str) -> dict[str, list[str]]:
    """The rows of the table under a heading, by their first cell without its marks."""
    section = README.split(f"## {heading}\n")[1].split("\n## ")[0]
    rows = [re.split(r"(?<!\\)\|", line)[1:-1] for line in section.splitlines() if line.startswith("| `")]
    return {first.strip().strip("`"): [cell.strip() for cell in rest] for first, *rest in rows}


def test_it_is_short_and_starts_with_what_matters() -> None:
    lines = README.splitlines()
    assert len(lines) < 200
    first_screen = "\n".join(lines[:40])
    for words in (
        "No mail is lost",
        "unconfirmed",
        "make demo",
        "alembic upgrade head",
        "mailroom worker",
        "──claim──▶",
    ):
        assert words in first_screen


def test_its_commands_are_those_there_are() -> None:
    commands = get_command(command_line(())).commands  # type: ignore[attr-defined]  # a group, as the next line shows
    assert {f"mailroom {name}" for name in commands} == set(table("Commands"))


def test_the_options_that_it_mentions_exist() -> None:
    commands = get_command(command_line(())).commands  # type: ignore[attr-defined]  # a group
    for row, cells in table("Commands").items():
        command = commands[row.removeprefix("mailroom ")]
        known = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
        for option in re.findall(r"--[a-z-]+", cells[-1]):
            assert option in known, f"{row} has no {option}"


def test_its_settings_are_those_there_are_with_their_defaults() -> None:
    def shown(default: object) -> str:
        match default:
            case bool():
                return str(default).lower()
            case timedelta():
                return str(default // timedelta(milliseconds=1))
            case _:
                return f"`{default}`" if isinstance(default, str) else str(default)

    said = {name: cells[0] for name, cells in table("Settings").items()}
    told_otherwise = {
        "MAILROOM_DATABASE_URL": "required",
        "MAILROOM_LISTEN_DATABASE_URL": "the same",
        "MAILROOM_SECRET_KEY": "required to send",
        "MAILROOM_PRUNE_AFTER": "never",
        "MAILROOM_UNCONFIRMED_WAIT": "5000",
        "MAILROOM_SES_RATE": "from SES",
        "MAILROOM_EVENTS_QUEUE_URL": "none",
        "MAILROOM_WINDOW_PASSWORD": "none",
        "MAILROOM_WINDOW_ACTIONS_DATABASE_URL": "none",
        "MAILROOM_PROBE_ADDRESS": "none",
        "MAILROOM_SES_OUTPUT_PATH": f"`./{DEFAULT_OUTPUT_PATH}`",
    }
    variables = {variable(name): shown(field.default) for name, field in Settings.model_fields.items()}
    del variables["AWS_REGION"], variables["AWS_ENDPOINT_URL_SQS"]  # botocore's
    assert said == variables | told_otherwise


@pytest.mark.parametrize("page", ["README.md", "docs/architecture.md", "docs/feedback.md", "docs/operating.md"])
def test_the_files_that_it_names_are_there(page: str) -> None:
    text = (ROOT / page).read_text()
    for target in re.findall(r"\]\(([^)#]+)\)", text):
        assert (ROOT / page).parent.joinpath(target).exists(), target
    for name in re.findall(r"`((?:mailroom|tests|docs|alembic)/[\w./-]+)`", text):
        assert (ROOT / name).exists(), name


def test_the_revision_that_it_shows_is_the_newest() -> None:
    newest = max(path.name[:4] for path in (ROOT / "alembic" / "versions").glob("[0-9]*.py"))
    assert re.findall(r"the database is at revision (\w+)", README) == [newest]


def test_the_line_of_a_batch_that_it_shows_is_one_of_the_log(
    conn: Connection, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    enqueue(conn, 10)
    batch = take(conn)
    outcomes: list[Outcome] = [
        *(Sent(f"m-{number}") for number in range(9)),
        Deferred("Throttling", "later", charged=False),
    ]
    log_batch(batch, verdicts(batch, outcomes), owned=True, seconds=0.143, ids={})
    logged = caplog.messages[0].replace(f"id={batch.id} ", "id=812 ")
    assert f"\nINFO {logged}\n" in README


def test_the_targets_that_it_names_are_there() -> None:
    makefile = Path(ROOT / "Makefile").read_text()
    for target in set(re.findall(r"`make ([a-z-]+)", README)):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
