"""The pages for a person: the inbox, and one mail. What a mail holds is text here, never markup or code."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from functools import cache
from html import escape
from importlib import resources
from string import Template as Page

from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from mailroom.simulator.happenings import FATES, Happening, state
from mailroom.simulator.records import Mail
from mailroom.simulator.ses import Ses

SHOWN = 100

ON_THE_LIST = ("bounce", "complaint", "delay")
LABELS = {
    "success": "Deliver",
    "bounce": "Bounce",
    "softbounce": "Soft bounce",
    "toolarge": "Too large",
    "ooto": "Out of office",
    "complaint": "Complaint",
    "notspam": "Not spam",
    "delay": "Delay",
    "reject": "Reject",
    "renderingfailure": "Rendering failure",
    "suppressionlist": "Global list",
}
TONES = {
    "delivered": "good",
    "not spam": "good",
    "out of office": "good",
    "bounced": "bad",
    "complaint": "bad",
    "rejected": "bad",
    "not rendered": "bad",
    "suppressed": "warn",
    "soft bounce": "warn",
    "delayed": "warn",
}

# Mail brings its own style, so that is allowed inline; nothing may be loaded from anywhere else, and no script runs
# but our own file. Mail in its frame has no script at all, no origin, no forms, and no way to the page around it.
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; connect-src 'self'; img-src data:;"
    " style-src 'self' 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}


class Inbox:
    """The pages over one `Ses`."""

    def __init__(self, ses: Ses) -> None:
        self._ledger = ses.ledger
        self._sets = ses.configuration_sets

    def routes(self) -> list[Route]:
        return [
            Route("/", self.inbox),
            Route("/mails/{message_id}", self.mail),
            Route("/inbox.css", lambda _: Response(_file("inbox.css"), media_type="text/css")),
            Route("/inbox.js", lambda _: Response(_file("inbox.js"), media_type="text/javascript")),
        ]

    def inbox(self, _: Request) -> Response:
        """The newest mails; the page asks for itself again when the counts change."""
        newest = self._ledger.newest(SHOWN)
        counts = {name: f"{count:,}" for name, count in asdict(self._ledger.counts()).items()}
        rows = "".join(_row(mail, self._ledger.story(mail.message_id)) for mail in newest)
        return _page("inbox.html", counts, rows=rows, hidden="hidden" if newest else "")

    def mail(self, request: Request) -> Response:
        mail = self._ledger.find(request.path_params["message_id"])
        if mail is None:
            return _page("nothing.html", {}, status=404)
        story = self._ledger.story(mail.message_id)
        fields = _fields(mail, story) | {"told": self._told(mail)}
        return _page("mail.html", fields, tags=_tags(mail.tags), story=_story(story), buttons=_buttons(mail, FATES))

    def _told(self, mail: Mail) -> str:
        """Whether anybody hears what becomes of a mail."""
        found = self._sets.find(mail.configuration_set)
        if found is None:
            return "Sent without a configuration set: no event is published."
        if not any(one.queue for one in found.destinations.values()):
            return f"The configuration set {found.name} publishes no events."
        return f"Published by the configuration set {found.name}, as far as its event destination asks for it."


def _row(mail: Mail, story: Sequence[Happening]) -> str:
    buttons = _buttons(mail, ON_THE_LIST)
    return Page(_file("row.html")).substitute(_escaped(_fields(mail, story)), buttons=buttons)


def _buttons(mail: Mail, fates: Iterable[str]) -> str:
    where = f"/_simulator/mails/{mail.message_id}/events"
    return "".join(f'<button data-post="{escape(where)}/{fate}">{LABELS[fate]}</button>' for fate in fates)


def _story(story: Sequence[Happening]) -> str:
    def words(one: Happening) -> str:
        said = " ".join(filter(None, (one.type, one.subtype, one.status, *one.to)))
        return f"{escape(one.event)} <span>{escape(said)}</span>"

    return "".join(f"<li>{words(one)}</li>" for one in story)


def _fields(mail: Mail, story: Sequence[Happening]) -> dict[str, str]:
    became = state(story)
    failure = f"Rendering failed: {mail.missing} is missing"
    return {
        "message_id": mail.message_id,
        "accepted_at": mail.accepted_at.isoformat(sep=" ", timespec="milliseconds"),
        "time": mail.accepted_at.astimezone().strftime("%H:%M:%S"),
        "recipients": ", ".join(mail.recipients),
        "source": mail.source,
        "template": mail.template.name or "none",
        "configuration_set": mail.configuration_set or "none",
        "subject": failure if mail.missing else mail.subject or "",
        "state": "failed" if mail.missing else "accepted",
        "became": became,
        "tone": TONES.get(became, "plain"),
        "text": mail.text or "",
        "html": mail.html or "",
        "reply_to": ", ".join(mail.reply_to) or "none",
        "raw": json.dumps(mail.as_json(), indent=2, ensure_ascii=False),
    }


def _tags(tags: Mapping[str, str]) -> str:
    return "".join(f"<li>{escape(name)} <b>{escape(value)}</b></li>" for name, value in tags.items())


def _page(name: str, fields: Mapping[str, str], *, status: int = 200, **markup: str) -> Response:
    """Fill a page's `$names`: `fields` are escaped, `markup` is ours and is not."""
    body = Page(_file(name)).substitute(_escaped(fields), **markup)
    return HTMLResponse(body, status_code=status, headers=HEADERS)


def _escaped(fields: Mapping[str, str]) -> dict[str, str]:
    return {name: escape(value) for name, value in fields.items()}


@cache
def _file(name: str) -> str:
    return (resources.files(__package__) / "pages" / name).read_text("utf-8")
