"""The account's own bounce and complaint rates, and what is paused before AWS acts on them."""

import logging
from dataclasses import dataclass
from typing import Final

from sqlalchemy import Connection

from mailroom.db import functions
from mailroom.job import Priority
from mailroom.queue.feed import SILENCE
from mailroom.queue.lanes import priority_scope

log = logging.getLogger(__name__)

# With fewer mails nothing is said of them: one bounce of ten proves nothing.
MIN_MAILS: Final = 1_000
WARN_BOUNCES: Final = 0.02
WARN_COMPLAINTS: Final = 0.0008
# From these shares of bounces and complaints on, mails of that priority wait. Urgent ones never do.
LINES: Final = {Priority.NORMAL: (0.08, 0.004), Priority.BULK: (0.05, 0.001)}
# The codes of pauses that begin and end with the rates.
CODES: Final = ("BounceRate", "ComplaintRate")
# AWS: from the first an account is under review, from the second it may be stopped.
AWS_BOUNCES: Final = (0.05, 0.10)
AWS_COMPLAINTS: Final = (0.001, 0.005)


@dataclass(frozen=True, slots=True)
class Reputation:
    """How many mails of a period went out, how many of those bounced for good, and how many were complained of."""

    mails: int
    bounces: int
    complaints: int
    bounce_rate: float
    complaint_rate: float


def read(connection: Connection) -> dict[str, Reputation]:
    """Return it of the `newest` mails, and of those of the last `day`. A walk over 100,000 rows at most."""
    return {
        row.period: Reputation(
            row.mails, row.bounces, row.complaints, _share(row.bounces, row.mails), _share(row.complaints, row.mails)
        )
        for row in functions.call(connection, "reputation", {"since": None})
    }


def review(connection: Connection) -> None:
    """Pause mails by priority where too many bounce or are complained of, and resume them where that is over.

    While nobody tells of bounces none is resumed.
    """
    binds = {
        "scopes": [priority_scope(priority) for priority in LINES],
        "bounce_lines": [bounces for bounces, _ in LINES.values()],
        "complaint_lines": [complaints for _, complaints in LINES.values()],
        "min_mails": MIN_MAILS,
        "silence": SILENCE,
    }
    for row in functions.call(connection, "reputation_review", binds):
        if row.began:
            log.warning("paused scope=%s code=%s reason=%r", row.scope, row.code, row.reason)
        else:
            log.info("resumed scope=%s", row.scope)


def warnings(found: dict[str, Reputation]) -> dict[str, str]:
    """Return what a person should look into, by code."""
    told = {period: each for period, each in found.items() if each.mails >= MIN_MAILS}
    bounces = max(told.values(), key=lambda each: each.bounce_rate, default=None)
    complaints = max(told.values(), key=lambda each: each.complaint_rate, default=None)
    warned = {}
    if bounces is not None and bounces.bounce_rate >= WARN_BOUNCES:
        warned["BounceRate"] = (
            f"{bounces.bounce_rate:.2%} of {bounces.mails} mails bounced for good: {_aws(AWS_BOUNCES)}"
        )
    if complaints is not None and complaints.complaint_rate >= WARN_COMPLAINTS:
        warned["ComplaintRate"] = (
            f"{complaints.complaint_rate:.2%} of {complaints.mails} mails were complained of: {_aws(AWS_COMPLAINTS)}"
        )
    return warned


def _aws(lines: tuple[float, float]) -> str:
    return f"AWS reviews an account at {lines[0]:.1%}, and may stop it at {lines[1]:.1%}"


def _share(part: int, whole: int) -> float:
    return part / whole if whole else 0.0
