"""Processes in a PID namespace of their own, where the first has number 1, as in a container."""

import shutil
import signal
import subprocess
from pathlib import Path
from typing import Final

from tests.machine import missing

# Gone with the process that is PID 1 in there, and that with this one.
NEW_PID_1: Final = [shutil.which("unshare") or "unshare", "--pid", "--fork", "--mount-proc", "--kill-child"]


def needs_namespaces() -> None:
    """Skip a test on a machine where nobody may make one."""
    if subprocess.run([*NEW_PID_1, "true"], check=False, capture_output=True).returncode != 0:
        missing("the right to make a PID namespace")


def child(pid: int) -> int | None:
    """The only child of a process."""
    pids = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return int(pids[0]) if pids else None


def minds(pid: int, number: signal.Signals) -> bool:
    """Whether a process in its namespace has blocked a signal, or hears it; `unshare` itself does not count.

    One that has ended was heard of too late.
    """
    try:
        comm, status = (Path(f"/proc/{pid}/{name}").read_text() for name in ("comm", "status"))
    except (FileNotFoundError, ProcessLookupError):
        return True
    if comm == "unshare\n":
        return False
    lines = dict(line.split(":\t") for line in status.splitlines() if ":\t" in line)
    return any(int(lines[mask], 16) >> (number - 1) & 1 for mask in ("SigBlk", "SigCgt"))
