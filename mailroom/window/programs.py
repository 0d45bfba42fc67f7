"""What programs ask: the reading as JSON, the metrics of the fleet for Prometheus, and whether the window lives."""

import json
from dataclasses import asdict
from typing import Any, Final

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from mailroom.ops import reading as readings
from mailroom.window import views
from mailroom.window.fleet_metrics import FleetMetrics
from mailroom.window.source import Seen

UNREAD: Final = "The database does not answer.\n"


def routes() -> list[Route]:
    """Return the routes of what programs read."""
    return [
        Route("/reading.json", as_json),
        Route("/metrics", metrics),
        Route("/livez", alive),
        Route("/readyz", ready),
    ]


def as_json(request: Request) -> Response:
    """Return the reading, and what is made of it; null where there is none."""
    seen: Seen = request.app.state.source.see()
    if (same := views.unchanged(request, seen)) is not None:
        return same
    told: dict[str, Any] = {
        "now": seen.now.isoformat(),
        "failure": seen.failure,
        "advice": None if seen.advice is None else asdict(seen.advice),
        "reading": None,
    }
    if seen.reading is not None:
        told["reading"] = json.loads(readings.as_json(seen.reading))
    return JSONResponse(told, headers={"ETag": views.tag(request, seen)})


def metrics(request: Request) -> Response:
    """Return the metrics of the fleet: those of the reading, whatever its age, which is one of them."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(FleetMetrics(request.app.state.source.see()))
    return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)


async def alive(_: Request) -> Response:
    """Answer, whatever the database does, for a restart would mend none; and however many threads wait for it."""
    return PlainTextResponse("ok\n")


def ready(request: Request) -> Response:
    """Answer whether the database does."""
    failed = request.app.state.source.see().failure
    return PlainTextResponse(UNREAD if failed else "ok\n", status_code=503 if failed else 200)
