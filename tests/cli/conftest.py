"""The simulator by the name of what it stands for, and commands run inside this process."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from mailroom.cli import app
from mailroom.simulator import Simulator
from tests.cli.command import Ended

Here = Callable[..., Ended]


@pytest.fixture
def ses(simulator: Simulator) -> Simulator:
    return simulator


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Here:
    """Run a command in this process; its log goes to caplog. In a folder of its own, with `stdin` in a file."""

    def run(*arguments: str, env: dict[str, str], stdin: bytes = b"") -> Ended:
        given = tmp_path / "stdin"
        given.write_bytes(stdin)
        with monkeypatch.context() as patch, given.open(encoding="utf-8") as source:
            patch.chdir(tmp_path)
            patch.setattr(sys, "argv", ["mailroom", *arguments])
            patch.setattr(sys, "stdin", source)
            for name, value in env.items():
                patch.setenv(name, value)
            code = _exit_code()
        return Ended(code, *capsys.readouterr())

    return run


def _exit_code() -> int:
    try:
        app.main()
    except SystemExit as ended:
        return int(ended.code or 0)
    raise AssertionError("the command line did not end")
