"""The log as JSON, an object a line: the event of each call that logs, and its fields with their types.

Both are read from the words of the call itself, as in `batch id=%d action=%s`, so that text and JSON are one table.
"""

import json
import logging
import os
import re
import socket
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Final

from mailroom.cli.log import Wordless

# A value, after its name or the thing it counts (`line %d`) or alone; or a named word that is in the call itself.
_VALUE: Final = re.compile(
    r"(?:(?P<name>\w+)=|(?P<noun>\b\w+) (?=%d))?(?P<value>%[-#0 +]*\d*(?:\.\d+)?[a-zA-Z])"
    r"|(?P<flag>\w+)=(?P<word>\w+)(?!\S)|%%"
)
_NAMED_ERROR: Final = re.compile(r"\berror=")
# The fields of a trace, where there is one.
_TRACE: Final = ("trace_id", "span_id")


@dataclass(frozen=True, slots=True)
class _Shape:
    """What a call's words mean: its event, with %s for values without a name, and the names of the values in turn."""

    event: str
    names: tuple[str | None, ...]
    flags: tuple[tuple[str, bool | str], ...]


class JsonLines(Wordless):
    """Formats a record as one line. Nothing is in it that the text would not say too."""

    def __init__(self) -> None:
        super().__init__()
        self._worker = f"{socket.gethostname()}/{os.getpid()}"

    def format(self, record: logging.LogRecord) -> str:
        """Return the object on one line, in ASCII, with all control characters escaped."""
        moment = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        event, fields = event_and_fields(record)
        line: dict[str, Any] = {"time": moment.replace("+00:00", "Z"), "level": record.levelname, "event": event}
        line |= {"worker": self._worker} | fields
        line |= {name: getattr(record, name) for name in _TRACE if hasattr(record, name)}
        if record.exc_info and record.exc_info[0] is not None:
            line |= {"error": record.exc_info[0].__name__, "traceback": self.formatException(record.exc_info)}
        return json.dumps({name: _legible(value) for name, value in line.items()}).replace("\x7f", "\\u007f")


def event_and_fields(record: logging.LogRecord) -> tuple[str, dict[str, Any]]:
    """Return what has happened, and what is said of it. Values without a name are part of the event."""
    shape = _shape(str(record.msg))
    values: Sequence[Any] = record.args if isinstance(record.args, tuple) else ()
    if len(values) != len(shape.names):  # not one of ours
        return record.getMessage(), {}
    unnamed = tuple(value for name, value in zip(shape.names, values, strict=True) if name is None)
    fields: dict[str, Any] = {
        name: _plain(value) for name, value in zip(shape.names, values, strict=True) if name is not None
    }
    if record.levelno < logging.WARNING and "error" in fields and not _NAMED_ERROR.search(str(record.msg)):
        fields["what"] = fields.pop("error")
    event = shape.event % unnamed if values else shape.event.replace("%%", "%")  # as logging: without values no format
    return event, fields | dict(shape.flags)


@lru_cache(maxsize=1000)
def _shape(words: str) -> _Shape:
    names: list[str | None] = []
    flags: list[tuple[str, bool | str]] = []

    def event() -> Iterator[str]:
        end = 0
        for found in _VALUE.finditer(words):
            yield words[end : found.start()]
            end = found.end()
            if found["flag"]:
                flags.append((found["flag"], True if found["word"] == "true" else found["word"]))
            elif found["value"] is None:
                yield "%%"
            elif name := found["name"] or found["noun"] or _last(words, found):
                names.append(name)
                yield found["noun"] or ""
            else:
                names.append(None)
                yield found["value"]
        yield words[end:]

    said = " ".join("".join(event()).split()).rstrip(":, ")
    return _Shape(re.sub(r" ([,:])", r"\1", said), tuple(names), tuple(flags))


def _last(words: str, found: re.Match[str]) -> str | None:
    """Return what the last value of a call is called, if it has no name of its own."""
    if found.end() < len(words) or found.start() == 0:
        return None
    return "error" if words[: found.start()].endswith(": ") else "message"


def _plain(value: Any) -> Any:
    """Return a value as JSON has it: whole milliseconds, and words as they are."""
    if isinstance(value, bool | int) or value is None:
        return value
    if isinstance(value, float):
        return round(value)
    return str(value)


def _legible(value: Any) -> Any:
    """Return words without the halves of characters that bytes of no UTF-8 are read as: no JSON may have them."""
    return value.encode(errors="backslashreplace").decode() if isinstance(value, str) else value
