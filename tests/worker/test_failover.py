"""A standby takes over in the middle of a run: workers that know both find the new primary by themselves."""

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import text

from mailroom.demo.postgres import EmbeddedPostgres
from mailroom.simulator import Fault, Simulator
from tests.machine import missing
from tests.running import Processes, connecting, eventually
from tests.servers import BINARIES, GIVEN, TESTS_PATH, migrate
from tests.world import add_accounts, count, drained, misplaced, rows

pytestmark = pytest.mark.slow


@pytest.fixture(params=list(BINARIES))
def pair(request: pytest.FixtureRequest) -> Iterator[tuple[EmbeddedPostgres, EmbeddedPostgres]]:
    """A primary that commits only what its streaming standby has flushed, and that standby."""
    binaries: Path | None = BINARIES[request.param]
    if GIVEN:
        pytest.skip("a server that was given is not ours to stop")
    if binaries is not None and not binaries.exists():
        missing(f"Debian's PostgreSQL in {binaries}")
    with EmbeddedPostgres(binaries, settings={"search_path": TESTS_PATH}) as primary:
        migrate(primary.url())
        standby = EmbeddedPostgres(binaries, settings={"search_path": TESTS_PATH}, password=primary.password)
        source = ("-h", "127.0.0.1", "-p", str(primary.port), "-U", "postgres")
        known = {"PGPASSWORD": primary.password}
        standby.run("pg_basebackup", *source, "-R", "-X", "stream", "--checkpoint=fast", environment=known)
        with standby:
            with connecting(primary.url()) as engine, engine.connect() as connection:
                connection.execute(text("ALTER SYSTEM SET synchronous_standby_names = '*'"))
                connection.execute(text("SELECT pg_reload_conf()"))
                synchronous = "SELECT FROM pg_stat_replication WHERE sync_state = 'sync'"
                eventually(lambda: rows(connection, synchronous), "the standby is synchronous")
            yield primary, standby


def test_workers_move_to_the_standby_that_was_promoted_and_nothing_is_lost(
    pair: tuple[EmbeddedPostgres, EmbeddedPostgres], simulator: Simulator, processes: Processes
) -> None:
    primary, standby = pair
    simulator.faults.add(Fault(latency_ms=20, times=None))
    with connecting(primary.url()) as engine, engine.connect() as connection:
        add_accounts(connection, 2_000)
    both = (
        f"host=127.0.0.1,127.0.0.1 port={primary.port},{standby.port} user=postgres password={primary.password}"
        " dbname=postgres target_session_attrs=read-write"
    )
    workers = [processes.worker("--concurrency", "2", url=both, simulator=simulator) for _ in range(2)]
    eventually(lambda: simulator.ledger.counts().mails > 500, "mails leave")
    primary.stop("immediate")
    standby.run("pg_ctl", "-w", "promote")

    with connecting(standby.url()) as engine, engine.connect() as connection:
        eventually(lambda: drained(connection), "all is sent from the new primary", seconds=90)
        assert misplaced(connection) == []
        assert count(connection, "deliveries WHERE outcome = 'sent' AND NOT late") == 2_000
        unsure = {row.token for row in rows(connection, "SELECT token FROM deliveries WHERE outcome = 'unconfirmed'")}
    assert {int(token) for token in simulator.ledger.duplicates()} <= unsure
    for worker in workers:
        worker.signal(signal.SIGTERM)
        assert worker.wait() == 0
