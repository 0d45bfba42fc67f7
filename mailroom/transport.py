"""The seam to a mail provider, and the transport that only prints."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final, Protocol, TextIO

from mailroom.job import Outcome, Sent

# How long one call may take, retries of a connection that was never made included. A lease has to be longer.
CONNECT_TIMEOUT: Final = timedelta(seconds=3)
READ_TIMEOUT: Final = timedelta(seconds=15)
CONNECT_TRIES: Final = 3
LONGEST_CALL: Final = CONNECT_TRIES * CONNECT_TIMEOUT + READ_TIMEOUT + timedelta(seconds=1)


@dataclass(frozen=True, slots=True)
class Mail:
    """One mail as a provider takes it. `data` is the JSON object that fills the template."""

    token: int
    address: str = field(repr=False)
    data: str = field(repr=False)


class Transport(Protocol):
    """Hands mails to a provider. `longest_call` is how long one call may take at the most."""

    longest_call: timedelta

    def send(self, template: str, mails: Sequence[Mail], *, batch: int, within: timedelta) -> Sequence[Outcome]:
        """Try to send every mail once; return what became of each, by position.

        `template` is the provider's name for it; `batch` goes on the mails as a tag. No call begins that could end
        later than `within`. Whatever the provider or the network does is an outcome, never an exception.
        """
        ...  # pragma: no cover


class DebugTransport:
    """Prints what would be sent, and calls it sent. Its output holds addresses and secrets: that is its purpose."""

    longest_call = timedelta(0)

    def __init__(self, out: TextIO = sys.stdout) -> None:
        self._out = out

    def send(self, template: str, mails: Sequence[Mail], *, batch: int, within: timedelta) -> Sequence[Outcome]:
        for mail in mails:
            print(f"batch={batch} token={mail.token} template={template} to={mail.address} {mail.data}", file=self._out)
        self._out.flush()
        return [Sent(message_id=f"debug-{batch}-{mail.token}") for mail in mails]
