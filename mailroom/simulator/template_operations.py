"""The operations of SES on templates."""

from collections.abc import Callable, Mapping
from email.message import EmailMessage
from typing import Final

from mailroom.simulator import limits
from mailroom.simulator.call import Call, Response
from mailroom.simulator.paging import page
from mailroom.simulator.refusal import SesError, bad_request
from mailroom.simulator.ses import Ses

MAX_TEMPLATES: Final = 20_000  # SES: at most 20,000 templates a region


def create_email_template(ses: Ses, call: Call) -> Response:
    name = call.members["TemplateName"]
    limits.check_template(call.members["TemplateContent"])
    if ses.templates.find(name) is None and len(ses.templates.all()) >= MAX_TEMPLATES:
        raise SesError("LimitExceededException", f"There are {MAX_TEMPLATES} templates already.")
    ses.templates.create(name, call.members["TemplateContent"])
    return Response({})


def update_email_template(ses: Ses, call: Call) -> Response:
    """Replace all of it: a part that is not given is gone."""
    limits.check_template(call.members["TemplateContent"])
    ses.templates.update(call.members["TemplateName"], call.members["TemplateContent"])
    return Response({})


def get_email_template(ses: Ses, call: Call) -> Response:
    template = ses.templates.get(call.members["TemplateName"])
    return Response({"TemplateName": template.name, "TemplateContent": template.content})


def delete_email_template(ses: Ses, call: Call) -> Response:
    ses.templates.delete(call.members["TemplateName"])
    return Response({})


def list_email_templates(ses: Ses, call: Call) -> Response:
    rows = [
        (str(one.name), {"TemplateName": one.name, "CreatedTimestamp": one.created_at.timestamp()})
        for one in ses.templates.all()
    ]
    return Response(page(rows, call.members, "TemplatesMetadata", limits.MAX_TEMPLATE_PAGE))


def test_render_email_template(ses: Ses, call: Call) -> Response:
    """The whole message, as MIME; without a variable of it an error, where a mail would be accepted."""
    template = ses.templates.get(call.members["TemplateName"])
    variables = limits.template_data(call.members["TemplateData"])
    if variables is None:
        raise bad_request("TemplateData is not a JSON object")
    if missing := template.missing(variables):
        raise bad_request(f"Attribute '{missing}' is not present in the rendering data.")
    message = EmailMessage()
    message["Subject"] = " ".join((template.render("Subject", variables) or "").splitlines())
    message.set_content(template.render("Text", variables) or "")
    if (html := template.render("Html", variables)) is not None:
        message.add_alternative(html, subtype="html")
    return Response({"RenderedTemplate": message.as_string()})


PERFORM: Final[Mapping[str, Callable[[Ses, Call], Response]]] = {
    "CreateEmailTemplate": create_email_template,
    "UpdateEmailTemplate": update_email_template,
    "GetEmailTemplate": get_email_template,
    "DeleteEmailTemplate": delete_email_template,
    "ListEmailTemplates": list_email_templates,
    "TestRenderEmailTemplate": test_render_email_template,
}
