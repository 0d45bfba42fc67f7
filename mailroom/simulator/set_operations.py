"""The operations of SES on configuration sets and their event destinations."""

from collections.abc import Callable, Mapping
from typing import Any, Final

from mailroom.simulator import limits
from mailroom.simulator.call import Call, Response
from mailroom.simulator.configuration_sets import SINKS, Destination
from mailroom.simulator.paging import page
from mailroom.simulator.refusal import bad_request
from mailroom.simulator.ses import Ses

MAX_PAGE: Final = 1000  # SES: ListConfigurationSets returns at most 1,000 a page
NAME: Final = "ConfigurationSetName"


def create_configuration_set(ses: Ses, call: Call) -> Response:
    limits.check_configuration_set(call.members[NAME])
    ses.configuration_sets.create(call.members[NAME], _but_names(call.members))
    return Response({})


def get_configuration_set(ses: Ses, call: Call) -> Response:
    return Response(ses.configuration_sets.get(call.members[NAME]).described())


def delete_configuration_set(ses: Ses, call: Call) -> Response:
    ses.configuration_sets.delete(call.members[NAME])
    return Response({})


def list_configuration_sets(ses: Ses, call: Call) -> Response:
    rows = [(one.name, one.name) for one in ses.configuration_sets.all()]
    return Response(page(rows, call.members, "ConfigurationSets", MAX_PAGE))


def put_suppression_options(ses: Ses, call: Call) -> Response:
    ses.configuration_sets.change(call.members[NAME], "SuppressionOptions", _but_names(call.members))
    return Response({})


def put_sending_options(ses: Ses, call: Call) -> Response:
    ses.configuration_sets.change(call.members[NAME], "SendingOptions", _but_names(call.members))
    return Response({})


def put_delivery_options(ses: Ses, call: Call) -> Response:
    ses.configuration_sets.change(call.members[NAME], "DeliveryOptions", _but_names(call.members))
    return Response({})


def create_event_destination(ses: Ses, call: Call) -> Response:
    ses.configuration_sets.add_destination(call.members[NAME], _destination(call.members))
    return Response({})


def get_event_destinations(ses: Ses, call: Call) -> Response:
    destinations = ses.configuration_sets.get(call.members[NAME]).destinations.values()
    return Response({"EventDestinations": [one.described() for one in destinations]})


def update_event_destination(ses: Ses, call: Call) -> Response:
    ses.configuration_sets.change_destination(call.members[NAME], _destination(call.members))
    return Response({})


def delete_event_destination(ses: Ses, call: Call) -> Response:
    ses.configuration_sets.delete_destination(call.members[NAME], call.members["EventDestinationName"])
    return Response({})


def _destination(members: Mapping[str, Any]) -> Destination:
    name, definition = members["EventDestinationName"], members["EventDestination"]
    limits.check_configuration_set(name)
    if not definition.get("MatchingEventTypes"):
        raise bad_request("An event destination needs at least one matching event type")
    if sum(sink in definition for sink in SINKS) != 1:
        raise bad_request(f"An event destination has one of {', '.join(SINKS)}")
    return Destination(name, definition)


def _but_names(members: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in members.items() if name not in {NAME, "Tags"}}


PERFORM: Final[Mapping[str, Callable[[Ses, Call], Response]]] = {
    "CreateConfigurationSet": create_configuration_set,
    "GetConfigurationSet": get_configuration_set,
    "DeleteConfigurationSet": delete_configuration_set,
    "ListConfigurationSets": list_configuration_sets,
    "PutConfigurationSetSuppressionOptions": put_suppression_options,
    "PutConfigurationSetSendingOptions": put_sending_options,
    "PutConfigurationSetDeliveryOptions": put_delivery_options,
    "CreateConfigurationSetEventDestination": create_event_destination,
    "GetConfigurationSetEventDestinations": get_event_destinations,
    "UpdateConfigurationSetEventDestination": update_event_destination,
    "DeleteConfigurationSetEventDestination": delete_event_destination,
}
