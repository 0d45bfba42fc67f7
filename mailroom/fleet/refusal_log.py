"""Refusals on record, over all processes: what they tell of a configuration, and putting jobs back once.

A mail that is refused may be bad, or the template and the configuration are, which then refuse every mail. No answer
says which; only another mail that is accepted does. So refusals are doubted once several different accounts are refused
in a row, and believed once another mail of the action was accepted after them. All of that is read from the log, which
every process writes before it acts upon it: it survives restarts, and needs nobody who counts.

When a row of refusals is too long to be chance, the action pauses, and probes try mails that were never refused, from
all over the queue: one that is accepted ends both row and pause. The longer the rows that ended so lately, the longer
the next may be, so that a flood of bad mails soon pauses nothing any more.

Where too few are refused for that, the action pauses once one of them is refused again and still nothing was accepted:
but not where as many in a row turned out to be bad lately.

What it costs. A bad mail: two calls, or three if its refusal was believed and then doubted; of a pause in which nothing
is accepted, the calls of its probes; and where no more are refused than turned out to be bad lately, and none is
accepted, those of its attempts, all charged but the first. A broken configuration: SUSPICIOUS mails, or two of a few,
their batch, and the probes; no attempt.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from sqlalchemy import Connection, select

from mailroom.db import functions
from mailroom.db.views import attempts
from mailroom.job import Job
from mailroom.queue import by_hand

# How far back a row of refusals reaches: the log is not searched beyond that, nor beyond so many rows of all actions,
# nor so many answers for the one.
LATELY: Final = timedelta(hours=1)
LOG_REACH: Final = 100_000
MAX_ANSWERS: Final = 1_000
# Different accounts refused in a row from which on it may be the configuration: by far less than that nobody loses.
SUSPICIOUS: Final = 5
# Under a flood of bad mails rows are long and yet end. What is twice as long as the longest lately tells more than bad
# luck; and so does this many, whatever came before.
DAMNING: Final = 100
# If only one mail in a hundred is good, SES almost certainly accepts one of this many from all over the queue.
CONCLUSIVE: Final = 500


@dataclass(frozen=True, slots=True)
class Record:
    """What the log tells of refusals: `unbroken`, different accounts refused since a mail of the action was accepted.

    `survived`: the longest such row that an acceptance ended lately. Of the mails asked for, `bad` were refused before,
    and then another was accepted; `tried` were refused before at all.
    """

    unbroken: int
    survived: int
    bad: frozenset[int]
    tried: frozenset[int]

    @property
    def blames_configuration(self) -> bool:
        """Whether so many in a row are not to be explained by bad mails."""
        return self.unbroken >= min(max(SUSPICIOUS, 2 * self.survived), DAMNING)


def review(connection: Connection, action: str, codes: Collection[str], refused: Sequence[Job] = ()) -> Record:
    """Review refusals of an action, by such codes: those on record, and those that these jobs have just met."""
    row = functions.call(
        connection,
        "refusals_review",
        {
            "action": action,
            "codes": list(codes),
            "tokens": [job.token for job in refused],
            "accounts": [job.account for job in refused],
            "lately": LATELY,
            "reach": LOG_REACH,
            "most": MAX_ANSWERS,
        },
    ).one()
    return Record(row.unbroken, row.survived, frozenset(row.bad), frozenset(row.tried))


def refused_since_accepted(
    connection: Connection, action: str, codes: Collection[str], *, before: datetime | None = None
) -> list[int]:
    """Return an action's jobs that ended with such a code lately, after the newest mail of it that was accepted.

    With `before`, after the newest that was accepted before that. Of each its token. Lately: within LATELY.
    """
    binds = {"action": action, "codes": list(codes), "before": before, "lately": LATELY}
    return list(functions.call(connection, "refusals_since", binds).scalars())


def put_back_once(connection: Connection, wanted: Iterable[int], *, queue: str) -> list[int]:
    """Put back those of these jobs that were never put back before, as `retry` does; return their tokens."""
    some = list(wanted)
    earlier = select(attempts.c.token).where(attempts.c.token.in_(some), attempts.c.state == "retried")
    again = set(connection.execute(earlier).scalars())
    return by_hand.retry(connection, [token for token in some if token not in again], queue=queue).put_back
