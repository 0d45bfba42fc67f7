"""How jobs are claimed, and what becomes of those that may be out."""

from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from mailroom.queue.verdict import GRACE, MAX_DELAY

# Beyond this many jobs a claim costs no less for each.
MAX_CLAIM_JOBS: Final = 500
# The longest wait between two probes of a pause.
MAX_PROBE_WAIT: Final = timedelta(seconds=60)


@dataclass(frozen=True, slots=True)
class Limits:
    """Which jobs are claimed, how many at a time, for how long, and when an unconfirmed mail is sent again, if ever.

    `resend_after_heard`: when it is while the provider's events are heard; None: at the same time.

    `claim_limit`: how many jobs a claim may take that opens several batches. If it is not more than `batch_limit`,
    each opens one.
    """

    queue: str
    batch_limit: int
    batch_timeout: timedelta
    lease: timedelta
    resend_after: timedelta | None = GRACE
    resend_after_heard: timedelta | None = None
    claim_limit: int = MAX_CLAIM_JOBS

    def longest_wait(self, *, scarce: bool) -> timedelta:
        """For how long a job waits until a batch is full: only where permits are scarce does one wait at all."""
        return self.batch_timeout if scarce else timedelta(0)

    @property
    def max_wait(self) -> timedelta:
        """For how long a job may wait for another attempt, unless it is held."""
        return max(MAX_DELAY, self.resend_after or MAX_DELAY, self.resend_after_heard or MAX_DELAY)
