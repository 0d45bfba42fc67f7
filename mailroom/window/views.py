"""How a page becomes HTML, and what all pages have in common."""

import hashlib
from functools import cache
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from psycopg.errors import DataError, Error, InsufficientPrivilege, QueryCanceled
from sqlalchemy.exc import DBAPIError
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, Response

from mailroom.ops.words import number, several, span
from mailroom.window import charts, words
from mailroom.window.rights import ACT, Visitor
from mailroom.window.source import Seen

FOLDER: Final = Path(__file__).parent / "pages"


@cache
def _environment() -> Environment:
    found = Environment(
        loader=FileSystemLoader(FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.filters |= {
        "number": number,
        "many": words.many,
        "rate": words.rate,
        "share": words.share,
        "span": span,
        "segment": lambda value: quote(str(value), safe=""),
        "marked": words.marked,
        "begins": words.begins,
        "plain": lambda prose: prose.replace("`", ""),
    }
    found.globals |= {"gauge": charts.gauge, "several": several}
    return found


def base(request: Request) -> str:
    """Return what the links of a page begin with, as a browser takes it: the path that this one is mounted at."""
    root = quote(request.scope.get("root_path", "").strip("/"), safe="/:@!$&'()*+,;=~")
    return f"/{root}" if root else ""


def visitor(request: Request) -> Visitor:
    """Return who asks; whoever gets here is somebody."""
    found = request.state.visitor
    assert isinstance(found, Visitor)  # noqa: S101 - the application has put it there
    return found


def may_act(request: Request) -> bool:
    """Whether who asks may act, and this window can."""
    return visitor(request).right == ACT and request.app.state.actions is not None


def page(
    request: Request, name: str, seen: Seen | None = None, *, live: bool = False, status: int = 200, **more: Any
) -> Response:
    """Return a page as HTML, with what is `seen`. A `live` one keeps itself fresh."""
    headers = {"ETag": tag(request, seen)} if live and seen is not None else {}
    values = _common(request, seen) | {"live": live} | more
    body = _environment().get_template(name).render(values)
    return HTMLResponse(body, status_code=status, headers=headers)


def unchanged(request: Request, seen: Seen) -> Response | None:
    """Return the answer to who has the page already as it is."""
    current = tag(request, seen)
    if request.headers.get("if-none-match") != current:
        return None
    return Response(status_code=304, headers={"ETag": current})


def _common(request: Request, seen: Seen | None) -> dict[str, Any]:
    asks = visitor(request)
    common: dict[str, Any] = {
        "base": base(request),
        "path": request.scope["path"].removeprefix(request.scope.get("root_path", "")),
        "visitor": asks,
        "may_act": may_act(request),
        "now": None,
    }
    if seen is None:
        return common
    return common | {
        "now": seen.now,
        "ago": lambda moment: words.ago(moment, seen.now),
        "clock": lambda moment: words.clock(moment, seen.now),
        "minute": lambda moment: words.clock(moment, seen.now, form="%H:%M"),
    }


def tag(request: Request, seen: Seen) -> str:
    """Return what changes when the page does: with the reading, what is said of it, and who asks."""
    asks = visitor(request)
    parts = (
        seen.failure,
        "" if seen.reading is None else seen.reading.read_at.isoformat(),
        "" if seen.reading is None else seen.reading.failure,
        repr(seen.advice),
        *(each.at.isoformat() for each in (*seen.hour[:1], *seen.hour[-1:])),
        asks.name,
        asks.right,
    )
    return f'"{hashlib.sha256("|".join(parts).encode()).hexdigest()[:20]}"'


def trouble(request: Request, sentence: str, cure: str = "", *, status: int) -> Response:
    """Return the page that says why there is no other."""
    if not hasattr(request.state, "visitor"):
        return PlainTextResponse(f"{sentence} {cure}\n", status_code=status)
    return page(request, "trouble.html", sentence=sentence, cure=cure, status=status)


def database_trouble(request: Request, error: DBAPIError) -> Response:
    """Return the page that says of a database that fails by what it failed, and what that means for who asked."""
    status = 400 if isinstance(error.orig, DataError) else 503
    return trouble(request, *database_words(error, acts=request.method == "POST"), status=status)


def database_words(error: DBAPIError, *, acts: bool = False) -> tuple[str, str]:
    """Return what is said of a database that fails, and the cure, by the class of its error alone.

    `acts`: something was to be changed. Without an answer of the database nobody knows whether it was.
    """
    match error.orig:
        case DataError():
            return "There is no such thing: what was asked for holds no value that the database has.", ""
        case Error(sqlstate=None) if acts:
            return (
                "No answer came from the database: it may have been done, or not.",
                "Look whether it was before you do it again. The log has what was asked for.",
            )
        case QueryCanceled():
            return (
                "The database took too long to answer.",
                "Nothing was changed. Narrow what you ask for, or ask again.",
            )
        case InsufficientPrivilege():
            return "The role of this window may not read that.", "`mailroom grants` says what it needs."
        case _:
            kind = type(error.orig).__name__
            return f"The database does not answer as it should: {kind}.", "`mailroom doctor` says more."
