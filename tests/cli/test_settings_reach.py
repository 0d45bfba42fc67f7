"""Each setting and each option reaches what it is for: from the environment of a command to what that does."""

from datetime import timedelta
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import Engine, text

from mailroom import settings
from mailroom.cli import wiring
from mailroom.queue.limits import MAX_CLAIM_JOBS, Limits
from mailroom.simulator import Fault, Simulator
from tests.cli.command import add, sending
from tests.cli.conftest import Here
from tests.running import PATIENCE_SECONDS, Processes, eventually
from tests.world import add_accounts, count, misplaced, rows

OPTIONS = [
    ("worker", "--batch-limit", "BATCH_LIMIT"),
    ("worker", "--batch-timeout", "BATCH_TIMEOUT"),
    ("worker", "--sweep-interval", "SWEEP_INTERVAL"),
    ("worker", "--queue-name", "QUEUE_NAME"),
    ("worker", "--probe-port", "PROBE_ADDRESS"),
    ("sweep", "--batch-limit", "BATCH_LIMIT"),
    ("sweep", "--queue-name", "QUEUE_NAME"),
    ("collect", "--batch-limit", "BATCH_LIMIT"),
    ("collect", "--batch-timeout", "BATCH_TIMEOUT"),
    ("collect", "--queue-name", "QUEUE_NAME"),
    ("jobs retry 1", "--queue-name", "QUEUE_NAME"),
    ("prune", "--older-than", "PRUNE_AFTER"),
]


@pytest.mark.parametrize(("command", "option", "variable"), OPTIONS)
def test_an_option_is_read_as_its_variable(
    here: Here, ses: Simulator, command: str, option: str, variable: str
) -> None:
    ended = here(*command.split(), option, "\n", env=sending("postgresql://127.0.0.1:1/nowhere", ses))
    ended.assert_one_line(2, f"MAILROOM_{variable}: ", "is not accepted")


@pytest.mark.parametrize(
    ("given", "waits"),
    [
        ({}, (timedelta(seconds=5), timedelta(seconds=60))),
        ({"UNCONFIRMED_WAIT": "7000"}, (timedelta(seconds=7), timedelta(seconds=7))),
        ({"UNCONFIRMED_WAIT": "0"}, (timedelta(0), timedelta(0))),
        ({"ON_UNCONFIRMED": "hold"}, (None, None)),
        ({"ON_UNCONFIRMED": "hold", "UNCONFIRMED_WAIT": "0"}, (None, None)),
    ],
)
def test_a_claim_is_what_the_settings_say(
    monkeypatch: pytest.MonkeyPatch, given: dict[str, str], waits: tuple[timedelta | None, timedelta | None]
) -> None:
    said = {"QUEUE_NAME": "side", "BATCH_LIMIT": "7", "BATCH_TIMEOUT": "1234", "LEASE": "45000"}
    for name, value in (said | given).items():
        monkeypatch.setenv(f"MAILROOM_{name}", value)
    at_most = 7 if given.get("ON_UNCONFIRMED") == "hold" else MAX_CLAIM_JOBS
    asked = Limits("side", 7, timedelta(milliseconds=1234), timedelta(seconds=45), *waits, claim_limit=at_most)
    assert wiring.limits(settings.load()) == asked


@pytest.mark.slow
def test_a_worker_listens_and_claims_as_its_settings_say(
    url: str, engine: Engine, simulator: Simulator, processes: Processes
) -> None:
    """It does not sweep for ten minutes, and hears itself each second."""
    said = {"CHANNEL_NAME": "Elsewhere", "HEALTHCHECK_INTERVAL": "1000", "LEASE": "45000", "QUEUE_NAME": "side"}
    given = {f"MAILROOM_{name}": value for name, value in said.items()}
    simulator.faults.add(Fault(operation="SendEmail", latency_ms=3000, times=1))
    with psycopg.connect(url, autocommit=True) as hearing, engine.connect() as connection:
        hearing.execute('LISTEN "Elsewhere"')
        add_accounts(connection, 1, prefix="of-another-queue")
        worker = processes.worker(url=url, simulator=simulator, MAILROOM_SWEEP_INTERVAL="600000", **given)
        assert len(list(hearing.notifies(timeout=PATIENCE_SECONDS, stop_after=2))) >= 2, worker.log.read_text()
        for name in ("queue = 'side'", "channel = 'Elsewhere'"):
            connection.execute(text(f"SET mailroom.{name}"))
        add_accounts(connection, 1)
        [[lease]] = eventually(
            lambda: rows(connection, "SELECT lease_until - claimed_at FROM batches"), "it is claimed"
        )
        assert timedelta(seconds=44) < lease < timedelta(seconds=46)
        eventually(lambda: count(connection, "deliveries WHERE outcome = 'sent'") == 1, "it is sent")
        assert [row.queue for row in rows(connection, "SELECT queue FROM jobs")] == ["mailroom"]
        assert misplaced(connection) == []


@pytest.mark.slow
def test_a_sweep_keeps_to_the_rate_that_is_set(here: Here, ses: Simulator, url: str, engine: Engine) -> None:
    add(engine, 5)
    ended = here("sweep", "--max-seconds", "1", env=sending(url, ses) | {"MAILROOM_SES_RATE": "0.01"})
    assert ended.code == 3, ended
    assert ses.ledger.counts().mails <= 1


@pytest.mark.slow
@pytest.mark.parametrize("kept", [True, False])
def test_answers_are_kept_only_where_that_is_set(
    here: Here, ses: Simulator, url: str, engine: Engine, tmp_path: Path, *, kept: bool
) -> None:
    add(engine, 1)
    ses.faults.add(Fault(operation="SendEmail", error="MessageRejected", times=None))
    folder = tmp_path / "kept"
    here(
        "sweep",
        "--max-seconds",
        "1",
        env=sending(url, ses) | ({"MAILROOM_SES_OUTPUT_PATH": str(folder)} if kept else {}),
    )
    assert [path.name for path in folder.rglob("*.jsonl")] == ["ses-errors.jsonl"] * kept
    assert not (tmp_path / "output").exists()
