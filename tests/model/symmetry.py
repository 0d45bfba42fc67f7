"""Two tokens that nothing tells apart, and fences that are only names: states that differ in these alone are one.

Only where no failover gives ids again. A fence is called by what bears it, and not by when it was drawn.
"""

from collections import defaultdict
from typing import Any

from tests.model.state import State, fence_of, token_of

Names = dict[int, int]


def key(state: State) -> int:
    """Return a hash that is the same for states which are one."""
    return min(hash(_renamed(state, {0: 0, 1: 1, 2: 2})), hash(_renamed(state, {0: 0, 1: 2, 2: 1})))


def _renamed(state: State, tokens: Names) -> tuple[Any, ...]:
    """Call tokens by these names, and fences by what bears them."""
    bearing: defaultdict[int, list[tuple[Any, ...]]] = defaultdict(list)
    for fence, *what in _bearers(state, tokens):
        bearing[fence].append(tuple(what))
    ordered = sorted((sorted(found), fence) for fence, found in bearing.items())
    names = {fence: place for place, (_, fence) in enumerate(ordered, start=1)}
    database = state.database
    by_token = (database.tokens, database.jobs)
    if tokens[1] == 2:
        by_token = ((database.tokens[1], database.tokens[0]), (database.jobs[1], database.jobs[0]))
    # Of a secret it matters whether its token is there: with one each, and no other, its name is its token's.
    gone = tuple(secret > 0 for secret in by_token[0])
    nameless = [(names[fence], *what) for fence, *what in _bearers(state, tokens) if fence]
    other = sorted((row.outcome, tokens[row.token], row.retried, row.attempt) for row in database.log if not row.fence)
    return (gone, by_token[1], tuple(sorted(nameless)), tuple(other), database.suppressed, database.address, state.acts)


def _bearers(state: State, tokens: Names) -> list[tuple[Any, ...]]:
    """Return each thing that bears a fence: that, and what it is, with the same kinds of values in the same places."""
    database = state.database
    found: list[tuple[Any, ...]] = [
        (batch.fence, "batch", tuple(sorted((tokens[token], attempt) for token, attempt in batch.jobs)))
        for batch in database.batches
    ]
    found += [
        (worker.fence, "worker", (worker.phase, *sorted((tokens[j.token], j.attempt, j.refused) for j in worker.jobs)))
        for worker in state.workers
    ]
    found += [
        (
            row.fence,
            "log",
            (tokens[row.token], tokens[row.secret], row.outcome, row.late, row.retried, row.attempt, bool(row.message)),
        )
        for row in database.log
        if row.fence
    ]
    for what, messages in (
        ("event", [(event.message, event.kind) for event in database.events]),
        ("mail", [(mail.message, f"{mail.contradicted_by} {mail.address}") for mail in state.mails]),
        ("told", list(database.told)),
        ("back", [(message, "") for message in database.taken_back]),
    ):
        found += [(fence_of(message), what, (tokens[token_of(message)], kind)) for message, kind in messages]
    return found
