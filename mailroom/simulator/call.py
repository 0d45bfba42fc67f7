"""One call to SES: how it arrives, how it reads once checked, and what an operation answers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from mailroom.simulator import limits
from mailroom.simulator.faults import Fault
from mailroom.simulator.records import Mail
from mailroom.simulator.refusal import bad_request
from mailroom.simulator.service import Operation
from mailroom.simulator.shapes import ShapeError


@dataclass(frozen=True, slots=True)
class Arrival:
    """The operation, the members that the URL carries, the body, and which call of the client's it is.

    The invocation id stays the same for all the times that the client's SDK repeats one call.
    """

    operation: Operation
    path: Mapping[str, str]
    query: Sequence[tuple[str, str]]
    body: bytes
    invocation_id: str | None = None
    received_at: datetime = field(default_factory=lambda: datetime.now(UTC))

    def members(self) -> dict[str, Any]:
        """The members of the request, checked against the service model; a `SesError` otherwise."""
        members = self._body() | self._url()
        try:
            self.operation.check(members)
        except ShapeError as error:
            raise bad_request(str(error)) from error
        if "TemplateContent" in template_choice(members) and len(self.body) > limits.MAX_INLINE_BYTES:
            raise bad_request("A request with an inline template is at most 1 MB")
        return members

    def _body(self) -> dict[str, Any]:
        try:
            members = limits.from_json(self.body.decode() or "{}")
        except (ValueError, RecursionError) as error:
            raise bad_request("The body is not JSON") from error
        if not isinstance(members, dict):
            raise bad_request("The body is not an object")
        return members

    def _url(self) -> dict[str, Any]:
        members: dict[str, Any] = dict(self.path)
        for name, text in self.query:
            member, kind = self.operation.query.get(name, (name, "string"))
            if kind == "list":
                members[member] = [*members.get(member, ()), text]
            else:
                members[member] = int(text) if kind == "integer" and text.isdecimal() else text
        return members


@dataclass(frozen=True, slots=True)
class Call:
    """A call with its number in the ledger, its checked members, and the fault that is to be applied to it."""

    number: int
    members: Mapping[str, Any]
    fault: Fault | None


@dataclass(frozen=True, slots=True)
class Response:
    """What an operation answers, and the mails it accepted."""

    members: Mapping[str, Any]
    mails: Sequence[Mail] = ()


def all_recipients(members: Mapping[str, Any]) -> list[str]:
    """All addresses that a send is for; none of any other operation."""
    destinations = [members, *members.get("BulkEmailEntries", ())]
    return [address for one in destinations for address in limits.recipients(one.get("Destination", {}))]


def template_choice(members: Mapping[str, Any]) -> Mapping[str, Any]:
    """Where a send names its template; for all other operations, the members themselves."""
    content = members.get("DefaultContent") or members.get("Content")
    choice: Mapping[str, Any] = members if content is None else content.get("Template", {})
    return choice
