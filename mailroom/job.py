"""The words that the queue half and the mail half share: actions, jobs and batches."""

from dataclasses import dataclass, field
from datetime import datetime
from enum import IntEnum
from typing import Self
from uuid import UUID


class Priority(IntEnum):
    """Lower leaves first; each is a range of its own on the claim index."""

    URGENT = 0
    NORMAL = 1
    BULK = 2
    QUARANTINE = 3


class Action(str):
    """A kind of mail: its name, with what its row of `actions` says of how a mail is written and sent.

    It is equal to its name, whatever else was changed in the row since. `number` stands for it in lines of `collect`.
    `source` and `reply_to` are who sends its mails and who gets the answers; None: as it is for all.
    """

    __slots__ = ("has_code", "number", "path", "priority", "reply_to", "source", "template")

    number: int
    template: str
    path: str
    has_code: bool
    priority: Priority
    source: str | None
    reply_to: str | None

    def __new__(
        cls,
        name: str,
        *,
        number: int,
        template: str,
        path: str,
        has_code: bool = False,
        priority: int = 1,
        source: str | None = None,
        reply_to: str | None = None,
    ) -> Self:
        action = super().__new__(cls, name)
        action.number = number
        action.template = template
        action.path = path
        action.has_code = has_code
        action.priority = Priority(priority)
        action.source = source
        action.reply_to = reply_to
        return action


@dataclass(frozen=True, slots=True)
class Job:
    """One mail that a token asks for, with all that is needed to write it. Its identity is the token's id.

    `attempt` counts the charged attempts before this one; `resend` says that the mail may be out already; `due_at`, by
    the database's clock, when it was to leave. `data` is a JSON object for the template. Personal data and secrets stay
    out of `repr`.
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
    data: str | None = field(default=None, repr=False)
    due_at: datetime | None = None


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
