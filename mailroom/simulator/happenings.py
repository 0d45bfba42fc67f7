"""What becomes of a mail after SES took it, and the addresses that ask for one of these by themselves."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final, Literal

from pydantic import ConfigDict
from pydantic.dataclasses import dataclass

Event = Literal["Send", "Delivery", "Bounce", "Complaint", "Reject", "Rendering Failure", "DeliveryDelay"]
LISTED: Final = "OnAccountSuppressionList"


@dataclass(frozen=True, slots=True, kw_only=True, config=ConfigDict(extra="forbid"))
class Happening:
    """One event, as SES names it, and what it says."""

    event: Event
    type: str = ""
    """`bounceType`, `complaintFeedbackType` or `delayType`; of a Rendering Failure, the variable that is missing."""
    subtype: str = ""
    """`bounceSubType` or `complaintSubType`."""
    status: str = ""
    """What the other side's server says, such as 5.1.1."""
    to: tuple[str, ...] = ()
    """The recipients that it names; with none, all of the mail. A forwarder's report may name quite another one."""


SEND: Final = Happening(event="Send")
DELIVERY: Final = Happening(event="Delivery")
RENDERING_FAILURE: Final = Happening(event="Rendering Failure")
PLAIN: Final = (SEND, DELIVERY)


def _bounce(type_: str, subtype: str, status: str) -> Happening:
    return Happening(event="Bounce", type=type_, subtype=subtype, status=status)


# The first five are what SES's own mailbox simulator has.
FATES: Final[Mapping[str, tuple[Happening, ...]]] = {
    "success": PLAIN,
    "bounce": (SEND, _bounce("Permanent", "General", "5.1.1")),
    "ooto": (*PLAIN, _bounce("Transient", "General", "")),
    "complaint": (*PLAIN, Happening(event="Complaint", type="abuse")),
    "suppressionlist": (SEND, _bounce("Permanent", "Suppressed", "5.1.1")),
    "softbounce": (SEND, _bounce("Transient", "MailboxFull", "4.2.2")),
    "toolarge": (SEND, _bounce("Transient", "MessageTooLarge", "5.3.4")),
    "notspam": (*PLAIN, Happening(event="Complaint", type="not-spam")),
    "delay": (SEND, Happening(event="DeliveryDelay", type="TransientCommunicationFailure", status="4.4.1")),
    "reject": (SEND, Happening(event="Reject")),
    "renderingfailure": (RENDERING_FAILURE,),
}

# Mail to the first is the mailbox simulator's: bounces of it enter no list. The second is our own, and like any other.
MAILBOX_SIMULATOR: Final = "simulator.amazonses.com"
OURS: Final = "simulator.example"


def bare(address: str) -> str:
    """The address alone, of `Name <address>`."""
    return address.rpartition("<")[2].rstrip(">")


def fate_of(address: str) -> str:
    """What an address asks for: the word that its local part begins with, at one of the two domains."""
    local, _, domain = bare(address).lower().rpartition("@")
    word = local.partition("+")[0]
    return word if domain in {MAILBOX_SIMULATOR, OURS} and word in FATES else "success"


def have_fates(addresses: Sequence[str]) -> bool:
    """Whether one of them may ask for anything but a delivery. Each mail is asked, so this is quick."""
    return any("@simulator." in address.lower() for address in addresses)


def fails_to_render(addresses: Sequence[str]) -> bool:
    return have_fates(addresses) and any(fate_of(address) == "renderingfailure" for address in addresses)


def by_address(addresses: Sequence[str]) -> tuple[Happening, ...]:
    """What becomes of a mail to these by itself; where they differ, an event for each of them."""
    if not have_fates(addresses):
        return PLAIN
    fates = {address: fate_of(address) for address in addresses}
    if set(fates.values()) == {"success"}:
        return PLAIN
    if len(fates) == 1 or "reject" in fates.values():
        return FATES["reject" if "reject" in fates.values() else next(iter(fates.values()))]
    each = [replace(one, to=(address,)) for address, fate in fates.items() for one in FATES[fate] if one != SEND]
    return (SEND, *each)


def state(story: Sequence[Happening]) -> str:
    """What has become of a mail, in a word or two: the last that happened to it decides."""
    last = story[-1]
    match last:
        case Happening(subtype="OnAccountSuppressionList"):
            return "suppressed"
        case Happening(event="Bounce", type="Transient", subtype="General") if DELIVERY in story:
            return "out of office"
        case Happening(event="Bounce", type="Permanent"):
            return "bounced"
        case Happening(event="Complaint", type="not-spam"):
            return "not spam"
        case _:
            return STATES[last.event]


STATES: Final[Mapping[Event, str]] = {
    "Send": "sent",
    "Delivery": "delivered",
    "Bounce": "soft bounce",
    "Complaint": "complaint",
    "Reject": "rejected",
    "Rendering Failure": "not rendered",
    "DeliveryDelay": "delayed",
}
