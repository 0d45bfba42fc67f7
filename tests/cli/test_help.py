"""`--help` is the manual: it needs no settings, and says how a command ends."""

import pytest

from mailroom.settings import PREFIX, Settings
from tests.cli.conftest import Here

WIDE = {"COLUMNS": "200"}


@pytest.mark.parametrize(
    "command",
    [
        "",
        "worker",
        "sweep",
        "collect",
        "send",
        "status",
        "migrate",
        "prune",
        "jobs",
        "doctor",
        "tokens",
        "simulator",
        "demo",
    ],
)
def test_every_command_tells_its_exit_codes(here: Here, command: str) -> None:
    ended = here(*command.split(), "--help", env=WIDE)
    assert (ended.code, ended.err) == (0, "")
    assert "Exit codes: 0" in ended.out
    assert "2 wrong settings or usage" in ended.out


def test_sweep_has_a_code_more(here: Here) -> None:
    assert "3 due jobs are left" in here("sweep", "--help", env=WIDE).out


def test_verify_tells_what_a_wrong_token_is(here: Here) -> None:
    assert "Exit 1 if it is not valid" in here("tokens", "verify", "--help", env=WIDE).out


def test_every_variable_is_named(here: Here) -> None:
    manual = here("--help", env=WIDE).out
    for name in Settings.model_fields:
        assert (name.upper() if name.startswith("aws_") else f"{PREFIX}{name.upper()}: ") in manual
