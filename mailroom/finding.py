"""One line of `doctor`: what was checked, how it stands, and what to do about it."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

# What to do about faults of the account, wherever they show: `doctor` finds them before a mail does, a pause after.
SEE_THE_CASE: Final = "see the case in the AWS console"
SEE_BOUNCES: Final = "see bounces and complaints in the AWS console"
SWITCH_SENDING_ON: Final = "aws sesv2 put-account-sending-attributes --sending-enabled"
LEAVE_SANDBOX: Final = "ask AWS for production access"
RAISE_QUOTA: Final = "ask AWS for a higher quota"
WAIT_FOR_QUOTA: Final = f"wait, or {RAISE_QUOTA}"
VERIFY_SENDER: Final = "finish its verification: DKIM records, or the mail's link"
MAKE_CONFIG_SET: Final = "create it, or set MAILROOM_SES_CONFIG_SET, empty for none"
ENABLE_CONFIG_SET: Final = "enable sending for it"


class Level(StrEnum):
    """How a check ended. A warning is for a person to judge; what has failed keeps mail from leaving, or will."""

    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Finding:
    """What was checked, how it stands, and the remedy: empty where nothing is wrong."""

    check: str
    level: Level
    message: str
    remedy: str = ""


def ok(check: str, message: str) -> Finding:
    """Return that all is well."""
    return Finding(check, Level.OK, message)


def warning(check: str, message: str, remedy: str) -> Finding:
    """Return something to judge."""
    return Finding(check, Level.WARNING, message, remedy)


def failed(check: str, message: str, remedy: str) -> Finding:
    """Return something to fix."""
    return Finding(check, Level.FAILED, message, remedy)
