"""The suppression list: who enters it, what becomes of mail to who is on it, and who decides which reasons count."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from mypy_boto3_sesv2 import SESV2Client

from mailroom.simulator import Simulator, state
from tests.simulator.client import single
from tests.simulator.queue import events, types

DAY = timedelta(days=1)


def send(client: SESV2Client, to: str, configuration_set: str = "told") -> str:
    return client.send_email(**single(to, ConfigurationSetName=configuration_set))["MessageId"]


def listed(client: SESV2Client, **more: Any) -> dict[str, str]:
    """The addresses on the list, with their reasons."""
    summaries = client.list_suppressed_destinations(**more)["SuppressedDestinationSummaries"]
    return {one["EmailAddress"]: one["Reason"] for one in summaries}


def put(client: SESV2Client, address: str, reason: Any = "BOUNCE") -> None:
    client.put_suppressed_destination(EmailAddress=address, Reason=reason)


def test_an_entry_lives_from_put_to_delete(ses: Simulator, client: SESV2Client) -> None:
    before = datetime.now(UTC)
    put(client, "jo/x+1@example.com", "COMPLAINT")
    found = client.get_suppressed_destination(EmailAddress="jo/x+1@example.com")["SuppressedDestination"]
    assert (found["EmailAddress"], found["Reason"]) == ("jo/x+1@example.com", "COMPLAINT")
    assert found["LastUpdateTime"] >= before - timedelta(milliseconds=1)
    assert "Attributes" not in found
    client.delete_suppressed_destination(EmailAddress="jo/x+1@example.com")
    for act in (client.get_suppressed_destination, client.delete_suppressed_destination):
        with pytest.raises(client.exceptions.NotFoundException):
            act(EmailAddress="jo/x+1@example.com")


def test_bounces_for_good_and_complaints_enter_it_and_nothing_else_does(ses: Simulator, client: SESV2Client) -> None:
    fates = ("success", "bounce", "ooto", "complaint", "suppressionlist", "softbounce", "notspam", "delay", "reject")
    for fate in fates:
        send(client, f"{fate}@simulator.example", "default")
    assert listed(client) == {"bounce@simulator.example": "BOUNCE", "complaint@simulator.example": "COMPLAINT"}
    found = client.get_suppressed_destination(EmailAddress="bounce@simulator.example")["SuppressedDestination"]
    assert found["Attributes"]["MessageId"] == ses.ledger.mails[1].message_id


def test_addresses_of_the_mailbox_simulator_never_enter_it(ses: Simulator, client: SESV2Client) -> None:
    for fate in ("bounce", "complaint", "suppressionlist"):
        send(client, f"{fate}@simulator.amazonses.com", "default")
    assert listed(client) == {}


def test_mail_to_who_is_on_it_is_accepted_and_not_delivered(told: Simulator, client: SESV2Client, sqs: Any) -> None:
    put(client, "Bounced@example.com", "BOUNCE")
    put(client, "complained@example.com", "COMPLAINT")
    bounced, complained = send(client, "bounced@Example.com"), send(client, "complained@example.com")
    came = events(sqs, told, 4)
    assert types(came) == ["Send", "Bounce", "Send", "Complaint"]
    assert came[1]["bounce"]["bounceType"] == "Permanent"
    assert came[1]["bounce"]["bounceSubType"] == came[3]["complaint"]["complaintSubType"] == "OnAccountSuppressionList"
    assert "complaintFeedbackType" not in came[3]["complaint"]
    assert [state(told.ledger.story(one)) for one in (bounced, complained)] == ["suppressed"] * 2
    counts = told.ledger.counts()
    assert (counts.mails, counts.bounces, counts.complaints) == (2, 0, 0)


def test_a_second_mail_to_an_address_that_bounced_is_suppressed(told: Simulator, client: SESV2Client, sqs: Any) -> None:
    for _ in range(2):
        send(client, "bounce@simulator.example")
    subtypes = [one["bounce"]["bounceSubType"] for one in events(sqs, told, 4) if one["eventType"] == "Bounce"]
    assert subtypes == ["General", "OnAccountSuppressionList"]
    client.delete_suppressed_destination(EmailAddress="bounce@simulator.example")
    send(client, "bounce@simulator.example")
    assert events(sqs, told, 2)[1]["bounce"]["bounceSubType"] == "General"


def test_a_configuration_set_decides_which_reasons_count(told: Simulator, client: SESV2Client, sqs: Any) -> None:
    client.put_configuration_set_suppression_options(ConfigurationSetName="told", SuppressedReasons=["BOUNCE"])
    put(client, "complained@example.com", "COMPLAINT")
    put(client, "bounced@example.com", "BOUNCE")
    for address in ("complained@example.com", "bounced@example.com"):
        send(client, address)
    assert types(events(sqs, told, 4)) == ["Send", "Delivery", "Send", "Bounce"]
    client.put_configuration_set_suppression_options(ConfigurationSetName="told", SuppressedReasons=[])
    send(client, "bounced@example.com")
    assert types(events(sqs, told, 2)) == ["Send", "Delivery"]
    send(client, "complaint@simulator.example")
    assert "complaint@simulator.example" not in listed(client)


def test_the_account_decides_where_the_set_says_nothing(told: Simulator, client: SESV2Client, sqs: Any) -> None:
    assert client.get_account()["SuppressionAttributes"]["SuppressedReasons"] == ["BOUNCE", "COMPLAINT"]
    client.put_account_suppression_attributes(SuppressedReasons=["COMPLAINT"])
    assert client.get_account()["SuppressionAttributes"]["SuppressedReasons"] == ["COMPLAINT"]
    put(client, "bounced@example.com", "BOUNCE")
    send(client, "bounced@example.com")
    assert types(events(sqs, told, 2)) == ["Send", "Delivery"]


def test_the_list_is_given_in_pages_by_reason_and_moment(ses: Simulator, client: SESV2Client) -> None:
    for name in "abc":
        put(client, f"{name}@example.com", "COMPLAINT" if name == "b" else "BOUNCE")
    first = client.list_suppressed_destinations(PageSize=2)
    assert [one["EmailAddress"] for one in first["SuppressedDestinationSummaries"]] == [
        "a@example.com",
        "b@example.com",
    ]
    assert listed(client, PageSize=2, NextToken=first["NextToken"]) == {"c@example.com": "BOUNCE"}
    assert listed(client, Reasons=["COMPLAINT"]) == {"b@example.com": "COMPLAINT"}
    assert len(listed(client, Reasons=["COMPLAINT", "BOUNCE"])) == 3
    now = datetime.now(UTC)
    assert len(listed(client, StartDate=now - DAY, EndDate=now + DAY)) == 3
    assert listed(client, StartDate=now + DAY) == listed(client, EndDate=now - DAY) == {}


def test_the_sandbox_puts_nobody_on_it_and_there_are_no_tenants(ses: Simulator, client: SESV2Client) -> None:
    with pytest.raises(client.exceptions.NotFoundException, match="Tenant"):
        client.get_suppressed_destination(EmailAddress="jo@example.com", TenantName="acme")
    ses.account.production_access_enabled = False
    with pytest.raises(client.exceptions.BadRequestException):
        put(client, "jo@example.com")
