"""The words that the queue half and the mail half share: actions, jobs and batches."""

from dataclasses import dataclass, field
from datetime import datetime
from enum import IntEnum, StrEnum
from typing import Final
from uuid import UUID


class Action(StrEnum):
    """What a token is for. The values are those of the SQL type `token_action`."""

    ACTIVATION = "activation"
    PASSWORD_RECOVERY = "password_recovery"  # noqa: S105 - the name of an action


class Priority(IntEnum):
    """Lower leaves first; each is a range of its own on the claim index."""

    URGENT = 0
    NORMAL = 1
    BULK = 2
    QUARANTINE = 3


@dataclass(frozen=True, slots=True)
class Job:
    """One mail that a token asks for, with all that is needed to write it. Its identity is the token's id.

    `attempt` counts the charged attempts before this one; `resend` says that the mail may be out already. Personal
    data and secrets stay out of `repr`.
    """

    token: int
    account: int
    action: Action
    attempt: int
    email: str = field(repr=False)
    login: str = field(repr=False)
    secret: bytes = field(repr=False)
    code: str = field(repr=False)
    resend: bool = False


@dataclass(frozen=True, slots=True)
class Batch:
    """Jobs of one claim, all of one action, and so of one SES call. The fence is what its settlement has to prove.

    The id is for people: after a failover that lost commits it may come again. What is returned of it is due again at
    `due_at`, when the oldest was.
    """

    id: int
    fence: UUID
    action: Action
    priority: Priority
    jobs: tuple[Job, ...]
    due_at: datetime


@dataclass(frozen=True, slots=True)
class RecoveryLimits:
    """How many recovery mails one account gets in any 15 minutes and in any 24 hours; 0: none at all."""

    per_15_minutes: int
    per_day: int


RECOVERY_LIMITS: Final = RecoveryLimits(per_15_minutes=3, per_day=10)


@dataclass(frozen=True, slots=True)
class Position:
    """A place on the claim index, inside one priority and action. Without a moment it is the beginning."""

    due_at: datetime | None
    token: int


@dataclass(frozen=True, slots=True)
class SesAccount:
    """What SES allows the account: mails a second and in 24 hours, -1 for no limit, and how many it has had."""

    max_send_rate: float
    max_24_hour_send: float
    sent_last_24_hours: float
    sending_enabled: bool
    production_access: bool
    enforcement: str
