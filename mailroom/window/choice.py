"""Which mails an action would change: named one by one, or all that a list shows, as many as are changed at once."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from sqlalchemy import Connection
from starlette.datastructures import QueryParams
from starlette.exceptions import HTTPException

from mailroom.ops import browse, deeds
from mailroom.ops.browse import Page, Place
from mailroom.ops.words import several
from mailroom.window.lists import PERIOD_WORDS, PERIODS
from mailroom.window.mail import read_token

# How many jobs are changed at a time: a person has to look again in between.
MOST: Final = 1_000
# After this time no further look at a list begins. One takes twice as long where little of a long record is meant.
_LOOK_SECONDS: Final = 0.03


@dataclass(frozen=True, slots=True)
class Choice:
    """The mails that would be changed, in words and by token; `more`: there are others, which are left.

    `looked_back_to`: how far a search over the record came before it stopped; None: it did not stop before its end.
    """

    words: str
    tokens: tuple[int, ...]
    more: bool
    looked_back_to: datetime | None = None


@dataclass(frozen=True, slots=True)
class _List:
    """A list of mails: what each is called and where it is, what follows a place, and what may be done to all of it."""

    kind: str
    where: str
    turn: Callable[[Place | None], Page]
    deeds: frozenset[str]


def read(connection: Connection, deed: str, asked: QueryParams, *, now: datetime) -> Choice:
    """Return what a link asks for, as far as the deed would change it.

    Raises HTTPException if it asks for nothing that can be named.
    """
    if asked.get("token"):
        return _named(connection, deed, numbers(",".join(asked.getlist("token"))))
    of = _held(connection) if asked.get("held") else _record(connection, asked, now)
    tokens, last = _all(connection, deed, of.turn) if deed in of.deeds else ((), Page((), None))
    words = f"{several(min(len(tokens), MOST), of.kind)}{of.where}"
    more = last.next is not None or len(tokens) > MOST
    return Choice(words, tokens[:MOST], more, last.looked_back_to)


def numbers(words: str) -> tuple[int, ...]:
    """Read tokens with commas between them, each once."""
    given = [read_token(word.strip()) for word in words.split(",") if word.strip()]
    tokens = tuple(dict.fromkeys(token for token in given if token is not None))
    if not tokens or None in given:
        raise HTTPException(400, "Tokens are whole numbers, with commas between them.")
    return tokens


def _named(connection: Connection, deed: str, given: tuple[int, ...]) -> Choice:
    if len(given) > MOST:
        raise HTTPException(400, f"At most {MOST:,} are changed at a time.")
    changed = deeds.changeable(connection, deed, given)
    tokens = tuple(token for token in given if token in changed)
    return Choice(several(len(tokens), "mail, named by its token", "mails, named by their tokens"), tokens, False)


def _held(connection: Connection) -> _List:
    def turn(after: Place | None) -> Page:
        return browse.held(connection, after=after, limit=MOST)

    return _List("held mail", "", turn, deeds.OF_HELD)


def _record(connection: Connection, asked: QueryParams, now: datetime) -> _List:
    outcome, code, period = asked.get("outcome"), asked.get("code"), asked.get("since", "1d")
    if not (outcome or code) or period not in PERIODS:
        raise HTTPException(400, "Nothing was chosen.")
    since = now - PERIODS[period]

    def turn(before: Place | None) -> Page:
        return browse.record(connection, outcome=outcome, code=code, since=since, before=before, limit=MOST)

    named = " and ".join(filter(None, (outcome and f"outcome {outcome}", code and f"code {code}")))
    where = f" on record with {named} in the last {PERIOD_WORDS[period].removeprefix('a ').removeprefix('an ')}"
    return _List("mail", where, turn, deeds.of_record(outcome))


def _all(connection: Connection, deed: str, turn: Callable[[Place | None], Page]) -> tuple[tuple[int, ...], Page]:
    """Go through a list until there are enough, or it took too long; return them, and the last page of it."""
    found: dict[int, None] = {}
    place: Place | None = None
    ends = time.monotonic() + _LOOK_SECONDS
    while True:
        page = turn(place)
        meant = [row.token for row in page.rows if deeds.is_meant(deed, row)]
        changed = deeds.changeable(connection, deed, meant) if meant else set()
        found |= {token: None for token in meant if token in changed}
        place = page.next
        if place is None or len(found) >= MOST or time.monotonic() >= ends:
            return tuple(found), page
