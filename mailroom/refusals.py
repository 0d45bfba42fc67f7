"""Refusals on record, over all processes: those in a row, those that others outlived, and putting jobs back once."""

from collections.abc import Collection, Iterable, Sequence
from datetime import datetime, timedelta
from typing import Final

from sqlalchemy import Connection, and_, func, literal, select, true

from mailroom import jobs
from mailroom.job import Action
from mailroom.schema import deliveries

# How far back a row of refusals reaches: the log is not searched beyond that.
LATELY: Final = timedelta(hours=1)


def refused_since_accepted(
    connection: Connection, action: Action, codes: Collection[str], *, before: datetime | None = None
) -> list[tuple[int, int | None]]:
    """Return an action's jobs that ended with such a code lately, after the newest mail of it that was accepted.

    With `before`, after the newest that was accepted before that. Of each its token and account. Lately: within LATELY.
    """
    lately = (func.now() if before is None else literal(before)) - LATELY
    of_action = and_(deliveries.c.action == action.value, deliveries.c.created_at > lately)
    accepted = select(deliveries.c.id, deliveries.c.fence).where(of_action, deliveries.c.outcome == "sent")
    if before is not None:
        accepted = accepted.where(deliveries.c.created_at < before)
    newest = accepted.order_by(deliveries.c.id.desc()).limit(1).cte()
    refused = select(deliveries.c.token, deliveries.c.account).where(
        of_action,
        deliveries.c.id > func.coalesce(select(newest.c.id).scalar_subquery(), 0),
        # What left in one call with a mail that was accepted was refused for its own sake.
        func.coalesce(deliveries.c.fence != select(newest.c.fence).scalar_subquery(), true()),
        deliveries.c.outcome.in_(["rejected", "failed"]),
        deliveries.c.error_code.in_(codes),
        deliveries.c.retried_at.is_(None),
    )
    return [(row.token, row.account) for row in connection.execute(refused)]


def refused_before_accepted(
    connection: Connection, action: Action, codes: Collection[str], of: Sequence[int]
) -> set[int]:
    """Return those tokens that were refused before, not for good, and then another of the action was accepted."""
    refused, later = deliveries.alias(), deliveries.alias()
    accepted_since = select(later.c.id).where(
        later.c.id > refused.c.id,
        later.c.action == action.value,
        later.c.outcome == "sent",
        later.c.created_at > func.now() - LATELY,
    )
    found = select(refused.c.token).where(
        refused.c.token.in_(of),
        refused.c.outcome == "deferred",
        refused.c.error_code.in_(codes),
        accepted_since.exists(),
    )
    return set(connection.execute(found).scalars())


def put_back_once(connection: Connection, wanted: Iterable[int], *, queue: str) -> list[int]:
    """Put back those of these jobs that were never put back before, as `retry` does; return their tokens."""
    some = list(wanted)
    earlier = select(deliveries.c.token).where(deliveries.c.token.in_(some), deliveries.c.retried_at.is_not(None))
    again = set(connection.execute(earlier).scalars())
    return jobs.retry(connection, [token for token in some if token not in again], queue=queue).put_back
