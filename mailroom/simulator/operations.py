"""The operations of SES that the simulator answers, and what each does that sends nothing."""

from collections.abc import Callable, Mapping

from mailroom.simulator.bulk import send_bulk_email
from mailroom.simulator.call import Call, Response
from mailroom.simulator.refusal import SesError, not_found
from mailroom.simulator.sending import send_email
from mailroom.simulator.ses import Ses

MAX_PAGE = 100  # SES: ListEmailTemplates returns at most 100 a page


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
        }
    )


def create_email_template(ses: Ses, call: Call) -> Response:
    ses.templates.create(call.members["TemplateName"], call.members["TemplateContent"])
    return Response({})


def update_email_template(ses: Ses, call: Call) -> Response:
    ses.templates.update(call.members["TemplateName"], call.members["TemplateContent"])
    return Response({})


def get_email_template(ses: Ses, call: Call) -> Response:
    template = ses.templates.get(call.members["TemplateName"])
    return Response({"TemplateName": template.name, "TemplateContent": template.content})


def delete_email_template(ses: Ses, call: Call) -> Response:
    ses.templates.delete(call.members["TemplateName"])
    return Response({})


def list_email_templates(ses: Ses, call: Call) -> Response:
    """A page of them by name; `NextToken` is the last name of the page before."""
    after = call.members.get("NextToken", "")
    size = min(call.members.get("PageSize", MAX_PAGE), MAX_PAGE)
    if size < 1:
        raise SesError("BadRequestException", f"PageSize must be 1 to {MAX_PAGE}")
    rest = [template for template in ses.templates.all() if str(template.name) > after]
    page = [{"TemplateName": one.name, "CreatedTimestamp": one.created_at.timestamp()} for one in rest[:size]]
    more = {"NextToken": page[-1]["TemplateName"]} if len(rest) > size else {}
    return Response({"TemplatesMetadata": page, **more})


def get_email_identity(ses: Ses, call: Call) -> Response:
    """Every identity is there and verified, except those of which the account says otherwise. Sending minds neither."""
    name = call.members["EmailIdentity"]
    if name in ses.account.missing_identities:
        raise not_found(f"Email identity {name} does not exist.")
    verified = name not in ses.account.unverified_identities
    kind = "EMAIL_ADDRESS" if "@" in name else "DOMAIN"
    status = "SUCCESS" if verified else "PENDING"
    return Response({"IdentityType": kind, "VerifiedForSendingStatus": verified, "VerificationStatus": status})


def get_configuration_set(ses: Ses, call: Call) -> Response:
    """Every configuration set exists, except those that the account says are missing."""
    name = call.members["ConfigurationSetName"]
    if name in ses.account.missing_configuration_sets:
        raise not_found(f"Configuration set {name} does not exist.")
    return Response({"ConfigurationSetName": name, "SendingOptions": {"SendingEnabled": True}})


PERFORM: Mapping[str, Callable[[Ses, Call], Response]] = {
    "SendEmail": send_email,
    "SendBulkEmail": send_bulk_email,
    "GetAccount": get_account,
    "CreateEmailTemplate": create_email_template,
    "UpdateEmailTemplate": update_email_template,
    "GetEmailTemplate": get_email_template,
    "DeleteEmailTemplate": delete_email_template,
    "ListEmailTemplates": list_email_templates,
    "GetEmailIdentity": get_email_identity,
    "GetConfigurationSet": get_configuration_set,
}
