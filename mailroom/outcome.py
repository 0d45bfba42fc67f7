"""What became of one attempt to send a mail, as the transport tells it."""

from dataclasses import dataclass
from enum import StrEnum


@dataclass(frozen=True, slots=True)
class Sent:
    """The provider accepted the mail, under this message id if it gives one."""

    message_id: str | None


@dataclass(frozen=True, slots=True)
class Rejected:
    """The mail can never be accepted as it is: the fault is the recipient's or the content's."""

    code: str
    reason: str


class Scope(StrEnum):
    """What a fault that is not the mail's keeps from being sent: everything, or the mails of one action."""

    ACCOUNT = "account"
    CONFIGURATION_SET = "configuration_set"
    IDENTITY = "identity"
    ACTION = "action"


@dataclass(frozen=True, slots=True)
class Deferred:
    """Not accepted, for certain; worth another attempt later.

    `charged` is False when the fault is not the mail's: such an attempt costs the job nothing. With a `scope` it is
    one that every sender of the fleet would meet; without, one of this moment or this machine. `on_way`: a filter or a
    policy has answered in the place of the provider. It may mind this machine (with a `scope`, all that is in it), or
    what the call held.
    """

    code: str
    reason: str
    charged: bool
    scope: Scope | None = None
    on_way: bool = False


@dataclass(frozen=True, slots=True)
class Unconfirmed:
    """SES may or may not have accepted it: no answer, or one that cannot be understood, whatever id is in it."""

    code: str
    reason: str
    message_id: str | None = None


@dataclass(frozen=True, slots=True)
class Untried:
    """No call was made for it, and nothing is known against it: the job goes back as it was."""

    code: str


Outcome = Sent | Rejected | Deferred | Unconfirmed | Untried


@dataclass(frozen=True, slots=True)
class RefusedTogether:
    """A call for several mails was refused whole, for the sake of one or more of them that the provider does not name.

    It decides nothing yet: smaller calls have to find which.
    """

    code: str


Answer = Outcome | RefusedTogether
