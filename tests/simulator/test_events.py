"""What the simulator says of a mail that it took: SES's own shapes, for each fate, and only to who asked for it."""

import json
from datetime import datetime
from typing import Any

import pytest
from mypy_boto3_sesv2 import SESV2Client

from mailroom.simulator import FATES, Fault, Happening, Simulator, state
from tests.simulator.client import ask, bulk, entry, single
from tests.simulator.queue import drain, events, take, texts, types

BATCH = "0b9d1a2e-6f0c-4e57-9a64-0d2f5b8c1e77"
TAGS = [{"Name": "mailroom_token", "Value": "812"}, {"Name": "mailroom_batch", "Value": BATCH}]


def send(client: SESV2Client, to: str = "jo@example.com", **more: Any) -> str:
    """Send one mail by the set whose events are told; its message id."""
    return client.send_email(**single(to, ConfigurationSetName="told", EmailTags=TAGS, **more))["MessageId"]


@pytest.mark.parametrize("domain", ["simulator.amazonses.com", "simulator.example"])
@pytest.mark.parametrize("fate", FATES)
def test_an_address_of_the_mailbox_simulator_has_its_fate(
    told: Simulator, client: SESV2Client, sqs: Any, fate: str, domain: str
) -> None:
    message_id = send(client, f"{fate}+label@{domain}")
    expected = FATES[fate]
    came = events(sqs, told, len(expected))
    assert types(came) == [one.event for one in expected]
    assert {one["mail"]["messageId"] for one in came} == {message_id}
    assert told.ledger.story(message_id) == expected


def test_an_ordinary_mail_is_sent_and_delivered(told: Simulator, client: SESV2Client, sqs: Any) -> None:
    message_id = send(client)
    sent, delivery = events(sqs, told, 2)
    mail = sent["mail"]
    assert (sent["eventType"], sent["send"], delivery["eventType"]) == ("Send", {}, "Delivery")
    assert (mail["messageId"], mail["source"], mail["destination"]) == (
        message_id,
        "noreply@example.com",
        ["jo@example.com"],
    )
    assert mail["tags"] == {
        "mailroom_token": ["812"],
        "mailroom_batch": [BATCH],
        "ses:configuration-set": ["told"],
        "ses:from-domain": ["example.com"],
        "ses:source-ip": ["127.0.0.1"],
        "ses:caller-identity": ["mailroom"],
    }
    headers = {header["name"]: header["value"] for header in mail["headers"]}
    assert (headers["To"], headers["Subject"]) == ("jo@example.com", "Activate your account")
    assert mail["commonHeaders"]["to"] == ["jo@example.com"]
    assert delivery["delivery"]["recipients"] == ["jo@example.com"]
    assert delivery["mail"]["timestamp"] == mail["timestamp"]
    assert delivery["mail"]["tags"]["ses:outgoing-ip"] == ["192.0.2.1"]
    for moment in (mail["timestamp"], delivery["delivery"]["timestamp"]):
        assert moment.endswith("Z")
        assert datetime.fromisoformat(moment).tzinfo is not None


def test_no_event_holds_what_the_body_holds(told: Simulator, client: SESV2Client, sqs: Any) -> None:
    for fate in FATES:
        send(client, f"{fate}@simulator.example")
    for one in events(sqs, told, sum(map(len, FATES.values()))):
        assert not any("s3cret" in text for text in texts(one))


def test_a_bounce_says_whom_it_hit_and_why(told: Simulator, client: SESV2Client, sqs: Any) -> None:
    send(client, "bounce@simulator.example")
    bounce = events(sqs, told, 2)[1]["bounce"]
    assert (bounce["bounceType"], bounce["bounceSubType"]) == ("Permanent", "General")
    (hit,) = bounce["bouncedRecipients"]
    assert (hit["emailAddress"], hit["action"], hit["status"]) == ("bounce@simulator.example", "failed", "5.1.1")
    assert bounce["feedbackId"]


def test_the_shapes_of_the_others(told: Simulator, client: SESV2Client, sqs: Any) -> None:
    for fate in ("complaint", "delay", "reject"):
        send(client, f"{fate}@simulator.example")
    came = {one["eventType"]: one for one in events(sqs, told, 7)}
    complaint = came["Complaint"]["complaint"]
    assert (complaint["complaintFeedbackType"], complaint["complaintSubType"]) == ("abuse", None)
    assert complaint["complainedRecipients"] == [{"emailAddress": "complaint@simulator.example"}]
    delay = came["DeliveryDelay"]["deliveryDelay"]
    assert delay["delayType"] == "TransientCommunicationFailure"
    assert delay["expirationTime"] > delay["timestamp"]
    assert [one["status"] for one in delay["delayedRecipients"]] == ["4.4.1"]
    assert "headers" not in came["DeliveryDelay"]["mail"]
    assert came["Reject"]["reject"] == {"reason": "Bad content"}


def test_a_mail_that_cannot_be_rendered_is_accepted_and_told_of(told: Simulator, client: SESV2Client, sqs: Any) -> None:
    send(client, variables={"login": "jo", "login_text": "jo"})
    (failure,) = events(sqs, told, 1)
    assert failure["eventType"] == "Rendering Failure"
    assert failure["failure"] == {
        "templateName": "activationv1",
        "errorMessage": "Attribute 'secret' is not present in the rendering data.",
    }
    assert "headers" not in failure["mail"]
    assert failure["mail"]["tags"]["mailroom_token"] == ["812"]


def test_a_fault_can_make_some_mails_unrenderable(told: Simulator, client: SESV2Client, sqs: Any) -> None:
    told.faults.add(Fault(rendering_failure=True, recipients="bad"))
    both = bulk(entry("bad@example.com"), entry("good@example.com"), ConfigurationSetName="told")
    assert [one["Status"] for one in client.send_bulk_email(**both)["BulkEmailEntryResults"]] == ["SUCCESS"] * 2
    assert types(events(sqs, told, 3)) == ["Rendering Failure", "Send", "Delivery"]
    assert [mail.missing is not None for mail in told.ledger.mails] == [True, False]


def test_an_international_domain_is_told_in_punycode(told: Simulator, client: SESV2Client, sqs: Any) -> None:
    send(client, "Jo <jo@xn--bcher-kva.example>")
    assert [one["mail"]["destination"] for one in events(sqs, told, 2)] == [["jo@xn--bcher-kva.example"]] * 2


def test_recipients_that_fare_differently_have_an_event_each(told: Simulator, client: SESV2Client, sqs: Any) -> None:
    request = single(ConfigurationSetName="told")
    request["Destination"] = {"ToAddresses": ["jo@example.com", "bounce@simulator.example"]}
    client.send_email(**request)
    sent, delivery, bounce = events(sqs, told, 3)
    assert sent["mail"]["destination"] == ["jo@example.com", "bounce@simulator.example"]
    assert delivery["delivery"]["recipients"] == ["jo@example.com"]
    assert [one["emailAddress"] for one in bounce["bounce"]["bouncedRecipients"]] == ["bounce@simulator.example"]


def test_headers_beyond_ten_kilobytes_are_cut(told: Simulator, client: SESV2Client, sqs: Any) -> None:
    request = single(ConfigurationSetName="told")
    many = [{"Name": f"X-Many-{place}", "Value": "v" * 900} for place in range(12)]
    request["Content"]["Template"]["Headers"] = many
    client.send_email(**request)
    mail = events(sqs, told, 2)[0]["mail"]
    assert mail["headersTruncated"]
    assert 0 < len(mail["headers"]) < 16


def test_headers_and_reply_to_are_in_the_ledger(told: Simulator, client: SESV2Client) -> None:
    own = entry() | {"ReplacementHeaders": [{"Name": "X-Own", "Value": "2"}]}
    request = bulk(own, ReplyToAddresses=["help@example.com"])
    request["DefaultContent"]["Template"]["Headers"] = [
        {"Name": "X-All", "Value": "1"},
        {"Name": "X-Own", "Value": "1"},
    ]
    client.send_bulk_email(**request)
    (mail,) = told.ledger.mails
    assert (mail.headers, mail.reply_to) == ({"X-All": "1", "X-Own": "2"}, ("help@example.com",))


def test_an_event_can_be_asked_for(told: Simulator, client: SESV2Client, sqs: Any) -> None:
    message_id = send(client)
    place = f"{told.url}/_simulator/mails/{message_id}/events"
    assert ask(f"{place}/complaint", "POST", "{}").status == 204
    other = {"event": "Bounce", "type": "Permanent", "subtype": "NoEmail", "to": ["behind@forwarder.example"]}
    assert ask(place, "POST", json.dumps([other])).status == 204
    told.happen(message_id, Happening(event="DeliveryDelay", type="SpamDetected"))
    came = events(sqs, told, 5)
    assert types(came) == ["Send", "Delivery", "Complaint", "Bounce", "DeliveryDelay"]
    assert came[3]["bounce"]["bouncedRecipients"] == [{"emailAddress": "behind@forwarder.example"}]
    assert came[3]["mail"]["destination"] == ["jo@example.com"]
    assert [one["event"] for one in ask(place).json] == types(came)
    counts = told.ledger.counts()
    assert (counts.bounces, counts.complaints, counts.events) == (1, 1, 3)


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("mails/none/events/bounce", "{}", 404),
        ("mails/{}/events/nonsense", "{}", 404),
        ("mails/{}/events", '[{"event": "Explosion"}]', 400),
        ("mails/{}/events", '[{"event": "Send", "explode": true}]', 400),
    ],
)
def test_what_the_simulator_does_not_know_is_refused(
    told: Simulator, client: SESV2Client, path: str, body: str, status: int
) -> None:
    message_id = send(client)
    assert ask(f"{told.url}/_simulator/{path.format(message_id)}", "POST", body).status == status
    assert len(told.ledger.story(message_id)) == 2


def test_without_an_event_destination_nothing_is_queued(told: Simulator, client: SESV2Client, sqs: Any) -> None:
    client.send_email(**single("bounce@simulator.example"))
    client.send_email(**single("bounce@simulator.example", ConfigurationSetName="default"))
    assert told.queues["mailroom-events"].bodies() == []
    assert take(sqs, told.events_queue_url) == []
    assert [state(told.ledger.story(mail.message_id)) for mail in told.ledger.mails] == ["bounced", "suppressed"]


def test_the_envelope_of_sns(told: Simulator, client: SESV2Client, sqs: Any) -> None:
    send(client)
    first, second = drain(sqs, told, 2)
    assert first["Type"] == "Notification"
    assert first["TopicArn"] == "arn:aws:sns:us-east-1:123456789012:mailroom-events"
    assert first["MessageId"] != second["MessageId"]
    assert first["Timestamp"].endswith("Z")
    assert json.loads(first["Message"])["eventType"] == "Send"


def test_raw_delivery_has_none(told: Simulator, client: SESV2Client, sqs: Any) -> None:
    told.feed.envelope = "raw"
    send(client)
    assert types(drain(sqs, told, 2)) == ["Send", "Delivery"]


@pytest.mark.parametrize("by_destination", [True, False], ids=["destination", "switch"])
def test_the_envelope_of_eventbridge(told: Simulator, client: SESV2Client, sqs: Any, by_destination: bool) -> None:
    if by_destination:
        bus = {"EventBusArn": "arn:aws:events:us-east-1:123456789012:event-bus/default"}
        definition: Any = {"Enabled": True, "MatchingEventTypes": ["SEND"], "EventBridgeDestination": bus}
        client.update_configuration_set_event_destination(
            ConfigurationSetName="told", EventDestinationName="events", EventDestination=definition
        )
    else:
        told.feed.envelope = "eventbridge"
    send(client)
    body = drain(sqs, told, 1 if by_destination else 2)[0]
    assert (body["source"], body["detail-type"]) == ("aws.ses", "Email Sent")
    assert body["resources"] == ["arn:aws:ses:us-east-1:123456789012:configuration-set/told"]
    assert body["detail"]["eventType"] == "Send"
