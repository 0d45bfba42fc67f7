"""How a call is answered: all of it decided and in the ledger before the first byte is sent."""

import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from mailroom.simulator import publishing
from mailroom.simulator.call import Arrival, Call, all_recipients, template_choice
from mailroom.simulator.faults import Fault
from mailroom.simulator.limits import template_name
from mailroom.simulator.operations import PERFORM
from mailroom.simulator.records import Mail, Request
from mailroom.simulator.refusal import SesError
from mailroom.simulator.ses import Ses


@dataclass(frozen=True, slots=True)
class Answer:
    """What the client gets: status and body, how late, and whether all of it or only a part, or nothing."""

    status: int
    body: bytes
    error: str | None = None
    delivery: Literal["whole", "truncate", "unended", "hang", "drop"] = "whole"
    latency_seconds: float = 0.0
    media_type: str = "application/json"
    query_error: str | None = None
    """The error as SQS named it before it spoke JSON."""

    @classmethod
    def of(cls, members: Mapping[str, Any]) -> "Answer":
        return cls(200, json.dumps(members).encode())

    @classmethod
    def of_error(cls, error: SesError) -> "Answer":
        return cls(error.status, json.dumps({"message": error.message}).encode(), error.name)

    @property
    def answered(self) -> bool:
        return self.delivery not in {"hang", "drop"}


def answer(ses: Ses, arrival: Arrival) -> tuple[Answer, Callable[[], None]]:
    """Do what the call asks for, as far as no fault is in the way, and enter it in the ledger.

    Also returns what publishes the events of its mails, for when the client has got its answer.
    """
    number = ses.ledger.next_request()
    members: Mapping[str, Any] = {}
    fault = None
    mails: Sequence[Mail] = ()
    try:
        members = arrival.members()
        template = template_name(template_choice(members))
        fault = ses.faults.draw(arrival.operation.name, template, all_recipients(members))
        answered, mails = _perform(ses, arrival, Call(number, members, fault))
    except SesError as error:
        answered = Answer.of_error(error)
    if fault:
        answered = replace(answered, latency_seconds=fault.latency_ms / 1000)
    accepted = publishing.stories(ses, mails)
    ses.ledger.record(_request(arrival, answered, number=number, members=members, fault=fault), accepted)
    return answered, publishing.accept(ses, accepted)


def _perform(ses: Ses, arrival: Arrival, call: Call) -> tuple[Answer, Sequence[Mail]]:
    """The operation's answer as its fault, if any, leaves it; the mails are accepted whatever the client learns."""
    perform = PERFORM[arrival.operation.name]
    if ses.account.limit_template_calls:
        ses.call_rates.charge(arrival.operation.name, now=time.monotonic())
    match call.fault:
        case None:
            response = perform(ses, call)
            return Answer.of(response.members), response.mails
        case Fault(before="hang" | "drop" as delivery):
            return Answer(0, b"", delivery=delivery), ()
        case Fault(error=str(), accept_then=None) as fault:
            raise _error(fault)
        case fault:
            response = perform(ses, call)
            if fault.accept_then == "error":
                return Answer.of_error(_error(fault)), response.mails
            return distorted(response.members, fault), response.mails


def distorted(members: Mapping[str, Any], fault: Fault) -> Answer:
    """The answer of what was done, as the fault leaves it."""
    if fault.body is not None:
        return Answer(200, fault.body.encode())
    whole = Answer.of(_miscounted(members, fault))
    if fault.accept_then is None or fault.accept_then == "error":
        return whole
    return replace(whole, delivery=fault.accept_then)


def _error(fault: Fault) -> SesError:
    return SesError(fault.error or "InternalServiceErrorException", fault.message, fault.status)


MISCOUNTS: Mapping[str | None, Callable[[list[Any]], list[Any]]] = {
    "short": lambda results: results[:-1],
    "long": lambda results: [*results, {"Status": "SUCCESS", "MessageId": "nobody-asked-for-this"}],
    "empty": lambda _: [],
    None: lambda results: results,
}


def _miscounted(members: Mapping[str, Any], fault: Fault) -> Mapping[str, Any]:
    results = members.get("BulkEmailEntryResults")
    return members if results is None else {"BulkEmailEntryResults": MISCOUNTS[fault.results](results)}


def _request(
    arrival: Arrival, answered: Answer, *, number: int, members: Mapping[str, Any], fault: Fault | None
) -> Request:
    return Request(
        number=number,
        operation=arrival.operation.name,
        received_at=arrival.received_at,
        invocation_id=arrival.invocation_id,
        body_sha256=hashlib.sha256(arrival.body).hexdigest(),
        template=template_name(template_choice(members)),
        entries=len(members.get("BulkEmailEntries", ())),
        status=answered.status if answered.answered else None,
        error=answered.error,
        fault=asdict(fault) if fault else None,
    )
