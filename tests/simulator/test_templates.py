"""Creating, changing, reading, listing and deleting templates."""

import pytest
from mypy_boto3_sesv2 import SESV2Client

from mailroom.simulator import Simulator
from tests.simulator.client import bulk, entry, single, statuses


def names(client: SESV2Client) -> list[str]:
    return [template["TemplateName"] for template in client.list_email_templates()["TemplatesMetadata"]]


def test_a_template_lives_from_create_to_delete(ses: Simulator, client: SESV2Client) -> None:
    client.create_email_template(TemplateName="a b", TemplateContent={"Subject": "{{x}}"})
    assert names(client) == ["a b", "activationv1", "passwordrecoveryv1"]
    client.update_email_template(TemplateName="a b", TemplateContent={"Subject": "new", "Text": "t"})
    assert client.get_email_template(TemplateName="a b")["TemplateContent"] == {"Subject": "new", "Text": "t"}
    client.delete_email_template(TemplateName="a b")
    with pytest.raises(client.exceptions.NotFoundException):
        client.get_email_template(TemplateName="a b")


def test_what_exists_is_not_created_and_what_does_not_is_not_found(ses: Simulator, client: SESV2Client) -> None:
    with pytest.raises(client.exceptions.AlreadyExistsException):
        client.create_email_template(TemplateName="activationv1", TemplateContent={"Subject": "s"})
    with pytest.raises(client.exceptions.NotFoundException):
        client.update_email_template(TemplateName="none", TemplateContent={"Subject": "s"})
    with pytest.raises(client.exceptions.NotFoundException):
        client.delete_email_template(TemplateName="none")


def test_templates_are_listed_in_pages(ses: Simulator, client: SESV2Client) -> None:
    first = client.list_email_templates(PageSize=1)
    second = client.list_email_templates(PageSize=1, NextToken=first["NextToken"])
    pages = [page["TemplatesMetadata"][0]["TemplateName"] for page in (first, second)]
    assert (pages, "NextToken" in second) == (["activationv1", "passwordrecoveryv1"], False)


@pytest.mark.parametrize(
    "tag", ["{{#if a}}x{{/if}}", "{{> part}}", "{{else}}", "{{a b}}", "{{!-- note --}}", "{{a", "{{}}"]
)
def test_a_template_with_more_than_variables_is_refused(ses: Simulator, client: SESV2Client, tag: str) -> None:
    with pytest.raises(client.exceptions.BadRequestException, match="plain variables only"):
        client.create_email_template(TemplateName="new", TemplateContent={"Subject": tag})
    assert "new" not in names(client)


def test_sending_with_a_template_that_is_not_there(ses: Simulator, client: SESV2Client) -> None:
    with pytest.raises(client.exceptions.NotFoundException):
        client.send_email(**single(template="none"))
    assert statuses(client, bulk(entry(), template="none")) == ["TEMPLATE_NOT_FOUND"]
    ses.account.reject_bulk_on_missing_template = True
    with pytest.raises(client.exceptions.NotFoundException):
        client.send_bulk_email(**bulk(entry(), template="none"))
    assert ses.ledger.mails == []


def test_identities_and_configuration_sets_are_there(ses: Simulator, client: SESV2Client) -> None:
    assert client.get_email_identity(EmailIdentity="example.com")["VerifiedForSendingStatus"]
    assert client.get_configuration_set(ConfigurationSetName="default")["ConfigurationSetName"] == "default"
    ses.account.missing_configuration_sets = frozenset({"default"})
    with pytest.raises(client.exceptions.NotFoundException):
        client.get_configuration_set(ConfigurationSetName="default")
    ses.account.unverified_identities = frozenset({"example.com"})
    assert not client.get_email_identity(EmailIdentity="example.com")["VerifiedForSendingStatus"]
    ses.account.missing_identities = frozenset({"example.com"})
    with pytest.raises(client.exceptions.NotFoundException):
        client.get_email_identity(EmailIdentity="example.com")
