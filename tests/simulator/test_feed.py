"""What goes wrong with the telling: late, many times, shuffled, lost, too early, untagged; by a seed the same."""

import contextlib
import json
import time
from http.client import HTTPConnection
from typing import Any
from urllib.parse import urlsplit

import pytest
from mypy_boto3_sesv2 import SESV2Client
from pydantic import ValidationError

from mailroom.simulator import Fault, FeedSettings, Simulator
from tests.running import eventually
from tests.simulator.client import IMPATIENT, ONCE, PATIENCE_SECONDS, ask, bulk, connect, entry, single
from tests.simulator.queue import drain, events, take, types


def send(client: SESV2Client, count: int = 1) -> None:
    for number in range(count):
        client.send_email(**single(f"u{number}@example.com", ConfigurationSetName="told"))


def test_events_come_late(told: Simulator, client: SESV2Client, sqs: Any) -> None:
    told.feed.late_seconds = 900
    send(client)
    assert take(sqs, told.events_queue_url) == []
    assert len(told.queues["mailroom-events"].bodies()) == 2
    told.queues["mailroom-events"].clear()
    told.feed.late_seconds = 0.5
    began = time.monotonic()
    send(client)
    assert types(events(sqs, told, 2)) == ["Send", "Delivery"]
    assert time.monotonic() - began >= 0.5


def test_events_are_told_many_times(told: Simulator, client: SESV2Client, sqs: Any) -> None:
    told.feed.times = 8
    send(client)
    bodies = drain(sqs, told, 16)
    assert len({body["MessageId"] for body in bodies}) == 2
    assert len({body["Message"] for body in bodies}) == 2


def test_events_come_out_of_order(told: Simulator, client: SESV2Client, sqs: Any) -> None:
    told.feed.out_of_order = True
    send(client, 10)
    came = events(sqs, told, 20)
    told.feed.out_of_order = False
    send(client, 10)
    in_order = events(sqs, told, 20)
    assert types(in_order) == ["Send", "Delivery"] * 10
    assert types(came) != types(in_order)
    assert sorted(types(came)) == sorted(types(in_order))


def test_some_events_are_lost(told: Simulator, client: SESV2Client) -> None:
    told.feed.lost, told.feed.before_answer = 0.5, True
    send(client, 20)
    assert 5 < len(told.queues["mailroom-events"].bodies()) < 35
    told.feed.lost = 1
    told.queues["mailroom-events"].clear()
    send(client)
    assert told.queues["mailroom-events"].bodies() == []


@pytest.mark.parametrize("early", [True, False])
def test_events_may_come_before_the_answer(told: Simulator, sqs: Any, early: bool) -> None:
    told.feed.before_answer = early
    told.faults.add(Fault(latency_ms=600_000))
    asks = json.dumps(single(ConfigurationSetName="told"))
    with contextlib.closing(HTTPConnection(urlsplit(told.url).netloc, timeout=PATIENCE_SECONDS)) as connection:
        connection.request("POST", "/v2/email/outbound-emails", asks, {"Content-Type": "application/json"})
        eventually(lambda: told.ledger.mails, "the mail is taken, and its answer waited for")
        assert ask(f"{told.url}/_simulator/counts").json["mails"] == 1  # nothing is left to be done before the answer
        assert len(told.queues["mailroom-events"].bodies()) == (2 if early else 0)
    # Without `before_answer` they come when the client is gone.
    assert types(events(sqs, told, 2)) == ["Send", "Delivery"]


@pytest.mark.parametrize("fault", [Fault(accept_then="hang"), Fault(accept_then="drop"), Fault(accept_then="error")])
def test_mails_of_calls_that_went_wrong_are_told_of(told: Simulator, sqs: Any, fault: Fault) -> None:
    told.faults.add(fault)
    client = connect(told.url, IMPATIENT if fault.accept_then == "hang" else ONCE)
    with pytest.raises(Exception, match=r"timed? ?out|closed|InternalServiceError"):
        client.send_bulk_email(**bulk(entry(), entry(), ConfigurationSetName="told"))
    assert types(events(sqs, told, 4)) == ["Send", "Delivery"] * 2


def test_a_rendering_failure_may_come_without_tags_and_after_a_send(
    told: Simulator, client: SESV2Client, sqs: Any
) -> None:
    told.feed.without_tags = frozenset({"Rendering Failure"})
    told.feed.send_before_rendering_failure = True
    client.send_email(**single(variables={}, ConfigurationSetName="told"))
    sent, failure = events(sqs, told, 2)
    assert (sent["eventType"], failure["eventType"]) == ("Send", "Rendering Failure")
    assert "mailroom_token" in sent["mail"]["tags"]
    assert failure["mail"]["tags"] == {"ses:configuration-set": ["told"]}


def test_chance_repeats_itself() -> None:
    def play(seed: int) -> list[str]:
        with Simulator(seed=seed) as ses:
            ses.configuration_sets.create("told", events=True)
            ses.feed.lost, ses.feed.out_of_order, ses.feed.times = 0.3, True, 2
            ses.feed.before_answer = True  # so that all are there when the last call is answered
            send(connect(ses.url), 5)
            received = ses.queues["mailroom-events"].receive(10)
            bodies = [json.loads(json.loads(one.body)["Message"]) for one in received]
            return [one["eventType"] + one["mail"]["destination"][0] for one in bodies]

    assert play(1) == play(1) != play(2)


def test_the_feed_can_be_changed_over_http(told: Simulator) -> None:
    place = f"{told.url}/_simulator/feed"
    changed = ask(place, "PATCH", '{"times": 3, "envelope": "raw", "without_tags": ["Rendering Failure"]}')
    assert (changed.status, changed.json["times"], told.feed.envelope) == (200, 3, "raw")
    assert ask(place).json == changed.json
    for wrong in ('{"times": 0}', '{"envelope": "paper"}', '{"speed": 1}'):
        assert ask(place, "PATCH", wrong).status == 400
    with pytest.raises(ValidationError):
        told.feed.lost = 2
    told.reset()
    assert told.feed == FeedSettings()
