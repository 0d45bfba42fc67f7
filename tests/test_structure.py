"""What holds for all of the code: where the environment is read, and what the docstrings of the public parts say."""

import ast
import re
from collections import Counter
from pathlib import Path

import pytest

from mailroom.db import schema
from tests.machine import ROOT

MODULES = sorted(path for path in (ROOT / "mailroom").rglob("*.py") if "__pycache__" not in path.parts)
# The demo makes the environment of its worker out of its own.
READ_THE_ENVIRONMENT = {"mailroom/settings/__init__.py", "mailroom/demo/run.py"}
MAX_MODULE_LINES = 300
MAX_FUNCTION_LINES = 40
MAX_ENTRIES = 25


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


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_no_module_and_no_function_is_too_long_to_read(path: Path) -> None:
    text = path.read_text()
    assert len(text.splitlines()) <= MAX_MODULE_LINES
    functions = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.FunctionDef)]
    assert [node.name for node in functions if node.end_lineno - node.lineno >= MAX_FUNCTION_LINES] == []  # type: ignore[operator]


def test_the_listing_fits_on_a_screen() -> None:
    shown = [path for path in (ROOT / "mailroom").iterdir() if path.name != "__pycache__"]
    assert len(shown) <= MAX_ENTRIES


def test_each_folder_says_in_one_sentence_what_lives_there_and_for_whom() -> None:
    folders = [path for path in MODULES if path.name == "__init__.py" and path.parent.parent == ROOT / "mailroom"]
    assert len(folders) > 5
    for path in folders:
        docstring = ast.get_docstring(ast.parse(path.read_text())) or ""
        assert re.search(r"\bFor\b|Nobody imports", docstring), name(path)


# A command has the name of what it is for. The simulator and the window are programs of their own, which only
# commands and the demo import: one stands for SES and has its words, one shows what others know.
NAMED_AGAIN = {"cli", "simulator", "window"}
# Of all others a name occurs once, so that whoever looks for something opens the right one. These are sides of one
# thing, or no more than the word is the same.
ALIKE = {
    "doctor": "ops: what is asked of the database; ses: what is asked of SES",
    "event": "the shared word; ses: how one of SES is read",
    "feed": "queue: what the record says of events; worker: the threads that take them in",
    "sender": "mail: the address that a mail comes from; worker: one of the senders of a process",
    "templates": "mail: the seam; ses: SES's own; ops: which is used",
    "transport": "mail: the seam; ses: the one through SES",
    "values": "settings: those of the environment; templates: those of a mail",
}
# What is tested besides the folders of mailroom.
TESTED_BESIDES = {
    "benchmarks": "measures, and needs no folder of its own in what is installed",
    "examples": "the folder `examples` of the repository",
    "model": "the rules of the protocol, searched in a model of the queue",
    "tokens": "mailroom/tokens.py, which applications import, through each driver",
}


def test_no_module_can_be_taken_for_another_of_its_name() -> None:
    stems = Counter(path.stem for path in MODULES if path.stem != "__init__" and path.parent.name not in NAMED_AGAIN)
    assert {stem for stem, times in stems.items() if times > 1} == ALIKE.keys()


def test_each_folder_of_tests_has_the_name_of_what_it_tests() -> None:
    tests = {path.parent.name for path in (ROOT / "tests").glob("*/__init__.py")}
    folders = {path.parent.name for path in (ROOT / "mailroom").glob("*/__init__.py")}
    assert tests - folders == TESTED_BESIDES.keys()


def test_floors_have_one_owner_in_the_worker() -> None:
    """Claims makes them, and lends them to its scan; the functions of the queue are handed them."""
    users = {path.stem for path in MODULES if path.parent.name != "queue" and "Floors" in path.read_text()}
    assert users == {"claims", "scan"}


def test_one_module_decides_whether_a_refusal_is_believed() -> None:
    users = {path.stem for path in MODULES if "refusal_log" in path.read_text()} - {"refusal_log"}
    assert users == {"refusals"}


def test_except_exception_stands_only_where_a_bug_of_anybodys_must_not_stop_mails_or_events() -> None:
    found = {name(path) for path in MODULES if "except Exception" in path.read_text()}
    assert found == {f"mailroom/worker/{module}.py" for module in ("absorbing", "claim_run", "feed", "tracing")}


# One does what an application does, one prints what its migration is to do, and one what brings back a row.
WRITES_AS_AN_APPLICATION = {"mailroom/demo/run.py", "mailroom/cli/actions.py", "mailroom/db/kept_rows.py"}
CHANGES = re.compile(r"\b(INSERT INTO|DELETE FROM|UPDATE \S+ SET|MERGE INTO|TRUNCATE|LOCK TABLE)\b")


def changes(tree: ast.AST) -> list[str]:
    """How a module changes or locks a table by itself: by SQLAlchemy's words for it, or by SQL."""
    nodes = list(ast.walk(tree))
    imported = [
        name.name
        for node in nodes
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("sqlalchemy")
        for name in node.names
        if name.name in {"insert", "update", "delete", "merge"}
    ]
    called = [
        node.attr
        for node in nodes
        if isinstance(node, ast.Attribute)
        and node.attr in {"insert", "update", "delete", "with_for_update"}
        # A dictionary or a set is updated with something; a table, or sqlalchemy's update(), gives what is executed.
        and (node.attr != "update" or (isinstance(node.value, ast.Name | ast.Attribute) and is_table(node.value)))
    ]
    written = [
        node.value
        for node in nodes
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and CHANGES.search(node.value)
    ]
    return imported + called + written


def is_table(node: ast.Name | ast.Attribute) -> bool:
    return (node.id if isinstance(node, ast.Name) else node.attr) in {*schema.metadata.tables, "sqlalchemy"}


def test_what_changes_a_table_is_a_function_of_the_database() -> None:
    """So no role but an application's needs a right on one."""
    found = {
        name(path): changes(ast.parse(path.read_text()))
        for path in MODULES
        if "simulator" not in path.parts and path.name != "schema.py"
    }
    assert {module: how for module, how in found.items() if how and module not in WRITES_AS_AN_APPLICATION} == {}
