"""The folder of templates: what is where in it, and reading it."""

import math
import re
import stat
import tomllib
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from mailroom.errors import MailroomError

PARTS: Final = {"subject": "subject.txt", "text": "text.txt", "html": "html.html"}
SETTINGS: Final = "templates.toml"
LAYOUT: Final = "layout"
# SES: a template has at most 500 kB. What is larger than that alone is no file of a template.
MAX_FILE: Final = 500_000
# Up to there JavaScript counts, and so SES writes what was given.
MAX_NUMBER: Final = 2**53
# As accounts.language is checked.
_LANGUAGE: Final = re.compile(r"[A-Za-z]{2,8}([-_][A-Za-z0-9]{1,8}){0,4}")
_ACTION: Final = re.compile(r"[a-z][a-z0-9_]{0,49}")
# As request_mail takes it.
_NAME: Final = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,63}")

Value = str | int | float | bool


class FolderError(MailroomError):
    """A folder of templates that cannot be read as one."""


@dataclass(frozen=True, slots=True)
class Parts:
    """The three texts of a mail in one language, with the layout around them."""

    subject: str
    text: str
    html: str

    def items(self) -> Iterator[tuple[str, str]]:
        """Give each with its name."""
        yield from (("subject", self.subject), ("text", self.text), ("html", self.html))


@dataclass(frozen=True, slots=True)
class Folder:
    """What is in it: the texts of each action by language, and what each action is given besides, with an example.

    Languages are in small letters, the parts of one between hyphens.
    """

    default_language: str
    texts: Mapping[str, Mapping[str, Parts]]
    data: Mapping[str, Mapping[str, Value]]


def read(folder: Path) -> Folder:
    """Read a folder. Raises FolderError for what is missing, or is in no place where it means something."""
    if not folder.is_dir():
        raise FolderError(f"{folder} is no folder: `mailroom templates init {folder}` makes one")
    default_language, data = _settings(folder / SETTINGS)
    layouts = _layouts(folder / LAYOUT)
    texts = {each.name: _languages(each, layouts) for each in _folders(folder) if each.name != LAYOUT}
    for action, languages in texts.items():
        if _ACTION.fullmatch(action) is None:
            raise FolderError(f"{folder / action}: {action!r} is no name of an action")
        if default_language not in languages:
            raise FolderError(f"{folder / action}: has no {default_language}, which is the default language")
    if not texts:
        raise FolderError(f"{folder} has no folder of an action, such as activation/{default_language}")
    if stray := data.keys() - texts.keys():
        raise FolderError(f"{folder / SETTINGS}: [{min(stray)}] is of no action that has a folder")
    if idle := layouts.keys() - {"", *(language for languages in texts.values() for language in languages)}:
        raise FolderError(f"{folder / LAYOUT}: has {min(idle)}, a language that no action has")
    return Folder(default_language, texts, data)


def _settings(file: Path) -> tuple[str, dict[str, dict[str, Value]]]:
    try:
        found: dict[str, Any] = tomllib.loads(_text(file))
    except tomllib.TOMLDecodeError as error:
        raise FolderError(f"{file}: {error}") from error
    except (ValueError, RecursionError) as error:
        raise FolderError(f"{file}: has a number that is too long, or too much in each other") from error
    default_language = found.pop("default_language", None)
    if not isinstance(default_language, str) or _LANGUAGE.fullmatch(default_language) is None:
        raise FolderError(f'{file}: has no default_language, as in default_language = "en"')
    for action, data in found.items():
        if not isinstance(data, dict):
            raise FolderError(f"{file}: {action} is not known: give default_language, and a table for each action")
        for name, value in data.items():
            if not _is_data(name, value):
                raise FolderError(f"{file}: [{action}] {name}: request_mail does not take it")
    return _normal(default_language), found


def _is_data(name: str, value: object) -> bool:
    """Whether request_mail takes a value under this name."""
    taken = name in {"login", "secret", "code"} or name.endswith("_text") or name.startswith("lang_")
    return _NAME.fullmatch(name) is not None and not taken and _is_value(value)


def _is_value(value: object) -> bool:
    match value:
        case str():
            return "\0" not in value
        case int():
            return abs(value) <= MAX_NUMBER
        case float():
            return math.isfinite(value)
        case _:
            return False


def _languages(action: Path, layouts: Mapping[str, Mapping[str, str]]) -> dict[str, Parts]:
    found: dict[str, Parts] = {}
    for language, folder in _by_language(action, files=()).items():
        _refuse_stray(folder, list(PARTS.values()))
        texts = {part: _text(folder / file) for part, file in PARTS.items()}
        for part in ("text", "html"):
            laid_out = {**layouts.get("", {}), **layouts.get(language, {})}
            texts[part] = _laid_out(texts[part], laid_out.get(part), language)
        found[language] = Parts(**{part: text.strip("\n") for part, text in texts.items()})
    return found


def _layouts(layout: Path) -> dict[str, dict[str, str]]:
    """Return the layouts of text and HTML by language, those of all under no name."""
    if layout not in _entries(layout.parent):
        return {}
    files = {part: PARTS[part] for part in ("text", "html")}
    found = {}
    for language, folder in {"": layout, **_by_language(layout, files=list(files.values()))}.items():
        if language:
            _refuse_stray(folder, list(files.values()))
        there = {each.name for each in _entries(folder)}
        found[language] = {part: _layout(folder / file) for part, file in files.items() if file in there}
    return found


def _layout(file: Path) -> str:
    found = _text(file)
    if len(re.findall(r"\{\{>\s*content\s*\}\}", found)) != 1:
        raise FolderError(f"{file}: has {{{{> content}}}} not once, which is where the text goes")
    return found


def _by_language(parent: Path, *, files: Collection[str]) -> dict[str, Path]:
    """Return the folders of languages in another, by language; besides there may be these files."""
    found: dict[str, Path] = {}
    for folder in _folders(parent):
        if _LANGUAGE.fullmatch(folder.name) is None:
            raise FolderError(f"{folder}: {folder.name!r} is no language, such as en or pt-BR")
        language = _normal(folder.name)
        if language in found:
            raise FolderError(f"{parent}: has {language} twice")
        found[language] = folder
    _refuse_stray(parent, [*files, *(folder.name for folder in found.values())])
    return found


def _refuse_stray(folder: Path, known: Collection[str]) -> None:
    """Refuse what means nothing where it is: whoever put it there believes that it is used."""
    for each in _entries(folder):
        if each.name not in known:
            raise FolderError(f"{each}: means nothing here, beside {', '.join(sorted(known)) or 'nothing'}")


def _laid_out(text: str, layout: str | None, language: str) -> str:
    if layout is None:
        return text
    words = {"content": text.strip("\n"), "language": language, "dir": direction(language)}
    return re.sub(r"\{\{>\s*(content|language|dir)\s*\}\}", lambda found: words[found[1]], layout)


def direction(language: str) -> str:
    """Return how a language is written, as `dir` of HTML has it."""
    base, *rest = language.split("-")
    scripts = {part for part in rest if len(part) == 4}
    if scripts:
        return "rtl" if scripts & _RTL_SCRIPTS else "ltr"
    return "rtl" if base in _RTL_LANGUAGES else "ltr"


_RTL_LANGUAGES: Final = frozenset(
    "ar arc ckb dv fa glk he iw ji ks lrc mzn nqo pnb ps sd sdh syr ug ur yi".split()  # noqa: SIM905 - a list to read
)
_RTL_SCRIPTS: Final = frozenset({"adlm", "arab", "aran", "hebr", "mand", "nkoo", "rohg", "samr", "syrc", "thaa"})


def _normal(language: str) -> str:
    return language.lower().replace("_", "-")


def _folders(folder: Path) -> list[Path]:
    """Return the folders in another. Files beside them are nobody's business, and what leads nowhere is a mistake."""
    entries = _entries(folder)
    for each in entries:
        if not each.exists():
            raise FolderError(f"{each}: leads nowhere")
    return [each for each in entries if each.is_dir()]


def _entries(folder: Path) -> list[Path]:
    """Return what is in a folder, but what is hidden, and the copies that editors leave."""
    try:
        return sorted(
            each for each in folder.iterdir() if not each.name.startswith(".") and not each.name.endswith("~")
        )
    except OSError as error:
        raise FolderError(f"{folder}: {error.strerror}") from error


def _text(file: Path) -> str:
    """Return a text with line feeds as its line ends."""
    try:
        if not stat.S_ISREG(file.stat().st_mode):  # a device has no end, and a pipe perhaps no beginning
            raise FolderError(f"{file}: is no ordinary file")
        with file.open("rb") as opened:
            found = opened.read(MAX_FILE + 1)
        if len(found) > MAX_FILE:
            raise FolderError(f"{file}: is larger than {MAX_FILE // 1000} kB")
        return found.decode("utf-8-sig").replace("\r\n", "\n")
    except OSError as error:
        raise FolderError(f"{file}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise FolderError(f"{file}: is not UTF-8") from error
