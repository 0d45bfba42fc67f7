"""What the log tells of mails that were accepted lately, of all processes."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Final

from sqlalchemy import Connection, func, select

from mailroom.db.views import attempts

# The log is not read further back than that, nor further than so many rows.
LATELY: Final = timedelta(hours=1)
LOG_REACH: Final = 100_000


def newest(
    connection: Connection, actions: Sequence[str], within: timedelta = LATELY, *, queue: str | None = None
) -> int | None:
    """Return the attempt that was accepted last of these actions, if that was within this time and lately.

    `queue`: of that alone. None: of all.
    """
    last = select(func.max(attempts.c.id)).scalar_subquery()
    accepted = (
        select(attempts.c.id)
        .where(
            attempts.c.id > last - LOG_REACH,
            attempts.c.action.in_(actions),
            *([] if queue is None else [attempts.c.queue == queue]),
            attempts.c.outcome == "sent",
            attempts.c.state == "finished",
            attempts.c.code.is_(None),  # else found to be accepted long ago
            attempts.c.at > func.clock_timestamp() - min(within, LATELY),
            attempts.c.at
            <= func.clock_timestamp(),  # else of a time when the clock was ahead: nobody knows how long ago
        )
        .order_by(attempts.c.id.desc())
        .limit(1)
    )
    found: int | None = connection.execute(accepted).scalar()
    return found
