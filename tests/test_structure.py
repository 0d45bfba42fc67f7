"""What holds for all of the code: where the environment is read, and what the docstrings of the public parts say."""

import ast
from pathlib import Path

import pytest

from tests.machine import ROOT

MODULES = sorted(path for path in (ROOT / "mailroom").rglob("*.py") if "__pycache__" not in path.parts)
# The demo makes the environment of its worker out of its own.
READ_THE_ENVIRONMENT = {"mailroom/settings.py", "mailroom/demo/run.py"}


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def test_the_environment_is_read_in_one_place() -> None:
    readers = {name(path) for path in MODULES if "os.environ" in path.read_text() or "getenv" in path.read_text()}
    assert readers == READ_THE_ENVIRONMENT


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_every_module_says_in_its_first_line_what_it_owns(path: Path) -> None:
    docstring = ast.get_docstring(ast.parse(path.read_text()))
    assert docstring is not None
    assert docstring.splitlines()[0].endswith(".")


@pytest.mark.parametrize("path", [path for path in MODULES if "simulator" not in path.parts], ids=name)
def test_public_functions_have_docstrings(path: Path) -> None:
    def public(body: list[ast.stmt]) -> list[ast.FunctionDef]:
        return [node for node in body if isinstance(node, ast.FunctionDef) and not node.name.startswith("_")]

    tree = ast.parse(path.read_text())
    bare = [node.name for node in public(tree.body) if ast.get_docstring(node) is None]
    assert bare == []


def test_except_exception_stands_once() -> None:
    found = [name(path) for path in MODULES if "except Exception" in path.read_text()]
    assert found == ["mailroom/worker/claim_run.py"]
