"""What it means that a job is finished, in words, and what is to be done then."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Final

from mailroom.ops.jobs import Found, Reported
from mailroom.ops.words import span

_RELEASE: Final = "`mailroom suppressions release ADDRESS`, then `mailroom jobs retry {token}`"
# Why a mail was not sent, by error code, and what helps.
_NOT_SENT: Final = {
    "Superseded": ("a newer mail of its kind was asked for, or used; only the newest is sent", ""),
    "TooMany": (
        "its account has had as many of its kind as it may: it may be flooded",
        "if the person is real: wait, or raise the limit, `mailroom actions set NAME --per-day NUMBER`",
    ),
    "TokenGone": ("its token was deleted, or its account", ""),
    "TokenConsumed": ("its token had been used already", ""),
    "AddressChanged": ("its account has had another address since", "ask for another mail"),
    "AccountStatus": ("its account has not the status that its kind needs", "look at the account, then ask again"),
    "TokenExpired": ("its token ran out before it could be sent", "ask for another mail; then see why that waits"),
    "Dropped": ("somebody dropped it", "`mailroom jobs retry {token}` takes that back"),
    "SuppressedBounce": ("its address is not mailed: a mail to it bounced for good", _RELEASE),
    "SuppressedSoftBounces": ("its address is not mailed: mail after mail bounced", _RELEASE),
    "SuppressedComplaint": ("its address is not mailed: the recipient complained", _RELEASE),
    "SuppressedByHand": ("its address is not mailed: somebody added it to the list", _RELEASE),
    "Reject": ("SES found something bad in it", "look at its template and its data"),
    "RenderingFailure": ("its template did not render", "correct the template, then `mailroom jobs retry {token}`"),
}
_RETRY: Final = "`mailroom jobs show {token}` has each attempt; `mailroom jobs retry {token}` tries it again"
# Complaints that blame nobody: the recipient says that it is no spam, or a server doubts who sent it.
WITHOUT_BLAME: Final = {"not-spam", "auth-failure"}
# The last word of SES on a mail that it accepted: what decides comes last.
_LAST_WORDS: Final = ("send", "delivery_delay", "delivery", "bounce", "complaint", "reject", "rendering_failure")


@dataclass(frozen=True, slots=True)
class Ending:
    """How it ended: a code, what that means, and what to do (empty: nothing)."""

    code: str
    text: str
    cure: str


def meaning(code: str) -> str:
    """Say in words why a mail was not sent, by one of the codes of the claim."""
    return _NOT_SENT[code][0]


def ending(found: Found, told: Sequence[Reported]) -> Ending:
    """Say how a finished job ended, from its last attempt and what SES told of its mails."""
    if found.outcome == "sent":
        return _accepted(found, told)
    meaning, cure = _NOT_SENT.get(found.code or "", (f"{found.code or 'for no known reason'}", _RETRY))
    text = f"it was not sent, and will not be ({found.outcome}): {meaning}"
    return Ending(found.code or str(found.outcome), text, cure.format(token=found.token))


def _accepted(found: Found, told: Sequence[Reported]) -> Ending:
    own = [each for each in told if found.message_id is None or each.message_id == found.message_id]
    taken = {each.message_id for each in own if each.kind == "delivery"}
    events = [each for each in own if not _is_aside(each, taken)]
    last = max(events, key=lambda each: (_LAST_WORDS.index(each.kind), each.at), default=None)
    kind = "" if last is None else last.kind
    after = "" if last is None or found.at is None else f" {span(max((last.at - found.at).total_seconds(), 0))} later"
    said = "" if last is None else " ".join(filter(None, (last.type, last.subtype, last.status)))
    match kind:
        case "delivery":
            return Ending("Delivered", f"SES accepted it, and the recipient's server took it{after}", _SPAM)
        case "bounce":
            return Ending("Bounced", f"SES accepted it, and it bounced{after}: {said}", "the address is bad, or full")
        case "complaint":
            return Ending("Complained", f"it arrived, and the recipient complained{after}", "")
        case "delivery_delay":
            text = f"SES accepted it, and the recipient's server does not take it yet: {said}"
            return Ending("Delayed", text, "SES tries again by itself, for hours")
        case "reject" | "rendering_failure":
            return Ending("NeverOut", f"SES accepted it and did not send it ({kind.replace('_', ' ')})", _RETRIES)
        case _:
            since = "nobody says that it did not arrive" if own else "nothing was heard of it since"
            return Ending("Sent", f"SES accepted it; {since}", _SPAM)


def _is_aside(told: Reported, taken: Collection[str]) -> bool:
    """Whether it decides nothing, as `suppression_review` has it; `taken`: messages that a recipient's server took.

    What bounces for a while after that is a reply of somebody who is away.
    """
    if told.kind == "complaint":
        return told.type in WITHOUT_BLAME
    return told.kind == "bounce" and told.type != "Permanent" and told.message_id in taken


_SPAM: Final = "ask the recipient to look among the spam"
_RETRIES: Final = "it goes back by itself, or `mailroom jobs show TOKEN` says why not"
