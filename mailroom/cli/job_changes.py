"""What `jobs` changes: it retries, releases and drops, and tells how much of it was done."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from itertools import chain, islice
from typing import Final

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from mailroom import settings
from mailroom.cli import job_options as options
from mailroom.cli.job_options import check, open_jobs
from mailroom.cli.terminal import print_json, say
from mailroom.cli.wiring import one_snapshot, progress
from mailroom.db.bounded import bounded
from mailroom.db.step_size import is_cut_off
from mailroom.errors import MailroomError
from mailroom.ops import deeds, jobs, walk
from mailroom.ops.jobs import Filters
from mailroom.queue import by_hand

# How many jobs are named: a line has no room for a million. Of the others it says how many they are; JSON has all.
MOST_TOLD: Final = 100


def retry(  # noqa: PLR0913 - an option each
    tokens: options.Tokens = None,
    *,
    account: options.Account = None,
    outcome: options.Outcomes = None,
    code: options.Code = None,
    since: options.Since = None,
    until: options.Until = None,
    queue: options.Queue = None,
    limit: options.ChangeLimit = None,
    queue_name: options.QueueName = None,
    as_json: options.AsJson = False,
) -> None:
    """Try unsent jobs again.

    A finished job that was not sent is put back. A waiting job becomes due now. `mailroom jobs list` shows which jobs
    the same options choose.

    Jobs that were sent, are in flight or are held are left as they are. So are jobs whose token is consumed or gone.
    As always, the claim decides whether a mail is still wanted. So a recovery that has expired expires again.

    Jobs that somebody has locked are left, and told at the end.

    Exit 1 if a TOKEN was left as it is, or a job was locked.
    """
    outcomes, moments = tuple(outcome or ()), (options.read_time(since), options.read_time(until))
    filters = Filters(tuple(tokens or ()), account, outcomes, code, *moments, queue)
    check(filters, choose=True)
    given = settings.load("database_url", queue_name=queue_name)
    done = by_hand.Retried()
    change = partial(by_hand.retry, queue=given.queue_name, done=done)
    _do("retry", change, filters, limit, {"put_back": done.put_back, "made_due": done.made_due}, as_json=as_json)


def release(
    tokens: options.Tokens = None,
    *,
    account: options.Account = None,
    since: options.Since = None,
    until: options.Until = None,
    queue: options.Queue = None,
    limit: options.ChangeLimit = None,
    as_json: options.AsJson = False,
) -> None:
    """Send mails that are held.

    A held mail may have been sent already. A person who gets it twice gets the same link twice.
    `mailroom jobs list --held` shows which jobs are held.

    A mail is not sent again if SES is known to have accepted it meanwhile. Jobs that are not held are left as they are.

    Jobs that somebody has locked are left, and told at the end.

    Exit 1 if a TOKEN was left as it is, or a job was locked.
    """
    moments = (options.read_time(since), options.read_time(until))
    filters = Filters(tuple(tokens or ()), account, (), None, *moments, queue)
    check(filters, choose=True)
    released: list[int] = []
    change = partial(by_hand.release, done=released)
    _do("release", change, replace(filters, held=True), limit, {"released": released}, as_json=as_json)


def drop(
    tokens: options.Tokens = None,
    *,
    account: options.Account = None,
    since: options.Since = None,
    until: options.Until = None,
    queue: options.Queue = None,
    held: options.Held = False,
    limit: options.ChangeLimit = None,
    as_json: options.AsJson = False,
) -> None:
    """Cancel jobs that wait or are held.

    They stay on record with the error code Dropped. `mailroom jobs list` shows which jobs the same options choose.

    Jobs that are in flight or finished are left as they are.

    Jobs that somebody has locked are left, and told at the end.

    Exit 1 if a TOKEN was left as it is, or a job was locked.
    """
    moments = (options.read_time(since), options.read_time(until))
    filters = Filters(tuple(tokens or ()), account, (), None, *moments, queue, held)
    check(filters, choose=True)
    dropped: list[int] = []
    _do("drop", partial(by_hand.drop, done=dropped), filters, limit, {"dropped": dropped}, as_json=as_json)


def _do(
    deed: str,
    change: Callable[[Connection, Iterable[int]], object],
    filters: Filters,
    limit: int | None,
    done: dict[str, list[int]],
    *,
    as_json: bool,
) -> None:
    """Change jobs and tell which, also where that ended half way; MailroomError if some were left.

    `done` has the tokens, as soon as they are changed for good.
    """
    left: dict[int, str] = {}
    ended = False
    try:
        with open_jobs() as connection:
            chosen = _chosen(connection, filters, limit)
            with _telling(chosen) as coming:
                change(connection, coming)
                locked = _locked(connection, deed, chosen, done)
                if locked:
                    _wait_for(connection, locked, change)
                    locked = _locked(connection, deed, locked, done)
            left = _left(connection, filters, done) | dict.fromkeys(locked, "locked by somebody")
        ended = True
    finally:
        if ended or any(done.values()):  # also what was done before something came in the way, or somebody stopped it
            _tell(done, left, as_json=as_json)
    if left:
        states = ", ".join(f"{token} ({state})" for token, state in islice(left.items(), MOST_TOLD))
        more = f" and {len(left) - MOST_TOLD:,} more" if len(left) > MOST_TOLD else ""
        raise MailroomError(f"left as they are: {states}{more}")


def _chosen(connection: Connection, filters: Filters, limit: int | None) -> list[int]:
    """The tokens of the jobs that are meant: all of them, before any is changed."""
    if filters == Filters(tokens=filters.tokens):
        return list(dict.fromkeys(filters.tokens))[:limit]
    states = {"finished"} if filters.on_record else {"waiting", "held"}
    with one_snapshot(connection) as snapshot:
        found = (row.token for row in walk.find(snapshot, filters) if row.state in states)
        return list(dict.fromkeys(islice(found, limit)))


@contextmanager
def _telling(chosen: list[int]) -> Iterator[Iterator[int]]:
    """Give the tokens, and tell how many have been taken up."""
    with progress() as tell:

        def taken_up() -> Iterator[int]:
            for number, token in enumerate(chosen, start=1):
                if number % by_hand.CHANGED_AT_ONCE == 0:
                    tell(f"{number:,} of {len(chosen):,}")
                yield token

        yield taken_up()


def _locked(connection: Connection, deed: str, chosen: list[int], done: dict[str, list[int]]) -> list[int]:
    """Return those of the chosen that were passed over, though they could be changed: somebody holds them."""
    changed = set(chain.from_iterable(done.values()))
    rest = iter([token for token in chosen if token not in changed])
    found: set[int] = set()
    while some := list(islice(rest, by_hand.CHANGED_AT_ONCE)):
        found |= deeds.changeable(connection, deed, some)
    return sorted(found)


def _wait_for(connection: Connection, locked: list[int], change: Callable[[Connection, Iterable[int]], object]) -> None:
    """Change what somebody has just held, one by one; for all of it together wait no longer than one statement may."""
    try:
        with bounded(connection, options.ANSWER_WITHIN, together=True):
            for token in locked:
                change(connection, [token])
    except DBAPIError as error:
        if not is_cut_off(error):
            raise


def _left(connection: Connection, filters: Filters, done: dict[str, list[int]]) -> dict[int, str]:
    """Tokens that were named and nothing was done to, and what is so of them."""
    changed = set(chain.from_iterable(done.values()))
    left = {}
    for token in filters.tokens:
        if token not in changed:
            found = jobs.history(connection, token)
            left[token] = "nothing is known of it" if not found else found[-1].outcome or found[-1].state
    return left


def _tell(done: dict[str, list[int]], left: dict[int, str], *, as_json: bool) -> None:
    if as_json:
        print_json(done | {"left": left})
    else:
        say(", ".join(f"{name.replace('_', ' ')} {len(tokens):,}" for name, tokens in done.items()))
