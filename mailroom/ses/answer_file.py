"""The file of raw error answers. Its folder may be anywhere, so others may have been there before."""

import contextlib
import json
import logging
import os
import stat
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

log = logging.getLogger(__name__)

NAME: Final = "ses-errors.jsonl"
_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# Opening a FIFO would wait for a reader.
_FILE: Final = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_WRITABLE_BY_OTHERS: Final = stat.S_IWGRP | stat.S_IWOTH


class AnswerFile:
    """Appends answers to a file that only this user reads and writes, in a folder that only this user writes to.

    A folder or a file that is anything else is left alone: that is logged, once for each reason. A folder that all may
    write to is none to be trusted, whoever may delete in it: of /tmp, take a folder below.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._trouble = ""

    def append(self, batch: str | None, tokens: list[int | None], answer: object) -> None:
        """Append what was answered for the mails of these tokens, if that can be. Never raises, and never waits."""
        try:
            self._append({"at": datetime.now(UTC).isoformat(), "batch": batch, "tokens": tokens, "answer": answer})
            trouble = ""
        except (OSError, TypeError, ValueError, RecursionError) as error:
            trouble = str(error)
        if trouble not in {"", self._trouble}:
            log.warning("ses answer not kept: %s", trouble)
        self._trouble = trouble

    def _append(self, line: dict[str, object]) -> None:
        written = json.dumps(line, default=str).encode() + b"\n"
        _refuse_foreign_way(self._folder.absolute())
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder = os.open(self._folder, _FOLDER)
        try:
            _refuse_foreign(os.fstat(folder), self._folder)
            file = os.open(NAME, _FILE, 0o600, dir_fd=folder)
        finally:
            os.close(folder)
        with os.fdopen(file, "ab", buffering=0) as out:
            found = os.fstat(file)
            _refuse_foreign(found, self._folder / NAME)
            if not stat.S_ISREG(found.st_mode) or found.st_nlink != 1:
                raise PermissionError(f"{str(self._folder / NAME)!r} is not a plain file, or has another name besides")
            out.write(written)


def _refuse_foreign_way(folder: Path) -> None:
    """Refuse a way to the folder on which another user could lead elsewhere: by a link, or a folder of theirs."""
    for each in folder.parents:
        with contextlib.suppress(FileNotFoundError):
            found = each.lstat()
            if found.st_uid not in {0, os.geteuid()}:
                raise PermissionError(f"{str(each)!r} belongs to another user")


def _refuse_foreign(found: os.stat_result, path: Path) -> None:
    if found.st_uid != os.geteuid():
        raise PermissionError(f"{str(path)!r} belongs to another user")
    if found.st_mode & _WRITABLE_BY_OTHERS:
        raise PermissionError(f"others may write to {str(path)!r}: chmod go-w, or name a folder of its own")
