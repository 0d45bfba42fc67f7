"""What docs/architecture.md says of the listing: every file that it names is there, and each folder has its row."""

import re

from tests.machine import ROOT

PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
FOLDERS = sorted(path.parent.name for path in (ROOT / "mailroom").glob("*/__init__.py"))
# What people change most, each with the file to open.
LIKELY_CHANGES = 20


def named(text: str) -> set[str]:
    """The paths that a text names."""
    return set(re.findall(r"`((?:mailroom|alembic|tests|docs)/[\w./-]*)`", text))


def test_every_file_that_is_named_is_there() -> None:
    assert named(PAGE) > {"mailroom/queue/claim.py", "mailroom/sql/claim.sql"}
    assert [path for path in named(PAGE) if not (ROOT / path).exists()] == []


def test_each_folder_has_a_row() -> None:
    rows = [line for line in PAGE.splitlines() if line.startswith("| `mailroom/")]
    assert [folder for folder in FOLDERS if not any(f"`mailroom/{folder}/`" in row for row in rows)] == []


def test_the_likeliest_changes_name_what_to_open() -> None:
    part = PAGE.partition("## To change X, open Y")[2].partition("\n## ")[0]
    rows = [line for line in part.splitlines() if line.startswith("|")][2:]
    assert len(rows) >= LIKELY_CHANGES
    assert [row for row in rows if not named(row)] == []
