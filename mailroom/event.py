"""What the provider reports of a mail after it accepted it: evidence, which decides nothing by itself."""

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Final
from uuid import UUID

# How many letters are kept of each of the provider's words: type, subtype, status, and the id of a message.
MAX_WORDS: Final = 100


class EventKind(StrEnum):
    """All but the last two prove that the provider accepted the mail; of those two it was never out."""

    SEND = "send"
    DELIVERY = "delivery"
    BOUNCE = "bounce"
    COMPLAINT = "complaint"
    DELIVERY_DELAY = "delivery_delay"
    REJECT = "reject"
    RENDERING_FAILURE = "rendering_failure"


@dataclass(frozen=True, slots=True)
class Event:
    """One event of one mail. It may come before the answer to the call, in any order, and more than once.

    `message_id` is what the call answered for this mail. `token`, `fence` and `site` are the mail's tags, None where
    they are missing or not ours: `fence` is of the batch that it was sent in, `site` of the database. `address` is
    where the mail went, as the provider wrote it: personal data, which the database hashes and nothing keeps.
    `type` and `subtype` are the kind's own: of a bounce, a complaint or a delay, or the template that failed;
    `status` is SMTP's, such as 5.1.1. They are empty where nothing is said, and hold no control characters.
    """

    kind: EventKind
    message_id: str
    at: datetime
    token: int | None = None
    fence: UUID | None = None
    site: UUID | None = None
    address: str | None = field(default=None, repr=False)
    type: str = ""
    subtype: str = ""
    status: str = ""


class Ignored(StrEnum):
    """Why a message is nothing for us, and never will be: it is counted, and goes."""

    TRACKING = "tracking"  # an open or a click
    SUBSCRIPTION = "subscription"
    UNKNOWN_KIND = "unknown_kind"
    LEGACY = "legacy"  # a notification of an identity: it has no tags
    NOTICE = "notice"  # of the way here, and not of a mail
    NO_MESSAGE_ID = "no_message_id"


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A message that nobody understands: it stays in the queue, which puts it aside in the end."""
