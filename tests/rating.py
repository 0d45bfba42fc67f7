"""What tests of the rate share: an account as SES might tell it, time that passes, and the bound on what leaves."""

from collections.abc import Sequence

from sqlalchemy import Connection, text

from mailroom.fleet import buckets
from mailroom.fleet.buckets import CAPACITY, DEFAULT_SHARE, HOLD
from mailroom.job import SesAccount


def tell_account(
    connection: Connection, max_send_rate: float, *, daily: float = -1, sent: float = 0, granted_before: int = 0
) -> None:
    """Let this be what SES said last."""
    account = SesAccount(max_send_rate, daily, sent, True, True, "HEALTHY")
    buckets.store(connection, account, granted_before=granted_before)


def let_pass(connection: Connection, seconds: float) -> None:
    """Let the buckets have been filled, and the fleet throttled, so much longer ago."""
    connection.execute(
        text(
            "UPDATE permits SET filled_at = filled_at - CAST(:seconds AS double precision) * interval '1 second',"
            " long_held_until = long_held_until - CAST(:seconds AS double precision) * interval '1 second',"
            " throttled_at = throttled_at - CAST(:seconds AS double precision) * interval '1 second'"
        ),
        {"seconds": seconds},
    )


def burst(rate: float, hold: float = HOLD.total_seconds()) -> float:
    """How many may leave at once: what a bucket holds, and what was taken while it filled."""
    return max(1.0, rate * CAPACITY.total_seconds()) + rate * hold


def excess(moments: Sequence[float], rate: float, allowed: float) -> float:
    """By how much the worst window, of whatever length, exceeds `rate` times its length plus what is `allowed`.

    `moments`: when each left, in seconds, in order. A window that starts and ends with one of them is the worst.
    """
    worst, most_ahead = float("-inf"), float("-inf")
    for number, moment in enumerate(moments):
        most_ahead = max(most_ahead, rate * moment - number)  # of a window that starts here
        worst = max(worst, number + 1 - rate * moment + most_ahead)
    return worst - allowed


def ours(max_send_rate: float) -> float:
    """The rate of the fleet where SES allows this."""
    return max_send_rate * DEFAULT_SHARE
