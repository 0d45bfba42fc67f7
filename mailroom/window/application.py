"""The window as a web application: to be served by `mailroom window`, or mounted behind an application's own login."""

from collections.abc import Collection
from typing import Any, Final

from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, ExceptionHandler

from mailroom.db.identity import SameDatabase
from mailroom.db.namespace import schema_of
from mailroom.window import account, acting, lists, mail, now, programs, views
from mailroom.window.guard import Guard
from mailroom.window.rights import Admission, May
from mailroom.window.source import Source

# What has nothing of anybody in it.
STATIC: Final = ("/window.css", "/window.js")
# What probes and scrapers ask for; it tells no names of people.
FOR_PROGRAMS: Final = ("/metrics", "/livez", "/readyz")


def application(  # noqa: PLR0913 - a choice each
    engine: Engine,
    *,
    may: May,
    actions: Engine | None = None,
    names: Collection[str] | None = None,
    any_address: bool = False,
    free: Collection[str] = (),
    queue: str = "mailroom",
    rate_limit: float | None = None,
    checks: account.Checks | None = None,
) -> ASGIApp:
    """Return the window as an ASGI application.

    `engine` is one of `mailroom.db.engine.connect_engine`; the role viewer is enough. `may` says of each request who
    asks. With `actions`, an engine with the role worker, who may act does so through it; `queue` is the one that
    retried jobs go to. `names` are those under which it answers (None: the application that it is mounted in sees to
    that), `free` the paths that need nobody's leave, `rate_limit` the mails a second that the settings
    allow, and `checks` makes those of `mailroom doctor`. Raises ValueError for an engine of another make, and for
    `actions` of another schema. Nothing is connected yet; what `actions` may do is refused where they lead to another
    database.
    """
    _check_schemas(engine, actions)
    made = Starlette(
        routes=_routes(),
        middleware=[Middleware(Admission, may=may, free={*STATIC, *free})],
        exception_handlers=_answers(),
    )
    acts = None if actions is None else _committing(actions)
    made.state.checks = checks
    made.state.source = Source(engine, counting=acts, rate_limit=rate_limit)
    made.state.actions = None if acts is None else acting.Actions(acts, SameDatabase(engine, acts), queue=queue)
    # Around all of it: what goes wrong is answered with the same headers.
    return Guard(made, names=names, any_address=any_address)


def _check_schemas(engine: Engine, actions: Engine | None) -> None:
    """Raise ValueError for an engine that is for no schema, or where they are of two: each page would be a mistake."""
    schema = schema_of(engine)
    if actions is not None and schema_of(actions) != schema:
        raise ValueError(f"the engine for actions is for schema {schema_of(actions)}, and the other one for {schema}")


def _committing(engine: Engine) -> Engine:
    """Return one that commits each statement: an application's own may begin transactions, which nobody would end.

    Or stream what it reads, for which it has to be in a transaction.
    """
    return engine.execution_options(isolation_level="AUTOCOMMIT", stream_results=False)


def _routes() -> list[Route]:
    return [
        *_static(),
        *now.routes(),
        *mail.routes(),
        *lists.routes(),
        *account.routes(),
        *acting.routes(),
        *programs.routes(),
    ]


def _static() -> list[Route]:
    def file(name: str, kind: str) -> Route:
        return Route(name, lambda _: FileResponse(views.FOLDER / name[1:], media_type=kind))

    return [file("/window.css", "text/css"), file("/window.js", "text/javascript")]


def _answers() -> dict[Any, ExceptionHandler]:
    return {HTTPException: _refused, DBAPIError: _failed, PoolTimeoutError: _crowded, Exception: _mistaken}


def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101 - it is registered for it
    words = error.detail if error.status_code != 404 or error.detail != "Not Found" else "There is no such page."
    answer = views.trouble(request, words, status=error.status_code)
    answer.headers.update(error.headers or {})
    return answer


def _failed(request: Request, error: Exception) -> Response:
    """Say of a database that fails by what it failed: its own words may hold what nobody is to read here."""
    assert isinstance(error, DBAPIError)  # noqa: S101 - it is registered for it
    return views.database_trouble(request, error)


def _crowded(request: Request, _: Exception) -> Response:
    """Say that nothing is wrong but that too many ask for too much."""
    words = "Too many look at once, or at too much: no connection came free.", "Nothing was changed. Ask again."
    return views.trouble(request, *words, status=503)


def _mistaken(request: Request, _: Exception) -> Response:
    """Say that it is our mistake; the server writes to the log what it was."""
    return views.trouble(request, "The window made a mistake.", "Its log says which: please report it.", status=500)
