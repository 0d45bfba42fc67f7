"""The operations of SES that the simulator answers, and those that only look at the account."""

from collections.abc import Callable, Mapping

from mailroom.simulator import set_operations, suppression_operations, template_operations
from mailroom.simulator.bulk import send_bulk_email
from mailroom.simulator.call import Call, Response
from mailroom.simulator.refusal import not_found
from mailroom.simulator.sending import send_email
from mailroom.simulator.ses import Ses


def get_account(ses: Ses, _: Call) -> Response:
    account = ses.account
    quota = {
        "Max24HourSend": account.max_24_hour_send,
        "MaxSendRate": account.max_send_rate,
        "SentLast24Hours": float(ses.usage.sent_last_24_hours()),
    }
    return Response(
        {
            "SendingEnabled": account.sending_enabled,
            "EnforcementStatus": account.enforcement_status,
            "ProductionAccessEnabled": account.production_access_enabled,
            "SendQuota": quota,
            "SuppressionAttributes": {"SuppressedReasons": sorted(ses.suppression.reasons)},
        }
    )


def get_email_identity(ses: Ses, call: Call) -> Response:
    """Every identity is there and verified, except those of which the account says otherwise. Sending minds neither."""
    name = call.members["EmailIdentity"]
    if name in ses.account.missing_identities:
        raise not_found(f"Email identity {name} does not exist.")
    verified = name not in ses.account.unverified_identities
    kind = "EMAIL_ADDRESS" if "@" in name else "DOMAIN"
    status = "SUCCESS" if verified else "PENDING"
    return Response({"IdentityType": kind, "VerifiedForSendingStatus": verified, "VerificationStatus": status})


PERFORM: Mapping[str, Callable[[Ses, Call], Response]] = {
    "SendEmail": send_email,
    "SendBulkEmail": send_bulk_email,
    "GetAccount": get_account,
    "GetEmailIdentity": get_email_identity,
    **template_operations.PERFORM,
    **set_operations.PERFORM,
    **suppression_operations.PERFORM,
}
