"""The requests to SES: one mail in a call of its own, or several that share one."""

from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

from mailroom.job import Action
from mailroom.mail.sender import sender
from mailroom.mail.transport import Mail

if TYPE_CHECKING:
    from mypy_boto3_sesv2 import SESV2Client
    from mypy_boto3_sesv2.type_defs import BulkEmailEntryTypeDef, MessageTagTypeDef

# A mail, and its address as SES takes it.
Entry = tuple[Mail, str]

# A machine has written it: mail systems that keep to RFC 3834, and Exchange, are not to answer that somebody is away.
HEADERS: Final = {"Auto-Submitted": "auto-generated", "X-Auto-Response-Suppress": "All"}
# An account-wide setting would rewrite the link, and report the secret in it with each click.
NO_TRACKING: Final = {"Tracking": {"OpenTrackingEnabled": "DISABLED", "ClickTrackingEnabled": "DISABLED"}}


@lru_cache(maxsize=256)
def as_header(address: str) -> str:
    """Return who sends as it may stand in a header: a plain UPDATE may write a name that needs quotes, and has none."""
    try:
        return sender(address, may_be_local=True)
    except ValueError:
        return address  # SES is to say what is wrong with it


class Requests:
    """Writes requests, with what the installed botocore knows of SES: it sends no field that it does not know."""

    def __init__(self, client: "SESV2Client", *, source: str, config_set: str, site: UUID | None) -> None:
        """`source` is the sender of what has none of its own. `site` is that of the database; None: not known."""
        model: Any = client.meta.service_model
        self._source = source
        self._site = site
        self._always: dict[str, Any] = {"ConfigurationSetName": config_set} if config_set else {}
        if "ConfigurationOverrides" in model.operation_model("SendBulkEmail").input_shape.members:
            self._always["ConfigurationOverrides"] = NO_TRACKING
        headers = [{"Name": name, "Value": value} for name, value in HEADERS.items()]
        self._template = {"Headers": headers} if "Headers" in model.shape_for("Template").members else {}

    def source(self, action: Action) -> str:
        """Return who sends the mails of an action."""
        return as_header(action.source or self._source)

    def write(self, action: Action, entries: Sequence[Entry], *, batch: str | None) -> dict[str, Any]:
        """Return what SendEmail is asked for one mail, and SendBulkEmail for several."""
        frame = {"FromEmailAddress": self.source(action), **self._always}
        if action.reply_to:
            frame["ReplyToAddresses"] = [as_header(action.reply_to)]
        template = {"TemplateName": action.template, **self._template}
        if len(entries) == 1:
            return frame | self._single(action, template, entries[0], batch)
        # Empty default data: a value left out is then an error of SES, not a mail with a blank link.
        return frame | {
            "DefaultContent": {"Template": template | {"TemplateData": "{}"}},
            "BulkEmailEntries": [self._bulk_entry(action, mail, address, batch) for mail, address in entries],
        }

    def _single(self, action: Action, template: dict[str, Any], entry: Entry, batch: str | None) -> dict[str, Any]:
        mail, address = entry
        return {
            "Destination": {"ToAddresses": [address]},
            "Content": {"Template": template | {"TemplateData": mail.template_data(action)}},
            "EmailTags": self._tags(mail, batch),
        }

    def _bulk_entry(self, action: Action, mail: Mail, address: str, batch: str | None) -> "BulkEmailEntryTypeDef":
        return {
            "Destination": {"ToAddresses": [address]},
            "ReplacementTags": self._tags(mail, batch),
            "ReplacementEmailContent": {"ReplacementTemplate": {"ReplacementTemplateData": mail.template_data(action)}},
        }

    def _tags(self, mail: Mail, batch: str | None) -> "list[MessageTagTypeDef]":
        """Return what events tell a mail by; one that nobody has claimed has none of it."""
        site = None if batch is None else self._site
        tags = {"mailroom_token": mail.token, "mailroom_batch": batch, "mailroom_site": site}
        return [{"Name": name, "Value": str(value)} for name, value in tags.items() if value is not None]
