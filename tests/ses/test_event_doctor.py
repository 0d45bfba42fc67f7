"""Doctor on the way of events: the event destination of a configuration set, and a queue that is not ours (moto)."""

import json
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from botocore.stub import Stubber
from mypy_boto3_sesv2 import SESV2Client

from mailroom import ses
from mailroom.finding import Finding, Level
from mailroom.ses.event_doctor import WANTED, examine_events
from tests import sqs
from tests.machine import closed_port
from tests.ses.calls import Connect, listening
from tests.ses.test_event_queue import DENIED, answering

SNS = {"TopicArn": "arn:aws:sns:eu-west-1:123456789012:mailroom-events"}


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    with sqs.running() as url:
        yield url


def examined(client: SESV2Client, queue: sqs.Queue, destinations: Sequence[Any], *, config_set: str = "default") -> Any:
    """What doctor finds where SES says that there are these destinations: by the name of the check, in words."""
    with Stubber(client) as stub:
        stub.add_response("get_configuration_set_event_destinations", {"EventDestinations": list(destinations)})
        source = queue.source()
        return examine_events(client, source._clients.current(), config_set=config_set, url=queue.url)


def destination(*kinds: str, enabled: bool = True, **to: Any) -> dict[str, Any]:
    return {"Name": "x", "Enabled": enabled, "MatchingEventTypes": list(kinds), **(to or {"SnsDestination": SNS})}


def of(findings: Sequence[Finding], check: str) -> list[tuple[Level, str]]:
    return [(each.level, each.message) for each in findings if each.check == check]


@pytest.fixture
def client(connect: Connect) -> SESV2Client:
    return connect(f"http://127.0.0.1:{closed_port()}")


@pytest.mark.slow
def test_all_is_well(client: SESV2Client, endpoint: str) -> None:
    queue = sqs.Queue(endpoint, RedrivePolicy=redrive(endpoint, 10), MessageRetentionPeriod="345599")
    found = examined(client, queue, [destination(*WANTED)])
    assert {each.level for each in found} == {Level.OK}, found
    assert [each.check for each in found] == [
        "event destination",
        *["events queue"] * 1,
        "dead-letter queue",
        *["events queue"] * 2,
    ]


def redrive(endpoint: str, count: int, **attributes: str) -> str:
    dead = sqs.Queue(endpoint, **attributes)
    name = dead.url.rpartition("/")[2]
    return json.dumps(
        {"deadLetterTargetArn": f"arn:aws:sqs:eu-west-1:123456789012:{name}", "maxReceiveCount": str(count)}
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("destinations", "level", "words"),
    [
        ([], Level.FAILED, "none that is enabled"),
        ([destination(*WANTED, enabled=False)], Level.FAILED, "none that is enabled"),
        ([destination(*WANTED, CloudWatchDestination={"DimensionConfigurations": []})], Level.FAILED, "none that is"),
        ([destination("SEND", "BOUNCE")], Level.WARNING, "does not publish DELIVERY, COMPLAINT, REJECT"),
        ([destination(*WANTED, "OPEN", "CLICK")], Level.WARNING, "publishes CLICK, OPEN: a click carries the link"),
        ([destination(*WANTED[:3]), destination(*WANTED[3:])], Level.OK, "publishes all"),
        ([destination(*WANTED, EventBridgeDestination={"EventBusArn": "arn"})], Level.OK, "publishes all"),
    ],
)
def test_the_event_destination_is_told(
    client: SESV2Client, endpoint: str, destinations: Sequence[Any], level: Level, words: str
) -> None:
    [(found, message)] = of(examined(client, sqs.Queue(endpoint), destinations), "event destination")
    assert (found, words in message) == (level, True), message


def test_without_a_configuration_set_nothing_is_published(client: SESV2Client, endpoint: str) -> None:
    found = examine_events(
        client, sqs.Queue(endpoint).source()._clients.current(), config_set="", url="http://127.0.0.1/1/x"
    )
    assert of(found, "event destination")[0][0] is Level.FAILED


@pytest.mark.slow
def test_what_is_wrong_with_the_queue_is_told(client: SESV2Client, endpoint: str) -> None:
    queue = sqs.Queue(endpoint)
    queue.client.send_message(QueueUrl=queue.dead_url, MessageBody="x")
    found = examined(client, queue, [destination(*WANTED)])
    dead = of(found, "dead-letter queue")
    assert (Level.WARNING, "an event goes there after 3 attempts") in dead
    assert (Level.WARNING, "keeps messages for 4 days, and the queue for 4: it loses what comes late") in dead
    assert (Level.WARNING, "holds 1 messages that nobody could read") in dead


@pytest.mark.slow
def test_a_queue_without_a_dead_letter_queue_is_told(client: SESV2Client, endpoint: str) -> None:
    queue = sqs.Queue(endpoint)
    queue.client.set_queue_attributes(QueueUrl=queue.url, Attributes={"RedrivePolicy": ""})
    assert of(examined(client, queue, [destination(*WANTED)]), "dead-letter queue")[0][0] is Level.WARNING


def test_looking_takes_nothing_away(client: SESV2Client, endpoint: str) -> None:
    queue = sqs.Queue(endpoint)
    queue.put(["x"])
    examined(client, queue, [destination(*WANTED)])
    assert len(queue.source().receive(wait=sqs.SECOND)) == 1


def test_an_event_of_a_mebibyte_is_looked_at(connect: Connect) -> None:
    """As SQS writes it, it is longer than any answer of SES."""
    message = {"Body": '"' * 2**20, "Attributes": {"SentTimestamp": "1767323045000"}}
    with listening(answering(200, json.dumps({"Messages": [message]}).encode())) as (port, _):
        url = f"http://127.0.0.1:{port}"
        queue = ses.connect_to_queue(f"{url}/1/q", region="eu-west-1", connections=1, endpoint=url)
        found = examine_events(connect(url), queue, config_set="default", url=f"{url}/1/q")
    assert "an event has waited for" in " ".join(each.message for each in found)


def test_a_queue_that_is_not_there_is_told(client: SESV2Client, endpoint: str) -> None:
    queue = sqs.Queue(endpoint)
    queue.client.delete_queue(QueueUrl=queue.url)
    found = of(examined(client, queue, [destination(*WANTED)]), "events queue")
    assert found == [(Level.FAILED, "does not exist")] * 3


def test_what_the_credentials_lack_is_named(connect: Connect) -> None:
    with listening(answering(403, DENIED)) as (port, _):
        url = f"http://127.0.0.1:{port}"
        queue = ses.connect_to_queue(f"{url}/1/q", region="eu-west-1", connections=1, endpoint=url)
        found = examine_events(connect(url), queue, config_set="default", url=f"{url}/1/q")
    assert [(each.level, each.message.split(":")[1].split(",")[0]) for each in found] == [
        (Level.WARNING, "GetConfigurationSetEventDestinations"),
        (Level.WARNING, "GetQueueAttributes"),
        (Level.FAILED, "ReceiveMessage"),
        (Level.FAILED, "DeleteMessage"),
    ]
