"""What each action means for its mail: the template at SES, and the data the template is given."""

import html
import json
from typing import Final

from mailroom import tokens
from mailroom.job import Action, Job

TEMPLATES: Final = {
    Action.ACTIVATION: "activationv1",
    Action.PASSWORD_RECOVERY: "passwordrecoveryv1",
}


def template_data(job: Job, *, key: bytes) -> str:
    """Return the JSON object that fills the template of the job's action.

    `login` is escaped for the HTML part, since SES escapes nothing; `login_text` is raw, for the text part.
    `secret` is the signed token. A recovery also has its `code`. ASCII only, so its length is its size in bytes.
    """
    data = {
        "login": html.escape(job.login),
        "login_text": job.login,
        "secret": tokens.sign(job.secret, action=job.action, key=key, code=job.code),
    }
    if job.action is Action.PASSWORD_RECOVERY:
        data["code"] = job.code
    return json.dumps(data)
