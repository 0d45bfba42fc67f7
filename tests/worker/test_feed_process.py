"""Worker processes and their queue of events: it refuses, it lets them wait, or they are killed in the midst of it."""

import json
import signal
import time
from collections.abc import Iterator

import pytest
from sqlalchemy import Connection

from mailroom.mail.event_source import MAX_WAIT
from mailroom.queue.verdict import GRACE_HEARD
from mailroom.ses import event_queue
from mailroom.simulator import Simulator
from mailroom.worker import absorbing, feed
from tests import sqs, sqs_front
from tests.running import Process, Processes, eventually
from tests.ses.events import event
from tests.sqs_front import Front
from tests.world import add_accounts, count, drained

# Trap 18: a service manager that kills may do so after so many seconds.
STOP_SECONDS = 20


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    with sqs.running() as url:
        yield url


@pytest.fixture
def queue(endpoint: str) -> sqs.Queue:
    return sqs.Queue(endpoint)


@pytest.fixture
def front(endpoint: str) -> Iterator[Front]:
    with sqs_front.before(endpoint) as front:
        yield front


def body(message: str) -> str:
    """An event that is kept whether or not anything here knows its mail."""
    return json.dumps(event("Rendering Failure", mail={"messageId": message}, tags={"mailroom_site": []}))


def settings(queue: sqs.Queue, front: Front) -> dict[str, str]:
    through = queue.url.replace(queue.endpoint, front.url)
    return {**sqs.AWS, "MAILROOM_EVENTS_QUEUE_URL": through, "AWS_ENDPOINT_URL_SQS": front.url}


def test_whatever_keeps_an_event_from_a_worker_ends_well_before_its_mail_is_sent_again() -> None:
    """Each of these may be about to begin when the mail is found to be unconfirmed, and is followed by a poll."""
    delays = (event_queue.HIDDEN, event_queue.KEPT, feed.MAX_REST, absorbing.MAX_REST)
    assert max(delays) + MAX_WAIT < GRACE_HEARD


@pytest.mark.slow
def test_mails_leave_though_the_queue_may_not_be_read(
    url: str, connection: Connection, queue: sqs.Queue, front: Front, simulator: Simulator, processes: Processes
) -> None:
    """Trap 15. It is said once, without what AWS says, and the events are read once they may be."""
    front.refuses = True
    queue.put([body("m1")])
    worker = processes.worker(url=url, simulator=simulator, **settings(queue, front))
    eventually(
        lambda: worker.says("events cannot be read, trying until that works: AccessDeniedException"), "it is said"
    )
    add_accounts(connection, 20)
    eventually(lambda: drained(connection), "the mails are sent")
    assert simulator.ledger.counts().mails == 20
    assert worker.log.read_text().count("events cannot be read") == 1
    assert not worker.says("ada@example.com")
    assert count(connection, "events") == 0
    front.refuses = False
    eventually(lambda: queue.left() == 0, "they may be read")
    assert count(connection, "events") == 1


@pytest.mark.slow
@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGINT])
def test_a_worker_in_a_long_poll_stops_in_time(
    url: str, queue: sqs.Queue, front: Front, simulator: Simulator, processes: Processes, stop: signal.Signals
) -> None:
    """Trap 18: it waits for an answer that does not come, and that it would wait for still longer."""
    front.holds = "ReceiveMessage"
    worker = processes.worker(url=url, simulator=simulator, **settings(queue, front))
    assert front.asked["ReceiveMessage"].wait(60)
    began = time.monotonic()
    worker.signal(stop)
    assert worker.wait() == 0
    assert time.monotonic() - began < STOP_SECONDS
    assert not front.let_go.is_set()


def killed_before_it_deletes(worker: Process, front: Front, connection: Connection) -> None:
    """Kill a worker once it has asked for what it absorbed to be deleted, which is not handed on."""
    assert front.asked["DeleteMessageBatch"].wait(60)
    assert count(connection, "events") == 1
    worker.signal(signal.SIGKILL)
    worker.wait()


@pytest.mark.slow
def test_a_worker_that_is_killed_between_commit_and_delete_leaves_an_event_that_is_known(
    url: str, connection: Connection, queue: sqs.Queue, front: Front, simulator: Simulator, processes: Processes
) -> None:
    """Trap 13. Another gets the event soon, though this queue by itself would hide it for ten minutes."""
    queue.client.set_queue_attributes(QueueUrl=queue.url, Attributes={"VisibilityTimeout": "600"})
    front.holds = "DeleteMessageBatch"
    queue.put([body("m1")])
    killed_before_it_deletes(
        processes.worker(url=url, simulator=simulator, **settings(queue, front)), front, connection
    )
    assert queue.left() == 1
    front.holds = ""
    other = processes.worker(url=url, simulator=simulator, **settings(queue, front))
    eventually(lambda: queue.left() == 0, "another has read it")
    other.signal(signal.SIGTERM)
    assert other.wait() == 0
    assert other.says("events received=1 added=0 known=1")
    assert count(connection, "events") == 1
