"""Who sends a mail, or gets the answers: one address, with a name or without, as it may stand in a header."""

import re
from email.header import Header
from email.utils import formataddr, unquote
from typing import Final

MAX_SENDER: Final = 320
# RFC 2047: an encoded word has at most 75 characters. What Header writes is up to two longer than it is told.
MAX_WORD: Final = 73
_ADDRESS: Final = re.compile(r"[!#-'*+./0-9=?A-Z^_`a-z{|}~-]{1,64}@[A-Za-z0-9.-]+")
# A name that is not on the internet is one, too: a server of one's own may take it for SES.
_LABEL: Final = r"[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?"
_LOCAL: Final = re.compile(rf"(?!\.)(?![^@]*\.[.@])[^@]+@{_LABEL}(?:\.{_LABEL})*")
# A name before it is as a person writes it, quoted or not.
_ONE: Final = re.compile(r"([^<>]*?)\s*<([^<>]*)>|([^<>]*)", re.DOTALL)
_CONTROL: Final = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


def sender(given: str, *, may_be_local: bool = False) -> str:
    """Return an address in ASCII, with its name, if it has one, in quotes or words of RFC 2047 where it needs them.

    Raises ValueError, which says what is accepted, for anything that is not one address that can be on the internet,
    or with `may_be_local` in any network, and for what could end a header and begin another.
    """
    found = _ONE.fullmatch(given.strip())
    name, address = (unquote(found[1] or ""), found[2] or found[3] or "") if found else ("", "")
    if _CONTROL.search(given) or "@" in name or not _is_address(address, may_be_local):
        raise ValueError("one address in ASCII, as in help@example.com or 'Shop <mail@example.com>'")
    written = formataddr((name, address)) if name.isascii() else f"{_words(name)} <{address}>"
    if len(written) > MAX_SENDER:
        raise ValueError(f"with its name at most {MAX_SENDER} characters, as written in a header")
    return written


def _words(name: str) -> str:
    """Return a name as words that are ASCII, each as long as it may be, and not longer."""
    return Header(name, "utf-8", maxlinelen=MAX_WORD).encode(linesep="")


def _is_address(given: str, may_be_local: bool) -> bool:
    if not _ADDRESS.fullmatch(given):
        return False
    if may_be_local:
        return _LOCAL.fullmatch(given) is not None
    from email_validator import EmailNotValidError, validate_email  # noqa: PLC0415 - few commands need it, all load this

    try:
        validate_email(given, check_deliverability=False, allow_smtputf8=False)
    except EmailNotValidError:
        return False
    return True
