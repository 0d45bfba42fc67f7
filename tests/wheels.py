"""A release of mailroom as its users have it: built from a checkout, and run without one."""

import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile


def install(checkout: Path, folder: Path) -> Path:
    """Build the wheel of a checkout in a folder, and return where it is installed: pure Python is only unpacked."""
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    subprocess.run(
        [*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", folder, checkout], check=True, capture_output=True
    )
    [wheel] = folder.glob("*.whl")
    installed = folder / "installed"
    with ZipFile(wheel) as archive:
        archive.extractall(installed)
    return installed
