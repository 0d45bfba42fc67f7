"""The seam to a mail provider."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final, Protocol

from mailroom.job import Action
from mailroom.mail import templates
from mailroom.outcome import Answer, Rejected

# How long one call may take, retries of a connection that was never made included. A lease has to be longer.
CONNECT_TIMEOUT: Final = timedelta(seconds=3)
READ_TIMEOUT: Final = timedelta(seconds=15)
CONNECT_TRIES: Final = 3
RETRY_WAIT: Final = timedelta(milliseconds=500)
MAX_CALL_TIME: Final = CONNECT_TRIES * CONNECT_TIMEOUT + READ_TIMEOUT + (CONNECT_TRIES - 1) * RETRY_WAIT


@dataclass(frozen=True, slots=True)
class Mail:
    """One mail, ready to be handed over: `secret` is the signed token. `token` is None where it is not known.

    `data` is a JSON object of the application's. A mail that is to go `alone` shares no call with others.
    """

    token: int | None
    address: str = field(repr=False)
    login: str = field(repr=False)
    secret: str = field(repr=False)
    code: str = field(repr=False)
    alone: bool = False
    data: str | None = field(default=None, repr=False)

    def template_data(self, action: Action) -> str:
        """Return the JSON object that fills the action's template."""
        code = self.code if action.has_code else None
        return templates.template_data(login=self.login, secret=self.secret, code=code, data=self.data)


# The codes with which a mail is refused for its own sake, as SES says, though a broken template is refused with them
# too. They are in the log of the fleet: every process knows them, also one that hands its mails to somebody else.
REFUSALS: Final = frozenset(
    {
        "BadRequestException",
        "INVALID_PARAMETER",
        "InvalidParameterValue",
        "MESSAGE_REJECTED",
        "MessageRejected",
        "RequestEntityTooLarge",
        "RequestEntityTooLargeException",
        "ValidationError",
        "ValidationException",
    }
)

# The codes that say that these credentials may not do that: none of it, or not for what the call holds. A policy may
# name recipients, senders and templates.
DENIALS: Final = frozenset({"AccessDenied", "AccessDeniedException"})


class Transport(Protocol):
    """Hands mails to a provider. `max_call_time` is how long one call may take by its time-outs.

    `throttles`: the codes that ask to send more slowly. `keeps_apart`: whether a mail that is to go alone needs a call
    of its own; a line of text takes all.
    """

    max_call_time: timedelta
    throttles: frozenset[str]
    keeps_apart: bool

    def unmailable(self, mail: Mail) -> Rejected | None:
        """Return why the provider can never take this mail, where that is known without a call; it is not sent then."""
        ...  # pragma: no cover

    def send(self, action: Action, mails: Sequence[Mail], *, batch: str | None) -> Sequence[Answer]:
        """Make one call for all of these mails; return what became of each, by position.

        `batch`, its fence, goes on the mails as a tag. Whatever the provider or the network does is an answer.
        Raises TransportError if it took none of these and will take no more.
        """
        ...  # pragma: no cover
