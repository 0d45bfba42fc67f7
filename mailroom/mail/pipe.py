"""The line format of `collect` and `send`: a batch is one line, five fields for each mail of it.

`action,email,login,secret,code` over and over; the action is its number; fields are quoted as in RFC 4180, only where
they must be. No field holds a line end: the database refuses control characters.
"""

import csv
import io
import re
import select
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Final

from mailroom.errors import LineError, TransportError, UnknownActionError
from mailroom.job import Action
from mailroom.mail import templates
from mailroom.mail.transport import Mail
from mailroom.outcome import Outcome, Rejected, Sent

FIELDS: Final = 5
# Far more than 50 mails need; whoever sends more than this is not `collect`.
MAX_LINE: Final = 262_144
_TOKEN: Final = re.compile(r"[A-Za-z0-9_-]{86}")
# What the database refuses in an account; and lone surrogates, which stand for bytes that are not UTF-8.
_NEVER: Final = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_CODE: Final = re.compile(r"[0-9]{5}")


class PipeTransport:
    """Writes batches as lines. A batch is sent once its line is written: what the reader does with it is its affair."""

    max_call_time = timedelta(0)
    throttles: frozenset[str] = frozenset()
    keeps_apart = False

    def __init__(self, out: io.RawIOBase) -> None:
        """`out` keeps nothing back: what a buffer has might still be written once its batch has been returned."""
        self._out = out

    def unmailable(self, mail: Mail) -> Rejected | None:
        """See `Transport.unmailable`: a line has no field for what a template is given besides.

        Nor has it one for the language: such a mail is sent in the default one.
        """
        if templates.without_languages(mail.data) is None:
            return None
        return Rejected("DataInLine", "a line of collect has no field for data")

    def send(self, action: Action, mails: Sequence[Mail], *, batch: str | None) -> Sequence[Outcome]:
        fields = [field for mail in mails for field in _fields(action, mail)]
        line = io.StringIO(newline="")
        csv.writer(line, lineterminator="\n").writerow(fields)
        try:
            self._write(line.getvalue().encode())
        except OSError as error:
            raise TransportError(f"the output is closed, and the batch returned: {error.strerror}") from error
        return [Sent(message_id=None)] * len(mails)

    def _write(self, line: bytes) -> None:
        left = memoryview(line)
        while left:
            written = self._out.write(left)
            if written is None:  # it waits for its reader, and does not block: whoever shares it has set it so
                select.select([], [self._out], [])
            else:
                left = left[written:]


def parse(line: str, actions: Mapping[str, Action]) -> list[tuple[Action, Mail]]:
    """Read a line with its line end; `actions` are by number. Raises LineError, which never repeats what it holds.

    A line that does not end has been cut off, wherever that was: its batch has been returned.
    """
    if len(line) > MAX_LINE:
        raise LineError(f"the line is longer than {MAX_LINE} characters")
    if not line.endswith("\n"):
        raise LineError("the line is cut off")
    line = line.removesuffix("\n").removesuffix("\r")
    if _NEVER.search(line):
        raise LineError("the line holds control characters, or is not UTF-8")
    try:
        [fields] = csv.reader([line], strict=True)
    except (csv.Error, ValueError):
        raise LineError("the line is not comma-separated as in RFC 4180") from None
    if not fields or len(fields) % FIELDS:
        raise LineError(f"{len(fields)} fields are not {FIELDS} for each mail")
    return [_mail(actions, *fields[start : start + FIELDS]) for start in range(0, len(fields), FIELDS)]


def _fields(action: Action, mail: Mail) -> tuple[str, ...]:
    return (str(action.number), mail.address, mail.login, mail.secret, mail.code)


def _mail(
    actions: Mapping[str, Action], number: str, address: str, login: str, secret: str, code: str
) -> tuple[Action, Mail]:
    action = actions.get(number)
    if action is None:
        raise UnknownActionError(f"an action is not one of {', '.join(actions)}")
    if "@" not in address or not login or _TOKEN.fullmatch(secret) is None:
        raise LineError("an address, login or secret is not one")
    if _CODE.fullmatch(code) is None:
        raise LineError("a code is not five digits")
    return action, Mail(token=None, address=address, login=login, secret=secret, code=code)
