"""`mailroom events`, and a worker that reads events: as processes, on an SQS that is not ours (moto)."""

import json
import signal
from collections.abc import Iterator

import pytest
from sqlalchemy import Connection, text

from mailroom.outcome import Sent
from mailroom.simulator import Simulator
from tests import sqs
from tests.claiming import enqueue, settle, take
from tests.cli.command import NO_AWS
from tests.cli.conftest import Here
from tests.running import Processes, eventually
from tests.ses.events import event
from tests.world import add_accounts, count, drained, execute, rows

# Trap 18: longer than any stop may take, and shorter than what a service manager waits before it kills.
STOP_SECONDS = 29


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    with sqs.running() as url:
        yield url


@pytest.fixture
def queue(endpoint: str) -> sqs.Queue:
    return sqs.Queue(endpoint)


def body(message: str) -> str:
    """An event that is kept whether or not anything here knows its mail."""
    return json.dumps(event("Rendering Failure", mail={"messageId": message}, tags={"mailroom_site": []}))


def reading(url: str, queue: sqs.Queue) -> dict[str, str]:
    return {
        **NO_AWS,
        **sqs.AWS,
        "AWS_REGION": sqs.REGION,
        "MAILROOM_DATABASE_URL": url,
        "MAILROOM_EVENTS_QUEUE_URL": queue.url,
    }


@pytest.mark.slow
def test_events_reads_until_nothing_is_left(
    here: Here, url: str, connection: Connection, queue: sqs.Queue, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    queue.put(body(f"m{number}") for number in range(12))
    ended = here("events", env=reading(url, queue))
    assert (ended.code, ended.out) == (0, "")
    assert count(connection, "events") == 12
    assert queue.left() == 0
    assert "events received=12 added=12" in caplog.text


@pytest.mark.slow
@pytest.mark.parametrize(("known", "goes_to"), [("queue", "mailroom"), ("NULL", "news")])
def test_what_never_went_out_goes_to_its_queue_or_else_to_that_of_who_reads_it(
    here: Here, url: str, connection: Connection, queue: sqs.Queue, known: str, goes_to: str
) -> None:
    [token] = enqueue(connection)
    assert settle(connection, take(connection), Sent("m-1"))
    execute(connection.engine, f"UPDATE deliveries SET queue = {known}")  # noqa: S608 - the test's own words
    queue.put([body("m-1")])
    assert here("events", env=reading(url, queue) | {"MAILROOM_QUEUE_NAME": "news"}).code == 0
    assert rows(connection, "SELECT token, queue, attempt FROM jobs") == [(token, goes_to, 1)]


@pytest.mark.slow
def test_events_ends_in_time(here: Here, url: str, connection: Connection, queue: sqs.Queue) -> None:
    queue.put([body("m1")])
    assert here("events", "--max-seconds", "1", env=reading(url, queue)).code == 0
    assert count(connection, "events") == 1


@pytest.mark.slow
def test_an_event_that_cannot_be_absorbed_is_a_failure(
    here: Here, url: str, connection: Connection, queue: sqs.Queue
) -> None:
    connection.execute(text("ALTER TABLE events ADD CHECK (message_id <> 'm2')"))
    queue.put([body("m1"), body("m2"), body("m3")])
    ended = here("events", env=reading(url, queue))
    ended.assert_one_line(1, "what could not be absorbed stays in the queue: 1 event, see the log")
    assert count(connection, "events") == 2
    assert queue.left() == 1


@pytest.mark.slow
def test_a_queue_that_cannot_be_read_is_a_failure(here: Here, url: str, queue: sqs.Queue) -> None:
    queue.client.delete_queue(QueueUrl=queue.url)
    here("events", env=reading(url, queue)).assert_one_line(1, "the queue of events cannot be used", "NonExistentQueue")


@pytest.mark.slow
def test_a_database_that_is_away_is_a_failure(here: Here, queue: sqs.Queue) -> None:
    queue.put([body("m1")])
    given = reading("postgresql://127.0.0.1:1/nowhere", queue)
    here("events", env=given).assert_one_line(1, "the database cannot be used")
    assert queue.left() == 1


@pytest.mark.parametrize(
    "value",
    [
        "",
        "mailroom-events",
        "arn:aws:sqs:eu-west-1:123456789012:mailroom-events",
        "http://sqs.eu-west-1.amazonaws.com/123456789012/mailroom-events",
        "https://sqs.eu-west-1.amazonaws.com/mailroom-events",
        "https://queues.example.com/123456789012/mailroom-events",
        "ftp://127.0.0.1/123456789012/mailroom-events",
        "http://127.0.0.1:1/a queue",
        "http://127.0.0.1.example.com/123456789012/q",
        "http://127.0.0.1:65536/123456789012/q",
    ],
)
def test_what_is_not_the_url_of_a_queue_is_said_in_a_line(here: Here, url: str, queue: sqs.Queue, value: str) -> None:
    given = reading(url, queue) | {"MAILROOM_EVENTS_QUEUE_URL": value}
    here("events", env=given).assert_one_line(2, "MAILROOM_EVENTS_QUEUE_URL")


@pytest.mark.slow
def test_a_queue_that_is_elsewhere_needs_the_variable_that_says_where(
    here: Here, url: str, queue: sqs.Queue, endpoint: str
) -> None:
    elsewhere = {"MAILROOM_EVENTS_QUEUE_URL": queue.url.replace("127.0.0.1", "localhost.example.com")}
    assert here("events", env=reading(url, queue) | elsewhere).code == 2
    ended = here("events", env=reading(url, queue) | elsewhere | {"AWS_ENDPOINT_URL_SQS": endpoint})
    assert ended.code == 0, ended


@pytest.mark.slow
@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGINT])
def test_a_worker_reads_events_while_it_sends_and_stops_in_a_long_poll(
    url: str,
    connection: Connection,
    queue: sqs.Queue,
    simulator: Simulator,
    processes: Processes,
    stop: signal.Signals,
) -> None:
    worker = processes.worker(url=url, simulator=simulator, **sqs.AWS, MAILROOM_EVENTS_QUEUE_URL=queue.url)
    queue.put([body("m1")])
    add_accounts(connection, 20)
    eventually(lambda: count(connection, "events") == 1, "the event is absorbed")
    eventually(lambda: drained(connection), "the mails are sent")
    sites = {tag for mail in simulator.ledger.mails for name, tag in mail.tags.items() if name == "mailroom_site"}
    assert sites == {str(rows(connection, "SELECT id FROM site")[0].id)}
    worker.signal(stop)
    assert worker.wait(STOP_SECONDS) == 0
    assert worker.says("events received=1 added=1")


@pytest.mark.slow
def test_mails_leave_whatever_becomes_of_the_queue(
    url: str, connection: Connection, queue: sqs.Queue, simulator: Simulator, processes: Processes
) -> None:
    """Trap 15: here it is gone from the start."""
    queue.client.delete_queue(QueueUrl=queue.url)
    worker = processes.worker(url=url, simulator=simulator, **sqs.AWS, MAILROOM_EVENTS_QUEUE_URL=queue.url)
    eventually(lambda: worker.says("events cannot be read, trying until that works"), "it is said")
    add_accounts(connection, 20)
    eventually(lambda: drained(connection), "the mails are sent")
    assert worker.log.read_text().count("events cannot be read") == 1
    worker.signal(signal.SIGTERM)
    assert worker.wait(STOP_SECONDS) == 0


def test_a_worker_that_only_prints_takes_no_events_from_others(
    url: str, queue: sqs.Queue, simulator: Simulator, processes: Processes
) -> None:
    queue.put([body("m1")])
    settings = {"MAILROOM_EVENTS_QUEUE_URL": queue.url, "MAILROOM_DEBUG": "true"}
    worker = processes.worker(url=url, simulator=simulator, **sqs.AWS, **settings)
    worker.signal(signal.SIGTERM)
    assert worker.wait(STOP_SECONDS) == 0
    assert queue.left() == 1
