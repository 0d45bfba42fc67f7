"""What an event of SES says, as event publishing writes it."""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from mailroom.simulator.happenings import Happening, bare
from mailroom.simulator.records import Mail

ACCOUNT: Final = "123456789012"
REGION: Final = "us-east-1"
MAX_HEADER_BYTES: Final = 10 * 1024  # SES: headers beyond 10 kB are cut
DELIVERY_SECONDS: Final = 14 * 3600  # how long SES tries, unless the configuration set says less
HOST: Final = "a8-50.smtp-out.amazonses.com"
SUBJECTLESS: Final = frozenset({"Rendering Failure", "DeliveryDelay"})  # SES's own samples have no headers there

# The object of its own that an event has, by its type.
KEYS: Final[Mapping[str, str]] = {
    "Send": "send",
    "Delivery": "delivery",
    "Bounce": "bounce",
    "Complaint": "complaint",
    "Reject": "reject",
    "Rendering Failure": "failure",
    "DeliveryDelay": "deliveryDelay",
}


def event(mail: Mail, happening: Happening, at: datetime, *, tagged: bool = True) -> dict[str, Any]:
    """The event; without `tagged`, the mail in it has the tag of its configuration set alone."""
    about = _mail(mail, happening.event, tagged=tagged)
    return {
        "eventType": happening.event,
        "mail": about,
        KEYS[happening.event]: BODIES[happening.event](mail, happening, at),
    }


def timestamp(at: datetime) -> str:
    """As SES writes moments: UTC, milliseconds, Z."""
    return at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _mail(mail: Mail, event_type: str, *, tagged: bool) -> dict[str, Any]:
    domain = bare(mail.source).rpartition("@")[2]
    about: dict[str, Any] = {
        "timestamp": timestamp(mail.accepted_at),
        "source": mail.source,
        "sourceArn": f"arn:aws:ses:{REGION}:{ACCOUNT}:identity/{domain}",
        "sendingAccountId": ACCOUNT,
        "messageId": mail.message_id,
        "destination": _addresses(mail),
        "headersTruncated": False,
    }
    tags: dict[str, list[str]] = {"ses:configuration-set": [mail.configuration_set or ""]}
    if tagged:
        tags |= {
            "ses:source-ip": ["127.0.0.1"],
            "ses:from-domain": [domain],
            "ses:caller-identity": ["mailroom"],
            **({"ses:outgoing-ip": ["192.0.2.1"]} if event_type == "Delivery" else {}),
            **{name: [value] for name, value in mail.tags.items()},
        }
    headers = {} if event_type in SUBJECTLESS else _headers(mail)
    return about | headers | {"tags": tags}


def _headers(mail: Mail) -> dict[str, Any]:
    subject = mail.subject or ""
    headers = {"From": mail.source, "To": ", ".join(mail.recipients), "Subject": subject, "MIME-Version": "1.0"}
    if mail.reply_to:
        headers["Reply-To"] = ", ".join(mail.reply_to)
    kept, size = [], 0
    for name, value in (headers | dict(mail.headers)).items():
        size += len(name) + len(value.encode())
        if size <= MAX_HEADER_BYTES:
            kept.append({"name": name, "value": value})
    common = {"from": [mail.source], "to": list(mail.recipients), "messageId": mail.message_id, "subject": subject}
    return {"headersTruncated": size > MAX_HEADER_BYTES, "headers": kept, "commonHeaders": common}


def _addresses(mail: Mail, happening: Happening | None = None) -> list[str]:
    return [bare(address) for address in (happening and happening.to) or mail.recipients]


def _feedback_id(mail: Mail, at: datetime) -> str:
    return f"{int(at.timestamp() * 1000):016x}-{mail.message_id.partition('-')[2]}"


def _delivery(mail: Mail, happening: Happening, at: datetime) -> dict[str, Any]:
    return {
        "timestamp": timestamp(at),
        "processingTimeMillis": max(0, (at - mail.accepted_at) // timedelta(milliseconds=1)),
        "recipients": _addresses(mail, happening),
        "smtpResponse": "250 2.6.0 Message received",
        "reportingMTA": HOST,
    }


def _bounce(mail: Mail, happening: Happening, at: datetime) -> dict[str, Any]:
    told = {"action": "failed", "status": happening.status, "diagnosticCode": f"smtp; {happening.status} no such luck"}
    recipients = [{"emailAddress": one} | (told if happening.status else {}) for one in _addresses(mail, happening)]
    return {
        "feedbackId": _feedback_id(mail, at),
        "bounceType": happening.type,
        "bounceSubType": happening.subtype,
        "bouncedRecipients": recipients,
        "timestamp": timestamp(at),
        "reportingMTA": f"dns; {HOST}",
    }


def _complaint(mail: Mail, happening: Happening, at: datetime) -> dict[str, Any]:
    told = {
        "userAgent": "Any Mailbox Provider",
        "complaintFeedbackType": happening.type,
        "arrivalDate": timestamp(at),
    }
    return {
        "feedbackId": _feedback_id(mail, at),
        "complaintSubType": happening.subtype or None,
        "complainedRecipients": [{"emailAddress": one} for one in _addresses(mail, happening)],
        "timestamp": timestamp(at),
        **(told if happening.type else {}),
    }


def _failure(mail: Mail, happening: Happening, _: datetime) -> dict[str, Any]:
    missing = happening.type or mail.missing or "variable"
    return {
        "templateName": mail.template.name or "",
        "errorMessage": f"Attribute '{missing}' is not present in the rendering data.",
    }


def _delay(mail: Mail, happening: Happening, at: datetime) -> dict[str, Any]:
    told = {"status": happening.status, "diagnosticCode": f"smtp; {happening.status} try again later"}
    return {
        "timestamp": timestamp(at),
        "delayType": happening.type,
        "expirationTime": timestamp(mail.accepted_at + timedelta(seconds=DELIVERY_SECONDS)),
        "delayedRecipients": [
            {"emailAddress": one} | (told if happening.status else {}) for one in _addresses(mail, happening)
        ],
    }


BODIES: Final[Mapping[str, Callable[[Mail, Happening, datetime], dict[str, Any]]]] = {
    "Send": lambda mail, happening, at: {},
    "Delivery": _delivery,
    "Bounce": _bounce,
    "Complaint": _complaint,
    "Reject": lambda mail, happening, at: {"reason": "Bad content"},
    "Rendering Failure": _failure,
    "DeliveryDelay": _delay,
}
