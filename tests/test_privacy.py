"""No address, login, secret or code leaves the mails: not in logs, errors, records, statements or command lines."""

import contextlib
import json
import logging
import os
import re
import secrets
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from psycopg.conninfo import make_conninfo
from sqlalchemy import Connection, Engine, text

from mailroom import ses as ses_transport
from mailroom.cli.json_log import JsonLines
from mailroom.db.engine import connect_engine
from mailroom.errors import TokenError
from mailroom.queue.limits import Limits
from mailroom.simulator import Fault, Simulator
from mailroom.tokens import consume
from mailroom.worker.sender import Sender
from mailroom.worker.shared import Shared
from mailroom.worker.worker import Worker
from tests.claiming import start_over
from tests.kinds import ACTIVATION, RECOVERY, sign
from tests.running import PATIENCE_SECONDS, eventually
from tests.servers import Server
from tests.world import KEY, KEY_HEX, misplaced, rows

AWS_SECRET = "canary-aws-secret"
PASSWORD = f"canary-database-password-{secrets.token_hex(16)}"
ROLE = "mailroom_test_password"
CODES = ("97531", "86420")
LOGIN = 'Cänary "{}", the\N{BIRD}'
LIMITS = Limits("mailroom", 10, timedelta(0), timedelta(seconds=30))
PROSE = "Address canary0@canary.example, canary1@canary.example is not what we take"
FAULTS = [
    Fault(error="MessageRejected", message=PROSE),
    Fault(error="BadRequestException", message=PROSE),
    Fault(error="TooManyRequestsException", message=PROSE),
    Fault(error="AccountSuspendedException", message=PROSE),
    Fault(error="InternalServiceErrorException", message=PROSE),
    Fault(error="ServiceUnavailable", status=503, message=PROSE),
    Fault(error="SomethingNew", status=418, message=PROSE),
    Fault(entries={0: "MESSAGE_REJECTED", 1: "TRANSIENT_FAILURE"}, message=PROSE),
    Fault(entries={0: "A_STATUS_OF_TOMORROW", 1: "ACCOUNT_THROTTLED"}, message=PROSE),
    Fault(before="drop"),
    Fault(before="hang"),
    Fault(accept_then="drop"),
    Fault(accept_then="hang"),
    Fault(accept_then="truncate"),
    Fault(accept_then="unended"),
    Fault(accept_then="error", message=PROSE),
    Fault(body=f"<html>{PROSE}</html>"),
    Fault(body=""),
    Fault(results="short"),
    Fault(results="long"),
    Fault(),
]


class Canaries:
    """Accounts that are known by name, and a search for any trace of them."""

    def __init__(self, connection: Connection) -> None:
        for number in range(4):
            connection.execute(
                text("INSERT INTO accounts (email, login, status) VALUES (:email, :login, :status)"),
                {
                    "email": f"canary{number}@canary.example",
                    "login": LOGIN.format(number),
                    "status": "active" if number % 2 else "provisioned",
                },
            )
        connection.execute(
            text(
                "INSERT INTO tokens (action, account, code, address, data)"
                " SELECT 'password_recovery', id, :code, 'other' || id || '@canary.example', CAST(:data AS jsonb)"
                "   FROM accounts WHERE status = 'active'"
            ),
            {"code": CODES[0], "data": json.dumps({"note": LOGIN.format("note")})},
        )
        connection.execute(text("UPDATE tokens SET code = :code WHERE action = 'activation'"), {"code": CODES[1]})
        self.known = sorted({form for form in self._forms(connection) if form}, key=len)

    def _forms(self, connection: Connection) -> Iterator[str]:
        yield from ("canary.example", "Cänary", "C\\u00e4nary", "C\\xe4nary", "C%C3%A4nary", PASSWORD, AWS_SECRET)
        yield from (KEY_HEX, str(KEY), KEY.decode("latin-1"))
        for token in rows(connection, "SELECT action, secret, code FROM tokens"):
            secret = bytes(token.secret)
            signed = sign(secret, action=token.action, key=KEY, code=token.code)
            # A signed token is the secret and its signature; neither may be there without the other.
            yield from (secret.hex(), str(secret)[2:-1], signed, signed[:40], signed[-40:], token.code)

    def found_in(self, words: str) -> list[str]:
        """What of them is in these words; codes only where they are no part of a longer number, or of an id in hex."""

        def is_in(form: str) -> bool:
            more = r"\w" if form.isdigit() else r"\d"
            return re.search(rf"(?<!{more}){re.escape(form)}(?!{more})", words, re.IGNORECASE) is not None

        return [form for form in self.known if is_in(form)]


@pytest.fixture
def simulator() -> Iterator[Simulator]:
    with Simulator() as simulator:
        simulator.configuration_sets.create("default")
        yield simulator


@pytest.fixture
def password_url(server: Server, url: str) -> Iterator[str]:
    """The URL of the test's database, with a password that must not be seen."""
    server.execute(f"CREATE ROLE {ROLE} SUPERUSER LOGIN PASSWORD '{PASSWORD}'")
    yield make_conninfo(url, user=ROLE, password=PASSWORD)
    server.execute(f"DROP ROLE {ROLE}")


@pytest.fixture
def environment(simulator: Simulator, password_url: str) -> dict[str, str]:
    return {
        "PATH": os.environ["PATH"],
        "LANG": "C.UTF-8",
        "MAILROOM_DATABASE_URL": password_url,
        "MAILROOM_SECRET_KEY": KEY_HEX,
        "MAILROOM_BATCH_TIMEOUT": "0",
        "MAILROOM_SWEEP_INTERVAL": "50",
        "AWS_ENDPOINT_URL_SESV2": simulator.url,
        "AWS_REGION": "us-east-1",
        "AWS_ACCESS_KEY_ID": "nobody",
        "AWS_SECRET_ACCESS_KEY": AWS_SECRET,
        "AWS_EC2_METADATA_DISABLED": "true",
    }


@pytest.fixture
def transport(environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> ses_transport.SesTransport:
    """The real one, that does not wait long for an answer."""
    for name, value in environment.items():
        if name.startswith("AWS_"):
            monkeypatch.setenv(name, value)
    client = ses_transport.connect(region="us-east-1", connections=1, read_timeout=timedelta(milliseconds=200))
    return ses_transport.SesTransport(client, source="noreply@example.com")


@pytest.fixture
def everything(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    """The log of all libraries at its loudest; what applications set when they look for a fault."""
    caplog.set_level(logging.DEBUG)
    return caplog


def logged(caplog: pytest.LogCaptureFixture) -> str:
    """All that was logged, as text and as JSON: messages with their arguments and tracebacks."""
    as_json = JsonLines()
    forms = [f"{record.msg!r} {record.args!r}\n{as_json.format(record)}" for record in caplog.records]
    return caplog.text + "\n".join(forms)


def recorded(connection: Connection) -> str:
    """The rows that mailroom keeps, and the statements that run or last ran, as anybody with psql sees them."""
    kept = [rows(connection, f"SELECT * FROM {table}") for table in ("deliveries", "batches", "jobs")]  # noqa: S608
    activity = "SELECT query, application_name FROM pg_stat_activity WHERE datname = current_database()"
    return str([*kept, rows(connection, activity)])


def test_the_search_finds_every_form(engine: Engine) -> None:
    with engine.connect() as connection:
        canaries = Canaries(connection)
        [secret] = rows(connection, "SELECT secret FROM tokens ORDER BY id LIMIT 1")[0]
    words = [
        "to=CANARY0@canary.example",
        json.dumps({"login": LOGIN.format(1)}),
        repr(bytes(secret)),
        f"code={CODES[0]}",
        sign(bytes(secret), action=ACTIVATION, key=KEY),
        KEY_HEX,
    ]
    assert all(canaries.found_in(each) for each in words)
    assert canaries.found_in(f"2026-11-24T06:35:02 ms=1{CODES[0]} fence=0a{CODES[0]}f2 canary") == []


@pytest.mark.slow
def test_no_fault_of_ses_brings_anything_to_light(
    engine: Engine,
    simulator: Simulator,
    transport: ses_transport.SesTransport,
    everything: pytest.LogCaptureFixture,
) -> None:
    with engine.connect() as connection:
        canaries = Canaries(connection)
    process = Shared(engine, transport, key=KEY, limits=LIMITS)
    sender = Sender(process, name="worker")
    for fault in FAULTS:
        simulator.faults.clear()
        with engine.connect() as connection:  # as if for the first time
            connection.execute(text("DELETE FROM jobs"))
            connection.execute(
                text(
                    "INSERT INTO jobs (token, due_at, action, priority, queue)"
                    " SELECT id, now() - interval '1 second', action, 1, 'mailroom' FROM tokens"
                )
            )
        simulator.faults.add(Fault(**{**_set(fault), "times": 2}))
        for _ in range(2):  # a batch of two of each action
            with engine.connect() as connection:
                connection.execute(text("DELETE FROM pauses"))
            work = sender.work_claim()
            assert work is not None
            assert work.taken == 2
        start_over(process.claims._floors)
    with engine.connect() as connection:
        outcomes = {row.outcome for row in rows(connection, "SELECT DISTINCT outcome FROM deliveries")}
        assert outcomes == {"sent", "rejected", "deferred", "unconfirmed"}
        assert canaries.found_in(recorded(connection)) == []
    assert "outcome=unconfirmed" in everything.text
    assert canaries.found_in(logged(everything)) == []


def _set(fault: Fault) -> dict[str, Any]:
    return {name: getattr(fault, name) for name in fault.__dataclass_fields__}


@contextlib.contextmanager
def running(worker: Worker) -> Iterator[None]:
    """Let a worker work, until it is stopped."""
    thread = threading.Thread(target=worker.run)
    thread.start()
    try:
        yield
    finally:
        worker.stop()
        thread.join()


def test_no_fault_of_the_database_brings_anything_to_light(
    engine: Engine,
    password_url: str,
    transport: ses_transport.SesTransport,
    everything: pytest.LogCaptureFixture,
) -> None:
    """The worker's own connections are killed, and its settlement is refused until somebody mends the table."""
    with engine.connect() as connection:
        canaries = Canaries(connection)
        connection.execute(text("ALTER TABLE deliveries ADD CONSTRAINT none_sent CHECK (outcome <> 'sent')"))
    own = connect_engine(password_url, pool_size=3)
    limits = replace(LIMITS, lease=timedelta(seconds=60))
    shared = Shared(own, transport, key=KEY, limits=limits)
    worker = Worker(shared, concurrency=1, sweep_interval=timedelta(milliseconds=50))
    with running(worker), engine.connect() as connection:
        eventually(lambda: "not settled yet" in everything.text, "the settlement is refused")
        connection.execute(text("ALTER TABLE deliveries DROP CONSTRAINT none_sent"))
        eventually(
            lambda: connection.scalar(text("SELECT count(*) = 4 FROM deliveries WHERE outcome = 'sent' AND NOT late")),
            "it is on record",
        )
        connection.execute(
            text(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
        )
        noticed = ("database error", "for the fleet failed")  # whoever is at the database then
        eventually(lambda: any(words in everything.text for words in noticed), "the outage is noticed")
        assert misplaced(connection) == []
        assert canaries.found_in(recorded(connection)) == []
    own.dispose()
    assert canaries.found_in(logged(everything)) == []


def test_a_token_that_cannot_be_consumed_is_not_told(engine: Engine) -> None:
    with engine.connect() as connection:
        canaries = Canaries(connection)
        connection.execute(text("ALTER FUNCTION consume_token RENAME TO gone"))
        [secret, code] = rows(connection, "SELECT secret, code FROM tokens WHERE action = 'password_recovery'")[0]
        token = sign(bytes(secret), action=RECOVERY, key=KEY, code=code)
        with pytest.raises(TokenError) as failed:
            consume(connection, token, action=RECOVERY, key=KEY, code=code)
    assert canaries.found_in("".join(traceback.format_exception(failed.value))) == []


@pytest.mark.slow
@pytest.mark.parametrize("log_format", ["text", "json"])
@pytest.mark.parametrize("command", ["worker --no-listen", "worker", "sweep", "collect"])
def test_no_process_shows_anything(
    engine: Engine, simulator: Simulator, environment: dict[str, str], command: str, log_format: str
) -> None:
    """Its command line, its log, its statements while it works, and what is left when it is done."""
    with engine.connect() as connection:
        canaries = Canaries(connection)
    refused = Fault(operation="SendBulkEmail", entries={0: "MESSAGE_REJECTED"}, message=PROSE)
    simulator.faults.add(refused, Fault(operation="SendBulkEmail", latency_ms=300))
    with (
        subprocess.Popen(
            [sys.executable, "-m", "mailroom", *command.split()],
            env=environment | {"MAILROOM_LOG_FORMAT": log_format},
            stdout=subprocess.PIPE,  # of collect, where all of it belongs
            stderr=subprocess.PIPE,
            text=True,
        ) as process,
        engine.connect() as connection,
    ):
        command_line = Path(f"/proc/{process.pid}/cmdline")
        seen = str(eventually(command_line.read_text, "it has begun"))  # what has ended has none any more
        eventually(lambda: connection.scalar(text("SELECT count(*) > 0 FROM deliveries")), "it is on record")
        seen += recorded(connection)
        eventually(lambda: connection.scalar(text("SELECT count(*) = 4 FROM deliveries")), "it is on record")
        seen += recorded(connection)
        if command != "sweep":  # which ends by itself
            process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=PATIENCE_SECONDS)
        assert misplaced(connection) == []
    assert process.returncode == 0, err
    assert command.split(maxsplit=1)[0] in seen
    assert {"text": "batch id=", "json": '"event": "batch"'}[log_format] in err
    assert canaries.found_in(seen + err) == [], seen + err
    assert bool(canaries.found_in(out)) == (command == "collect")
