"""What each action means for its mail: the template at SES, the data it is given, and its number in the line format."""

import html
import json
from typing import Final

from mailroom.job import Action

TEMPLATES: Final = {
    Action.ACTIVATION: "activationv1",
    Action.PASSWORD_RECOVERY: "passwordrecoveryv1",
}
# The numbers that stand for them in the lines of `collect` and `send`, as the original wrote them.
NUMBERS: Final = {Action.ACTIVATION: "1", Action.PASSWORD_RECOVERY: "2"}


def template_data(action: Action, *, login: str, secret: str, code: str) -> str:
    """Return the JSON object that fills the action's template.

    `login` is escaped for the HTML part, since SES escapes nothing; `login_text` is raw, for the text part.
    `secret` is the signed token. Only a recovery has a `code`. The JSON is ASCII, so its length is its size in bytes.
    """
    data = {"login": html.escape(login), "login_text": login, "secret": secret}
    if action is Action.PASSWORD_RECOVERY:
        data["code"] = code
    return json.dumps(data)
