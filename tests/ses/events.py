"""Events as SES writes them, and the envelopes that they come in."""

import json
from typing import Any

FENCE = "8c7d3c4e-93a6-4f0e-9f56-0f1b0c1f2a3b"
SITE = "11111111-2222-4333-8444-555555555555"
OWN_MOMENT = "2026-01-02T03:05:05.700Z"
OWN: dict[str, tuple[str, dict[str, Any]]] = {
    "Send": ("send", {}),
    "Delivery": (
        "delivery",
        {
            "timestamp": OWN_MOMENT,
            "processingTimeMillis": 700,
            "recipients": ["ada@example.com"],
            "smtpResponse": "250 2.6.0 Message received",
            "reportingMTA": "a8-50.smtp-out.amazonses.com",
        },
    ),
    "Bounce": (
        "bounce",
        {
            "bounceType": "Permanent",
            "bounceSubType": "General",
            "timestamp": OWN_MOMENT,
            "feedbackId": "0102-f-000000",
            "bouncedRecipients": [
                {
                    "emailAddress": "ada@example.com",
                    "action": "failed",
                    "status": "5.1.1",
                    "diagnosticCode": "smtp; 550 5.1.1 unknown",
                }
            ],
        },
    ),
    "Complaint": (
        "complaint",
        {
            "complainedRecipients": [{"emailAddress": "ada@example.com"}],
            "timestamp": OWN_MOMENT,
            "feedbackId": "0102-f-000000",
            "complaintSubType": "OnAccountSuppressionList",
            "complaintFeedbackType": "abuse",
        },
    ),
    "DeliveryDelay": (
        "deliveryDelay",
        {
            "timestamp": OWN_MOMENT,
            "delayType": "MailboxFull",
            "expirationTime": "2026-01-02T17:05:05.700Z",
            "delayedRecipients": [{"emailAddress": "ada@example.com", "status": "4.2.2", "diagnosticCode": "x"}],
        },
    ),
    "Reject": ("reject", {"reason": "Bad content"}),
    "Rendering Failure": ("failure", {"templateName": "activationv1", "errorMessage": "Attribute 'x' is missing"}),
    "Open": ("open", {"timestamp": OWN_MOMENT}),
    "Click": ("click", {"timestamp": OWN_MOMENT, "link": "https://example.com/activate?t=secret"}),
    "Subscription": ("subscription", {"timestamp": OWN_MOMENT}),
}


def event(kind: str, *, mail: dict[str, Any] | None = None, tags: dict[str, Any] | None = None) -> dict[str, Any]:
    """An event of this kind, with other fields in `mail` and other tags if they are given."""
    name, own = OWN.get(kind, ("other", {}))
    ours = {"mailroom_token": ["812"], "mailroom_batch": [FENCE], "mailroom_site": [SITE]}
    theirs = {"ses:configuration-set": ["default"], "ses:from-domain": ["example.com"], "ses:new": ["x", "y"]}
    said = {
        "messageId": "0102-m-000000",
        "timestamp": "2026-01-02T03:04:05.000Z",
        "source": "Shop <noreply@example.com>",
        "destination": ["ada@example.com"],
        "tags": ours | theirs | (tags or {}),
    }
    return json.loads(json.dumps({"eventType": kind, name: own, "mail": said | (mail or {})}))  # type: ignore[no-any-return]


def wrapped(message: str) -> str:
    """A message as SNS hands it to SQS."""
    return json.dumps(
        {
            "Type": "Notification",
            "MessageId": "22b80b92-fdea-4c2c-8f9d-bdfb0c7bf324",
            "TopicArn": "arn:aws:sns:eu-west-1:123456789012:mailroom-events",
            "Subject": "Amazon SES Email Event Notification",
            "Message": message,
            "Timestamp": "2026-01-02T03:04:07.000Z",
            "SignatureVersion": "1",
            "Signature": "EXAMPLE",
            "SigningCertURL": "https://sns.eu-west-1.amazonaws.com/x.pem",
            "UnsubscribeURL": "https://sns.eu-west-1.amazonaws.com/?Action=Unsubscribe",
        }
    )


def eventbridge(message: str) -> str:
    """A message as EventBridge hands it to SQS."""
    return json.dumps(
        {
            "version": "0",
            "id": "6a7e8feb-b491-4cf7-a9f1-bf3703467718",
            "detail-type": "Email Bounced",
            "source": "aws.ses",
            "account": "123456789012",
            "time": "2026-01-02T03:04:07Z",
            "region": "eu-west-1",
            "resources": [],
            "detail": json.loads(message),
        }
    )
