"""A child process that ends with this one, however this one ends."""

import contextlib
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

# A shell between us: it is the child's parent, so that its pid stays the child's until it has ended, and reads from us
# which signal to send. Should we be killed, it reads the end of that instead. $1: the signal then; $2: what to delete
# then, or nothing; the rest: the command. What the child says goes where its stderr goes.
GUARD: Final = """
exec 3<&0 </dev/null
orphaned=$1 folder=$2; shift 2
"$@" 3<&- >&2 & child=$!
echo "$child"; exec >&2
{ read -r signal <&3 || { kill -s "$orphaned" "$child"; exit 3; }; kill -s "$signal" "$child"; } & reader=$!
wait "$child"; code=$?
kill "$reader" 2>/dev/null; wait "$reader"
[ $? -ne 3 ] || [ -z "$folder" ] || rm -rf -- "$folder"
exit "$code"
"""


class Guarded:
    """A running process, in a session of its own: of Ctrl-C, and of a terminal that closes, it hears from us alone."""

    def __init__(
        self,
        command: Sequence[str | Path],
        *,
        orphaned: str,
        folder: Path | None = None,
        output: int | None = None,
        environment: Mapping[str, str] | None = None,
        **more: Any,
    ) -> None:
        """Start it. Should we be killed, it gets the signal `orphaned`, such as TERM, and then `folder` is deleted.

        `output` is where it writes; without it, our stderr.
        """
        shell = ["/bin/sh", "-c", GUARD, "guard", orphaned, str(folder or ""), *map(str, command)]
        streams: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": output, "bufsize": 0}
        self._shell: subprocess.Popen[bytes] = subprocess.Popen(
            shell, env=environment, start_new_session=True, **streams, **more
        )
        assert self._shell.stdout is not None  # noqa: S101 - it is a pipe
        with self._shell.stdout as reported:
            self.pid = int(reported.readline())

    def is_running(self) -> bool:
        return self._shell.poll() is None

    def stop(self, signal: str, *, seconds: float) -> int:
        """Send it a signal, such as TERM, and return its exit code; TimeoutExpired if it has not ended by then.

        If it has ended already, that is all there is to learn.
        """
        assert self._shell.stdin is not None  # noqa: S101 - it is a pipe
        with contextlib.suppress(BrokenPipeError):  # it has ended
            self._shell.stdin.write(f"{signal}\n".encode())
        code = self._shell.wait(seconds)
        self._shell.stdin.close()
        return code
