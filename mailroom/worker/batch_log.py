"""What the log says of a batch that is closed: a line for it, and one for each mail that was not sent."""

import logging
from collections import Counter
from collections.abc import Mapping, Sequence

from mailroom.job import Batch
from mailroom.queue.verdict import Verdict

log = logging.getLogger(__name__)


def log_batch(
    batch: Batch, verdicts: Sequence[Verdict], *, owned: bool, seconds: float, ids: Mapping[str, str]
) -> None:
    """Log a batch. Without verdicts it was returned whole. `ids` are those of its trace, if it has one."""
    counts = Counter(verdict.deliveries[-1].outcome if verdict.deliveries else "untried" for verdict in verdicts)
    counts["untried"] += len(batch.jobs) - len(verdicts)
    came = {outcome: count for outcome, count in sorted(counts.items()) if count}
    fields = "".join(f" {outcome}=%d" for outcome in came) + " ms=%d" + ("" if owned else " late=true")
    what = (batch.id, batch.action, len(batch.jobs), *came.values(), seconds * 1000)
    log.info(f"batch id=%d action=%s jobs=%d{fields}", *what, extra=ids)
    for job, verdict in zip(batch.jobs, verdicts, strict=False):
        for delivery in verdict.deliveries:
            if delivery.outcome != "sent":
                log.info(
                    "mail token=%d action=%s batch=%d attempt=%d outcome=%s code=%s",
                    *(job.token, job.action, batch.id, job.attempt, delivery.outcome, delivery.error_code),
                    extra=ids,
                )
