"""What the database says that it has refused of single mails: one line in the log of the process that has asked."""

import logging
import re
import time
from datetime import timedelta
from typing import Final

from psycopg.errors import Diagnostic

log = logging.getLogger(__name__)

# What is refused is tried again, each minute perhaps. It is said again after so long.
EVERY: Final = timedelta(hours=1)
# How the functions begin what they raise as a warning or a notice, and what they add for programs.
_OURS: Final = "mailroom: "
_DETAIL: Final = re.compile(r"([a-z_]+) token=(-?\d*)")

# When something was last said, by what it was and the code.
_said: dict[tuple[str, str], float] = {}


def report(notice: Diagnostic) -> None:
    """Log what a function has refused, with the SQLSTATE and the first token, once an hour for each kind.

    Its words are left to the log of the server: whoever refuses may quote an address, or another value of the row.
    """
    found = _DETAIL.fullmatch(notice.message_detail or "")
    if found is None or not (notice.message_primary or "").startswith(_OURS):
        return
    told, now = (found[1], notice.sqlstate or ""), time.monotonic()
    if now - _said.get(told, float("-inf")) < EVERY.total_seconds():
        return
    _said[told] = now
    log.warning("refused by the database act=%s code=%s token=%s", *told, found[2] or "unknown")
