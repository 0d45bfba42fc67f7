"""One line of `doctor`: what was checked, how it stands, and what cures it."""

from dataclasses import dataclass
from enum import StrEnum


class Level(StrEnum):
    """How a check ended. A warning is for a person to weigh; what has failed keeps mail from leaving, or will."""

    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Finding:
    """What was checked, how it stands in words, and the cure: empty where nothing is wrong."""

    check: str
    level: Level
    words: str
    cure: str = ""


def ok(check: str, words: str) -> Finding:
    """Return that all is well."""
    return Finding(check, Level.OK, words)


def warning(check: str, words: str, cure: str) -> Finding:
    """Return something to weigh."""
    return Finding(check, Level.WARNING, words, cure)


def failed(check: str, words: str, cure: str) -> Finding:
    """Return something to mend."""
    return Finding(check, Level.FAILED, words, cure)
