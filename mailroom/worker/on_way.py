"""Decides whether a mail that is refused on the way to the provider is why, or the way: as far as the log tells."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from sqlalchemy import Engine, func, select
from sqlalchemy.exc import SQLAlchemyError

from mailroom.db.views import attempts
from mailroom.job import Batch
from mailroom.outcome import Deferred, Outcome
from mailroom.worker import acceptances

# How often a refusal of a mail charges nothing: others, on other machines, would have sent it meanwhile.
FREE: Final = 3


def review(engine: Engine, batch: Batch, outcomes: Sequence[Outcome], *, queue: str) -> Sequence[Outcome]:
    """Return the outcomes of a batch as they are to be recorded: what is refused for its own sake is charged.

    It is, where it was refused so before, more than once or twice, and since the last time another mail of its action
    was accepted of its `queue`: those of others may go other ways, with other rights. So it ends some day, and never
    for a way that is closed to all.
    """
    refused = [
        job.token
        for job, outcome in zip(batch.jobs, outcomes, strict=True)
        if isinstance(outcome, Deferred) and outcome.on_way
    ]
    if not refused:
        return outcomes
    try:
        known = _known(engine, batch, refused, {one.code for one in outcomes if isinstance(one, Deferred)}, queue)
    except SQLAlchemyError:  # the answers are worth more than what is made of them
        return outcomes
    return [
        replace(outcome, charged=True, scope=None, reason=f"{outcome.reason}; others were accepted")
        if isinstance(outcome, Deferred) and outcome.on_way and job.token in known
        else outcome
        for job, outcome in zip(batch.jobs, outcomes, strict=True)
    ]


def _known(engine: Engine, batch: Batch, tokens: Sequence[int], codes: set[str], queue: str) -> set[int]:
    with engine.connect() as connection:
        accepted = acceptances.newest(connection, [batch.action], queue=queue)
        if accepted is None:
            return set()
        again = (
            select(attempts.c.token)
            .where(attempts.c.token.in_(tokens), attempts.c.outcome == "deferred", attempts.c.code.in_(codes))
            .group_by(attempts.c.token)
            .having(func.count() >= FREE, func.max(attempts.c.id) < accepted)
        )
        return set(connection.execute(again).scalars())
