"""`/`: what is now, from the reading alone."""

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from mailroom.db.schema import delivery_outcome
from mailroom.ops import remedies
from mailroom.ops.advice import unreached
from mailroom.ops.reading import STALE_AFTER, Paused, Reading, age
from mailroom.ops.words import begins
from mailroom.window import views
from mailroom.window.account import AWS
from mailroom.window.overview import overview
from mailroom.window.source import Seen


def routes() -> list[Route]:
    """Return the routes of the first page."""
    return [Route("/", show)]


def show(request: Request) -> Response:
    """Show what is now; nothing is read for who has seen it."""
    seen: Seen = request.app.state.source.see()
    if (same := views.unchanged(request, seen)) is not None:
        return same
    return views.page(
        request,
        "now.html",
        seen,
        live=True,
        advice=seen.advice or unreached(seen.failure),
        reading=seen.reading,
        failure=seen.failure,
        foreign=seen.foreign,
        found=None if seen.reading is None else overview(seen, seen.reading),
        remedy=_remedy,
        outcomes=_outcomes,
        recorded=delivery_outcome.enums,
        stale=seen.reading is not None and age(seen.reading.read_at, seen.now) > STALE_AFTER,
        aws=AWS,
    )


def _remedy(paused: Paused) -> str:
    """Say what ends a pause."""
    cure = remedies.of_pause(paused.scope, paused.code)
    return begins(f"{cure}; {remedies.ends_by_itself(paused.code, by_hand=paused.by_hand)}")


def _outcomes(reading: Reading) -> list[str]:
    """Return the outcomes that there were, the most frequent of the day first."""
    counts = reading.outcomes.get("hour", {}) | reading.outcomes.get("day", {})
    return sorted(counts, key=lambda name: -counts[name])
