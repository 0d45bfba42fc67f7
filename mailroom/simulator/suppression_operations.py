"""The operations of SES on the account's suppression list."""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Final

from mailroom.simulator.call import Call, Response
from mailroom.simulator.paging import page
from mailroom.simulator.refusal import bad_request, not_found
from mailroom.simulator.ses import Ses
from mailroom.simulator.suppression import Suppressed

MAX_PAGE: Final = 1000  # SES: ListSuppressedDestinations returns at most 1,000 a page


def put_suppressed_destination(ses: Ses, call: Call) -> Response:
    _check_tenant(call)
    if not ses.account.production_access_enabled:
        raise bad_request("An account in the sandbox cannot add to its suppression list.")
    ses.suppression.put(Suppressed(call.members["EmailAddress"], call.members["Reason"]))
    return Response({})


def get_suppressed_destination(ses: Ses, call: Call) -> Response:
    _check_tenant(call)
    return Response({"SuppressedDestination": ses.suppression.get(call.members["EmailAddress"]).details()})


def delete_suppressed_destination(ses: Ses, call: Call) -> Response:
    _check_tenant(call)
    ses.suppression.delete(call.members["EmailAddress"])
    return Response({})


def list_suppressed_destinations(ses: Ses, call: Call) -> Response:
    _check_tenant(call)
    reasons = set(call.members.get("Reasons", ()))
    since, until = _moment(call.members, "StartDate"), _moment(call.members, "EndDate")
    rows = [
        (one.address, one.summary())
        for one in ses.suppression.all()
        if (not reasons or one.reason in reasons)
        and (since is None or one.updated_at >= since)
        and (until is None or one.updated_at <= until)
    ]
    return Response(page(rows, call.members, "SuppressedDestinationSummaries", MAX_PAGE))


def put_account_suppression_attributes(ses: Ses, call: Call) -> Response:
    ses.suppression.reasons = frozenset(call.members.get("SuppressedReasons", ()))
    return Response({})


def _check_tenant(call: Call) -> None:
    if "TenantName" in call.members:
        raise not_found(f"Tenant {call.members['TenantName']} does not exist.")


def _moment(members: Mapping[str, Any], name: str) -> datetime | None:
    if name not in members:
        return None
    try:
        moment = datetime.fromisoformat(members[name])
    except ValueError:
        raise bad_request(f"{name} is not a moment") from None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


PERFORM: Final[Mapping[str, Callable[[Ses, Call], Response]]] = {
    "PutSuppressedDestination": put_suppressed_destination,
    "GetSuppressedDestination": get_suppressed_destination,
    "DeleteSuppressedDestination": delete_suppressed_destination,
    "ListSuppressedDestinations": list_suppressed_destinations,
    "PutAccountSuppressionAttributes": put_account_suppression_attributes,
}
