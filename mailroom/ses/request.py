"""The requests to SES: one mail in a call of its own, or several that share one."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from mailroom.job import Action
from mailroom.mail.transport import Mail

if TYPE_CHECKING:
    from mypy_boto3_sesv2.type_defs import BulkEmailEntryTypeDef, MessageTagTypeDef

# A mail, and its address as SES takes it.
Entry = tuple[Mail, str]


def single(action: Action, entry: Entry, *, batch: str | None) -> dict[str, Any]:
    """Return what SendEmail is asked for a mail, besides who sends it."""
    mail, address = entry
    template = {"TemplateName": action.template, "TemplateData": mail.template_data(action)}
    return {
        "Destination": {"ToAddresses": [address]},
        "Content": {"Template": template},
        "EmailTags": _tags(mail, batch),
    }


def bulk(action: Action, entries: Sequence[Entry], *, batch: str | None) -> dict[str, Any]:
    """Return what SendBulkEmail is asked for these mails, besides who sends them."""
    # Empty default data: a value left out is then an error of SES, not a mail with a blank link.
    template = {"TemplateName": action.template, "TemplateData": "{}"}
    return {
        "DefaultContent": {"Template": template},
        "BulkEmailEntries": [_bulk_entry(action, mail, address, batch) for mail, address in entries],
    }


def _tags(mail: Mail, batch: str | None) -> "list[MessageTagTypeDef]":
    tags = {"mailroom_token": mail.token, "mailroom_batch": batch}
    return [{"Name": name, "Value": str(value)} for name, value in tags.items() if value is not None]


def _bulk_entry(action: Action, mail: Mail, address: str, batch: str | None) -> "BulkEmailEntryTypeDef":
    return {
        "Destination": {"ToAddresses": [address]},
        "ReplacementTags": _tags(mail, batch),
        "ReplacementEmailContent": {"ReplacementTemplate": {"ReplacementTemplateData": mail.template_data(action)}},
    }
