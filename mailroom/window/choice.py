"""Which mails an action is about: named one by one, or all that a list shows, as many as are changed at once."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from sqlalchemy import Connection
from starlette.datastructures import QueryParams
from starlette.exceptions import HTTPException

from mailroom.ops import browse
from mailroom.ops.browse import Page, Place
from mailroom.ops.words import several
from mailroom.window.lists import PERIOD_WORDS, PERIODS
from mailroom.window.mail import read_token

# So many jobs are changed at a time, and no more: a person has to look again in between.
MOST: Final = 1_000
_PAGE: Final = 250
# Where little of a long record is meant, so many looks at it are worth it.
_TURNS: Final = 20
# What of a list may be changed: attempts that decided, and what is held.
CHANGEABLE: Final = {"finished", "held"}


@dataclass(frozen=True, slots=True)
class Choice:
    """The mails that are meant, in words and by token; `more`: there are others, which are left."""

    words: str
    tokens: tuple[int, ...]
    more: bool


def read(connection: Connection, asked: QueryParams, *, now: datetime) -> Choice:
    """Return what a link asks for. Raises HTTPException if it asks for nothing that can be named."""
    if asked.get("token"):
        tokens = numbers(",".join(asked.getlist("token")))
        if len(tokens) > MOST:
            raise HTTPException(400, f"At most {MOST:,} are changed at a time.")
        return Choice(several(len(tokens), "mail, named by its token", "mails, named by their tokens"), tokens, False)
    if asked.get("held"):
        return _all("held mail", "", lambda after: browse.held(connection, after=after, limit=_PAGE))
    outcome, code, since = asked.get("outcome"), asked.get("code"), asked.get("since", "1d")
    if (outcome or code) and since in PERIODS:
        named = " and ".join(filter(None, (outcome and f"outcome {outcome}", code and f"code {code}")))
        period = PERIOD_WORDS[since].removeprefix("a ").removeprefix("an ")
        return _all(
            "mail",
            f" on record with {named} in the last {period}",
            lambda before: browse.record(
                connection, outcome=outcome, code=code, since=now - PERIODS[since], before=before, limit=_PAGE
            ),
        )
    raise HTTPException(400, "Nothing was chosen.")


def numbers(words: str) -> tuple[int, ...]:
    """Read tokens with commas between them, each once."""
    given = [read_token(word.strip()) for word in words.split(",") if word.strip()]
    tokens = tuple(dict.fromkeys(token for token in given if token is not None))
    if not tokens or None in given:
        raise HTTPException(400, "Tokens are whole numbers, with commas between them.")
    return tokens


def _all(kind: str, where: str, turn: Callable[[Place | None], Page]) -> Choice:
    """Go through the pages of a list until there are enough."""
    found: dict[int, None] = {}
    place: Place | None = None
    for _ in range(_TURNS):
        page = turn(place)
        found |= {row.token: None for row in page.rows if row.state in CHANGEABLE}
        place = page.next
        if place is None or len(found) > MOST:
            break
    tokens = tuple(found)[:MOST]
    more = place is not None or len(found) > MOST
    return Choice(f"{several(len(tokens), kind)}{where}", tokens, more)
