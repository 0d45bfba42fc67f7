"""Rendering: nothing escaped, defaults merged key by key, an omission never a blank."""

import pytest
from mypy_boto3_sesv2 import SESV2Client

from mailroom.handlebars import Template
from mailroom.simulator import Simulator
from mailroom.simulator.rendering import merge
from tests.simulator.client import ALL, bulk, entry, single, statuses


def test_both_of_mailrooms_templates_render(ses: Simulator, client: SESV2Client) -> None:
    client.send_email(**single())
    client.send_email(**single(template="passwordrecoveryv1"))
    activation, recovery = ses.ledger.mails
    for part in (activation.text, activation.html):
        assert part is not None
        assert "https://example.com/activate?token=s3cret" in part
    for part in (recovery.text, recovery.html):
        assert part is not None
        assert "https://example.com/recover?token=s3cret" in part
        assert "01234" in part
    assert (activation.subject, recovery.subject) == ("Activate your account", "Recover your password")


def test_nothing_is_escaped(ses: Simulator, client: SESV2Client) -> None:
    client.send_email(**single(variables=ALL | {"login": "<b>&"}))
    assert "<strong><b>&</strong>" in str(ses.ledger.mails[0].html)


def test_double_and_triple_braces_and_dotted_names_render_alike() -> None:
    text = Template("{{a}} {{{ a }}} {{b.c}} {{n}} {{yes}} } }}")
    assert text.render({"a": "<", "b": {"c": "x"}, "n": 1.5, "yes": True}) == "< < x 1.5 true } }}"


def test_replacement_data_wins_key_by_key_through_objects() -> None:
    default = {"a": {"x": 1, "y": {"z": 2}}, "b": [1, 2], "c": "kept"}
    assert merge(default, {"a": {"y": {"z": 3}}, "b": [9]}) == {"a": {"x": 1, "y": {"z": 3}}, "b": [9], "c": "kept"}
    assert merge(default, {"a": "flat"})["a"] == "flat"
    assert merge(default, {}) == default


def test_an_entry_is_rendered_from_the_default_data_and_its_own(ses: Simulator, client: SESV2Client) -> None:
    defaults = '{"login": "somebody", "login_text": "somebody", "secret": "default"}'
    own = {"Destination": {"ToAddresses": ["jo@example.com"]}}
    assert statuses(client, bulk(own, entry(variables={"secret": "own"}), defaults=defaults)) == ["SUCCESS"] * 2
    assert ["default" in str(mail.text) for mail in ses.ledger.mails] == [True, False]
    assert "Hello somebody" in str(ses.ledger.mails[1].text)


@pytest.mark.parametrize("secret", [{}, {"secret": None}])
def test_a_mail_that_lacks_a_variable_is_accepted_and_fails(
    ses: Simulator, client: SESV2Client, secret: dict[str, None]
) -> None:
    assert statuses(client, bulk(entry(variables={"login": "jo", "login_text": "jo"} | secret))) == ["SUCCESS"]
    (mail,) = ses.ledger.mails
    assert mail.missing == "secret"
    assert (mail.subject, mail.text, mail.html) == (None, None, None)
    assert ses.ledger.counts().rendering_failures == 1


def test_simple_content_is_sent_as_it_is(ses: Simulator, client: SESV2Client) -> None:
    content = {"Simple": {"Subject": {"Data": "{{a}}"}, "Body": {"Text": {"Data": "{{#if b}}"}}}}
    client.send_email(**single() | {"Content": content})
    (mail,) = ses.ledger.mails
    assert (mail.subject, mail.text, mail.html, mail.missing) == ("{{a}}", "{{#if b}}", None, None)


def test_an_inline_template_renders(ses: Simulator, client: SESV2Client) -> None:
    inline = {"TemplateContent": {"Subject": "{{a}}"}, "TemplateData": '{"a": "b"}'}
    client.send_email(**single() | {"Content": {"Template": inline}})
    assert ses.ledger.mails[0].subject == "b"


def test_an_accepted_mail_keeps_the_template_it_was_accepted_with(ses: Simulator, client: SESV2Client) -> None:
    client.send_email(**single())
    client.update_email_template(TemplateName="activationv1", TemplateContent={"Subject": "Changed"})
    assert ses.ledger.mails[0].subject == "Activate your account"
