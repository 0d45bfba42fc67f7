"""Reads an event of SES, however it came: through SNS, wrapped or raw, or through EventBridge.

Whatever a message holds, reading it never raises. Fields may be added at any time, and unknown ones are passed over.
"""

import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from uuid import UUID

from mailroom.event import MAX_WORDS, Event, EventKind, Ignored, Unreadable

Reading = Event | Ignored | Unreadable

# SQS takes messages of 1 MiB.
MAX_BODY: Final = 2**20
# A message in an envelope in an envelope: EventBridge, through SNS.
_MAX_ENVELOPES: Final = 3
_KINDS: Final = {
    "send": EventKind.SEND,
    "delivery": EventKind.DELIVERY,
    "bounce": EventKind.BOUNCE,
    "complaint": EventKind.COMPLAINT,
    "deliverydelay": EventKind.DELIVERY_DELAY,
    "reject": EventKind.REJECT,
    "renderingfailure": EventKind.RENDERING_FAILURE,
}
_OTHERS: Final = {"open": Ignored.TRACKING, "click": Ignored.TRACKING, "subscription": Ignored.SUBSCRIPTION}
# SES's API calls RENDERING_FAILURE what its events call `Rendering Failure`.
_NO_LETTERS: Final = re.compile(r"[\s_-]")
_BOUNCES: Final = {"permanent": "Permanent", "transient": "Transient", "undetermined": "Undetermined"}
# Where each kind tells more: its object, the fields for type and subtype, and the list that has a status.
_OWN: Final = {
    EventKind.SEND: ("send", "", "", ""),
    EventKind.DELIVERY: ("delivery", "", "", ""),
    EventKind.BOUNCE: ("bounce", "bounceType", "bounceSubType", "bouncedRecipients"),
    EventKind.COMPLAINT: ("complaint", "complaintFeedbackType", "complaintSubType", ""),
    EventKind.DELIVERY_DELAY: ("deliveryDelay", "delayType", "", "delayedRecipients"),
    EventKind.REJECT: ("reject", "", "", ""),
    EventKind.RENDERING_FAILURE: ("failure", "templateName", "", ""),
}
# What SES writes into a topic when it begins to use it.
_VALIDATED: Final = re.compile(r"\s*Successfully validated SNS topic\b")
# A tuple, since what is looked for may be anything that JSON has: a list is in no set, and asking raises.
_CONFIRMATIONS: Final = ("SubscriptionConfirmation", "UnsubscribeConfirmation")
_MESSAGE_ID: Final = re.compile(r"[!-~]{1,200}")
_NUMBER: Final = re.compile(r"[1-9][0-9]{0,18}")
_MAX_TOKEN: Final = 2**63 - 1
_UUID: Final = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_ADDRESS: Final = re.compile(r"[^\x00-\x20\x7f-\xa0\u2028\u2029\ud800-\udfff]{1,400}")
_STATUS: Final = re.compile(r"[245]\.[0-9]{1,3}\.[0-9]{1,3}")
# Words of theirs are kept, addresses never.
_NOT_IN_WORDS: Final = re.compile(r"[^ -?A-~]")
# Further off nothing that SES has sent can be.
_YEARS: Final = range(2011, 2200)


def read(body: str) -> Reading:
    """Return the event that a message holds, or why there is none."""
    message = _unwrapped(body)
    if not isinstance(message, dict):
        return message
    if "eventType" not in message:
        if "notificationType" in message:
            return Ignored.LEGACY
        return Unreadable()
    word = message["eventType"]
    name = _NO_LETTERS.sub("", word).lower() if isinstance(word, str) else ""
    kind, mail = _KINDS.get(name), message.get("mail")
    if kind is None:
        return _OTHERS.get(name, Ignored.UNKNOWN_KIND)
    return _event(kind, message, mail) if isinstance(mail, dict) else Unreadable()


def _unwrapped(body: str) -> dict[str, Any] | Ignored | Unreadable:
    """Take what SES wrote out of its envelopes."""
    message = _parsed(body)
    for _ in range(_MAX_ENVELOPES):
        if not isinstance(message, dict) or "eventType" in message:
            return message
        if isinstance(message.get("detail"), dict):
            if "eventType" not in message["detail"]:
                return Ignored.NOTICE  # EventBridge: the state of the account, or an adviser's word
            message = message["detail"]
        elif message.get("Type") == "Notification" and isinstance(message.get("Message"), str):
            message = _parsed(message["Message"])
        elif message.get("Type") in _CONFIRMATIONS:
            return Ignored.NOTICE
        else:
            break
    return message


def _parsed(text: str) -> dict[str, Any] | Ignored | Unreadable:
    if len(text) > MAX_BODY:
        return Unreadable()
    try:
        found = json.loads(text, parse_int=float)  # no number of theirs is read, however long it is
    except (ValueError, RecursionError):
        return Ignored.NOTICE if _VALIDATED.match(text) else Unreadable()
    return found if isinstance(found, dict) else Unreadable()


def _event(kind: EventKind, message: Mapping[str, Any], mail: Mapping[str, Any]) -> Reading:
    own_name, type_name, subtype_name, recipients = _OWN[kind]
    own = _object(message.get(own_name))
    message_id = mail.get("messageId")
    if not isinstance(message_id, str) or not _MESSAGE_ID.fullmatch(message_id):
        return Ignored.NO_MESSAGE_ID
    at = _moment(own.get("timestamp")) or _moment(mail.get("timestamp"))
    if at is None:
        return Unreadable()
    tags = _object(mail.get("tags"))
    said = _words(own.get(type_name))
    return Event(
        kind,
        message_id,
        at,
        token=_token(_one(tags.get("mailroom_token"))),
        fence=_uuid(_one(tags.get("mailroom_batch"))),
        site=_uuid(_one(tags.get("mailroom_site"))),
        address=_address(mail.get("destination")),
        type=_type(kind, said),
        subtype=_words(own.get(subtype_name)),
        status=_status(own.get(recipients)),
    )


def _type(kind: EventKind, said: str) -> str:
    """Return the type of an event as it is asked for later, in whatever letters it is written."""
    match kind:
        case EventKind.COMPLAINT:  # RFC 5965: in any letters
            return said.strip().lower()
        case EventKind.BOUNCE:
            return _BOUNCES.get(said.strip().lower(), said)
        case _:
            return said


def _object(found: object) -> dict[str, Any]:
    return found if isinstance(found, dict) else {}


def _one(found: object) -> object:
    """Return the only value of a tag, which is a list; None where there are several: none of them is ours alone."""
    if isinstance(found, list):
        return found[0] if len(found) == 1 else None
    return found


def _token(found: object) -> int | None:
    if not isinstance(found, str) or not _NUMBER.fullmatch(found):
        return None
    number = int(found)
    return number if number <= _MAX_TOKEN else None


def _uuid(found: object) -> UUID | None:
    return UUID(found) if isinstance(found, str) and _UUID.fullmatch(found) else None


def _address(destination: object) -> str | None:
    """Return where the mail went. A mail of ours goes to one address; nothing is to be blamed on one of several."""
    if not isinstance(destination, list) or len(destination) != 1:
        return None
    [address] = destination
    return address if isinstance(address, str) and _ADDRESS.fullmatch(address) else None


def _moment(found: object) -> datetime | None:
    """Return a moment in UTC, which is meant where no zone is given."""
    if not isinstance(found, str):
        return None
    try:
        moment = datetime.fromisoformat(found)
        offset = moment.utcoffset() or timedelta(0)
        moment = moment.replace(tzinfo=UTC) - offset
    except (ValueError, OverflowError):
        return None
    return moment if moment.year in _YEARS else None


def _words(found: object) -> str:
    return _NOT_IN_WORDS.sub("?", found[:MAX_WORDS]) if isinstance(found, str) else ""


def _status(recipients: object) -> str:
    first = _object(recipients[0]) if isinstance(recipients, list) and recipients else {}
    status = first.get("status")
    return status if isinstance(status, str) and _STATUS.fullmatch(status) else ""
