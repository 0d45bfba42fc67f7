"""`/mail/TOKEN`: the life of one mail, why it waits, and what may be done about it."""

import logging
import re
from typing import Any, Final

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from mailroom.db import functions
from mailroom.ops import deeds, jobs, why
from mailroom.ops.life import Moment, life
from mailroom.window import views
from mailroom.window.guard import is_asked_here
from mailroom.window.rights import ACT

log = logging.getLogger(__name__)

MAX_TOKEN: Final = 2**63 - 1
BAD: Final = {"failed", "rejected", "unconfirmed", "bounce", "complaint", "reject", "rendering_failure"}


def routes() -> list[Route]:
    """Return the routes of the pages of a mail."""
    return [Route("/mail", find), Route("/mail/{token}", show)]


def read_token(words: str) -> int | None:
    """Return the token that is written there; None if it is none, however long it is."""
    if not re.fullmatch("[0-9]{1,19}", words):
        return None
    token = int(words)
    return token if token <= MAX_TOKEN else None


def find(request: Request) -> Response:
    """Lead whoever gives a token to its page."""
    token = read_token(request.query_params.get("token", "").strip())
    if token is None:
        raise HTTPException(404, "A token is a whole number, as `mailroom jobs list` shows them.")
    return RedirectResponse(f"{views.base(request)}/mail/{token}", status_code=303)


def show(request: Request) -> Response:
    """Show all that is known of a mail; whose it is only to who asks for that, may know, and is written down."""
    token = read_token(request.path_params["token"])
    seen = request.app.state.source.see()
    if token is None:
        raise HTTPException(404, "There is no such token.")
    with request.app.state.source.looking() as connection:
        known = jobs.find_token(connection, token)
        told = life(connection, token)
        answer = why.why_late(connection, seen.reading, token, rate_limit=seen.rate_limit)
        offered = deeds.applicable(connection, token) if views.may_act(request) else []
    if known is None and not told:
        raise HTTPException(404, f"Nothing is known of token {token}.")

    def ahead(moment: Moment) -> bool:
        return moment.at is not None and moment.at > seen.now

    who = _who(request, known.account) if known is not None and "who" in request.query_params else None
    return views.page(
        request,
        "mail.html",
        seen,
        token=token,
        known=known,
        life=sorted(told, key=ahead),
        why=answer,
        who=who,
        offered=offered,
        is_bad=lambda kind: kind.lower() in BAD,
        is_ahead=ahead,
    )


def _who(request: Request, account: int) -> Any:
    """Return address and login of an account."""
    asks, actions = views.visitor(request), request.app.state.actions
    if asks.right != ACT or actions is None:
        raise HTTPException(403, "Whose mail it is may only be asked by who may act here.")
    if not is_asked_here(request.headers):
        raise HTTPException(
            403, "Whose mail it is is asked from its page: what is written down is what somebody asked."
        )
    log.warning("window asked who=%r account=%d", asks.name, account)
    with actions.connect() as connection:
        return functions.call(connection, "account_addresses", {"accounts": [account]}).first()
