"""Who truncates accounts or tokens while workers claim."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import Engine, text

from tests.claiming import claim, enqueue
from tests.world import misplaced, rows, transaction, until_somebody_waits


@pytest.mark.slow
@pytest.mark.parametrize("truncated", ["accounts CASCADE", "tokens CASCADE"])
@pytest.mark.parametrize("claimed", [False, True], ids=["first claim", "planned before"])
def test_who_truncates_beside_a_claim_waits_for_none_that_waits_for_it(
    engine: Engine, truncated: str, claimed: bool
) -> None:
    """The trigger takes jobs away: a claim that came meanwhile must hold none before it has the tables."""
    with (
        transaction(engine) as reader,
        transaction(engine) as application,
        transaction(engine) as worker,
        ThreadPoolExecutor(2) as threads,
    ):
        enqueue(worker)
        if claimed:
            claim(worker)
            enqueue(worker, prefix="other")
        worker.commit()
        rows(reader, "SELECT count(*) FROM accounts, tokens")
        truncating = threads.submit(application.execute, text(f"TRUNCATE {truncated}"))
        until_somebody_waits(engine)
        claiming = threads.submit(claim, worker)
        until_somebody_waits(engine, 2)
        reader.rollback()
        truncating.result(timeout=60)
        application.commit()
        assert claiming.result(timeout=60).batches == ()
        worker.commit()
        assert misplaced(worker) == []
        assert rows(worker, "SELECT FROM jobs") == []
