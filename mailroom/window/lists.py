"""Lists of mails, 50 a page: a lane as it will leave, what is in flight or held, the record, what may be out twice."""

from datetime import UTC, datetime, timedelta
from typing import Any, Final
from urllib.parse import urlencode

from starlette.datastructures import QueryParams
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from mailroom.db.schema import delivery_outcome
from mailroom.job import Priority
from mailroom.ops import browse, causes, deeds, why
from mailroom.ops.browse import Place
from mailroom.window import views
from mailroom.window.source import Seen

# How far back one may look, by the names that the page gives them.
PERIODS: Final = {"1h": timedelta(hours=1), "1d": timedelta(days=1), "7d": timedelta(days=7), "30d": timedelta(days=30)}
PERIOD_WORDS: Final = {"1h": "an hour", "1d": "a day", "7d": "7 days", "30d": "30 days"}

# What became of a mail that nobody heard of, as `browse.Unclear` has it.
ENDINGS: Final = {
    "waiting": "waits to be sent again",
    "held": "is held until somebody decides",
    "in flight": "is being sent again",
    "sent again": "was sent again: it may be out twice",
    "twice": "is out twice",
    "once": "is out, once",
    "never": "was never out, as SES says",
    "given up": "was given up",
}


def routes() -> list[Route]:
    """Return the routes of the lists."""
    return [
        Route("/lane/{queue:path}/{priority}/{action}", lane),
        Route("/flight", flight),
        Route("/held", held),
        Route("/record", record),
        Route("/unconfirmed", unconfirmed),
        Route("/flooded", flooded),
    ]


def lane(request: Request) -> Response:
    """Show the jobs of a lane, and why the first is late, if it is."""
    queue, action = request.path_params["queue"], request.path_params["action"]
    priority = {str(each.value): each for each in Priority}.get(request.path_params["priority"])
    if priority is None:
        raise HTTPException(404, "A priority is 0 to 3.")
    seen: Seen = request.app.state.source.see()
    start = causes.nothing_due_before(seen.reading, queue, priority, action, now=seen.now)
    after = _place(request.query_params, timed=True)
    with request.app.state.source.looking() as connection:
        found = browse.lane(connection, queue, priority, action, after=after, start=start)
    counted = [
        each
        for each in (seen.reading.lanes if seen.reading else ())
        if (each.queue, each.priority, each.action) == (queue, priority, action)
    ]
    answer = None
    if seen.reading is not None and counted and counted[0].due:
        answer = why.why_lane(seen.reading, seen.hour, counted[0], now=seen.now, rate_limit=seen.rate_limit)
    title = f"{action}, {priority.name.lower()}, queue {queue}"
    note = "As they will leave."
    return _rows(request, found, seen, title=title, note=note, why=answer, choice=None)


def flight(request: Request) -> Response:
    """Show what is in flight."""
    seen = request.app.state.source.see()
    with request.app.state.source.looking() as connection:
        found = browse.flight(connection, after=_place(request.query_params))
    return _rows(request, found, seen, title="In flight", note="Claimed, and not settled.", why=None, choice=None)


def held(request: Request) -> Response:
    """Show what is held."""
    seen = request.app.state.source.see()
    with request.app.state.source.looking() as connection:
        found = browse.held(connection, after=_place(request.query_params))
    note = "These wait until somebody decides: they may have been sent already."
    return _rows(request, found, seen, title="Held", note=note, why=None, choice={"held": "1"} if found.rows else None)


def record(request: Request) -> Response:
    """Show attempts on record, the newest first."""
    asked = request.query_params
    outcome, code, period = asked.get("outcome") or None, asked.get("code") or None, asked.get("since") or "1d"
    if outcome is not None and outcome not in delivery_outcome.enums:
        raise HTTPException(404, f"There is no such outcome. There are {', '.join(delivery_outcome.enums)}.")
    if period not in PERIODS:
        raise HTTPException(404, f"One may look back {', '.join(PERIODS)}.")
    seen = request.app.state.source.see()
    with request.app.state.source.looking() as connection:
        since = seen.now - PERIODS[period]
        found = browse.record(connection, outcome=outcome, code=code, since=since, before=_place(asked))
    chosen = {name: value for name, value in {"outcome": outcome, "code": code, "since": period}.items() if value}
    return _rows(
        request,
        found,
        seen,
        title="Record",
        note="What became of mails, the newest first.",
        why=None,
        choice=chosen if (outcome or code) and _may_be_retried(found, outcome) else None,
        filters={"outcome": outcome, "code": code, "since": period},
        outcomes=delivery_outcome.enums,
        periods=PERIOD_WORDS,
    )


def _may_be_retried(found: browse.Page, outcome: str | None) -> bool:
    """Whether there is something to be tried again on a page of the record, or there may be on the next one."""
    further = found.next is not None and "retry" in deeds.of_record(outcome)
    return further or any(deeds.is_meant("retry", row) for row in found.rows)


def unconfirmed(request: Request) -> Response:
    """Show mails that may have been out when nobody heard, and what became of each."""
    seen = request.app.state.source.see()
    with request.app.state.source.looking() as connection:
        since = seen.now - PERIODS["7d"]
        found = browse.unconfirmed(connection, since=since, before=_place(request.query_params, timed=True))
    return views.page(
        request, "unconfirmed.html", seen, found=found, endings=ENDINGS, following=_next(request, found.next)
    )


def flooded(request: Request) -> Response:
    """Show accounts for which more was asked than they may get."""
    seen = request.app.state.source.see()
    with request.app.state.source.looking() as connection:
        found = browse.flooded(connection, since=seen.now - PERIODS["1d"])
    return views.page(request, "flooded.html", seen, found=found)


def _rows(request: Request, found: browse.Page, seen: Seen, **more: Any) -> Response:
    more.setdefault("filters", None)
    return views.page(request, "rows.html", seen, found=found, following=_next(request, found.next), **more)


def _place(asked: QueryParams, *, timed: bool = False) -> Place | None:
    """Return where a page begins, as the link to it says; `timed`: by a moment and a number."""
    number = asked.get("number")
    if number is None:
        return None
    try:
        at = datetime.fromisoformat(asked["at"]).astimezone(UTC) if asked.get("at") else None
        place = Place(at, int(number))
    except (ValueError, OverflowError):
        raise HTTPException(404, "This link is not whole.") from None
    if place.at is None and timed:
        raise HTTPException(404, "This link is not whole.")
    return place


def _next(request: Request, place: Place | None) -> str | None:
    """Return the query of the next page."""
    if place is None:
        return None
    kept = {name: value for name, value in request.query_params.items() if name not in {"at", "number"}}
    at = {} if place.at is None else {"at": place.at.isoformat()}
    return urlencode(kept | at | {"number": place.number})
