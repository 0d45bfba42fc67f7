"""What SES refuses: by botocore's model of it, and by the limits in its documentation."""

import json
from typing import Any

import pytest
from mypy_boto3_sesv2 import SESV2Client

from mailroom.simulator import Simulator
from mailroom.simulator.limits import address_fault
from tests.simulator.client import bulk, entry, single, statuses


def test_a_bulk_call_of_50_entries_is_accepted_whole(ses: Simulator, client: SESV2Client) -> None:
    assert statuses(client, bulk(*[entry(token=number) for number in range(50)])) == ["SUCCESS"] * 50
    assert ses.ledger.counts().mails == 50


@pytest.mark.parametrize("entries", [0, 51])
def test_a_bulk_call_must_have_1_to_50_entries(ses: Simulator, client: SESV2Client, entries: int) -> None:
    with pytest.raises(client.exceptions.BadRequestException, match="1 to 50"):
        client.send_bulk_email(**bulk(*[entry()] * entries))
    assert ses.ledger.mails == []
    assert ses.ledger.requests[0].status == 400


REFUSED_BULK: dict[str, dict[str, Any]] = {
    "CRLF in a header": {"ReplacementHeaders": [{"Name": "X-A", "Value": "a\r\nBcc: b@example.com"}]},
    "a colon in a header's name": {"ReplacementHeaders": [{"Name": "X:A", "Value": "a"}]},
    "sixteen headers": {"ReplacementHeaders": [{"Name": f"X-{number}", "Value": "a"} for number in range(16)]},
    "a header of 997 characters": {"ReplacementHeaders": [{"Name": "X-A", "Value": "a" * 994}]},
    "an address as a tag": {"ReplacementTags": [{"Name": "to", "Value": "jo@example.com"}]},
    "an empty tag": {"ReplacementTags": [{"Name": "to", "Value": ""}]},
    "a tag of 257 characters": {"ReplacementTags": [{"Name": "to", "Value": "a" * 257}]},
    "262145 characters of data": {
        "ReplacementEmailContent": {"ReplacementTemplate": {"ReplacementTemplateData": json.dumps("a" * 262_143)}}
    },
}


@pytest.mark.parametrize("fault", REFUSED_BULK)
def test_one_entry_outside_the_model_fails_the_whole_call(ses: Simulator, client: SESV2Client, fault: str) -> None:
    with pytest.raises(client.exceptions.BadRequestException):
        client.send_bulk_email(**bulk(entry(), entry() | REFUSED_BULK[fault]))
    assert ses.ledger.mails == []


REFUSED_SINGLE: dict[str, dict[str, Any]] = {
    "no sender": {"FromEmailAddress": ""},
    "an illegal reply address": {"ReplyToAddresses": ["jo"]},
    "no recipient": {"Destination": {}},
    "51 recipients": {"Destination": {"BccAddresses": ["jo@example.com"] * 51}},
    "data that is no object": {"Content": {"Template": {"TemplateName": "activationv1", "TemplateData": "[]"}}},
    "data that is no JSON": {"Content": {"Template": {"TemplateName": "activationv1", "TemplateData": "{"}}},
    "two templates": {"Content": {"Template": {"TemplateName": "activationv1", "TemplateContent": {"Subject": "s"}}}},
    "no template": {"Content": {"Template": {}}},
    "no content": {"Content": {}},
    "an inline template of 1 MB": {"Content": {"Template": {"TemplateContent": {"Text": "a" * 1024 * 1024}}}},
    "a blank in the configuration set's name": {"ConfigurationSetName": "a b"},
    "an unknown enum value": {"ConfigurationOverrides": {"Tracking": {"OpenTrackingEnabled": "MAYBE"}}},
}


@pytest.mark.parametrize("fault", REFUSED_SINGLE)
def test_a_send_outside_the_limits_is_refused(ses: Simulator, client: SESV2Client, fault: str) -> None:
    with pytest.raises(client.exceptions.BadRequestException):
        client.send_email(**single() | REFUSED_SINGLE[fault])
    assert ses.ledger.mails == []


@pytest.mark.parametrize(
    "address",
    ["jo@example.com", "noreply@localhost", "Jo <jo@example.com>", "a+b.c@xn--bcher-kva.example", '"a b"@example.com'],
)
def test_these_addresses_are_legal(address: str) -> None:
    assert address_fault(address) is None


@pytest.mark.parametrize(
    "address",
    [
        "jö@example.com",
        "jo@bücher.example",
        "jo",
        "jo@",
        "@example.com",
        "a..b@example.com",
        ".a@example.com",
        "jo@example..com",
        "jo@-a.com",
        "a b@example.com",
        "a@b@example.com",
        f"{'a' * 65}@example.com",
        "jo@example.com\n",
        "Jo\r\nBcc: b@example.com <jo@example.com>",
    ],
)
def test_an_illegal_address_fails_its_own_entry_alone(ses: Simulator, client: SESV2Client, address: str) -> None:
    assert statuses(client, bulk(entry(), entry(address), entry())) == ["SUCCESS", "INVALID_PARAMETER", "SUCCESS"]
    assert ses.ledger.counts().mails == 2


def test_an_illegal_address_can_be_made_to_fail_the_whole_call(ses: Simulator, client: SESV2Client) -> None:
    ses.account.reject_bulk_on_bad_address = True
    with pytest.raises(client.exceptions.BadRequestException, match="ASCII"):
        client.send_bulk_email(**bulk(entry(), entry("jö@example.com")))
    assert ses.ledger.mails == []


def test_malformed_data_fails_its_own_entry_alone(ses: Simulator, client: SESV2Client) -> None:
    assert statuses(client, bulk(entry(variables="{"), entry())) == ["INVALID_PARAMETER", "SUCCESS"]


def test_a_missing_configuration_set_is_not_found(ses: Simulator, client: SESV2Client) -> None:
    client.send_email(**single(ConfigurationSetName="default"))
    for send in (client.send_email, client.send_bulk_email):
        request = single() if send == client.send_email else bulk(entry())
        with pytest.raises(client.exceptions.NotFoundException, match="gone"):
            send(**request, ConfigurationSetName="gone")
    assert [mail.configuration_set for mail in ses.ledger.mails] == ["default"]
