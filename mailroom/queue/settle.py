"""Record what became of the jobs of a batch, and close it: once, by its fence, whatever has happened meanwhile."""

import hashlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Final
from uuid import UUID

from sqlalchemy import Connection

from mailroom.db import functions
from mailroom.db.literals import numbers_literal, words_literal
from mailroom.job import Action, Batch, Job, Priority
from mailroom.queue.verdict import Delivery, Verdict

# How much of the hash of a token's secret a late answer has to prove.
PROOF_BYTES: Final = 8

Judged = tuple[Batch, Sequence[Verdict]]


def settle(connection: Connection, judged: Iterable[Judged]) -> set[UUID]:
    """Record what became of the jobs of batches, one or more of one action, by position, and close the batches.

    Jobs without a verdict are returned, as they were before the claim. Returns the fences of the batches that were
    still ours, and that this call closed. Of one that had been rescued the results are kept as late, in a statement of
    its own, and decide nothing. Safe to repeat when an answer was lost. Raises ValueError for a batch that is there
    twice.
    """
    return _settle(connection, judged, asked=False)[0]


def settle_and_look(connection: Connection, judged: Iterable[Judged]) -> tuple[set[UUID], bool]:
    """Settle, and see in the same statement whether a job has come since the claim, which may have to be claimed."""
    return _settle(connection, judged, asked=True)


def _settle(connection: Connection, judged: Iterable[Judged], *, asked: bool) -> tuple[set[UUID], bool]:
    closing = list(judged)
    if len({batch.fence for batch, _ in closing}) < len(closing):
        raise ValueError("a batch is there twice")
    by_job = [
        (place, *one)
        for place, (batch, verdicts) in enumerate(closing, start=1)
        for one in zip(batch.jobs, verdicts, strict=False)
    ]
    again = [(place, job, verdict.again) for place, job, verdict in by_job if verdict.again is not None]
    binds = {
        "closing_ids": numbers_literal(batch.id for batch, _ in closing),
        "closing_fences": words_literal(str(batch.fence) for batch, _ in closing),
        "action": closing[0][0].action,
        "places": numbers_literal(place for place, _, verdict in by_job for _ in verdict.deliveries),
        **_as_binds([(job, delivery) for _, job, verdict in by_job for delivery in verdict.deliveries]),
        "again_tokens": numbers_literal(job.token for _, job, _ in again),
        "again_places": numbers_literal(place for place, _, _ in again),
        "again_attempts": numbers_literal(retry.attempt for _, _, retry in again),
        "again_after": words_literal(
            # Not as Python writes a number: PostgreSQL takes no 5e-05 for an interval.
            None if retry.after is None else f"{retry.after.total_seconds():.6f} s"
            for _, _, retry in again
        ),
        "asked": asked,
        "call_ms": numbers_literal(verdict.call_ms for _, _, verdict in by_job for _ in verdict.deliveries),
    }
    row = functions.call(connection, "settle", binds).one()
    owned = set(row.owned)
    for batch, verdicts in closing:
        recorded = [
            (job, one) for job, verdict in zip(batch.jobs, verdicts, strict=False) for one in verdict.deliveries
        ]
        if recorded and batch.fence not in owned:
            proofs = words_literal("\\x" + _proof(job.secret).hex() for job, _ in recorded)
            late = {"batch": batch.id, "fence": batch.fence, "action": batch.action, "proofs": proofs}
            functions.call(connection, "settle_late", late | _as_binds(recorded))
    return owned, not owned or row.due is True


def _as_binds(recorded: Sequence[tuple[Job, Delivery]]) -> dict[str, str]:
    return {
        "tokens": numbers_literal(job.token for job, _ in recorded),
        "accounts": numbers_literal(job.account for job, _ in recorded),
        "attempts": numbers_literal(job.attempt for job, _ in recorded),
        "outcomes": words_literal(delivery.outcome for _, delivery in recorded),
        "message_ids": words_literal(_storable(delivery.message_id) for _, delivery in recorded),
        "error_codes": words_literal(_storable(delivery.error_code) for _, delivery in recorded),
        "errors": words_literal(_storable(delivery.error) for _, delivery in recorded),
    }


def return_abandoned(
    connection: Connection, *, worker: str, known: Collection[UUID], actions: Mapping[str, Action]
) -> list[Batch]:
    """Return the batches of a sender that it does not know; say which those were, without their jobs.

    Their claim was given up before its answer came, and was made all the same. `worker` is a name that no other sender
    ever had; what it has claimed and not settled is `known`.
    """
    rows = functions.call(connection, "batches_abandoned", {"worker": worker, "known": list(known)}).all()
    found = (Batch(r.id, r.fence, actions[r.action], Priority(r.priority), (), r.due_at) for r in rows)
    return [batch for batch in found if settle(connection, [(batch, [])])]


def _storable(words: str | None) -> str | None:
    """Replace what PostgreSQL cannot hold, NUL among it: an odd answer must not keep its batch from settling."""
    if words is None or (words.isascii() and "\0" not in words):
        return words
    return words.replace("\0", "?").encode(errors="replace").decode()


def _proof(secret: bytes) -> bytes:
    return hashlib.sha256(secret).digest()[:PROOF_BYTES]
