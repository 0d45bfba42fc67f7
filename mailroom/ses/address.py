"""Addresses as SES takes them: it knows no SMTPUTF8."""

import re
from functools import lru_cache
from typing import Final

from email_validator import EmailNotValidError, validate_email

MAX_LOCAL_PART: Final = 64
# The code of a mail that was never handed over, since SES cannot take its address.
UNSUPPORTED_ADDRESS: Final = "UnsupportedAddress"
# An address so long that only the whole of it can be judged.
_LONG: Final = 200
_PLAIN: Final = re.compile(r"[a-zA-Z0-9_+-]+(\.[a-zA-Z0-9_+-]+)*")

# A label in Punycode: what it stands for may be older than IDNA 2008, as an emoji is. SES takes it as any other name.
_PUNYCODE: Final = re.compile(r"(?<=[@.])xn--[a-z0-9](?:[a-z0-9-]{0,57}[a-z0-9])?(?=\.)", re.IGNORECASE)


def ascii_address(address: str) -> str | None:
    """Return an address as SES takes it: ASCII local part, domain in Punycode; None if it cannot be written so.

    Names that the public DNS will never hold (`localhost`, `.test`, `.local`, …) count as such: mail to them could
    only bounce, and bounces count against the account. `example.com` and `.example` pass, for trying things out.
    """
    local_part, _, domain = address.partition("@")
    if (
        address.isascii()
        and len(address) <= _LONG
        and len(local_part) <= MAX_LOCAL_PART
        and _PLAIN.fullmatch(local_part)
    ):
        known = _ascii_domain(domain)
        return None if known is None else f"{local_part}@{known}"
    return _checked(address)


@lru_cache(maxsize=4096)
def _ascii_domain(domain: str) -> str | None:
    """Most addresses share a few domains, and to judge one takes longer than all else that is done for a mail."""
    checked = _checked(f"a@{domain}")
    return checked and checked.partition("@")[2]


def _checked(address: str) -> str | None:
    try:
        checked = validate_email(address, check_deliverability=False, allow_smtputf8=False)
    except EmailNotValidError:
        return _of_older_name(address)
    # Since 2.2 the validator lets longer ones pass, while RFC 5321 and SES do not.
    return checked.ascii_email if len(checked.local_part) <= MAX_LOCAL_PART else None


def _of_older_name(address: str) -> str | None:
    """Return an address whose domain stands for what no newer name may have, if all else of it is as it has to be."""
    local_part, at, domain = address.rpartition("@")
    plain = _PUNYCODE.sub(lambda found: "a" * len(found[0]), at + domain)
    if plain == at + domain or not address.isascii():
        return None
    return None if _checked(local_part + plain) is None else f"{local_part}@{domain.lower()}"
