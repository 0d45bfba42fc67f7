"""Creating, changing, reading, listing and deleting templates."""

import email
import email.policy

import pytest
from mypy_boto3_sesv2 import SESV2Client

from mailroom.simulator import Simulator
from mailroom.simulator.account import CALLS_A_SECOND, CallRates
from mailroom.simulator.refusal import SesError
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


@pytest.mark.parametrize("tag", ["{{#if a}}x", "{{#a}}x{{/a}}", "{{else}}", "{{a b}}", "{{a", "{{}}"])
def test_a_template_that_is_not_understood_is_refused(ses: Simulator, client: SESV2Client, tag: str) -> None:
    with pytest.raises(client.exceptions.BadRequestException, match=r"not supported|has no end|is in no block"):
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


def test_identities_are_there(ses: Simulator, client: SESV2Client) -> None:
    assert client.get_email_identity(EmailIdentity="example.com")["VerifiedForSendingStatus"]
    ses.account.unverified_identities = frozenset({"example.com"})
    assert not client.get_email_identity(EmailIdentity="example.com")["VerifiedForSendingStatus"]
    ses.account.missing_identities = frozenset({"example.com"})
    with pytest.raises(client.exceptions.NotFoundException):
        client.get_email_identity(EmailIdentity="example.com")


def test_a_template_is_rendered_as_a_test(ses: Simulator, client: SESV2Client) -> None:
    client.create_email_template(
        TemplateName="new", TemplateContent={"Subject": "Grüße, {{a}}", "Text": "text {{a}}", "Html": "<p>{{a}}</p>"}
    )
    rendered = client.test_render_email_template(TemplateName="new", TemplateData='{"a": "b"}')["RenderedTemplate"]
    message = email.message_from_string(rendered, policy=email.policy.default)
    parts = [part.get_content().strip() for part in message.iter_parts()]
    assert (message["Subject"], parts) == ("Grüße, b", ["text b", "<p>b</p>"])
    with pytest.raises(client.exceptions.BadRequestException, match="Attribute 'a' is not present"):
        client.test_render_email_template(TemplateName="new", TemplateData="{}")
    with pytest.raises(client.exceptions.BadRequestException):
        client.test_render_email_template(TemplateName="new", TemplateData="[]")
    with pytest.raises(client.exceptions.NotFoundException):
        client.test_render_email_template(TemplateName="none", TemplateData="{}")


def test_a_template_is_at_most_500_kilobytes(ses: Simulator, client: SESV2Client) -> None:
    client.create_email_template(TemplateName="large", TemplateContent={"Html": "x" * 500 * 1024})
    for act in (client.create_email_template, client.update_email_template):
        with pytest.raises(client.exceptions.BadRequestException, match="500 kB"):
            act(TemplateName="large", TemplateContent={"Subject": "x", "Html": "x" * 500 * 1024})


def test_a_region_has_at_most_so_many_templates(
    ses: Simulator, client: SESV2Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mailroom.simulator.template_operations.MAX_TEMPLATES", 2)
    with pytest.raises(client.exceptions.LimitExceededException):
        client.create_email_template(TemplateName="third", TemplateContent={"Subject": "s"})
    with pytest.raises(client.exceptions.AlreadyExistsException):
        client.create_email_template(TemplateName="activationv1", TemplateContent={"Subject": "s"})


def test_calls_about_templates_can_have_the_rates_of_ses(
    ses: Simulator, client: SESV2Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Here one call an hour, so that the second one comes too early however long it takes to be made."""
    rates = dict.fromkeys(CALLS_A_SECOND, 1 / 3600)
    monkeypatch.setattr("mailroom.simulator.account.CALLS_A_SECOND", rates)
    ses.account.limit_template_calls = True
    client.list_email_templates()
    with pytest.raises(client.exceptions.TooManyRequestsException):
        client.list_email_templates()
    client.update_email_template(TemplateName="activationv1", TemplateContent={"Subject": "s"})
    client.get_account()
    client.get_account()


def test_a_rate_is_one_call_a_second_of_each_operation() -> None:
    rates = CallRates()
    rates.charge("CreateEmailTemplate", now=10.0)
    rates.charge("DeleteEmailTemplate", now=10.0)
    with pytest.raises(SesError, match="Rate exceeded"):
        rates.charge("CreateEmailTemplate", now=10.9)
    rates.charge("CreateEmailTemplate", now=11.0)
    rates.charge("GetEmailTemplate", now=11.0)
    rates.charge("GetEmailTemplate", now=11.02)
    for _ in range(2):
        rates.charge("SendEmail", now=11.0)
