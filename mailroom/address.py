"""Addresses as SES takes them: it knows no SMTPUTF8."""

from typing import Final

from email_validator import EmailNotValidError, validate_email

LONGEST_LOCAL_PART: Final = 64


def ascii_address(address: str) -> str | None:
    """Return an address as SES takes it: ASCII local part, domain in Punycode; None if it cannot be written so.

    Names that the public DNS will never hold (`localhost`, `.test`, `.local`, …) count as such: mail to them could
    only bounce, and bounces count against the account. `example.com` and `.example` pass, for trying things out.
    """
    try:
        checked = validate_email(address, check_deliverability=False, allow_smtputf8=False)
    except EmailNotValidError:
        return None
    # Since 2.2 the validator lets longer ones pass, while RFC 5321 and SES do not.
    return checked.ascii_email if len(checked.local_part) <= LONGEST_LOCAL_PART else None
