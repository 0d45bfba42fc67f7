"""The sending rate of the fleet: two buckets of permits in PostgreSQL, and what SES allows the account.

A permit is the right to hand one mail to SES, or to make one bulk call. Each function is one statement.

Why no more than `rate * t + burst` leaves in any window of t seconds, burst being 0.9 of a second's worth (a rate
below two: one mail and HOLD's worth). A bucket holds at most C and fills at R a second, so the permits granted in t
seconds are at most C + R * t. A permit is used within HOLD of its grant, so those used in a window of t were granted in
one of t + HOLD: at most R * t + (C + R * HOLD). C is CAPACITY's worth, half a second, and HOLD is 0.4 s; the rest of
the second is for the way to SES, which takes one mail longer than another.

Where the bucket is full, permits may be held for LONG_HOLD, so that mails that come one by one need not ask for each.
For that time the bucket holds so much less: the bucket and what is held for long never come to more than C together,
and grow by no more than R a second, so the bound is the same. Permits that come back unused are credited, less what the
rate made meanwhile (`sql/permits_return.sql`). Then the bucket is at most as full as if they had never left, and the
bound is that of a history without them.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from math import floor, inf
from typing import Final

from sqlalchemy import Connection

from mailroom.db import functions, kept_rows
from mailroom.job import SesAccount

CAPACITY: Final = timedelta(seconds=0.5)
HOLD: Final = timedelta(seconds=0.4)
LONG_HOLD: Final = timedelta(seconds=1.5)
# Others may send with the same account.
DEFAULT_SHARE: Final = 0.9
# SES gives no account less. It holds until the account is known, and for ever if nobody may ask for it.
UNKNOWN_RATE: Final = 1.0
RESERVE: Final = 0.2
QUOTA_RESERVE: Final = 0.05
QUOTA_STALE_AFTER: Final = timedelta(minutes=10)
CUT: Final = 0.7
MIN_RATE_FACTOR: Final = 0.05
RECOVERY_PER_SECOND: Final = 0.05
REFRESH_EVERY: Final = timedelta(seconds=60)
FIRST_TRIES: Final = timedelta(seconds=5)


class Bucket(StrEnum):
    """What is counted."""

    MAILS = "mails"
    BULK_CALLS = "bulk_calls"


@dataclass(frozen=True, slots=True)
class Granted:
    """What came of asking: `count` permits, perhaps none, and how long to wait then.

    `only_urgent`: of the 24-hour quota so little is left that it is for urgent mail. `per_second` is the rate without
    what throttling takes off; None without a limit. They are to be used within `hold` of asking, or not at all.
    """

    count: int
    only_urgent: bool
    per_second: float | None
    granted_at: datetime
    wait: timedelta
    hold: timedelta


@dataclass(frozen=True, slots=True)
class Refresh:
    """What `store` needs as `granted_before`, None if SES is not to be asked now; and in how long to see again."""

    granted_before: int | None
    due_in: timedelta


def take(
    connection: Connection, bucket: Bucket, wanted: int, *, own_rate: float | None, urgent: bool, ended: int = 0
) -> Granted:
    """Take up to `wanted` permits; what is not `urgent` leaves the reserve. `own_rate` None: the settings say nothing.

    `ended`: how many permits of the block before, which still holds, will not be used any more. Raises DatabaseError
    where the row of the bucket is gone.
    """
    found = functions.call(
        connection,
        "permits_take",
        {
            "bucket": bucket.value,
            "wanted": wanted,
            "own_rate": own_rate,
            "urgent": urgent,
            "default_share": DEFAULT_SHARE,
            "unknown_rate": UNKNOWN_RATE,
            "capacity_seconds": CAPACITY.total_seconds(),
            "reserve": RESERVE,
            "quota_reserve": QUOTA_RESERVE,
            "quota_stale_after": QUOTA_STALE_AFTER,
            "recovery_per_second": RECOVERY_PER_SECOND,
            "long_hold": LONG_HOLD,
            "ended": ended,
        },
    )
    row = kept_rows.only(connection, found, "permits")
    wait = timedelta(seconds=row.wait_seconds)
    hold = LONG_HOLD if row.for_long else HOLD
    return Granted(row.grants, row.only_urgent, row.per_second, row.granted_at, wait, hold)


def at_hand(per_second: float | None, *, urgent: bool) -> float:
    """Return how many permits there are for whoever asks where nobody is in need, and half are held for long."""
    if per_second is None:
        return inf
    free = max(1.0, per_second * CAPACITY.total_seconds() / 2)
    return floor(free - (0.0 if urgent else min(free * RESERVE, free - 1)))


def return_unused(connection: Connection, bucket: Bucket, granted: Granted, unused: int) -> None:
    """Return some of what was granted. The longer it was held, the less it is worth; after HOLD, nothing."""
    functions.call(
        connection,
        "permits_return",
        {
            "bucket": bucket.value,
            "unused": unused,
            "granted_at": granted.granted_at,
            "per_second": granted.per_second,
        },
    )


def slow_down(connection: Connection) -> float | None:
    """Cut the rate of the fleet after a throttle answer; return the share of it that is left.

    None if it was cut within the last second: the answers of calls that were in flight together tell one thing. The
    rate creeps back by itself.
    """
    factor: float | None = functions.call(
        connection,
        "permits_cut",
        {
            "cut": CUT,
            "min_rate_factor": MIN_RATE_FACTOR,
            "recovery_per_second": RECOVERY_PER_SECOND,
            "once_in": timedelta(seconds=1),
        },
    ).scalar()
    return factor


def claim_refresh(connection: Connection, *, first_tries: timedelta = FIRST_TRIES) -> Refresh:
    """Take over asking SES for the account, if that is due. Raises DatabaseError where its row is gone.

    `first_tries` is how soon to ask again while nothing is known yet.
    """
    binds = {"every": REFRESH_EVERY, "first_tries": first_tries}
    row = kept_rows.only(connection, functions.call(connection, "account_claim_refresh", binds), "ses_account")
    due_in = REFRESH_EVERY if row.due_seconds is None else timedelta(seconds=max(0.0, row.due_seconds))
    return Refresh(row.granted, min(due_in, REFRESH_EVERY))


def store(connection: Connection, account: SesAccount, *, granted_before: int) -> None:
    """Keep what SES said of the account when so many permits had been granted."""
    functions.call(
        connection,
        "account_store",
        {
            "max_send_rate": account.max_send_rate,
            "max_24_hour_send": account.max_24_hour_send,
            "sent_last_24_hours": account.sent_last_24_hours,
            "granted_before": granted_before,
            "sending_enabled": account.sending_enabled,
            "production_access": account.production_access,
            "enforcement": account.enforcement,
        },
    )
