"""The account's suppression list: who bounced or complained, and whom SES therefore writes to no more."""

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final, Literal

from mailroom.simulator.happenings import LISTED, MAILBOX_SIMULATOR, Happening, bare
from mailroom.simulator.refusal import SesError, not_found

Reason = Literal["BOUNCE", "COMPLAINT"]
ALL_REASONS: Final[frozenset[str]] = frozenset({"BOUNCE", "COMPLAINT"})
FEEDBACK_WITHOUT_BLAME: Final = frozenset({"not-spam", "auth-failure"})


@dataclass(frozen=True, slots=True)
class Suppressed:
    """One address on the list, and the mail it is there for, if SES put it there."""

    address: str
    reason: str
    message_id: str | None = None
    updated_at: datetime = field(default_factory=lambda: datetime.now(UTC))

    def summary(self) -> dict[str, Any]:
        return {
            "EmailAddress": self.address,
            "Reason": self.reason,
            "LastUpdateTime": self.updated_at.timestamp(),
        }

    def details(self) -> dict[str, Any]:
        return self.summary() | ({"Attributes": {"MessageId": self.message_id}} if self.message_id else {})


class SuppressionList:
    """The list, and the reasons that the account minds where a configuration set says nothing. For any thread.

    Who manages the list must write an address exactly as it is there; mail is compared without regard to case.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.reset()

    def reset(self) -> None:
        with self._lock:
            self.reasons = ALL_REASONS
            self._by_address: dict[str, Suppressed] = {}
            self._lowered: dict[str, Suppressed] = {}

    def put(self, entry: Suppressed) -> None:
        with self._lock:
            self._by_address[entry.address] = entry
            self._lowered[entry.address.lower()] = entry

    def get(self, address: str) -> Suppressed:
        with self._lock:
            entry = self._by_address.get(address)
        if entry is None:
            raise _not_listed(address)
        return entry

    def delete(self, address: str) -> None:
        with self._lock:
            if self._by_address.pop(address, None) is None:
                raise _not_listed(address)
            self._lowered = {entry.address.lower(): entry for entry in self._by_address.values()}

    def all(self) -> list[Suppressed]:
        """Return all of them, sorted by address."""
        with self._lock:
            return sorted(self._by_address.values(), key=lambda entry: entry.address)

    def is_empty(self) -> bool:
        return not self._lowered

    def hits(self, addresses: Sequence[str], reasons: frozenset[str]) -> dict[str, Happening]:
        """What becomes of mail to those of `addresses` that are on the list for one of `reasons`."""
        entries = {address: self._lowered.get(bare(address).lower()) for address in addresses}
        return {
            address: _refusal(entry.reason, address)
            for address, entry in entries.items()
            if entry is not None and entry.reason in reasons
        }

    def learn(self, happening: Happening, addresses: Sequence[str], message_id: str, reasons: frozenset[str]) -> None:
        """Take in who bounced for good, or complained; the mailbox simulator's addresses never."""
        reason = _reason(happening)
        if reason not in reasons:
            return
        for address in map(bare, addresses):
            if not address.lower().endswith(f"@{MAILBOX_SIMULATOR}"):
                self.put(Suppressed(address, str(reason), message_id))


def _reason(happening: Happening) -> Reason | None:
    if happening.subtype in {LISTED, "Suppressed"}:
        return None
    match happening:
        case Happening(event="Bounce", type="Permanent"):
            return "BOUNCE"
        case Happening(event="Complaint", type=blame) if blame not in FEEDBACK_WITHOUT_BLAME:
            return "COMPLAINT"
        case _:
            return None


def _refusal(reason: str, address: str) -> Happening:
    if reason == "COMPLAINT":
        return Happening(event="Complaint", subtype=LISTED, to=(address,))
    return Happening(event="Bounce", type="Permanent", subtype=LISTED, status="5.1.1", to=(address,))


def _not_listed(address: str) -> SesError:
    return not_found(f"Email address {address} does not exist on your suppression list.")
