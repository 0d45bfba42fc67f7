"""What a template is given for a mail."""

import html
import json


def template_data(*, login: str, secret: str, code: str | None, data: str | None = None) -> str:
    """Return the JSON object that fills a template.

    `login` is escaped for the HTML part, since SES escapes nothing; `login_text` is raw, for the text part. So is each
    string of `data`, a JSON object of the application's. `secret` is the signed token. The JSON is ASCII, so its length
    is its size in bytes.
    """
    given = {} if data is None else json.loads(data)
    filled = {name: html.escape(value) if isinstance(value, str) else value for name, value in given.items()}
    filled |= {f"{name}_text": value for name, value in given.items() if isinstance(value, str)}
    filled |= {"login": html.escape(login), "login_text": login, "secret": secret}
    return json.dumps(filled if code is None else filled | {"code": code})
