"""SendBulkEmail: many mails in one request, each with a result of its own."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mailroom.simulator import limits
from mailroom.simulator.call import Call, Response
from mailroom.simulator.faults import ASKED_FOR, Fault
from mailroom.simulator.records import Mail
from mailroom.simulator.refusal import bad_request, not_found
from mailroom.simulator.rendering import merge
from mailroom.simulator.sending import Members, Sender, choose_template, missing_template
from mailroom.simulator.ses import Ses
from mailroom.simulator.templates import Template

SUCCESS = "SUCCESS"


class EntryError(Exception):
    """Why one entry is not accepted: its status and a message."""

    def __init__(self, status: str, message: str) -> None:
        super().__init__(status, message)
        self.status = status
        self.message = message


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry, its tags checked."""

    to: list[str]
    tags: Mapping[str, str]
    headers: Mapping[str, str]
    replacement: str
    status: str
    """SUCCESS, or what a fault prescribes instead."""

    @classmethod
    def of(cls, members: Members, status: str) -> "Entry":
        template = members.get("ReplacementEmailContent", {}).get("ReplacementTemplate", {})
        return cls(
            to=limits.recipients(members["Destination"]),
            tags=limits.check_tags(members.get("ReplacementTags", ())),
            headers=limits.check_headers(members.get("ReplacementHeaders", ())),
            replacement=template.get("ReplacementTemplateData", "{}"),
            status=status,
        )


@dataclass(frozen=True, slots=True)
class Bulk:
    """What all the entries share."""

    sender: Sender
    template: Template | None
    missing_template: str
    defaults: Mapping[str, Any]
    tags: Mapping[str, str]
    headers: Mapping[str, str]

    def accept(self, entry: Entry) -> Mail:
        """The mail of this entry, or an `EntryError`."""
        if entry.status != SUCCESS:
            raise EntryError(entry.status, ASKED_FOR)
        if fault := limits.destination_fault(entry.to):
            raise EntryError("INVALID_PARAMETER", fault)
        if self.template is None:
            raise EntryError("TEMPLATE_NOT_FOUND", self.missing_template)
        if unverified := self.sender.unverified(entry.to):
            raise EntryError("MESSAGE_REJECTED", unverified)
        replacement = limits.template_data(entry.replacement)
        if replacement is None:
            raise EntryError("INVALID_PARAMETER", "ReplacementTemplateData is not a JSON object")
        variables = merge(self.defaults, replacement)
        tags, headers = {**self.tags, **entry.tags}, {**self.headers, **entry.headers}
        return self.sender.accept(entry.to, self.template, variables=variables, tags=tags, headers=headers)


def send_bulk_email(ses: Ses, call: Call) -> Response:
    """Accept what can be accepted, and say of each entry, by its position, what became of it."""
    limits.check_entries(call.members["BulkEmailEntries"])
    bulk = _bulk(ses, call)
    entries = _entries(call)
    _check_whole(ses, bulk, entries)
    bulk.sender.charge(sum(len(entry.to) for entry in entries))
    mails, results = [], []
    for entry in entries:
        try:
            mail = bulk.accept(entry)
        except EntryError as error:
            results.append({"Status": error.status, "Error": error.message})
        else:
            mails.append(mail)
            results.append({"Status": SUCCESS, "MessageId": mail.message_id})
    return Response({"BulkEmailEntryResults": results}, mails)


def _bulk(ses: Ses, call: Call) -> Bulk:
    sender = Sender.of(ses, call)
    choice = call.members["DefaultContent"].get("Template", {})
    template, defaults = choose_template(ses, choice)
    tags = limits.check_tags(call.members.get("DefaultEmailTags", ()))
    headers = limits.check_headers(choice.get("Headers", ()))
    return Bulk(sender, template, missing_template(choice), defaults, tags, headers)


def _entries(call: Call) -> list[Entry]:
    entries = enumerate(call.members["BulkEmailEntries"])
    return [Entry.of(members, _status(call.fault, position, members)) for position, members in entries]


def _status(fault: Fault | None, position: int, members: Members) -> str:
    if fault is None:
        return SUCCESS
    if fault.matching is not None and fault.is_for(limits.recipients(members["Destination"])):
        return fault.matching
    return fault.entries.get(position, SUCCESS)


def _check_whole(ses: Ses, bulk: Bulk, entries: list[Entry]) -> None:
    """Refuse the whole call for what is an entry's own fault, where the account is set to."""
    if ses.account.reject_bulk_on_missing_template and bulk.template is None:
        raise not_found(bulk.missing_template)
    if ses.account.reject_bulk_on_bad_address:
        for entry in entries:
            if fault := limits.destination_fault(entry.to):
                raise bad_request(fault)
