"""SES and SQS as botocore's service models describe them: operations, what a request may hold, errors."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from botocore.loaders import Loader
from botocore.model import ServiceModel

from mailroom.simulator.shapes import Check, compile_shape


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation: its name, its route, and the check of its request."""

    name: str
    method: str
    path: str
    check: Check
    query: Mapping[str, tuple[str, str]]
    """The names in the query string, each with its member's name and type."""


@cache
def _model(service: str = "sesv2") -> Any:
    return ServiceModel(Loader().load_service_model(service, "service-2"), service)


@cache
def operation(name: str, service: str = "sesv2") -> Operation:
    """The operation `name` of SES, or of `service`, compiled once."""
    described = _model(service).operation_model(name)
    members: Mapping[str, Any] = described.input_shape.members
    query = {
        member.serialization["name"]: (name, member.type_name)
        for name, member in members.items()
        if member.serialization.get("location") == "querystring"
    }
    return Operation(
        name=name,
        method=described.http["method"],
        path=described.http["requestUri"],
        check=compile_shape(described.input_shape),
        query=query,
    )


@cache
def error_statuses() -> Mapping[str, int]:
    """Every error the model declares, with its HTTP status."""
    return {shape.name: shape.metadata["error"]["httpStatusCode"] for shape in _model().error_shapes}


@cache
def entry_statuses() -> tuple[str, ...]:
    """Every status the model declares for an entry of a bulk call."""
    return tuple(_model().shape_for("BulkEmailStatus").enum)
