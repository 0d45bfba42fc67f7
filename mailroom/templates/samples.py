"""Mails as they might be: what previews show, and what templates are tried with."""

import json
from collections.abc import Mapping
from typing import Any, Final

from mailroom.mail.templates import template_data
from mailroom.templates.folder import Value

# By what is hard about them. 254 letters are the most that a login has.
SAMPLES: Final[Mapping[str, str]] = {
    "ordinary": "Ada Lovelace",
    "long": "Wolfeschlegelsteinhausenbergerdorff " * 7 + "Sr",
    "right-to-left": "شهرزاد بنت الوزير",
    "html": '<b>O\'Neil & "Sons"</b> {{secret}}',
}
# As long as a real one, and good for nothing.
SECRET: Final = "preview" * 12 + "of"
CODE: Final = "01234"


def template_json(sample: str, data: Mapping[str, Value], chosen: Mapping[str, str], *, has_code: bool) -> str:
    """Return what the template is given for a sample, as a worker would give it."""
    return login_json(SAMPLES[sample], data, chosen, has_code=has_code)


def login_json(login: str, data: Mapping[str, Value], chosen: Mapping[str, str], *, has_code: bool) -> str:
    """Return what the template is given for an account with this login."""
    given = json.dumps({**data, **chosen})
    return template_data(login=login, secret=SECRET, code=CODE if has_code else None, data=given)


def parsed(given: str) -> dict[str, Any]:
    """Return it as what is rendered from."""
    found: dict[str, Any] = json.loads(given)
    return found
