"""SendEmail, and what it has in common with SendBulkEmail: who sends, with which template, to whom."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from mailroom.simulator import limits
from mailroom.simulator.call import Call, Response
from mailroom.simulator.happenings import fails_to_render
from mailroom.simulator.records import Mail
from mailroom.simulator.refusal import SesError, bad_request, not_found
from mailroom.simulator.ses import Ses
from mailroom.simulator.templates import Template

SANDBOX_RECIPIENTS = "@simulator.amazonses.com"
TEMPLATE_CHOICES = frozenset({"TemplateName", "TemplateArn", "TemplateContent"})

ASKED_FOR_VARIABLE = "asked_for"

Members = Mapping[str, Any]
Tags = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Sender:
    """What all the mails of one request have in common."""

    ses: Ses
    call: Call
    source: str
    configuration_set: str | None
    reply_to: tuple[str, ...]

    @classmethod
    def of(cls, ses: Ses, call: Call) -> "Sender":
        """The sender of a request whose account, addresses and configuration set are in order."""
        limits.check_sender(call.members)
        configuration_set = call.members.get("ConfigurationSetName")
        limits.check_configuration_set(configuration_set)
        ses.account.check_sending()
        if configuration_set is not None and not ses.configuration_sets.get(configuration_set).sending_enabled:
            message = f"Email sending is disabled for configuration set {configuration_set}."
            raise SesError("SendingPausedException", message)
        reply_to = tuple(call.members.get("ReplyToAddresses", ()))
        return cls(ses, call, call.members["FromEmailAddress"], configuration_set, reply_to)

    def charge(self, recipients: int) -> None:
        """Take this many from the account's rate and quota, or raise TooManyRequestsException."""
        self.ses.usage.charge(recipients, self.ses.account, now=time.monotonic())

    def unverified(self, to: Sequence[str]) -> str | None:
        """Why an account in the sandbox must not write to these, or None."""
        if self.ses.account.production_access_enabled or all(address.endswith(SANDBOX_RECIPIENTS) for address in to):
            return None
        return (
            "Email address is not verified. The following identities failed the check in region US-EAST-1: "
            + ", ".join(to)
        )

    def accept(self, to: Sequence[str], template: Template, *, variables: Members, tags: Tags, headers: Tags) -> Mail:
        return Mail(
            message_id=self.ses.ledger.next_message_id(),
            request=self.call.number,
            accepted_at=datetime.now(UTC),
            recipients=tuple(to),
            source=self.source,
            template=template,
            variables=variables,
            tags=tags,
            configuration_set=self.configuration_set,
            missing=template.missing(variables) or self._asked_to_fail(to),
            reply_to=self.reply_to,
            headers=headers,
        )

    def _asked_to_fail(self, to: Sequence[str]) -> str | None:
        """The variable that a mail lacks because its address or a fault wants it to."""
        fault = self.call.fault
        by_fault = fault is not None and fault.rendering_failure and fault.is_for(to)
        return ASKED_FOR_VARIABLE if by_fault or fails_to_render(to) else None


def send_email(ses: Ses, call: Call) -> Response:
    """Accept one mail."""
    sender = Sender.of(ses, call)
    tags = limits.check_tags(call.members.get("EmailTags", ()))
    to = limits.recipients(call.members.get("Destination", {}))
    if fault := limits.destination_fault(to):
        raise bad_request(fault)
    template, variables, headers = _content(ses, call.members["Content"])
    if unverified := sender.unverified(to):
        raise SesError("MessageRejected", unverified)
    sender.charge(len(to))
    mail = sender.accept(to, template, variables=variables, tags=tags, headers=headers)
    return Response({"MessageId": mail.message_id}, [mail])


def choose_template(ses: Ses, choice: Members) -> tuple[Template | None, dict[str, Any]]:
    """The template of a request, None if there is none of that name, and the data that comes with it."""
    if len(choice.keys() & TEMPLATE_CHOICES) != 1:
        raise bad_request("A template is given by one of TemplateName, TemplateArn and TemplateContent")
    variables = limits.template_data(choice.get("TemplateData", "{}"))
    if variables is None:
        raise bad_request("TemplateData is not a JSON object")
    if "TemplateContent" in choice:
        return Template.parse(None, choice["TemplateContent"]), variables
    return ses.templates.find(str(limits.template_name(choice))), variables


def missing_template(choice: Members) -> str:
    return f"Template {limits.template_name(choice)} does not exist."


def _content(ses: Ses, content: Members) -> tuple[Template, Members, Tags]:
    match dict(content):
        case {"Template": choice, **others} if not others:
            headers = limits.check_headers(choice.get("Headers", ()))
            template, variables = choose_template(ses, choice)
            if template is None:
                raise not_found(missing_template(choice))
            return template, variables, headers
        case {"Simple": message, **others} if not others:
            headers = limits.check_headers(message.get("Headers", ()))
            return _simple(message), {}, headers
        case _:
            raise bad_request("Content must be one of Template and Simple; the simulator takes no Raw")


def _simple(message: Members) -> Template:
    parts = {"Subject": message["Subject"], **message["Body"]}
    return Template.literal({part: text["Data"] for part, text in parts.items()})
