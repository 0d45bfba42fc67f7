"""What was measured, kept as JSON beside the pictures, so that the page can be made of parts from several runs."""

import json
import os
import platform
import statistics
import subprocess
import tempfile
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any, Final

import psutil

from mailroom.demo.postgres import wheel_binaries
from tests.benchmarks.grid import Grid
from tests.benchmarks.machine import ROOT, SETTINGS
from tests.benchmarks.trial import Trial

FOLDER: Final = ROOT / "docs" / "benchmarks"
_PACKAGES: Final = ("psycopg", "SQLAlchemy", "boto3", "procrastinate", "pgqueuer", "asyncpg", "uvloop")


@dataclass(frozen=True, slots=True)
class Result:
    """One measure as it was found: when, how large, how often, on what, and its tables."""

    name: str
    measured_at: str
    size: str
    runs: int
    seconds: float
    machine: str
    versions: dict[str, str]
    settings: dict[str, str]
    grids: dict[str, Grid]


def keep(folder: Path, name: str, trial: Trial, seconds: float, grids: list[Grid]) -> None:
    """Keep a result, in the place of the one before of the same measure."""
    found: dict[str, Any] = {
        "name": name,
        "measured_at": datetime.now(UTC).isoformat(timespec="minutes"),
        "size": trial.size.value,
        "runs": trial.runs,
        "seconds": round(seconds),
        "machine": _machine(),
        "versions": _versions(),
        "settings": SETTINGS,
        "grids": [grid.as_json() for grid in grids],
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps(found, indent=1) + "\n")


def read(folder: Path, name: str) -> Result | None:
    """Return what was kept of a measure; None if it was never measured."""
    path = folder / f"{name}.json"
    if not path.exists():
        return None
    found = json.loads(path.read_text())
    grids = {each["title"]: Grid(each["title"], each["cells"]) for each in found.pop("grids")}
    return Result(grids=grids, **found)


def _machine() -> str:
    memory = psutil.virtual_memory().total / 2**30
    flush = statistics.median(_flush_seconds() for _ in range(100)) * 1e6
    model = [line.split(":")[1].strip() for line in _cpu() if line.startswith("model name")]
    what = model[0] if model else platform.machine()
    machine = f"{os.cpu_count()} cores ({what}), {memory:.0f} GB, Linux {platform.release().split('-')[0]}"
    return f"{machine}; a flush of 8 kB takes {flush:.0f} µs"


def _flush_seconds() -> float:
    """How long fdatasync takes where the databases are."""
    with tempfile.TemporaryFile(prefix="bench-") as file:
        file.write(bytes(8192))
        file.flush()
        began = time.perf_counter()
        os.fdatasync(file.fileno())
        return time.perf_counter() - began


def _cpu() -> list[str]:
    try:
        return Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return []


def _versions() -> dict[str, str]:
    found = {"Python": platform.python_version(), "PostgreSQL": _server_version()}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def _server_version() -> str:
    told = subprocess.run([wheel_binaries() / "postgres", "--version"], capture_output=True, text=True, check=True)
    return told.stdout.split()[-1]
