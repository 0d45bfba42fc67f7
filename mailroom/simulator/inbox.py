"""The pages for a person: the inbox, and one mail. What a mail holds is text here, never markup or code."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from functools import cache
from html import escape
from importlib import resources
from string import Template as Page

from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from mailroom.simulator.ledger import Ledger
from mailroom.simulator.records import Mail

SHOWN = 100

# Mail brings its own style, so that is allowed inline; nothing may be loaded from anywhere else, and no script runs
# but our own file. Mail in its frame has no script at all, no origin, no forms, and no way to the page around it.
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; connect-src 'self'; img-src data:;"
    " style-src 'self' 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}


class Inbox:
    """The pages over one ledger."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

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
        rows = "".join(_row(mail) for mail in newest)
        return _page("inbox.html", counts, rows=rows, hidden="hidden" if newest else "")

    def mail(self, request: Request) -> Response:
        mail = self._ledger.find(request.path_params["message_id"])
        if mail is None:
            return _page("nothing.html", {}, status=404)
        return _page("mail.html", _fields(mail), tags=_tags(mail.tags))


def _row(mail: Mail) -> str:
    return Page(_file("row.html")).substitute(_escaped(_fields(mail)))


def _fields(mail: Mail) -> dict[str, str]:
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
        "text": mail.text or "",
        "html": mail.html or "",
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
