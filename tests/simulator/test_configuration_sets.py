"""Configuration sets: none is there by magic, and each decides which events are told, and where."""

from typing import Any

import pytest
from mypy_boto3_sesv2 import SESV2Client

from mailroom.simulator import Simulator
from tests.simulator.client import bulk, connect, entry, single
from tests.simulator.queue import EVERYTHING, drain, events, types

TOPIC = "arn:aws:sns:us-east-1:123456789012:mailroom-events"


def destination(*types: str, enabled: bool = True, topic: str = TOPIC) -> Any:
    return {"Enabled": enabled, "MatchingEventTypes": list(types), "SnsDestination": {"TopicArn": topic}}


def test_none_is_there_until_somebody_makes_it() -> None:
    with Simulator() as ses:
        client = connect(ses.url)
        assert client.list_configuration_sets()["ConfigurationSets"] == []
        for send, request in ((client.send_email, single()), (client.send_bulk_email, bulk(entry()))):
            with pytest.raises(
                client.exceptions.NotFoundException, match=r"^.*Configuration set default does not exist"
            ):
                send(**request, ConfigurationSetName="default")
        assert ses.ledger.mails == []
        client.create_configuration_set(ConfigurationSetName="default")
        client.send_email(**single(ConfigurationSetName="default"))


def test_a_set_lives_from_create_to_delete(ses: Simulator, client: SESV2Client) -> None:
    options: Any = {
        "DeliveryOptions": {"MaxDeliverySeconds": 900},
        "SuppressionOptions": {"SuppressedReasons": ["BOUNCE"]},
    }
    client.create_configuration_set(ConfigurationSetName="mine", **options)
    with pytest.raises(client.exceptions.AlreadyExistsException):
        client.create_configuration_set(ConfigurationSetName="mine")
    found = client.get_configuration_set(ConfigurationSetName="mine")
    assert found["DeliveryOptions"] == {"MaxDeliverySeconds": 900}
    assert found["SuppressionOptions"] == {"SuppressedReasons": ["BOUNCE"]}
    assert found["SendingOptions"] == {"SendingEnabled": True}
    assert client.list_configuration_sets()["ConfigurationSets"] == ["default", "mine"]
    client.delete_configuration_set(ConfigurationSetName="mine")
    for act in (client.get_configuration_set, client.delete_configuration_set):
        with pytest.raises(client.exceptions.NotFoundException):
            act(ConfigurationSetName="mine")


def test_a_set_can_be_stopped(ses: Simulator, client: SESV2Client) -> None:
    client.put_configuration_set_sending_options(ConfigurationSetName="default", SendingEnabled=False)
    with pytest.raises(client.exceptions.SendingPausedException):
        client.send_email(**single(ConfigurationSetName="default"))
    client.send_email(**single())


def test_an_event_destination_lives_from_create_to_delete(ses: Simulator, client: SESV2Client) -> None:
    which: Any = {"ConfigurationSetName": "default", "EventDestinationName": "mine"}
    client.create_configuration_set_event_destination(**which, EventDestination=destination("SEND"))
    with pytest.raises(client.exceptions.AlreadyExistsException):
        client.create_configuration_set_event_destination(**which, EventDestination=destination("SEND"))
    client.update_configuration_set_event_destination(**which, EventDestination=destination("BOUNCE", "OPEN"))
    (found,) = client.get_configuration_set_event_destinations(ConfigurationSetName="default")["EventDestinations"]
    assert found == {"Name": "mine", **destination("BOUNCE", "OPEN")}
    client.delete_configuration_set_event_destination(**which)
    assert client.get_configuration_set_event_destinations(ConfigurationSetName="default")["EventDestinations"] == []
    with pytest.raises(client.exceptions.NotFoundException):
        client.delete_configuration_set_event_destination(**which)


@pytest.mark.parametrize(
    "wrong",
    [
        destination(),
        {"MatchingEventTypes": ["SEND"]},
        destination("SEND") | {"EventBridgeDestination": {"EventBusArn": "a"}},
    ],
)
def test_a_destination_has_types_and_one_place(ses: Simulator, client: SESV2Client, wrong: Any) -> None:
    with pytest.raises(client.exceptions.BadRequestException):
        client.create_configuration_set_event_destination(
            ConfigurationSetName="default", EventDestinationName="mine", EventDestination=wrong
        )


def test_at_most_ten_destinations_a_set(ses: Simulator, client: SESV2Client) -> None:
    def create(number: int) -> None:
        client.create_configuration_set_event_destination(
            ConfigurationSetName="default", EventDestinationName=f"d{number}", EventDestination=destination("SEND")
        )

    for number in range(10):
        create(number)
    with pytest.raises(client.exceptions.LimitExceededException):
        create(10)


@pytest.mark.parametrize("wanted", EVERYTHING)
def test_only_the_types_that_a_destination_asks_for_are_told(
    ses: Simulator, client: SESV2Client, sqs: Any, wanted: str
) -> None:
    client.create_configuration_set_event_destination(
        ConfigurationSetName="default", EventDestinationName="mine", EventDestination=destination(wanted)
    )
    for fate in ("success", "bounce", "complaint", "delay", "reject", "renderingfailure"):
        client.send_email(**single(f"{fate}@simulator.example", ConfigurationSetName="default"))
    came = types(events(sqs, ses, {"SEND": 5, "DELIVERY": 2}.get(wanted, 1)))
    assert {one.replace(" ", "").lower() for one in came} == {wanted.replace("_", "").lower()}


def test_a_destination_that_is_off_or_leads_elsewhere_tells_nobody(
    ses: Simulator, client: SESV2Client, sqs: Any
) -> None:
    for number, one in enumerate([destination("SEND", enabled=False), destination("SEND", topic=TOPIC + "-other")]):
        client.create_configuration_set_event_destination(
            ConfigurationSetName="default", EventDestinationName=f"d{number}", EventDestination=one
        )
    client.send_email(**single(ConfigurationSetName="default"))
    assert drain(sqs, ses, 0) == []


def test_two_destinations_are_told_both(told: Simulator, client: SESV2Client, sqs: Any) -> None:
    client.create_configuration_set_event_destination(
        ConfigurationSetName="told", EventDestinationName="more", EventDestination=destination("SEND")
    )
    client.send_email(**single(ConfigurationSetName="told"))
    assert sorted(types(events(sqs, told, 3))) == ["Delivery", "Send", "Send"]
