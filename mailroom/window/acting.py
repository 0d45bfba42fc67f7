"""What may be done from the window: each with a reason, shown before it happens, bounded, and written to the log."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final
from urllib.parse import parse_qs

from sqlalchemy import Connection, Engine
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import QueryParams
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from mailroom.db.identity import SameDatabase
from mailroom.fleet import pauses
from mailroom.ops.words import several
from mailroom.queue import by_hand, lanes
from mailroom.window import choice, views
from mailroom.window.rights import ACT
from mailroom.window.source import Seen

log = logging.getLogger(__name__)

# As many tokens as are changed at once, each of nineteen digits, and the rest of the form.
MAX_FORM: Final = 32_768
ELSEWHERE: Final = "Nothing was done: actions of this window lead to another database than the one that it shows."


@dataclass(frozen=True, slots=True)
class Deed:
    """Something that may be done: its name in a button, and once it is done; what it does, and how it is taken back."""

    button: str
    told: str
    does: str
    back: str


OF_JOBS: Final = {
    "retry": Deed(
        "Try again",
        "Put back, or made due,",
        "Jobs that are finished and were not sent are put back; those that wait become due now. What was sent, is in"
        " flight, held or consumed is left.",
        "`mailroom jobs drop TOKEN`, or Drop on its page. A job that is put back counts as tried once, with the"
        " priority of its kind; of more than 50 of priority 1 at once each has priority 2.",
    ),
    "release": Deed(
        "Release",
        "Released",
        "Held mails are sent now. One that was sent already arrives a second time, with the same link.",
        "This cannot be taken back: what SES has accepted is on its way.",
    ),
    "drop": Deed(
        "Drop",
        "Dropped",
        "Jobs that wait or are held are cancelled, and stay on record as Dropped. Nobody gets these mails.",
        "`mailroom jobs retry TOKEN`, or Try again on its page, as long as its link lasts. It comes back as tried"
        " once, with the priority of its kind; of more than 50 of priority 1 at once each has priority 2.",
    ),
}
OF_SCOPES: Final = {
    "pause": Deed(
        "Pause",
        "Paused",
        "No worker claims mails of this scope any more. Calls in flight finish.",
        "Resume it: `mailroom resume SCOPE`, or Resume on the first page.",
    ),
    "resume": Deed(
        "Resume",
        "Resumed",
        "Workers claim mails of this scope again. If the cause is still there, the next mail that meets it pauses the"
        " scope again.",
        "Pause it: `mailroom pause SCOPE`, or Pause on the first page.",
    ),
}


@dataclass(frozen=True, slots=True)
class Actions:
    """The engine with a worker's rights, through which all that changes something goes, and the queue for retries.

    `same`: whether it leads where the page looks.
    """

    engine: Engine
    same: SameDatabase
    queue: str

    def check(self) -> None:
        """Raise HTTPException where what the page shows is not what would be changed: that number is there, too."""
        if not self.same.holds():
            log.error("window refused: its engine for actions leads to another database than the page shows")
            raise HTTPException(500, ELSEWHERE)

    def connect(self) -> Connection:
        """Give a connection for an action, or for what only who acts may ask. Raises as `check` does."""
        self.check()
        return self.engine.connect()


def routes() -> list[Route]:
    """Return the routes of the actions."""
    return [
        Route("/act/{deed}", show),
        Route("/act/{deed}", act, methods=["POST"]),
    ]


def show(request: Request) -> Response:
    """Show what would be done, to which mails or to what scope, before it is."""
    deed, _ = _allowed(request)
    seen: Seen = request.app.state.source.see()
    asked = request.query_params
    with request.app.state.source.looking() as connection:
        chosen = choice.read(connection, deed, asked, now=seen.now) if deed in OF_JOBS else None
        scopes = _scopes(connection, seen, deed) if deed in OF_SCOPES else []
    return _form(request, deed, seen, chosen=chosen, scopes=scopes, scope=asked.get("scope", ""))


async def act(request: Request) -> Response:
    """Do it, if there is a reason."""
    form = _read_form(await _body(request))
    return await run_in_threadpool(_act, request, form)


def _act(request: Request, form: QueryParams) -> Response:
    deed, actions = _allowed(request)
    reason = " ".join(form.get("reason", "").split())[: pauses.MAX_REASON]
    seen: Seen = request.app.state.source.see()
    if not reason:
        raise HTTPException(400, "Nothing was done: say why you do it.")
    with actions.connect() as connection:
        if deed in OF_JOBS:
            told = _change_jobs(connection, deed, actions.queue, form, _Log(request, deed, reason))
        else:
            told = _change_scope(connection, deed, form.get("scope", ""), seen, _Log(request, deed, reason))
    return views.page(request, "done.html", seen, deed=_deed(deed), told=told, reason=reason)


class _Log:
    """Writes who does what and why: before it is done, and how it went."""

    def __init__(self, request: Request, deed: str, reason: str) -> None:
        self.reason = reason
        self._words = (deed, views.visitor(request).name, reason)

    def begins(self, what: str) -> None:
        """It is about to be done."""
        log.warning("window begins action=%s who=%r reason=%r %s", *self._words, what)

    def ends(self, what: str) -> None:
        """It is done."""
        log.warning("window done action=%s who=%r reason=%r %s", *self._words, what)


def _change_jobs(connection: Connection, deed: str, queue: str, form: QueryParams, record: _Log) -> str:
    tokens = choice.numbers(form.get("tokens", ""))
    if len(tokens) > choice.MOST:
        raise HTTPException(400, f"Nothing was done: at most {choice.MOST:,} at a time.")
    record.begins(f"jobs={len(tokens)} first={tokens[0]} last={tokens[-1]}")
    change: dict[str, Callable[[], int]] = {
        "release": lambda: len(by_hand.release(connection, tokens)),
        "drop": lambda: len(by_hand.drop(connection, tokens)),
        "retry": lambda: _retried(by_hand.retry(connection, tokens, queue=queue)),
    }
    done = change[deed]()
    record.ends(f"jobs={len(tokens)} changed={done}")
    left = len(tokens) - done
    rest = f"; {several(left, 'other')} left as {'it was' if left == 1 else 'they were'}" if left else ""
    return f"{_deed(deed).told} {several(done, 'mail')}{rest}."


def _retried(done: by_hand.Retried) -> int:
    return len(done.put_back) + len(done.made_due)


def _change_scope(connection: Connection, deed: str, scope: str, seen: Seen, record: _Log) -> str:
    if scope not in _scopes(connection, seen, deed):
        why = f"{scope or 'that'} is not paused, or not any more" if deed == "resume" else "there is no such scope"
        raise HTTPException(400, f"Nothing was done: {why}.")
    record.begins(f"scope={scope!r}")
    if deed == "pause":
        done = True
        pauses.open_pause(connection, scope, code=pauses.BY_HAND, reason=record.reason, probed=False)
    else:
        done = pauses.close_pause(connection, scope, by_hand=True)
    record.ends(f"scope={scope!r} changed={int(done)}")
    return f"{_deed(deed).told} {scope}." if done else f"{scope} was not paused any more."


def _scopes(connection: Connection, seen: Seen, deed: str) -> list[str]:
    """Return the scopes that can be paused, or those that are."""
    if deed == "resume":
        return [each.scope for each in pauses.read(connection)]
    queues = {lane.queue for lane in seen.reading.lanes} if seen.reading else set()
    queues |= {worker.queue for worker in seen.reading.workers} if seen.reading else set()
    return [
        *lanes.read(connection).actions,
        *(lanes.priority_scope(each) for each in lanes.PAUSABLE),
        *(pauses.queue_scope(queue) for queue in sorted(queues)),
        *pauses.SHARED,
    ]


def _allowed(request: Request) -> tuple[str, Actions]:
    """Return what is to be done, and what does it; HTTPException for whom may not."""
    deed, actions = request.path_params["deed"], request.app.state.actions
    if deed not in OF_JOBS | OF_SCOPES:
        raise HTTPException(404)
    if views.visitor(request).right != ACT:
        raise HTTPException(403, "You may look, and not act.")
    if not isinstance(actions, Actions):
        raise HTTPException(403, "This window only looks: MAILROOM_WINDOW_ACTIONS_DATABASE_URL is not set.")
    actions.check()
    return deed, actions


def _deed(name: str) -> Deed:
    return (OF_JOBS | OF_SCOPES)[name]


def _form(
    request: Request, deed: str, seen: Seen, *, chosen: choice.Choice | None, scopes: list[str], scope: str
) -> Response:
    return views.page(
        request,
        "act.html",
        seen,
        doing=deed,
        deed=_deed(deed),
        chosen=chosen,
        scopes=scopes,
        scope=scope,
        queue=request.app.state.actions.queue if deed == "retry" else "",
        max_reason=pauses.MAX_REASON,
    )


async def _body(request: Request) -> bytes:
    """Return the body of a form, and not more than a form of ours has."""
    body = b""
    try:
        async for chunk in request.stream():
            body += chunk
            if len(body) > MAX_FORM:
                raise HTTPException(413, "That is more than a form of this window.")
    except ClientDisconnect:
        raise HTTPException(400, "Nothing was done: the form did not come whole.") from None
    return body


def _read_form(body: bytes) -> QueryParams:
    try:
        return QueryParams([(name, each) for name, values in parse_qs(body.decode()).items() for each in values])
    except ValueError:
        raise HTTPException(400, "That is no form of this window.") from None
