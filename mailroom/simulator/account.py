"""The account that sends: its switches and quotas, and how much of them it has used."""

import math
import time
from collections import deque
from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from mailroom.simulator.refusal import SesError

UNLIMITED = -1.0
DAY_MINUTES = 24 * 60


class Account(BaseModel):
    """What can be set at run time; an assignment is checked, and obeyed by the next call."""

    model_config = ConfigDict(validate_assignment=True, extra="forbid")

    max_send_rate: Annotated[float, Field(ge=UNLIMITED, allow_inf_nan=False)] = UNLIMITED
    """Recipients per second."""
    max_24_hour_send: Annotated[float, Field(ge=UNLIMITED, allow_inf_nan=False)] = UNLIMITED
    """Recipients in any 24 hours."""
    sending_enabled: bool = True
    enforcement_status: Literal["HEALTHY", "PROBATION", "SHUTDOWN"] = "HEALTHY"
    production_access_enabled: bool = True
    """Without it, only the mailbox simulator's addresses receive."""
    unverified_identities: frozenset[str] = frozenset()
    missing_identities: frozenset[str] = frozenset()
    reject_bulk_on_bad_address: bool = False
    """Answer a bulk call with 400 for one bad address, as SES documents for its first version."""
    reject_bulk_on_missing_template: bool = False
    """Answer such a bulk call with 404 instead of a status per entry."""
    limit_template_calls: bool = False
    """Refuse calls about templates that come faster than SES allows."""

    def change(self, changes: bytes) -> None:
        """Set some fields, a JSON object by name; pydantic's ValidationError says what is wrong, and none is set."""
        patch = Account.model_validate_json(changes)
        for name in patch.model_fields_set:
            setattr(self, name, getattr(patch, name))

    def reset(self) -> None:
        for name, value in Account():
            setattr(self, name, value)

    def check_sending(self) -> None:
        """Refuse every send of an account that may not."""
        if self.enforcement_status == "SHUTDOWN":
            raise SesError(
                "AccountSuspendedException", "The account's ability to send email is permanently restricted."
            )
        if not self.sending_enabled:
            raise SesError("SendingPausedException", "Email sending is disabled for this account.")


# SES: so many calls a second of each of these.
CALLS_A_SECOND: Mapping[str, int] = {
    "CreateEmailTemplate": 1,
    "UpdateEmailTemplate": 1,
    "DeleteEmailTemplate": 1,
    "ListEmailTemplates": 1,
    "TestRenderEmailTemplate": 1,
    "GetEmailTemplate": 50,
}


class CallRates:
    """When each operation that has a rate of its own was last called."""

    def __init__(self) -> None:
        self._allowed_at: dict[str, float] = {}

    def charge(self, operation: str, *, now: float) -> None:
        """Count a call at `now`, a monotonic time in seconds, or raise TooManyRequestsException."""
        rate = CALLS_A_SECOND.get(operation)
        if rate is None:
            return
        if now < self._allowed_at.get(operation, -math.inf):
            raise SesError("TooManyRequestsException", "Rate exceeded")
        self._allowed_at[operation] = now + 1 / rate


class Usage:
    """Recipients sent to: a bucket that the rate refills, and the last 24 hours by the minute.

    A call is admitted while anything is left in the bucket and may leave it in debt, so that a bulk call larger than
    the rate can be sent at all.
    """

    def __init__(self) -> None:
        self._left = 0.0
        self._refilled_at = -math.inf
        self._minutes: deque[tuple[int, int]] = deque()

    def sent_last_24_hours(self, now: float | None = None) -> int:
        self._forget(time.monotonic() if now is None else now)
        return sum(count for _, count in self._minutes)

    def charge(self, recipients: int, account: Account, *, now: float) -> None:
        """Count these recipients at `now`, a monotonic time in seconds, or raise TooManyRequestsException."""
        daily = account.max_24_hour_send
        if daily != UNLIMITED and self.sent_last_24_hours(now) + recipients > daily:
            raise SesError("TooManyRequestsException", "Daily message quota exceeded.")
        if account.max_send_rate != UNLIMITED:
            self._draw(recipients, account.max_send_rate, now=now)
        self._count(recipients, int(now // 60))

    def _draw(self, recipients: int, rate: float, *, now: float) -> None:
        self._left = min(rate, self._left + (now - self._refilled_at) * rate)
        self._refilled_at = now
        if self._left <= 0:
            raise SesError("TooManyRequestsException", "Maximum sending rate exceeded.")
        self._left -= recipients

    def _count(self, recipients: int, minute: int) -> None:
        if self._minutes and self._minutes[-1][0] == minute:
            recipients += self._minutes.pop()[1]
        self._minutes.append((minute, recipients))

    def _forget(self, now: float) -> None:
        while self._minutes and self._minutes[0][0] <= now // 60 - DAY_MINUTES:
            self._minutes.popleft()
