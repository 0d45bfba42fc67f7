"""The transport that only prints, for trying things out."""

import sys
from collections.abc import Sequence
from datetime import timedelta
from typing import TextIO

from mailroom.errors import TransportError
from mailroom.job import Action
from mailroom.mail.transport import Mail
from mailroom.outcome import Outcome, Sent


class DebugTransport:
    """Prints what would be sent, and calls it sent. Its output holds addresses and secrets: that is its purpose."""

    max_call_time = timedelta(0)
    throttles: frozenset[str] = frozenset()
    keeps_apart = False

    def __init__(self, out: TextIO = sys.stdout) -> None:
        self._out = out

    def unmailable(self, mail: Mail) -> None:
        """Nothing is known against any."""

    def send(self, action: Action, mails: Sequence[Mail], *, batch: str | None) -> Sequence[Outcome]:
        lines = [
            f"batch={batch} token={mail.token} template={action.template} to={mail.address}"
            f" {mail.template_data(action)}\n"
            for mail in mails
        ]
        try:
            self._out.writelines(lines)
            self._out.flush()
        except OSError as error:
            raise TransportError(f"the output is closed, and the batch returned: {error.strerror}") from error
        return [Sent(message_id=f"debug-{batch}-{mail.token}") for mail in mails]
