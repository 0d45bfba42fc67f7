"""What SES is given: one template with all languages of an action in it, under a name with its hash."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import astuple, dataclass
from functools import reduce

from mailroom.mail.templates import language_flag, language_flags
from mailroom.templates.folder import Folder, Parts


@dataclass(frozen=True, slots=True)
class Content:
    """The template of an action as SES has it. `languages` are those in it."""

    action: str
    parts: Parts
    languages: tuple[str, ...]
    default_language: str

    @property
    def name(self) -> str:
        """The action, and a hash of all that is in it: what is pushed under a name is never changed."""
        written = json.dumps([astuple(self.parts), self.languages, self.default_language])
        return f"{self.action}-{hashlib.sha256(written.encode()).hexdigest()[:8]}"

    @property
    def flags(self) -> tuple[str, ...]:
        """The names by which it asks for the language of a mail: of each but the default."""
        return tuple(language_flags(self.languages, self.default_language))

    def chosen(self, language: str) -> dict[str, str]:
        """Return what a mail in this language is given, as the claim does."""
        return {flag: "1" if flag == language_flag(language) else "" for flag in self.flags}


def compose(folder: Folder, action: str) -> Content:
    """Return the template of an action."""
    texts = folder.texts[action]
    languages = tuple(sorted(texts))
    parts = {
        part: _asking({language: dict(texts[language].items())[part] for language in languages}, folder)
        for part, _ in texts[folder.default_language].items()
    }
    return Content(action, Parts(**parts), languages, folder.default_language)


def _asking(texts: Mapping[str, str], folder: Folder) -> str:
    """Put the texts of one part together: each asks for its language, and the last is the default."""
    default = texts[folder.default_language]
    if len(set(texts.values())) == 1:
        return default
    others = [language for language in sorted(texts, reverse=True) if language != folder.default_language]
    return reduce(
        lambda rest, language: f"{{{{#if {language_flag(language)}}}}}{texts[language]}{{{{else}}}}{rest}{{{{/if}}}}",
        others,
        default,
    )
