"""SES as botocore's service model describes it: operations, what a request may hold, errors and their statuses."""

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
    numbers: frozenset[str]
    """The members that arrive as digits in the query string."""


@cache
def _model() -> Any:
    return ServiceModel(Loader().load_service_model("sesv2", "service-2"), "sesv2")


@cache
def operation(name: str) -> Operation:
    """The operation `name`, compiled once."""
    described = _model().operation_model(name)
    members: Mapping[str, Any] = described.input_shape.members
    return Operation(
        name=name,
        method=described.http["method"],
        path=described.http["requestUri"],
        check=compile_shape(described.input_shape),
        numbers=frozenset(name for name, member in members.items() if member.type_name == "integer"),
    )


@cache
def error_statuses() -> Mapping[str, int]:
    """Every error the model declares, with its HTTP status."""
    return {shape.name: shape.metadata["error"]["httpStatusCode"] for shape in _model().error_shapes}


@cache
def entry_statuses() -> tuple[str, ...]:
    """Every status the model declares for an entry of a bulk call."""
    return tuple(_model().shape_for("BulkEmailStatus").enum)
