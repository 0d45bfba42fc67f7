"""The rules of imports bite: each kind of forbidden import, and a module without a place, is refused in a copy."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.machine import ROOT

# A module, what it must not import, and the contract that says so.
FORBIDDEN = [
    ("errors", "mailroom.outcome", "Layers"),
    ("signals", "mailroom.job", "Layers"),
    ("job", "mailroom.outcome", "Layers"),
    ("outcome", "mailroom.finding", "Layers"),
    ("finding", "mailroom.db.engine", "Layers"),
    ("db.engine", "mailroom.queue.claim", "Layers"),
    ("db.schema", "mailroom.mail.transport", "Layers"),
    ("mail.debug", "mailroom.ses.transport", "Layers"),
    ("simulator.server", "mailroom.ses.transport", "Layers"),
    ("simulator.inbox", "mailroom.db.engine", "Layers"),
    ("ses.client", "mailroom.queue.limits", "Layers"),
    ("queue.claim", "mailroom.fleet.pauses", "Layers"),
    ("queue.settle", "mailroom.tokens", "Layers"),
    ("tokens", "mailroom.fleet.pauses", "Layers"),
    ("fleet.pauses", "mailroom.ops.jobs", "Layers"),
    ("ops.jobs", "mailroom.settings", "Layers"),
    ("settings", "mailroom.worker.shared", "Layers"),
    ("worker.sender", "mailroom.cli.wiring", "Layers"),
    ("worker.sender", "mailroom.demo.run", "Layers"),
    ("demo.run", "mailroom.cli.app", "Layers"),
    ("window.source", "mailroom.cli.app", "Layers"),
    ("ops.status", "mailroom.window.words", "Layers"),
    ("mail.transport", "mailroom.db.engine", "The mail half"),
    ("mail.pipe", "psycopg", "The mail half"),
    ("ses.doctor", "mailroom.db.engine", "The mail half"),
    ("ses.account", "sqlalchemy", "The mail half"),
    ("queue.claim", "mailroom.mail.transport", "The queue half"),
    ("fleet.account_refresh", "mailroom.ses.account", "The queue half"),
    ("ops.doctor", "mailroom.ses.doctor", "The queue half"),
    ("worker.bisection", "mailroom.ses.classify", "The worker"),
    ("worker.worker", "mailroom.settings", "The worker"),
    ("worker.bisection", "botocore.exceptions", "boto3 is imported in ses alone"),
    ("cli.wiring", "boto3", "boto3 is imported in ses alone"),
    ("signals", "typer", "What hears a signal first"),
    ("settings", "mailroom.ses", "Only the commands know Amazon SES"),
    ("tokens", "mailroom.ses.request", "Only the commands know Amazon SES"),
    ("worker.sender", "mailroom.simulator.server", "Only the commands and the demo"),
    ("ses.transport", "mailroom.simulator.ses", "Only the commands and the demo"),
    ("queue.claim", "mailroom.simulator.ses", "Only the commands and the demo"),
    ("tokens", "mailroom.mail.transport", "Applications import tokens"),
    ("job", "mailroom.signals", "The shared words"),
]


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of the code, with the rules beside it."""
    shutil.copytree(ROOT / "mailroom", tmp_path / "mailroom", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def lint(copy: Path) -> tuple[int, str]:
    """Check the rules of a copy; return the exit code and what was said, on one line."""
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"]
    ended = subprocess.run(
        command, cwd=copy, env={"PYTHONPATH": str(copy)}, capture_output=True, text=True, check=False
    )
    return ended.returncode, " ".join(ended.stdout.split())


@pytest.mark.slow
def test_the_code_keeps_the_rules(copy: Path) -> None:
    code, said = lint(copy)
    assert code == 0, said


@pytest.mark.slow
@pytest.mark.parametrize(("module", "imported", "contract"), FORBIDDEN, ids=lambda value: value)
def test_a_forbidden_import_is_refused(copy: Path, module: str, imported: str, contract: str) -> None:
    place = copy / "mailroom" / module.replace(".", "/")
    path = place / "__init__.py" if place.is_dir() else place.with_suffix(".py")
    path.write_text(f"{path.read_text()}\nimport {imported}  # planted\n")
    code, said = lint(copy)
    assert code == 1
    broken = said.partition("Broken contracts")[2]
    assert contract in broken
    outside = not imported.startswith("mailroom.")
    assert f"mailroom.{module} -> {imported.partition('.')[0] if outside else imported}" in broken


@pytest.mark.slow
def test_a_module_without_a_place_is_refused(copy: Path) -> None:
    (copy / "mailroom" / "helper.py").write_text('"""It has no place in the list."""\n')
    code, said = lint(copy)
    assert code == 1
    assert "helper" in said


@pytest.mark.slow
@pytest.mark.parametrize(
    "loading",
    [
        "from mailroom.cli.app import command_line; command_line(())",
        "import mailroom.worker.worker",
        "import mailroom.worker.sweep",
    ],
)
def test_who_does_not_send_loads_no_boto3(loading: str) -> None:
    check = f"import sys; {loading}; assert not {{'boto3', 'botocore'}} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", check], cwd=ROOT, check=True)
