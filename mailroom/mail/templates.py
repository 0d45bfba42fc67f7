"""What a template is given for a mail."""

import html
import json
from collections.abc import Iterable
from typing import Final

# Names that begin so say which language a mail is in, and are no data of the application's.
LANGUAGE_PREFIX: Final = "lang_"


def template_data(*, login: str, secret: str, code: str | None, data: str | None = None) -> str:
    """Return the JSON object that fills a template.

    `login` is escaped for the HTML part, since SES escapes nothing; `login_text` is raw, for the text part. So is each
    string of `data`, a JSON object of the application's with the language of the mail in it. `secret` is the signed
    token. The JSON is ASCII, so its length is its size in bytes.
    """
    given = {} if data is None else json.loads(data)
    filled = {name: html.escape(value) if isinstance(value, str) else value for name, value in given.items()}
    filled |= {f"{name}_text": value for name, value in given.items() if _is_text(name, value)}
    filled |= {"login": html.escape(login), "login_text": login, "secret": secret}
    return json.dumps(filled if code is None else filled | {"code": code})


def language_flag(language: str) -> str:
    """Return the name under which a template is told whether a mail is in this language, as in lang_pt_br."""
    return LANGUAGE_PREFIX + language.lower().replace("-", "_")


def language_flags(languages: Iterable[str], default: str | None) -> dict[str, str]:
    """Return what a mail in the default language is given: for every other language, that it is not the mail's."""
    return {language_flag(language): "" for language in languages if language != default}


def without_languages(data: str | None) -> str | None:
    """Return what is left of the data of a mail without its language."""
    given = {} if data is None else json.loads(data)
    left = {name: value for name, value in given.items() if not name.startswith(LANGUAGE_PREFIX)}
    return json.dumps(left) if left else None


def _is_text(name: str, value: object) -> bool:
    return isinstance(value, str) and not name.startswith(LANGUAGE_PREFIX)
