"""Addresses as SES takes them: it knows no SMTPUTF8."""

from email_validator import EmailNotValidError, validate_email


def ascii_address(address: str) -> str | None:
    """Return an address as SES takes it: ASCII local part, domain in Punycode; None if it cannot be written so."""
    try:
        checked = validate_email(address, check_deliverability=False, allow_smtputf8=False)
    except EmailNotValidError:
        return None
    return checked.ascii_email
