"""How many batches a sender claims at a time: as many as it sends within a moment."""

from datetime import timedelta
from typing import Final

from mailroom.queue.limits import MAX_CLAIM_JOBS

# How long the batches of one claim should take together: an urgent mail may have to wait for it, and what is in flight
# when a process is killed is unconfirmed. A call to SES mostly takes longer, and then a claim is for one batch.
INTENDED: Final = timedelta(milliseconds=50)
# When it takes as long as this all the same, what has not been sent is returned.
MAX_SENDING: Final = timedelta(milliseconds=200)


class ClaimSize:
    """Learns from how long sending took. Begins with one batch, and doubles at most."""

    def __init__(self, batch_limit: int, *, claim_limit: int = MAX_CLAIM_JOBS) -> None:
        self._max = max(1, claim_limit // batch_limit)
        self.batches = 1

    def note(self, sent: int, took: timedelta, *, well: bool) -> None:
        """Note that so many batches took so long to send, and whether nothing speaks against going on like that."""
        if not well or not sent:
            self.batches = 1
            return
        fitting = int(INTENDED * sent / max(took, timedelta(microseconds=1)))
        self.batches = max(1, min(fitting, 2 * self.batches, self._max))
