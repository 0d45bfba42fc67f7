"""Trap 19: events name people, and a click has the link; none of it gets into log, rows, statements or metrics."""

import json
import logging
import signal
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from sqlalchemy import Connection, Engine, text

from mailroom.demo.postgres import free_port
from mailroom.event import Event, EventKind
from mailroom.queue import events
from mailroom.queue.events import Absorbed
from mailroom.simulator import Simulator
from mailroom.simulator.records import Mail
from mailroom.worker.feed import Feed
from tests import sqs
from tests.running import Processes, eventually
from tests.ses.events import OWN, event, wrapped
from tests.test_privacy import LOGIN, Canaries, logged, recorded
from tests.worker.watched import get
from tests.world import count, rows

EACH_SERVER = False
TABLES = ("events", "suppressions", "feed", "pauses", "minutes", "readings", "workers")


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    with sqs.running() as url:
        yield url


@pytest.fixture
def queue(endpoint: str) -> sqs.Queue:
    return sqs.Queue(endpoint)


def told(kind: str, message: str, address: str, secret: str, tags: dict[str, str]) -> str:
    """An event with the person in every place where SES names one, and the secret of the link where it would be."""
    words = f"{LOGIN.format(1)} <{address}> https://example.com/activate?t={secret}"
    headers = [{"name": name, "value": words} for name in ("To", "Subject", "Reply-To")]
    made = event(
        kind,
        mail={
            "messageId": message,
            "destination": [address],
            "source": words,
            "headers": headers,
            "commonHeaders": {"to": [address], "subject": words},
        },
        tags={name: [value] for name, value in tags.items()} | {"ses:caller-identity": [words]},
    )
    own: dict[str, Any] = made[OWN.get(kind, ("other", {}))[0]]
    for people in ("bouncedRecipients", "complainedRecipients", "delayedRecipients"):
        if people in own:
            own[people] = [{"emailAddress": address, "status": words, "diagnosticCode": words, "action": words}]
    own |= dict.fromkeys(("link", "errorMessage", "smtpResponse", "reason", "userAgent", "ipAddress"), words)
    return json.dumps(made)


def of_mail(mail: Mail) -> list[str]:
    """All that SES can tell of a mail, and what nobody understands."""
    secret = str(mail.variables["secret"])
    bodies = [
        told(kind, mail.message_id, mail.recipients[0], secret, dict(mail.tags)) for kind in (*OWN, "Of tomorrow")
    ]
    legacy = json.dumps({**json.loads(bodies[0]), "eventType": None, "notificationType": "Bounce"})
    return [*bodies, wrapped(bodies[2]), legacy, bodies[1][:-20], f"{mail.recipients[0]} said {secret}"]


def kept(connection: Connection) -> str:
    each = [rows(connection, f"SELECT CAST(one AS text) FROM {table} AS one") for table in TABLES]  # noqa: S608
    return recorded(connection) + str(each)


@pytest.mark.slow
@pytest.mark.parametrize("log_format", ["text", "json"])
def test_no_event_brings_anything_to_light(
    url: str, engine: Engine, queue: sqs.Queue, simulator: Simulator, processes: Processes, log_format: str
) -> None:
    with engine.connect() as connection:
        canaries = Canaries(connection)
        port = free_port()
        settings = {
            **sqs.AWS,
            "MAILROOM_EVENTS_QUEUE_URL": queue.url,
            "MAILROOM_PROBE_ADDRESS": str(port),
            "MAILROOM_LOG_FORMAT": log_format,
        }
        worker = processes.worker(url=url, simulator=simulator, **settings)
        eventually(lambda: simulator.ledger.counts().mails == 4, "the mails are sent")
        seen = kept(connection)
        queue.set_aside_after(1)
        for mail in simulator.ledger.mails:
            queue.put(of_mail(mail))
        eventually(lambda: queue.left() == 0, "what can be read is read, and the rest put aside")
        assert queue.left(dead=True) == 8
        assert {row.kind for row in rows(connection, "SELECT kind FROM events")} == {*EventKind}
        assert count(connection, "suppressions") == 4
        seen += kept(connection) + get(port, "/metrics")[1]
        worker.signal(signal.SIGTERM)
        assert worker.wait() == 0
        seen += kept(connection)
    assert "cannot be read, and stays in the queue" in worker.log.read_text()
    assert canaries.found_in(seen + worker.log.read_text()) == []


def test_no_fault_of_ours_or_of_the_database_brings_it_to_light(
    engine: Engine, queue: sqs.Queue, caplog: pytest.LogCaptureFixture
) -> None:
    """With the log of all libraries at its loudest."""
    caplog.set_level(logging.DEBUG)
    address, link = "canary1@canary.example", "97531"

    def absorb(connection: Connection, some: Sequence[Event]) -> Absorbed:
        for each in some:
            if each.kind is EventKind.COMPLAINT:
                raise ValueError(f"a bug, at {each.address}")
        return events.absorb(connection, some)

    source = queue.source()  # with it come the libraries' levels
    with engine.connect() as connection:
        canaries = Canaries(connection)
        connection.execute(text("ALTER TABLE events ADD CHECK (kind <> 'reject')"))
        queue.put(told(kind, f"m-{kind}", address, link, {"mailroom_site": ""}) for kind in OWN)
        with Feed(engine, source, absorb=absorb).running():
            eventually(lambda: "error=ValueError" in caplog.text, "our own fault")
            eventually(lambda: "error=IntegrityError" in caplog.text, "the database's refusal")
        found = kept(connection)
    assert canaries.found_in(found + logged(caplog)) == []
