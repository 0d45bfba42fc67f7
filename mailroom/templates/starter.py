"""A folder of templates to begin with: letters for both of mailroom's own actions, in English and German."""

import html
import re
from collections.abc import Iterator
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Final

from mailroom.errors import SettingsError
from mailroom.templates.folder import FolderError

NAME: Final = "Example"
SITE: Final = "https://example.com"
_SITE: Final = re.compile(r"https?://[A-Za-z0-9.-]+(:[0-9]{1,5})?(/[A-Za-z0-9._~-]+)*")


def write(folder: Path, *, name: str, site: str) -> None:
    """Write it. Raises FolderError where there is something already, SettingsError for a name or site that is none."""
    if _SITE.fullmatch(site) is None:
        raise SettingsError(f"--site: {site!r} is not accepted: give where your pages are, as in {SITE}")
    if not name.isprintable() or not name or len(name) > 100 or set(name) & set("{}\\"):
        raise SettingsError("--name: give 1 to 100 letters, without braces and backslashes")
    try:
        if folder.exists() and any(folder.iterdir()):
            raise FolderError(f"{folder} is there already, and is left as it is")
        for inner, file in _files(resources.files(__package__) / "texts"):
            to = folder.joinpath(*inner, file.name)
            to.parent.mkdir(parents=True, exist_ok=True)
            shown = html.escape(name) if file.name.endswith(".html") else name
            to.write_text(_personal(file.read_text("utf-8"), name=shown, site=site), encoding="utf-8")
    except OSError as error:
        raise FolderError(f"{folder}: {error.strerror}") from error


def _personal(text: str, *, name: str, site: str) -> str:
    host = site.partition("://")[2]
    words = {SITE: site, SITE.partition("://")[2]: host, NAME: name}
    return re.sub("|".join(map(re.escape, words)), lambda found: words[found[0]], text)


def _files(folder: Traversable, inner: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Traversable]]:
    """Give each file with the folders that it is in."""
    for each in folder.iterdir():
        if each.is_dir():
            yield from _files(each, (*inner, each.name))
        else:
            yield inner, each
