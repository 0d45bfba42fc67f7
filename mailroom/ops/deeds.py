"""Which jobs would be changed by what a person decides, as `queue/by_hand` does it, if it were done now."""

from collections.abc import Collection
from typing import Any, Final

from sqlalchemy import Connection, Select, select, union

from mailroom.db.views import attempts, mail_events, token_states, waiting_jobs
from mailroom.ops.jobs import Found

# What a person may decide of a job, of one that is held, and of one that is finished.
DEEDS: Final = ("retry", "release", "drop")
OF_HELD: Final = frozenset({"release", "drop"})
_OF_FINISHED: Final = frozenset({"retry"})
# The outcomes with which nothing is tried again: the mail is out, or its job is not finished.
_NEVER_RETRIED: Final = frozenset({"sent", "deferred", "unconfirmed"})


def of_record(outcome: str | None) -> frozenset[str]:
    """Return what may be done to all attempts on record with an outcome; None: with any."""
    return frozenset() if outcome in _NEVER_RETRIED else _OF_FINISHED


def is_meant(deed: str, row: Found) -> bool:
    """Whether what is done to all of a list is about this row of it."""
    if row.state == "held":
        return deed in OF_HELD
    return row.state == "finished" and deed in of_record(row.outcome)


def changeable(connection: Connection, deed: str, tokens: Collection[int]) -> set[int]:
    """Return those of these tokens whose jobs a deed would change now."""
    waiting = select(waiting_jobs.c.token).where(waiting_jobs.c.token.in_(tokens))
    by_state = waiting_jobs.c.state
    wanted: dict[str, Any] = {
        "retry": lambda: union(waiting.where(by_state == "waiting"), _finished(tokens)),
        "release": lambda: waiting.where(by_state == "held"),
        "drop": lambda: waiting,
    }
    return set(connection.execute(wanted[deed]()).scalars())


def applicable(connection: Connection, token: int) -> list[str]:
    """Return what would change the job of a token now."""
    return [deed for deed in DEEDS if changeable(connection, deed, [token])]


def _finished(tokens: Collection[int]) -> Select[Any]:
    """The tokens that can still be used, of jobs that are finished and that SES did not take, as far as is known."""
    known, taken = token_states.c, attempts.alias("taken").c
    never_out = select(mail_events.c.kind).where(
        mail_events.c.message_id == taken.message_id, mail_events.c.kind.in_(("reject", "rendering_failure"))
    )
    is_out = select(taken.id).where(taken.token == attempts.c.token, taken.outcome == "sent", ~never_out.exists())
    return (
        select(attempts.c.token)
        .join(token_states, known.id == attempts.c.token)
        .where(attempts.c.token.in_(tokens), attempts.c.state == "finished", attempts.c.outcome.not_in(_NEVER_RETRIED))
        .where(known.consumed_at.is_(None), ~is_out.exists())
    )
