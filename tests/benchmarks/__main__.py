"""Measure, keep what was found, and write docs/benchmarks.md with its pictures anew.

    python -m tests.benchmarks [MEASURE ...] [--full | --tiny] [--runs N] [--soak-seconds N] [--folder FOLDER]

Without names all are measured (the soak in a full run alone); `page` measures nothing, and writes the page from what
is kept. A tiny run shows that everything works; what it finds is kept in a folder of its own.
"""

import argparse
import tempfile
import time
from pathlib import Path
from typing import Final

from tests.benchmarks import page, results
from tests.benchmarks.measures import MEASURES, ONLY_FULL
from tests.benchmarks.trial import Size, Trial, say

PAGE_ALONE: Final = "page"


def main() -> None:
    """Read the command line, measure, and write the page."""
    given = _arguments()
    trial = Trial(given.size, given.runs, given.soak_seconds)
    folder = given.folder or _folder(trial)
    for name in _chosen(given.measures, trial):
        _measure(folder, name, trial)
        page.write(folder, folder.with_suffix(".md"))  # after each: an hour later something may fail
    page.write(folder, folder.with_suffix(".md"))
    say(f"written: {folder.with_suffix('.md')}")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("measures", nargs="*", choices=[*MEASURES, PAGE_ALONE, []], metavar="MEASURE")
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--full", dest="size", action="store_const", const=Size.FULL, default=Size.BENCH)
    size.add_argument("--tiny", dest="size", action="store_const", const=Size.TINY)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--soak-seconds", type=float, default=1800)
    parser.add_argument("--folder", type=Path)
    return parser.parse_args()


def _folder(trial: Trial) -> Path:
    return Path(tempfile.gettempdir()) / "benchmarks-tiny" if trial.size is Size.TINY else results.FOLDER


def _chosen(names: list[str], trial: Trial) -> list[str]:
    if names:
        return [name for name in names if name != PAGE_ALONE]
    return [name for name in MEASURES if trial.size is not Size.BENCH or name not in ONLY_FULL]


def _measure(folder: Path, name: str, trial: Trial) -> None:
    say(f"{name}:")
    began = time.monotonic()
    grids = MEASURES[name].measure(trial)
    results.keep(folder, name, trial, time.monotonic() - began, grids)
    for grid in grids:
        say(grid.markdown() + "\n")


main()
